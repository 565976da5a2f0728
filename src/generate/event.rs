//! One API request as the gateway knows it, and how it is put on paper: drawn from the population,
//! written as JSON into a reused buffer. Pure.
//!
//! Gateways differ, so the same facts come in many dresses: time formats, blanks, defaults left
//! out, unknown fields, ids in capitals, strings at the limit of their length. Every dress here is valid.

use super::population::{Population, Region};
use super::random::Random;
use super::text::{TimeFormat, Uuid, push_decimal};

/// The facts of a request and the dress of its message. A retry repeats both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) organization_id: Uuid,
    pub(super) api_key_id: Uuid,
    pub(super) request_id: Uuid,
    /// As precise as it is written.
    pub(super) time_micros: i64,
    pub(super) method: &'static str,
    /// As it stands between the quotes of a JSON string.
    pub(super) endpoint: &'static str,
    pub(super) status_code: u16,
    pub(super) response_time_ms: u32,
    pub(super) billable: bool,
    pub(super) weight: u32,
    pub(super) dress: Dress,
}

/// What a message looks like beyond its facts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dress {
    pub(super) time_format: TimeFormat,
    /// `billable: true` and `weight: 1` are written out.
    pub(super) writes_defaults: bool,
    has_blanks: bool,
    has_capital_ids: bool,
    has_trace: bool,
    region: Region,
    user_agent: Option<&'static str>,
    length: Length,
}

/// Strings at their limits, which must pass: one message in a few thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Usual,
    /// A request id of 128 characters.
    LongestRequestId,
    /// An endpoint of 255 characters, 509 bytes.
    LongestEndpoint,
}

const USER_AGENTS: [&str; 6] = [
    "acme-go/1.9",
    "acme-python/3.2",
    "curl/8.5.0",
    "okhttp/4.12",
    r#"Bot \"Zo\u00eb\"/2.0\t(\u2713)"#,
    "Grüße-Client/1.0 🚀",
];

impl Event {
    /// A request that happened at that time.
    pub(super) fn draw(population: &Population, random: &mut Random, time_micros: i64) -> Event {
        let organization = population.draw_organization(random);
        let (method, endpoint) = population.draw_endpoint(random);
        let status_code = population.draw_status_code(random);
        let dress = Dress::draw(random, organization.region);
        Event {
            organization_id: organization.id,
            api_key_id: organization.draw_api_key(random),
            request_id: Uuid::from_random_bits(random.bits_128()),
            time_micros: dress.time_format.truncate(time_micros),
            method,
            endpoint,
            status_code,
            response_time_ms: draw_response_time_ms(random),
            // Failures of the platform are never billed, and a few routes are free: 85 % remain.
            billable: status_code < 500 && random.below(1_000) < 865,
            weight: draw_weight(random),
            dress,
        }
    }

