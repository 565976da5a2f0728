//! Payloads that nobody should send: each becomes what its rule says, and the rest goes on.

use std::collections::BTreeMap;

use super::{Case, ORGANIZATION, event, now_ms};
use crate::support::Record;

/// The largest payload that is looked into, as the message format says.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// What must become of a message.
#[derive(Debug, Clone, PartialEq)]
enum Expected {
    /// A row with this endpoint and weight.
    Row(String, i32),
    /// A dead letter with this reason and the payload as it came.
    Letter(&'static str),
}
use Expected::{Letter, Row};

fn plain_row() -> Expected {
    Row("/v1/orders".to_owned(), 1)
}

/// Payloads and what must become of them; the request id of each is its place.
#[derive(Default)]
struct Table(Vec<(Option<Vec<u8>>, Expected)>);

impl Table {
    fn valid(&self) -> String {
        event(&self.0.len().to_string(), now_ms())
    }

    fn add(&mut self, payload: impl Into<Vec<u8>>, expected: Expected) {
        self.0.push((Some(payload.into()), expected));
    }

    /// A valid event with these members more.
    fn add_members(&mut self, members: impl AsRef<[u8]>, expected: Expected) {
        let valid = self.valid();
        let open = valid.strip_suffix('}').unwrap().as_bytes();
        self.add([open, b",", members.as_ref(), b"}"].concat(), expected);
    }

    /// A valid event with these bytes between the quotes of its endpoint.
    fn add_endpoint(&mut self, text: &[u8], expected: Expected) {
        let valid = self.valid();
        let (before, after) = valid.split_once("/v1/orders").unwrap();
        self.add([before.as_bytes(), text, after.as_bytes()].concat(), expected);
    }

