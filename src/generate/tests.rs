//! The stream as a whole: what is sent against what is said about it, counted again by a naive
//! reader that knows only the bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::*;

/// 2026-03-01T11:59:00Z: the stream crosses an hour.
const START: Duration = Duration::from_secs(1_772_366_340);

fn share(text: &str) -> Share {
    text.parse().unwrap()
}

fn traffic(seed: u64, message_count: u64) -> Traffic {
    Traffic {
        seed,
        message_count,
        organization_count: 50,
        duplicates: share("5%"),
        retimed: share("40%"),
        malformed: share("3%"),
        late: share("2%"),
        late_up_to: Duration::from_secs(7 * 86_400),
        padding_bytes: 0,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    key: String,
    payload: Option<Vec<u8>>,
    published_at_micros: i64,
    kind: MessageKind,
}

impl Sent {
    fn json(&self) -> Value {
        serde_json::from_slice(self.payload.as_ref().unwrap()).unwrap()
    }

    fn is_valid(&self) -> bool {
        !matches!(self.kind, MessageKind::Malformed(_))
    }

    fn identity(&self) -> (String, String) {
        let json = self.json();
        let text = |field: &str| json[field].as_str().unwrap().to_owned();
        (text("organization_id").to_lowercase(), text("request_id"))
    }
}

fn stream_at(traffic: &Traffic, pace: Pace) -> Vec<Sent> {
    traffic.check(pace).unwrap();
    let schedule = Schedule::new(UNIX_EPOCH + START, pace, traffic.message_count);
    let mut gateway = Gateway::new(traffic, schedule);
    let mut sent = Vec::new();
    while let Some(message) = gateway.next_message() {
        sent.push(Sent {
            key: String::from_utf8(message.key.to_vec()).unwrap(),
            payload: message.payload.map(<[u8]>::to_vec),
            published_at_micros: message.published_at_micros,
            kind: message.kind,
        });
    }
    sent
}

fn stream(traffic: &Traffic) -> Vec<Sent> {
    stream_at(traffic, Pace::Steady { rate: NonZeroU32::new(200).unwrap() })
}

fn truth(seed: u64, sent: &[Sent]) -> Truth {
    let mut books = Bookkeeper::default();
    sent.iter().for_each(|message| books.enter(&message.kind));
    books.close(seed)
}

/// Microseconds since 1970, read by a calendar that is not ours.
fn read_time(value: &Value) -> i64 {
    let Some(text) = value.as_str() else { return value.as_i64().unwrap() * 1_000 };
    let (local, offset_minutes) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at(text.len() - 6);
            let part = |start: usize| offset[start..start + 2].parse::<i64>().unwrap();
            (local, (part(1) * 60 + part(4)) * if offset.starts_with('-') { -1 } else { 1 })
        }
    };
    let time = humantime::parse_rfc3339(&format!("{local}Z")).unwrap();
    let micros = i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    micros - offset_minutes * 60_000_000
}

#[test]
fn a_seed_means_the_same_bytes() {
    let (once, again) = (stream(&traffic(7, 5_000)), stream(&traffic(7, 5_000)));
    assert!(once == again);
    assert!(once != stream(&traffic(8, 5_000)));
}

#[test]
fn padding_changes_nothing_but_the_length() {
    let (plain, padded) = (traffic(12, 5_000), Traffic { padding_bytes: 3_700, ..traffic(12, 5_000) });
    let valid = |traffic: &Traffic| stream(traffic).into_iter().filter(Sent::is_valid).collect::<Vec<_>>();
    let (plain, padded) = (valid(&plain), valid(&padded));
    assert_eq!(plain.len(), padded.len());
    for (plain, padded) in plain.iter().zip(&padded) {
        assert_eq!((&plain.key, plain.kind), (&padded.key, padded.kind));
        let mut json = padded.json();
        let padding = json.as_object_mut().unwrap().remove("padding").unwrap();
        assert_eq!(padding.as_str().unwrap().len(), 3_700);
        assert_eq!(json, plain.json());
    }
}

