//! The cases of `cases.rs`, and the real encoder's bytes, on a real TimescaleDB in every run: the extension
//! compiled to WebAssembly, inside Node (tests/wasm). Events are written as JSON, go through the
//! decoder and the encoder, and what must be in the database is computed from the events alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use usage_processor::copy_tuple::{COLUMNS, CopyStream, append_tuple};
use usage_processor::decode::json::JsonDecoder;
use usage_processor::migrations::Profile;

use crate::cases::{Answer, Case, assert_all_reported, cases, helpers, wrong_case};

const HOUR_MICROS: i64 = 3_600_000_000;

struct Event {
    time_us: i64,
    request_id: String,
    organization: u8,
    api_key: u8,
    endpoint: String,
    status_code: i64,
    response_time_ms: i64,
    billable: bool,
    weight: i64,
}

/// The files to migrate with, in order.
fn migrations() -> Vec<String> {
    let mut files: Vec<_> = ["common", "timescaledb"]
        .iter()
        .flat_map(|folder| {
            fs::read_dir(format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap()
        })
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".up.sql"))
        .collect();
    files.sort_by_key(|path| path.file_name().unwrap().to_owned());
    files.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// What each statement of each case answers in a fresh database, the helpers' first.
fn answers(cases: &[Case]) -> Vec<Vec<Answer>> {
    let helpers = helpers();
    let statements = |case: &Case| {
        let all = helpers.statements.iter().chain(&case.statements);
        all.map(|statement| statement.sql.clone()).collect::<Vec<_>>()
    };
    let input =
        json!({"migrations": migrations(), "cases": cases.iter().map(statements).collect::<Vec<_>>()});
    let mut node = Command::new("node")
        .arg("cases.mjs")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wasm"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs (`make test` installs it)");
    node.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "node failed");
    let answer = |value: &Value| match value["rows"].as_array() {
        Some(rows) => Answer::Rows(rows.iter().map(|row| row.as_str().unwrap().to_owned()).collect()),
        None => Answer::Error(text(&value["error"]), text(&value["message"])),
    };
    let answered: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answered = answered.as_array().unwrap().iter();
    answered.map(|answers| answers.as_array().unwrap().iter().map(answer).collect()).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// What does not hold.
fn run(cases: &[Case]) -> String {
    let helpers = helpers();
    let mut report = String::new();
    for (case, answers) in cases.iter().zip(answers(cases)) {
        let (prepared, answers) = answers.split_at(helpers.statements.len());
        report += &helpers.mismatches("TimescaleDB in WebAssembly", prepared);
        report += &case.mismatches("TimescaleDB in WebAssembly", answers);
    }
    report
}

#[test]
fn every_case_holds_in_timescaledb() {
    let report = run(&cases(Profile::TimescaleDb));
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn a_wrong_expectation_is_reported_with_its_line() {
    assert_all_reported(&run(&[wrong_case()]));
}

/// A few hundred events of the last 60 days, from a fixed recurrence, with the texts and numbers at
/// the edges of the rules.
fn events() -> Vec<Event> {
    let now_us = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let mut state = 12_345_u32;
    let mut next = |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        i64::from((state >> 8) % bound)
    };
    (0..300)
        .map(|idx| Event {
            time_us: now_us - next(60 * 24) * HOUR_MICROS - next(3_600) * 1_000_000 - next(1_000_000),
            request_id: if idx % 7 == 0 { format!("{idx:0>128}") } else { format!("zahl-\u{fc}-{idx}") },
            organization: u8::try_from(next(4)).unwrap(),
            api_key: u8::try_from(next(6)).unwrap(),
            endpoint: ["/v1/orders", "/v1/\u{65e5}\u{672c}", "/"][usize::try_from(next(3)).unwrap()]
                .to_owned(),
            status_code: [100, 200, 204, 302, 404, 429, 500, 599][usize::try_from(next(8)).unwrap()],
            response_time_ms: if idx % 50 == 0 { i64::from(i32::MAX) } else { next(900) },
            billable: next(10) > 1,
            weight: if idx % 60 == 0 { i64::from(i32::MAX) } else { next(4) },
        })
        .collect()
}

fn id(number: u8) -> String {
    format!("6ba7b810-9dad-11d1-80b4-00c04fd430{number:02x}")
}

fn utc(time_us: i64) -> String {
    let since_1970 = Duration::from_micros(u64::try_from(time_us).unwrap());
    humantime::format_rfc3339_micros(UNIX_EPOCH + since_1970).to_string()
}

