//! The JSON wire format: a message's payload to a [`UsageEvent`], or the reason why not. Pure;
//! one decoder object per thread, whose buffers are reused from message to message.
//!
//! Unknown fields are ignored. Every known field is checked by the rule of its row in the message
//! format table (README). Nothing here depends on the clock: age limits are judged by the caller.

use std::fmt;

use simd_json::prelude::{TypedValue, ValueAsScalar, ValueIntoString};
use simd_json::tape::Value;
use simd_json::{Buffers, INPUT_PADDING, Tape, ValueType};

use super::{rfc3339, uuid};
use crate::usage_event::{
    ENDPOINT_CHARS_MAX, METHOD_CHARS_MAX, REQUEST_ID_CHARS_MAX, RejectReason, Rejection, UsageEvent,
};

/// The largest payload that is looked into: Kafka's own default for `message.max.bytes`, 1 MiB.
/// An event has a few hundred bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1_048_576;

/// Parses payloads with simd-json.
pub struct JsonDecoder {
    /// The payload's copy, which the parser unescapes in place, with the padding it asks for.
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl fmt::Debug for JsonDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonDecoder").finish_non_exhaustive()
    }
}

impl Default for JsonDecoder {
    fn default() -> Self {
        Self { scratch: Vec::new(), buffers: Buffers::default(), tape: Tape(Vec::new()) }
    }
}

impl JsonDecoder {
    /// Decodes one message value; `None` is Kafka's null.
    pub fn decode(&mut self, payload: Option<&[u8]>) -> Result<UsageEvent<'_>, Rejection> {
        let payload = payload
            .filter(|payload| !payload.is_empty())
            .ok_or_else(|| Rejection::new(RejectReason::Tombstone, "the value is null or empty"))?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Rejection::new(
                RejectReason::TooLarge,
                format!("the value has {} bytes, allowed are {PAYLOAD_BYTES_MAX}", payload.len()),
            ));
        }
        let Self { scratch, buffers, tape } = self;
        scratch.clear();
        scratch.extend_from_slice(payload);
        scratch.resize(payload.len() + INPUT_PADDING, 0);
        let mut nodes = std::mem::replace(tape, Tape(Vec::new())).reset();
        let event = match simd_json::fill_tape_padded(scratch, payload.len(), buffers, &mut nodes) {
            Ok(()) => read_event(&nodes),
            Err(error) => Err(Rejection::new(RejectReason::InvalidJson, error.to_string())),
        };
        *tape = nodes.reset();
        event
    }
}

/// The known fields, as found.
#[derive(Default)]
struct Fields<'tape, 'input> {
    time: Option<Value<'tape, 'input>>,
    request_id: Option<Value<'tape, 'input>>,
    organization_id: Option<Value<'tape, 'input>>,
    api_key_id: Option<Value<'tape, 'input>>,
    endpoint: Option<Value<'tape, 'input>>,
    method: Option<Value<'tape, 'input>>,
    status_code: Option<Value<'tape, 'input>>,
    response_time_ms: Option<Value<'tape, 'input>>,
    billable: Option<Value<'tape, 'input>>,
    weight: Option<Value<'tape, 'input>>,
}

fn read_event<'input>(tape: &Tape<'input>) -> Result<UsageEvent<'input>, Rejection> {
    let fields = collect_fields(tape)?;
    Ok(UsageEvent {
        time_micros: time(required("time", fields.time)?)?,
        request_id: text("request_id", fields.request_id, REQUEST_ID_CHARS_MAX)?,
        organization_id: id("organization_id", fields.organization_id)?,
        api_key_id: id("api_key_id", fields.api_key_id)?,
        endpoint: text("endpoint", fields.endpoint, ENDPOINT_CHARS_MAX)?,
        method: text("method", fields.method, METHOD_CHARS_MAX)?,
        status_code: integer("status_code", required("status_code", fields.status_code)?, 100, 599)?,
        response_time_ms: integer(
            "response_time_ms",
            required("response_time_ms", fields.response_time_ms)?,
            0,
            i32::MAX,
        )?,
        billable: fields.billable.map_or(Ok(true), |value| boolean("billable", value))?,
        weight: fields.weight.map_or(Ok(1), |value| integer("weight", value, 0, i32::MAX))?,
    })
}