    /// A valid event made this long by a member that is ignored.
    fn add_padded(&mut self, len: usize, expected: Expected) {
        let padding = "x".repeat(len - self.valid().len() - r#","pad":"""#.len());
        self.add_members(format!(r#""pad":"{padding}""#), expected);
    }

    fn add_numbers(&mut self) {
        let row = |weight| Row("/v1/orders".to_owned(), weight);
        let digits = format!("1{}", "0".repeat(399));
        for (number, expected) in [
            ("-0", row(0)),
            ("0", row(0)),
            ("2147483647", row(i32::MAX)),
            ("2147483648", Letter("out_of_range")),
            ("-1", Letter("out_of_range")),
            ("-2147483649", Letter("out_of_range")),
            ("18446744073709551615", Letter("out_of_range")),
            ("18446744073709551616", Letter("wrong_type")),
            ("-9223372036854775809", Letter("wrong_type")),
            ("1e308", Letter("wrong_type")),
            ("-1e308", Letter("wrong_type")),
            ("1e-400", Letter("wrong_type")),
            ("-0.0", Letter("wrong_type")),
            ("1e0", Letter("wrong_type")),
            ("1e400", Letter("invalid_json")),
            (&digits, Letter("invalid_json")),
            ("NaN", Letter("invalid_json")),
            ("Infinity", Letter("invalid_json")),
            ("01", Letter("invalid_json")),
            ("+1", Letter("invalid_json")),
            ("1.", Letter("invalid_json")),
            ("-", Letter("invalid_json")),
        ] {
            self.add_members(format!(r#""weight":{number}"#), expected);
        }
        for number in ["1e308", "340282366920938463463374607431768211455"] {
            self.add_members(format!(r#""ignored":{number}"#), plain_row());
        }
    }

    fn add_texts(&mut self) {
        self.add_endpoint(br"a\u0000b", Letter("nul_character"));
        self.add_endpoint(b"a\0b", Letter("invalid_json"));
        self.add_members(r#""ignored":"\u0000","\u0000":1"#, plain_row());
        self.add_endpoint(br"\ud83d\ude00", Row("😀".to_owned(), 1));
        for surrogates in
            [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"\ud83d\u0041", r"\ud83d\ud83d", r"\ud83dx"]
        {
            self.add_endpoint(surrogates.as_bytes(), Letter("invalid_json"));
            self.add_members(format!(r#""ignored":"{surrogates}""#), Letter("invalid_json"));
        }
        // A lone byte, an overlong NUL, an encoded surrogate, beyond Unicode, a cut character.
        for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\xbd", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
            self.add_endpoint(bytes, Letter("invalid_json"));
            self.add_members([b"\"ignored\":\"", bytes, b"\""].concat(), Letter("invalid_json"));
        }
        let valid = self.valid();
        self.add([b"\xef\xbb\xbf", valid.as_bytes()].concat(), Letter("invalid_json"));
        let utf_16: Vec<u8> = self.valid().encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.add(utf_16, Letter("invalid_json"));
    }

    fn add_structures(&mut self) {
        for twice in
            [r#""weight":2,"weight":2"#, r#""weight":null,"weight":2"#, r#""w\u0065ight":2,"weight":3"#]
        {
            self.add_members(twice, Letter("duplicate_field"));
        }
        self.add_members(r#""ignored":2,"ignored":3"#, plain_row());
        self.0.push((None, Letter("tombstone")));
        self.add("", Letter("tombstone"));
        for scalar in ["7", "\"text\"", "true", "null", "[1]", "-0"] {
            self.add(scalar, Letter("not_an_object"));
        }
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            self.add(open.repeat(100_000), Letter("invalid_json"));
            let closed = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
            self.add_members(format!("\"ignored\":{closed}"), Letter("invalid_json"));
        }
        for tail in ["x", "}", ",", "\0", "{}"] {
            self.add(self.valid() + tail, Letter("invalid_json"));
        }
        self.add(format!(" \n{}\r\n", self.valid()), plain_row());
        let valid = self.valid();
        for len in [1, valid.len() / 2, valid.len() - 1] {
            self.add(&valid[..len], Letter("invalid_json"));
        }
        self.add(" ", Letter("invalid_json"));
    }

    fn add_large(&mut self) {
        self.add_padded(PAYLOAD_BYTES_MAX, plain_row());
        self.add_padded(PAYLOAD_BYTES_MAX + 1, Letter("too_large"));
        self.add_padded(10_000_000, Letter("too_large"));
        self.add("[".repeat(10_000_000), Letter("too_large"));
        self.add(vec![0xff; 10_000_000], Letter("too_large"));
        self.add(vec![0xff; PAYLOAD_BYTES_MAX], Letter("invalid_json"));
    }
}

#[test]
fn every_hostile_payload_becomes_what_its_rule_says_and_is_kept_as_it_came() {
    let mut table = Table::default();
    table.add_numbers();
    table.add_texts();
    table.add_structures();
    table.add_large();
    table.add(table.valid(), plain_row());
    let mut case = Case::in_topic_with(&[("max.message.bytes", "20000000")]);
    let records: Vec<_> = table
        .0
        .iter()
        .map(|(payload, _)| match payload {
            Some(payload) => Record::new(ORGANIZATION, payload),
            None => Record::tombstone(ORGANIZATION),
        })
        .collect();
    case.topic.produce(&records);
    case.process_all();
    case.assert_all_accounted_for();

    let mut found = BTreeMap::new();
    let client = &mut case.database.client;
    for row in
        client.query("SELECT request_id::bigint, endpoint::text, weight FROM usage_events", &[]).unwrap()
    {
        assert_eq!(found.insert(row.get::<_, i64>(0), Row(row.get(1), row.get(2))), None);
    }
    let letters =
        client.query("SELECT kafka_offset, reason, payload, kafka_key FROM usage_dead_letters", &[]);
    for letter in letters.unwrap() {
        let (offset, payload): (i64, Option<Vec<u8>>) = (letter.get(0), letter.get(2));
        let (sent, expected) = &table.0[usize::try_from(offset).unwrap()];
        assert!(payload == *sent, "the payload of {offset} is not what was sent");
        assert_eq!(letter.get::<_, &[u8]>(3), ORGANIZATION.as_bytes());
        let as_expected = matches!(expected, Letter(reason) if letter.get::<_, &str>(1) == *reason);
        let found_letter = if as_expected { expected.clone() } else { Row(letter.get(1), -1) };
        assert_eq!(found.insert(offset, found_letter), None);
    }
    let different = (0..).zip(&table.0).filter(|(n, (_, expected))| found.get(n) != Some(expected));
    let different: Vec<_> = different
        .map(|(n, (payload, expected))| {
            let payload = String::from_utf8_lossy(payload.as_deref().unwrap_or_default());
            let end =
                payload.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<String>();
            format!("{n}: expected {expected:?}, found {:?}: ...{end}", found.get(&n))
        })
        .collect();
    assert!(different.is_empty(), "{different:#?}");
    assert_eq!(found.len(), table.0.len());
}