    /// Appends the message's JSON, one field of it made wrong if there is a fault, with a padding of that length if it has any.
    pub(super) fn write_json(&self, fault: Option<&Fault>, padding_bytes: u32, out: &mut Vec<u8>) {
        let mut object = Object { out, has_blanks: self.dress.has_blanks, is_first: true, fault };
        object.field("time", |out| self.dress.time_format.write_json(self.time_micros, out));
        object.text("request_id", |out| self.write_request_id(out));
        object.text("organization_id", |out| self.write_id(self.organization_id, out));
        object.text("api_key_id", |out| self.write_id(self.api_key_id, out));
        object.text("endpoint", |out| self.write_endpoint(out));
        object.text("method", |out| out.extend_from_slice(self.method.as_bytes()));
        object.field("status_code", |out| push_decimal(out, self.status_code.into()));
        object.field("response_time_ms", |out| push_decimal(out, self.response_time_ms.into()));
        if self.dress.writes_defaults || !self.billable {
            let word: &[u8] = if self.billable { b"true" } else { b"false" };
            object.field("billable", |out| out.extend_from_slice(word));
        }
        if self.dress.writes_defaults || self.weight != 1 {
            object.field("weight", |out| push_decimal(out, self.weight.into()));
        }
        object.text("region", |out| out.extend_from_slice(self.dress.region.name.as_bytes()));
        if let Some(user_agent) = self.dress.user_agent {
            object.text("user_agent", |out| out.extend_from_slice(user_agent.as_bytes()));
        }
        if self.dress.has_trace {
            object.field("trace", |out| out.extend_from_slice(br#"{"sampled":true,"spans":[1,2.5e0,null]}"#));
        }
        if padding_bytes > 0 {
            object.text("padding", |out| out.extend(std::iter::repeat_n(b'x', padding_bytes as usize)));
        }
        object.close();
    }

    fn write_id(&self, id: Uuid, out: &mut Vec<u8>) {
        let mut text = id.text();
        if self.dress.has_capital_ids {
            text.make_ascii_uppercase();
        }
        out.extend_from_slice(&text);
    }

    fn write_request_id(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request_id.text());
        if self.dress.length == Length::LongestRequestId {
            out.resize(out.len() + 128 - 36, b'-');
        }
    }

    fn write_endpoint(&self, out: &mut Vec<u8>) {
        if self.dress.length == Length::LongestEndpoint {
            out.push(b'/');
            (0..254).for_each(|_| out.extend_from_slice("é".as_bytes()));
        } else {
            out.extend_from_slice(self.endpoint.as_bytes());
        }
    }
}

impl Dress {
    fn draw(random: &mut Random, region: Region) -> Dress {
        Dress {
            time_format: match random.below(100) {
                0..60 => TimeFormat::Micros,
                60..85 => TimeFormat::Millis,
                85..93 => TimeFormat::Offset { minutes: region.utc_offset_minutes },
                _ => TimeFormat::EpochMillis,
            },
            writes_defaults: random.once_in(2),
            has_blanks: random.once_in(50),
            has_capital_ids: random.once_in(100),
            has_trace: random.once_in(50),
            region,
            user_agent: if random.once_in(6) { Some(random.pick(&USER_AGENTS)) } else { None },
            length: match random.below(4_000) {
                0 => Length::LongestRequestId,
                1 => Length::LongestEndpoint,
                _ => Length::Usual,
            },
        }
    }
}

/// Log-normal: half below 45 ms, one in a hundred above 370 ms; now and then the largest possible.
fn draw_response_time_ms(random: &mut Random) -> u32 {
    const MAX: u32 = i32::MAX.unsigned_abs();
    if random.once_in(100_000) {
        return MAX;
    }
    let drawn_ms = random.log_normal(45.0, 0.9).clamp(0.0, 60_000.0);
    // In range by the clamp; a float has no checked conversion.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole_ms = drawn_ms as u32;
    whole_ms
}

fn draw_weight(random: &mut Random) -> u32 {
    match random.below(1_000) {
        0..3 => 0,
        3..50 => random.pick(&[2, 3, 5, 10, 25]),
        _ => 1,
    }
}

/// What is wrong with one field of a message.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) wrong: Wrong,
}

/// The wrong thing about a field.
#[derive(Debug, Clone)]
pub(super) enum Wrong {
    Missing,
    Repeated,
    /// The field's JSON value is this instead.
    Value(Vec<u8>),
}

/// A JSON object under construction.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    has_blanks: bool,
    is_first: bool,
    fault: Option<&'a Fault>,
}

impl Object<'_> {
    /// Adds a field whose value `write_value` appends as JSON.
    fn field(&mut self, name: &'static str, write_value: impl Fn(&mut Vec<u8>)) {
        match self.fault.filter(|fault| fault.field == name).map(|fault| &fault.wrong) {
            None => self.member(name, write_value),
            Some(Wrong::Missing) => (),
            Some(Wrong::Repeated) => (0..2).for_each(|_| self.member(name, &write_value)),
            Some(Wrong::Value(wrong)) => self.member(name, |out| out.extend_from_slice(wrong)),
        }
    }

    /// Adds a string field; `write_text` appends what stands between the quotes.
    fn text(&mut self, name: &'static str, write_text: impl Fn(&mut Vec<u8>)) {
        self.field(name, |out| {
            out.push(b'"');
            write_text(out);
            out.push(b'"');
        });
    }

    fn member(&mut self, name: &'static str, write_value: impl Fn(&mut Vec<u8>)) {
        self.out.push(if self.is_first { b'{' } else { b',' });
        if self.has_blanks && !self.is_first {
            self.out.push(b' ');
        }
        self.is_first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(if self.has_blanks { b"\": " } else { b"\":" });
        write_value(self.out);
    }

    fn close(self) {
        self.out.push(b'}');
    }
}