fn collect_fields<'tape, 'input>(tape: &'tape Tape<'input>) -> Result<Fields<'tape, 'input>, Rejection> {
    let document = tape.as_value();
    let object = document.as_object().ok_or_else(|| {
        Rejection::new(RejectReason::NotAnObject, format!("the value is {}", type_name(document)))
    })?;
    let mut fields = Fields::default();
    for (name, value) in object.iter() {
        let field = match name {
            "time" => &mut fields.time,
            "request_id" => &mut fields.request_id,
            "organization_id" => &mut fields.organization_id,
            "api_key_id" => &mut fields.api_key_id,
            "endpoint" => &mut fields.endpoint,
            "method" => &mut fields.method,
            "status_code" => &mut fields.status_code,
            "response_time_ms" => &mut fields.response_time_ms,
            "billable" => &mut fields.billable,
            "weight" => &mut fields.weight,
            _ => continue,
        };
        if field.replace(value).is_some() {
            return Err(Rejection::new(RejectReason::DuplicateField, format!("{name} appears twice")));
        }
    }
    fields.forget_nulls();
    Ok(fields)
}

impl Fields<'_, '_> {
    /// A field that is null counts as absent.
    fn forget_nulls(&mut self) {
        for field in [
            &mut self.time,
            &mut self.request_id,
            &mut self.organization_id,
            &mut self.api_key_id,
            &mut self.endpoint,
            &mut self.method,
            &mut self.status_code,
            &mut self.response_time_ms,
            &mut self.billable,
            &mut self.weight,
        ] {
            field.take_if(|value| value.as_null().is_some());
        }
    }
}

fn required<'tape, 'input>(
    name: &str,
    value: Option<Value<'tape, 'input>>,
) -> Result<Value<'tape, 'input>, Rejection> {
    value.ok_or_else(|| Rejection::new(RejectReason::MissingField, format!("{name} is missing")))
}

fn time(value: Value<'_, '_>) -> Result<i64, Rejection> {
    if let Some(text) = value.into_string() {
        return rfc3339::parse_micros(text).ok_or_else(|| {
            Rejection::new(
                RejectReason::InvalidTime,
                format!("time is {:?}, wanted is RFC 3339 with an offset", excerpt(text)),
            )
        });
    }
    let millis =
        whole_number("time", "an RFC 3339 string with an offset or integer epoch milliseconds", value)?;
    i64::try_from(millis).ok().and_then(|millis| millis.checked_mul(1_000)).ok_or_else(|| {
        Rejection::new(
            RejectReason::OutOfRange,
            format!("time is {millis} ms since 1970, beyond any calendar"),
        )
    })
}

fn text<'input>(
    name: &str,
    value: Option<Value<'_, 'input>>,
    chars_max: usize,
) -> Result<&'input str, Rejection> {
    let text = string(name, required(name, value)?)?;
    // Bytes bound characters from above, and nearly all texts are short enough by bytes already.
    if text.is_empty() || (text.len() > chars_max && text.chars().count() > chars_max) {
        return Err(Rejection::new(
            RejectReason::InvalidLength,
            format!("{name} has {} characters, allowed are 1 to {chars_max}", text.chars().count()),
        ));
    }
    // Without a branch a byte, so that many are looked at together.
    if text.bytes().fold(false, |has_nul, byte| has_nul | (byte == 0)) {
        return Err(Rejection::new(
            RejectReason::NulCharacter,
            format!("{name} has a NUL character, which PostgreSQL text cannot hold"),
        ));
    }
    Ok(text)
}

fn id(name: &str, value: Option<Value<'_, '_>>) -> Result<u128, Rejection> {
    let text = string(name, required(name, value)?)?;
    uuid::parse(text).ok_or_else(|| {
        Rejection::new(RejectReason::InvalidUuid, format!("{name} is {:?}, wanted is a UUID", excerpt(text)))
    })
}

