//! Decisions depend on messages and offsets alone: a topic that is processed again, by other threads,
//! in other batches, through crashes and changes of owner, gives the same tables row for row.

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, SystemTime};

use usage_processor::generate::{self, GenerateOptions, Pace, Truth};

use super::{Case, ORGANIZATION, PATIENCE, event, first_difference, now_ms, traffic};
use crate::database::{Database, profiles};
use crate::support::{Record, eventually};

/// Generated messages come in stretches; after each of them come copies made by hand.
const STRETCHES: u64 = 6;
const STRETCH_MESSAGES: u64 = 6_500;
const STRETCH_MS: u64 = 90_000;
/// Of a request made by hand after some stretch, what it and its copies after the following stretches
/// say, and what becomes of them in five minutes' window. The fifth comes when the first has left it,
/// the sixth when the second has, too.
const COPIES: [(&str, &str); 6] = [
    ("/v1/orders", "row"),
    ("/v1/refunds", "conflict"),
    ("/v1/orders", "duplicate"),
    ("/v1/refunds", "conflict"),
    ("/v1/orders", "conflict"),
    ("/v1/orders", "duplicate"),
];
const DEFAULT_WINDOW: &str = "5m";
/// Retries come up to 20 s after the attempt before, so that this one's edge decides about some.
const SHORT_WINDOW: &str = "7s";
/// Both tables, in an order that their rows give, without the columns that say when a row came here.
const TABLES: [(&str, &str, &str); 2] = [
    ("usage_events", "organization_id, time, request_id", "created_at"),
    ("usage_dead_letters", "kafka_topic, kafka_partition, kafka_offset, kafka_timestamp", "received_at"),
];

impl Case {
    /// A topic to be processed again and again, and what it holds.
    fn to_replay() -> (Self, Truth) {
        let case = Self::new(8);
        let start_ms = u64::try_from(now_ms()).unwrap() - (STRETCHES + 1) * STRETCH_MS;
        let mut truth = Truth::default();
        for stretch in 0..STRETCHES {
            let at_ms = start_ms + stretch * STRETCH_MS;
            let options = GenerateOptions {
                brokers: case.topic.brokers().to_owned(),
                topic: case.topic.name().to_owned(),
                kafka_options: Vec::new(),
                linger: Duration::from_millis(5),
                traffic: super::Traffic { seed: stretch, ..traffic(STRETCH_MESSAGES, "50%") },
                pace: Pace::Backlog { spread: Duration::from_millis(STRETCH_MS) },
                start_time: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms)),
            };
            let generated = generate::run(&options, &mut |_| ControlFlow::Continue(())).unwrap();
            truth.merge(&generated.truth);
            case.produce_copies(stretch, at_ms + STRETCH_MS, &mut truth);
        }
        (case, truth)
    }

    /// One more copy of each request made by hand so far, and a new request, for each of some organizations.
    fn produce_copies(&self, stretch: u64, at_ms: u64, truth: &mut Truth) {
        let hour_ms = at_ms - at_ms % 3_600_000;
        let hour = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_millis(hour_ms));
        let at_ms = i64::try_from(at_ms).unwrap();
        let mut copies = Vec::new();
        for digit in 0..8 {
            let organization = format!("{digit}{}", &ORGANIZATION[1..]);
            for first in 0..=stretch {
                let (endpoint, outcome) = COPIES[usize::try_from(stretch - first).unwrap()];
                let payload = event(&format!("by hand {first}"), at_ms)
                    .replace(ORGANIZATION, &organization)
                    .replace("/v1/orders", endpoint);
                copies.push((organization.clone(), payload));
                match outcome {
                    "row" => {
                        let hours = truth.usage.entry(organization.clone()).or_default();
                        let usage = hours.entry(hour.to_string()).or_default();
                        usage.requests += 1;
                        usage.billable_requests += 1;
                        usage.billable_units += 1;
                    }
                    "conflict" => *truth.dead_letters.entry("conflict".to_owned()).or_default() += 1,
                    _ => {}
                }
            }
        }
        let records = copies.iter().map(|(key, payload)| Record::new(key, payload.as_bytes()).at(at_ms));
        self.topic.produce(&records.collect::<Vec<_>>());
    }

    /// From the beginning, into an empty database.
    fn begin_anew(&mut self, group: &str) {
        self.database = Database::migrated(profiles().pop().unwrap());
        self.group = format!("{group} {}", self.topic.name());
    }

    /// Both tables, a text for each row.
    fn tables(&mut self) -> [Vec<String>; 2] {
        TABLES.map(|(table, order, arrival)| {
            let columns = self.database.text(&format!(
                "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
                   FROM information_schema.columns
                  WHERE table_name = '{table}' AND column_name <> '{arrival}'"
            ));
            self.database.texts(&format!("SELECT ROW({columns})::text FROM {table} ORDER BY {order}"))
        })
    }

    #[track_caller]
    fn assert_tables(&mut self, expected: &[Vec<String>; 2]) {
        let found = self.tables();
        for (expected, found) in expected.iter().zip(&found) {
            assert!(expected == found, "{}: {}", self.group, first_difference(expected, found));
        }
    }

    /// What a first run gives, which is the truth within the default window.
    fn first_run(&mut self, window: &str, truth: &Truth) -> [Vec<String>; 2] {
        self.begin_anew(&format!("first run in {window}"));
        self.run_to_end(&[("DEDUP_WINDOW", window)]);
        if window == DEFAULT_WINDOW {
            self.assert_truth(truth);
        }
        self.tables()
    }

    fn run_to_end(&self, settings: &[(&str, &str)]) {
        let processor = self.processor().arg("--stop-at-end");
        let with_settings =
            settings.iter().fold(processor, |builder, (name, value)| builder.env(name, value));
        assert_eq!(with_settings.spawn().wait_exit(PATIENCE).code(), Some(0));
        self.assert_at_end();
    }

    fn wait_for_rows(&self, count: usize) {
        let is_there = |rows: i64| if rows >= i64::try_from(count).unwrap() { Ok(()) } else { Err(rows) };
        eventually("more rows", PATIENCE, || is_there(self.rows()));
    }

    /// What goes wrong must go wrong in the middle.
    #[track_caller]
    fn assert_unfinished(&self, expected: &[Vec<String>; 2]) {
        assert!(self.is_at_end().is_err() && self.rows() < i64::try_from(expected[0].len()).unwrap());
    }
}

