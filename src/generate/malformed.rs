//! Messages that no pipeline may accept: each kind with the one reason for which it must become a
//! dead letter. Pure.
//!
//! Every message has a single fault, in a message that would be valid otherwise, so that the reason
//! does not depend on which check comes first.

use serde::{Deserialize, Serialize};

use super::event::{Event, Fault, Wrong};
use super::random::Random;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// What a malformed message got wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformation {
    /// JSON that ends in the middle.
    Truncated,
    /// A proxy's error text instead of an event.
    PlainText,
    /// A byte inside a string that is not UTF-8.
    InvalidUtf8,
    /// Half of a surrogate pair, escaped.
    LoneSurrogate,
    /// Thousands of brackets, none of them closed.
    EndlessNesting,
    /// The event inside an array.
    Array,
    /// `null`, a number or a string.
    BareValue,
    /// A required field left out.
    MissingField,
    /// A field with another JSON type.
    WrongType,
    /// The same field twice.
    RepeatedField,
    /// A status code outside 100 to 599, a negative duration, a number beyond 32 bits.
    NumberOutOfRange,
    /// An empty string.
    EmptyString,
    /// A string one character longer than its column.
    LongString,
    /// A string with U+0000: legal JSON, illegal in PostgreSQL.
    NulCharacter,
    /// An organization or API key that is no UUID.
    BadUuid,
    /// A day that does not exist, or a time that says not where.
    BadTime,
    /// A time months before the 90 days that are accepted.
    OldTime,
    /// Epoch seconds where milliseconds belong: January 1970.
    EpochSeconds,
    /// A clock that runs ahead, by ten minutes or by centuries.
    FutureTime,
    /// No value at all.
    NullValue,
    /// A value of no bytes.
    EmptyValue,
}

impl Malformation {
    /// Every kind; all are equally frequent.
    pub const ALL: [Malformation; 21] = [
        Malformation::Truncated,
        Malformation::PlainText,
        Malformation::InvalidUtf8,
        Malformation::LoneSurrogate,
        Malformation::EndlessNesting,
        Malformation::Array,
        Malformation::BareValue,
        Malformation::MissingField,
        Malformation::WrongType,
        Malformation::RepeatedField,
        Malformation::NumberOutOfRange,
        Malformation::EmptyString,
        Malformation::LongString,
        Malformation::NulCharacter,
        Malformation::BadUuid,
        Malformation::BadTime,
        Malformation::OldTime,
        Malformation::EpochSeconds,
        Malformation::FutureTime,
        Malformation::NullValue,
        Malformation::EmptyValue,
    ];