fn integer(name: &str, value: Value<'_, '_>, min: i32, max: i32) -> Result<i32, Rejection> {
    // Nearly always; what follows is about the others.
    if let Some(Ok(number)) = value.as_i64().map(i32::try_from)
        && (min..=max).contains(&number)
    {
        return Ok(number);
    }
    let number = whole_number(name, "an integer", value)?;
    i32::try_from(number).ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        Rejection::new(RejectReason::OutOfRange, format!("{name} is {number}, allowed are {min} to {max}"))
    })
}

/// Any JSON integer that 64 bits hold; `1.0` and `1e3` are none.
fn whole_number(name: &str, wanted: &str, value: Value<'_, '_>) -> Result<i128, Rejection> {
    match value.value_type() {
        ValueType::I64 => value.as_i64().map(i128::from),
        ValueType::U64 => value.as_u64().map(i128::from),
        _ => None,
    }
    .ok_or_else(|| wrong_type(name, wanted, value))
}

fn boolean(name: &str, value: Value<'_, '_>) -> Result<bool, Rejection> {
    value.as_bool().ok_or_else(|| wrong_type(name, "true or false", value))
}

/// A string lives as long as the input, rather than as the tape.
fn string<'input>(name: &str, value: Value<'_, 'input>) -> Result<&'input str, Rejection> {
    value.into_string().ok_or_else(|| wrong_type(name, "a string", value))
}

fn wrong_type(name: &str, wanted: &str, value: Value<'_, '_>) -> Rejection {
    Rejection::new(RejectReason::WrongType, format!("{name} is {}, wanted is {wanted}", type_name(value)))
}

fn type_name(value: Value<'_, '_>) -> &'static str {
    match value.value_type() {
        ValueType::Null => "null",
        ValueType::Bool => "a boolean",
        ValueType::I64 | ValueType::U64 => "an integer",
        ValueType::F64 => "a number with a fraction or exponent, or beyond 64 bits",
        ValueType::String => "a string",
        ValueType::Array => "an array",
        ValueType::Object => "an object",
        _ => "something else",
    }
}