#[test]
fn the_truth_equals_a_naive_recount() {
    let sent = stream(&traffic(3, 40_000));
    let mut seen = HashSet::new();
    let mut usage: BTreeMap<String, BTreeMap<String, Usage>> = BTreeMap::new();
    let (mut requests, mut duplicates) = (0, 0);
    for message in sent.iter().filter(|sent| sent.is_valid()) {
        if !seen.insert(message.identity()) {
            duplicates += 1;
            continue;
        }
        requests += 1;
        let json = message.json();
        let hour = read_time(&json["time"]).div_euclid(3_600_000_000);
        let hour = UNIX_EPOCH + Duration::from_secs(u64::try_from(hour).unwrap() * 3_600);
        let hour = humantime::format_rfc3339_seconds(hour).to_string();
        let counted = usage.entry(message.identity().0).or_default().entry(hour).or_default();
        let status = json["status_code"].as_u64().unwrap();
        counted.requests += 1;
        counted.successes += u64::from((200..300).contains(&status));
        counted.client_errors += u64::from((400..500).contains(&status));
        counted.server_errors += u64::from(status >= 500);
        counted.response_time_ms += json["response_time_ms"].as_u64().unwrap();
        if json.get("billable").is_none_or(|billable| billable.as_bool().unwrap()) {
            counted.billable_requests += 1;
            counted.billable_units += json.get("weight").map_or(1, |weight| weight.as_u64().unwrap());
        }
    }
    let truth = truth(3, &sent);
    assert_eq!(truth.usage, usage);
    assert_eq!((truth.requests, truth.duplicate_count()), (requests, duplicates));
    assert_eq!(truth.messages, 40_000);
    assert_eq!(truth.malformed_count(), 40_000 - requests - duplicates);
    assert_eq!(truth.malformed_count(), truth.dead_letters.values().sum::<u64>());
    assert!(usage.values().map(BTreeMap::len).max() > Some(2), "the stream crosses hours");
}

#[test]
fn the_shares_are_kept() {
    let sent = stream(&traffic(4, 100_000));
    let truth = truth(4, &sent);
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
    let within =
        |found: f64, low, high| assert!((low..high).contains(&found), "{found} not in {low}..{high}");
    within(percent(truth.duplicate_count(), truth.messages), 4.7, 5.2);
    within(percent(truth.duplicates[&DuplicateKind::Retimed], truth.duplicate_count()), 37.0, 43.0);
    within(percent(truth.malformed_count(), truth.messages), 2.8, 3.2);
    within(percent(truth.late, truth.requests), 1.8, 2.2);
    let usage = truth.total_usage();
    within(percent(usage.billable_requests, usage.requests), 84.0, 86.0);
    within(percent(usage.server_errors, usage.requests), 1.3, 1.9);
    let busiest = truth.usage.values().map(|hours| hours.values().map(|usage| usage.requests).sum()).max();
    within(percent(busiest.unwrap(), usage.requests), 20.0, 24.0);
    let bytes: usize =
        sent.iter().filter(|sent| sent.is_valid()).map(|s| s.payload.as_ref().unwrap().len()).sum();
    within(
        bytes as f64 / percent(sent.iter().filter(|sent| sent.is_valid()).count() as u64, 100),
        300.0,
        330.0,
    );
}

#[test]
fn half_of_the_messages_can_be_duplicates() {
    let traffic = Traffic { duplicates: share("50%"), malformed: Share::NONE, ..traffic(5, 50_000) };
    let duplicates = truth(5, &stream(&traffic)).duplicate_count();
    assert!((24_000..=25_500).contains(&duplicates), "{duplicates}");
}

#[test]
fn everything_can_be_malformed_and_nothing_need_be_sent() {
    let all = Traffic { duplicates: Share::NONE, malformed: Share::ALL, ..traffic(6, 1_000) };
    assert_eq!(truth(6, &stream(&all)).malformed_count(), 1_000);
    assert_eq!(stream(&traffic(6, 0)), []);
    assert_eq!(stream(&traffic(6, 1)).len(), 1);
}

#[test]
fn a_duplicate_follows_its_first_attempt_under_the_same_key_and_soon() {
    let heavy = Traffic { duplicates: share("30%"), ..traffic(9, 30_000) };
    let mut firsts: HashMap<(String, String), Sent> = HashMap::new();
    for message in stream(&heavy).into_iter().filter(Sent::is_valid) {
        match message.kind {
            MessageKind::Duplicate(kind) => {
                let first = &firsts[&message.identity()];
                assert_eq!(first.key, message.key);
                let delay = message.published_at_micros - first.published_at_micros;
                assert!((0..240_000_000).contains(&delay), "{delay} µs inside the window of 5 minutes");
                match kind {
                    DuplicateKind::Identical => assert_eq!(first.payload, message.payload),
                    DuplicateKind::Retimed => assert_only_later(&first.json(), &message.json()),
                }
            }
            _ => {
                let identity = message.identity();
                assert_eq!(identity.0, message.key);
                assert!(firsts.insert(identity, message).is_none(), "two requests share an identity");
            }
        }
    }
}

fn assert_only_later(first: &Value, retry: &Value) {
    assert!(read_time(&retry["time"]) > read_time(&first["time"]));
    let mut like_first = retry.clone();
    like_first["time"] = first["time"].clone();
    assert_eq!(&like_first, first);
}