    /// The reason that the dead letter must carry.
    pub fn reason(self) -> &'static str {
        match self {
            Malformation::Truncated
            | Malformation::PlainText
            | Malformation::InvalidUtf8
            | Malformation::LoneSurrogate
            | Malformation::EndlessNesting => "invalid_json",
            Malformation::Array | Malformation::BareValue => "not_an_object",
            Malformation::MissingField => "missing_field",
            Malformation::WrongType => "wrong_type",
            Malformation::RepeatedField => "duplicate_field",
            Malformation::NumberOutOfRange => "out_of_range",
            Malformation::EmptyString | Malformation::LongString => "invalid_length",
            Malformation::NulCharacter => "nul_character",
            Malformation::BadUuid => "invalid_uuid",
            Malformation::BadTime => "invalid_time",
            Malformation::OldTime | Malformation::EpochSeconds => "too_old",
            Malformation::FutureTime => "too_far_ahead",
            Malformation::NullValue | Malformation::EmptyValue => "tombstone",
        }
    }

    /// Appends the message that `event` becomes; false if it has no value at all. `event.time_micros`
    /// must be the time at which the message is published.
    pub(super) fn write(self, event: &Event, random: &mut Random, out: &mut Vec<u8>) -> bool {
        if let Some(fault) = self.draw_fault(event.time_micros, random) {
            let mut event = *event;
            event.dress.writes_defaults = true; // Else the field to spoil may be absent.
            event.write_json(Some(&fault), 0, out);
            return true;
        }
        match self {
            Malformation::NullValue => return false,
            Malformation::PlainText => out.extend_from_slice(b"upstream connect error: reset before headers"),
            Malformation::BareValue => {
                out.extend_from_slice(random.pick(&["null", "42", "\"event\""]).as_bytes())
            }
            Malformation::EndlessNesting => {
                out.extend_from_slice(br#"{"trace":"#);
                out.resize(out.len() + 5_000, b'[');
            }
            Malformation::Array => {
                out.push(b'[');
                event.write_json(None, 0, out);
                out.push(b']');
            }
            Malformation::Truncated => {
                let start = out.len();
                event.write_json(None, 0, out);
                let cut = random.between(1, 100).min((out.len() - start) as u64 - 1);
                out.truncate(out.len().saturating_sub(usize::try_from(cut).unwrap_or(1)));
            }
            _ => (), // `EmptyValue`; the others have a fault.
        }
        true
    }

    /// The fault, for the kinds that spoil one field.
    fn draw_fault(self, published_at_micros: i64, random: &mut Random) -> Option<Fault> {
        let value = |field, value: &[u8]| Some(Fault { field, wrong: Wrong::Value(value.to_vec()) });
        match self {
            Malformation::MissingField => {
                Some(Fault { field: random.pick(&REQUIRED_FIELDS), wrong: Wrong::Missing })
            }
            Malformation::RepeatedField => {
                Some(Fault { field: random.pick(&REQUIRED_FIELDS), wrong: Wrong::Repeated })
            }
            Malformation::InvalidUtf8 => value("endpoint", b"\"/v1/caf\xe9\""),
            Malformation::LoneSurrogate => value("endpoint", br#""/v1/\ud83d""#),
            Malformation::EmptyString => value(random.pick(&["request_id", "endpoint", "method"]), b"\"\""),
            Malformation::LongString => {
                let (field, length) = random.pick(&[("request_id", 129), ("endpoint", 256), ("method", 11)]);
                value(field, format!("\"{}\"", "x".repeat(length)).as_bytes())
            }
            Malformation::NulCharacter => {
                value(random.pick(&["request_id", "endpoint", "method"]), br#""G\u0000T""#)
            }
            Malformation::WrongType => draw_from(random, &WRONG_TYPES),
            Malformation::NumberOutOfRange => draw_from(random, &OUT_OF_RANGE),
            Malformation::BadUuid => draw_from(random, &BAD_UUIDS),
            Malformation::BadTime => draw_from(random, &BAD_TIMES),
            Malformation::OldTime => {
                let age_days = i64::try_from(random.between(91, 400)).unwrap_or(91);
                epoch_millis((published_at_micros - age_days * MICROS_PER_DAY) / 1_000)
            }
            Malformation::EpochSeconds => epoch_millis(published_at_micros / MICROS_PER_SECOND),
            Malformation::FutureTime => {
                let ahead_minutes = random.pick(&[10, 90, 60 * 24 * 366, 60 * 24 * 365 * 474]);
                epoch_millis((published_at_micros + ahead_minutes * 60 * MICROS_PER_SECOND) / 1_000)
            }
            _ => None,
        }
    }
}

const REQUIRED_FIELDS: [&str; 8] = [
    "time",
    "request_id",
    "organization_id",
    "api_key_id",
    "endpoint",
    "method",
    "status_code",
    "response_time_ms",
];

/// Fields and JSON values that do not fit them.
type WrongValues<const N: usize> = [(&'static str, &'static str); N];

const WRONG_TYPES: WrongValues<8> = [
    ("time", "true"),
    ("request_id", "12345"),
    ("organization_id", "77"),
    ("endpoint", r#"["/v1/orders"]"#),
    ("method", r#"{"verb":"GET"}"#),
    ("status_code", r#""200""#),
    ("billable", r#""yes""#),
    ("weight", r#""1""#),
];

const OUT_OF_RANGE: WrongValues<8> = [
    ("status_code", "0"),
    ("status_code", "99"),
    ("status_code", "600"),
    ("status_code", "-200"),
    ("response_time_ms", "-1"),
    ("response_time_ms", "2147483648"),
    ("weight", "-1"),
    ("weight", "4294967297"),
];

const BAD_UUIDS: WrongValues<4> = [
    ("organization_id", r#""acme-corp""#),
    ("organization_id", r#""3f2504e0-4f89-41d3-9a0c-0305e82c330""#),
    ("api_key_id", r#""3f2504e0-4f89-41d3-9a0c-0305e82c330g""#),
    ("api_key_id", r#""3f2504e0_4f89_41d3_9a0c_0305e82c3301""#),
];

const BAD_TIMES: WrongValues<5> = [
    ("time", r#""yesterday""#),
    ("time", r#""2026-02-30T12:00:00Z""#),
    ("time", r#""2026-01-15T25:00:00Z""#),
    ("time", r#""2026-01-15T12:00:00""#),
    ("time", r#""15/01/2026 12:00""#),
];

fn draw_from<const N: usize>(random: &mut Random, values: &WrongValues<N>) -> Option<Fault> {
    let (field, value) = random.pick(values);
    Some(Fault { field, wrong: Wrong::Value(value.as_bytes().to_vec()) })
}

fn epoch_millis(millis: i64) -> Option<Fault> {
    Some(Fault { field: "time", wrong: Wrong::Value(millis.to_string().into_bytes()) })
}