/// The beginning of a text that may be a mebibyte long.
fn excerpt(text: &str) -> &str {
    const EXCERPT_CHARS: usize = 64;
    text.char_indices().nth(EXCERPT_CHARS).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALID: &str = r#"{"time":"2026-11-24T07:30:00.5Z","request_id":"r-1","organization_id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        "api_key_id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8","endpoint":"/v1/\u00fcber","method":"GET","status_code":200,
        "response_time_ms":12,"billable":false,"weight":3,"region":{"nested":[1,2.5,null]}}"#;

    /// Decodes and gives the reason's name, or `ok`.
    fn reason(payload: &[u8]) -> &'static str {
        JsonDecoder::default()
            .decode(Some(payload))
            .map_or_else(|rejection| rejection.reason.as_str(), |_| "ok")
    }

    /// [`VALID`] with one field's value replaced.
    fn with(field: &str, json: &str) -> String {
        let mut event: serde_json::Map<String, serde_json::Value> = serde_json::from_str(VALID).unwrap();
        event.insert(field.to_owned(), serde_json::Value::Null);
        serde_json::to_string(&event)
            .unwrap()
            .replace(&format!("\"{field}\":null"), &format!("\"{field}\":{json}"))
    }

    #[test]
    fn every_field_is_read() {
        let mut decoder = JsonDecoder::default();
        let event = decoder.decode(Some(VALID.as_bytes())).unwrap();
        assert_eq!(
            event,
            UsageEvent {
                time_micros: 1_795_505_400_500_000,
                request_id: "r-1",
                organization_id: 0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8,
                api_key_id: 0x6ba7_b811_9dad_11d1_80b4_00c0_4fd4_30c8,
                endpoint: "/v1/über",
                method: "GET",
                status_code: 200,
                response_time_ms: 12,
                billable: false,
                weight: 3,
            }
        );
        let defaults = with("billable", "null").replace("\"weight\":3", "\"weight\":null");
        let event = decoder.decode(Some(defaults.as_bytes())).unwrap();
        assert_eq!((event.billable, event.weight), (true, 1));
    }

    #[test]
    fn each_rule_has_its_reason() {
        let long = |len| format!("\"{}\"", "ü".repeat(len));
        let cases: [(&str, &str, &str); 36] = [
            ("time", "1795505400500", "ok"),
            ("time", "-1", "ok"),
            ("time", "null", "missing_field"),
            ("time", "\"2026-11-24\"", "invalid_time"),
            ("time", "1.5", "wrong_type"),
            ("time", "9223372036854775807", "out_of_range"),
            ("time", "18446744073709551615", "out_of_range"),
            ("request_id", "\"\"", "invalid_length"),
            ("request_id", &long(128), "ok"),
            ("request_id", &long(129), "invalid_length"),
            ("request_id", "7", "wrong_type"),
            ("request_id", "\"a\\u0000b\"", "nul_character"),
            ("request_id", "\"\\ud83d\\ude00\"", "ok"),
            ("request_id", "\"\\ud83d\"", "invalid_json"),
            ("organization_id", "\"acme\"", "invalid_uuid"),
            ("organization_id", "[]", "wrong_type"),
            ("api_key_id", "null", "missing_field"),
            ("endpoint", &long(255), "ok"),
            ("endpoint", &long(256), "invalid_length"),
            ("method", "\"PROPPATCHES\"", "invalid_length"),
            ("status_code", "99", "out_of_range"),
            ("status_code", "600", "out_of_range"),
            ("status_code", "200.0", "wrong_type"),
            ("status_code", "\"200\"", "wrong_type"),
            ("response_time_ms", "-0", "ok"),
            ("response_time_ms", "-1", "out_of_range"),
            ("response_time_ms", "2147483647", "ok"),
            ("response_time_ms", "2147483648", "out_of_range"),
            ("response_time_ms", "1e308", "wrong_type"),
            ("billable", "1", "wrong_type"),
            ("weight", "0", "ok"),
            ("weight", "-1", "out_of_range"),
            ("weight", "18446744073709551616", "wrong_type"),
            ("unknown", "{\"time\":1}", "ok"),
            ("unknown", "340282366920938463463374607431768211455", "ok"),
            ("unknown", "-9223372036854775809", "ok"),
        ];
        for (field, json, expected) in cases {
            let payload = with(field, json);
            assert_eq!(reason(payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn garbage_has_its_reason() {
        let deep = "[".repeat(100_000);
        let cases: [(&[u8], &str); 10] = [
            (b"", "tombstone"),
            (b"{", "invalid_json"),
            (b"null", "not_an_object"),
            (b"[1]", "not_an_object"),
            (b"\"text\"", "not_an_object"),
            (b"{}", "missing_field"),
            (b"{} {}", "invalid_json"),
            (b"{\"time\":\"\xff\"}", "invalid_json"),
            (deep.as_bytes(), "invalid_json"),
            (&[b' '; PAYLOAD_BYTES_MAX + 1], "too_large"),
        ];
        for (payload, expected) in cases {
            assert_eq!(
                reason(payload),
                expected,
                "{}",
                String::from_utf8_lossy(&payload[..payload.len().min(40)])
            );
        }
        let twice = VALID.replace("\"weight\":3", "\"weight\":3,\"weight\":3");
        assert_eq!(reason(twice.as_bytes()), "duplicate_field");
        assert_eq!(JsonDecoder::default().decode(None).unwrap_err().reason, RejectReason::Tombstone);
    }

    #[test]
    fn a_rejected_message_leaves_no_trace_in_the_next() {
        let mut decoder = JsonDecoder::default();
        assert!(decoder.decode(Some(b"{\"weight\":")).is_err());
        assert!(decoder.decode(Some(VALID.as_bytes())).is_ok());
    }

    proptest! {
        #[test]
        fn bytes_never_panic(payload: Vec<u8>) {
            reason(&payload);
        }

        #[test]
        fn mutations_of_a_valid_event_never_panic(at in 0..VALID.len(), byte: u8) {
            let mut payload = VALID.as_bytes().to_vec();
            payload[at] = byte;
            reason(&payload);
        }
    }
}