#[test]
fn decisions_depend_on_message_and_offset_whatever_threads_and_batches() {
    let (mut case, truth) = Case::to_replay();
    let by_window = [DEFAULT_WINDOW, SHORT_WINDOW].map(|window| case.first_run(window, &truth));
    assert!(by_window[1][0].len() > by_window[0][0].len(), "the short window lets some retries through");
    for (window, expected, decoders, writers, batch_size) in [
        (DEFAULT_WINDOW, &by_window[0], "3", "5", "37"),
        (SHORT_WINDOW, &by_window[1], "5", "1", "201"),
        (SHORT_WINDOW, &by_window[1], "8", "3", "10000"),
    ] {
        case.begin_anew(&format!("{decoders} decoders, {writers} writers, {batch_size} rows, {window}"));
        case.run_to_end(&[
            ("DEDUP_WINDOW", window),
            ("DECODER_THREADS", decoders),
            ("WRITER_THREADS", writers),
            ("BATCH_SIZE", batch_size),
        ]);
        case.assert_tables(expected);
    }
}

#[test]
fn decisions_depend_on_message_and_offset_through_crashes() {
    let (mut case, truth) = Case::to_replay();
    for (window, parts) in [(DEFAULT_WINDOW, &[2, 4, 6][..]), (SHORT_WINDOW, &[3, 6])] {
        let expected = case.first_run(window, &truth);
        case.begin_anew(&format!("crashes in {window}"));
        let spawn = || {
            case.processor()
                .env("DEDUP_WINDOW", window)
                .env("WRITER_THREADS", "1")
                .env("BATCH_SIZE", "50")
                // The next one takes the dead one's place without waiting for the end of its session.
                .env("KAFKA_GROUP_INSTANCE_ID", "one")
                .spawn()
        };
        for part in parts {
            let mut processor = spawn();
            case.wait_for_rows(expected[0].len() * part / 10);
            processor.kill();
            assert_eq!(processor.wait_exit(PATIENCE).signal(), Some(9));
            case.assert_unfinished(&expected);
        }
        let _processor = spawn();
        case.wait_until_at_end();
        case.assert_tables(&expected);
    }
}

#[test]
fn decisions_depend_on_message_and_offset_through_changes_of_owner() {
    let (mut case, truth) = Case::to_replay();
    let expected = case.first_run(DEFAULT_WINDOW, &truth);
    case.begin_anew("changes of owner");
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    let spawn = || case.processor().env("BATCH_SIZE", "50").env("DRAIN_TIMEOUT", "1s").spawn();
    // The first one gives half of its partitions away with batches on their way, which it writes later.
    let first = spawn();
    first.wait_for_line("In flight: ", PATIENCE);
    let mut second = spawn();
    second.wait_for_line("assigned 4 partitions", PATIENCE);
    lock.rollback().unwrap();
    case.wait_for_rows(expected[0].len() / 2);
    second.terminate();
    assert!(matches!(second.wait_exit(PATIENCE).code(), Some(0 | 4)));
    case.assert_unfinished(&expected);
    case.wait_until_at_end();
    case.assert_tables(&expected);
}