#[test]
fn events_are_valid_at_the_time_they_are_published() {
    for message in stream(&traffic(10, 30_000)).iter().filter(|sent| sent.is_valid()) {
        let json = message.json();
        let age_micros = message.published_at_micros - read_time(&json["time"]);
        assert!((-1_000..=7 * 86_400_000_000 + 1_000).contains(&age_micros), "{json}");
        let chars = |field: &str| json[field].as_str().unwrap().chars().count();
        assert!((1..=128).contains(&chars("request_id")) && (1..=255).contains(&chars("endpoint")), "{json}");
        assert!((1..=10).contains(&chars("method")) && chars("organization_id") == 36, "{json}");
        assert!((100..600).contains(&json["status_code"].as_u64().unwrap()), "{json}");
        assert!(json["response_time_ms"].as_u64().unwrap() <= 2_147_483_647, "{json}");
    }
}

#[test]
fn every_kind_of_malformed_message_is_what_it_says() {
    let all = Traffic { duplicates: Share::NONE, malformed: Share::ALL, ..traffic(11, 20_000) };
    let mut kinds = HashSet::new();
    for message in stream(&all) {
        let MessageKind::Malformed(kind) = message.kind else { panic!("{message:?}") };
        kinds.insert(kind);
        let Some(payload) = &message.payload else {
            assert_eq!(kind, Malformation::NullValue);
            continue;
        };
        assert_malformed(kind, payload, message.published_at_micros);
    }
    assert_eq!(kinds.len(), Malformation::ALL.len());
}

fn assert_malformed(kind: Malformation, payload: &[u8], published_at_micros: i64) {
    let shown = String::from_utf8_lossy(payload);
    let parsed: Result<Value, _> = serde_json::from_slice(payload);
    if kind == Malformation::EmptyValue {
        return assert!(payload.is_empty());
    }
    assert!(!payload.is_empty());
    if kind.reason() == "invalid_json" {
        return assert!(parsed.is_err(), "{shown}");
    }
    let json = parsed.unwrap();
    if kind.reason() == "not_an_object" {
        return assert!(!json.is_object(), "{shown}");
    }
    let strings = ["request_id", "endpoint", "method"].map(|field| json[field].as_str().unwrap_or("?"));
    let number = |field: &str| json[field].as_i64();
    let holds = match kind.reason() {
        "missing_field" => count_known(&json) == 9,
        "wrong_type" => {
            [&json["time"], &json["request_id"], &json["organization_id"], &json["endpoint"]].iter().any(
                |value| {
                    !value.is_string() && !value.is_i64()
                        || value.as_i64() == Some(12_345)
                        || value.as_i64() == Some(77)
                },
            ) || !json["method"].is_string()
                || !json["status_code"].is_i64()
                || !json["billable"].is_boolean()
                || !json["weight"].is_i64()
        }
        "duplicate_field" => {
            shown.matches('"').count() > serde_json::to_string(&json).unwrap().matches('"').count()
        }
        "out_of_range" => {
            !(100..600).contains(&number("status_code").unwrap())
                || !(0..1 << 31).contains(&number("response_time_ms").unwrap())
                || !(0..1 << 31).contains(&number("weight").unwrap())
        }
        "invalid_length" => strings
            .iter()
            .zip([128, 255, 10])
            .any(|(text, max)| text.is_empty() || text.chars().count() > max),
        "nul_character" => strings.iter().any(|text| text.contains('\0')),
        "invalid_uuid" => ["organization_id", "api_key_id"].iter().any(|field| !is_uuid(&json[field])),
        "invalid_time" => json["time"].as_str().is_some_and(|time| humantime::parse_rfc3339(time).is_err()),
        "too_old" => read_time(&json["time"]) < published_at_micros - 90 * 86_400_000_000,
        "too_far_ahead" => read_time(&json["time"]) > published_at_micros + 300_000_000,
        _ => false,
    };
    assert!(holds, "{kind:?}: {shown}");
}

fn count_known(json: &Value) -> usize {
    const KNOWN: [&str; 10] = [
        "time",
        "request_id",
        "organization_id",
        "api_key_id",
        "endpoint",
        "method",
        "status_code",
        "response_time_ms",
        "billable",
        "weight",
    ];
    KNOWN.iter().filter(|field| json.get(field).is_some()).count()
}

fn is_uuid(value: &Value) -> bool {
    let groups: Vec<&str> = value.as_str().unwrap().split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn a_truth_survives_its_file_and_runs_add_up() {
    let (first, second) = (truth(1, &stream(&traffic(1, 3_000))), truth(2, &stream(&traffic(2, 3_000))));
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    first.write(&path).unwrap();
    assert_eq!(Truth::read(&path).unwrap(), first);
    let mut both = first.clone();
    both.merge(&second);
    assert_eq!(both.messages, 6_000);
    assert_eq!(both.total_usage().requests, first.requests + second.requests);
    assert_eq!(both.seeds, [1, 2]);
    let shared = both.usage.keys().filter(|id| first.usage.contains_key(*id)).count();
    assert!(shared > 40, "organizations are the same in both runs");
}