impl Event {
    fn payload(&self) -> String {
        json!({
            "time": utc(self.time_us), "request_id": self.request_id, "organization_id": id(self.organization),
            "api_key_id": id(self.api_key), "endpoint": self.endpoint, "method": "GET",
            "status_code": self.status_code, "response_time_ms": self.response_time_ms,
            "billable": self.billable, "weight": self.weight, "unknown": [1, {"deep": null}],
        })
        .to_string()
    }

    fn row(&self) -> Value {
        json!({
            "time_us": self.time_us, "request_id": self.request_id, "organization_id": id(self.organization),
            "api_key_id": id(self.api_key), "endpoint": self.endpoint, "method": "GET",
            "status_code": self.status_code, "response_time_ms": self.response_time_ms,
            "billable": self.billable, "weight": self.weight,
        })
    }

    /// `2026-11-24T07:00:00Z`, or the start of its day or month.
    fn bucket(&self, kept_chars: usize) -> String {
        format!("{}{}", &utc(self.time_us)[..kept_chars], &"0000-01-01T00:00:00Z"[kept_chars..])
    }
}

fn copy_stream(events: &[Event]) -> Vec<u8> {
    let (mut decoder, mut stream, mut tuple) = (JsonDecoder::default(), CopyStream::default(), Vec::new());
    stream.start();
    for event in events {
        tuple.clear();
        append_tuple(&mut tuple, &decoder.decode(Some(event.payload().as_bytes())).unwrap());
        stream.push(&tuple);
    }
    stream.finish().to_vec()
}

/// Groups events as an aggregate does, and adds them up.
fn aggregate<Key: Ord>(
    events: &[Event],
    key: impl Fn(&Event) -> Key,
    describe: impl Fn(&[&Event]) -> Value,
) -> Vec<Value> {
    let mut groups: BTreeMap<Key, Vec<&Event>> = BTreeMap::new();
    for event in events {
        groups.entry(key(event)).or_default().push(event);
    }
    let row = |group: &Vec<&Event>| {
        let sum = |value: &dyn Fn(&Event) -> i64| group.iter().map(|event| value(event)).sum::<i64>();
        let status = |class: i64| sum(&|event| i64::from(event.status_code / 100 == class));
        let mut row = describe(group);
        let sums = json!({
            "organization_id": id(group[0].organization),
            "total_requests": group.len(),
            "billable_requests": sum(&|event| i64::from(event.billable)),
            "billable_units": sum(&|event| if event.billable { event.weight } else { 0 }),
            "response_time_ms_sum": sum(&|event| event.response_time_ms),
            "success_count": status(2), "client_error_count": status(4), "error_count": status(5),
        });
        row.as_object_mut().unwrap().append(&mut sums.as_object().unwrap().clone());
        row
    };
    groups.values().map(row).collect()
}

fn rollup(events: &[Event], kept_chars: usize) -> Vec<Value> {
    aggregate(
        events,
        |event| (event.bucket(kept_chars), event.organization),
        |group| {
            let keys: BTreeSet<_> = group.iter().map(|event| event.api_key).collect();
            json!({"bucket": group[0].bucket(kept_chars), "unique_api_keys": keys.len()})
        },
    )
}

#[test]
fn the_encoders_bytes_become_rows_and_figures_in_timescaledb() {
    let events = events();
    let hourly = aggregate(
        &events,
        |event| (event.bucket("2026-11-24T07".len()), event.organization, event.api_key),
        |group| {
            let endpoints: BTreeSet<_> = group.iter().map(|event| &event.endpoint).collect();
            let bucket = group[0].bucket("2026-11-24T07".len());
            json!({"bucket": bucket, "api_key_id": id(group[0].api_key), "unique_endpoints": endpoints.len()})
        },
    );
    let expected = json!({
        "columns": COLUMNS.split(", ").collect::<Vec<_>>(),
        "rows": events.iter().map(Event::row).collect::<Vec<_>>(),
        "hourly": hourly,
        "daily": rollup(&events, "2026-11-24".len()),
        "monthly": rollup(&events, "2026-11".len()),
    });
    let directory = tempfile::tempdir().unwrap();
    let [copy_file, expected_file] = ["events.copy", "expected.json"].map(|name| directory.path().join(name));
    fs::write(&copy_file, copy_stream(&events)).unwrap();
    fs::write(&expected_file, expected.to_string()).unwrap();

    let output = Command::new("node")
        .args(["--test", "timescaledb.test.mjs"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wasm"))
        .env("COPY_FILE", &copy_file)
        .env("EXPECTED_FILE", &expected_file)
        .output()
        .expect("node runs (`make test` installs it)");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("# fail 0") && !report.contains("# pass 0"), "{report}");
}
