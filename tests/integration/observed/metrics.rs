//! Every metric that is declared moves in a run that meets everything, and what is exposed is what Prometheus wants.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use usage_processor::migrations::Profile;
use usage_processor::observe::declared;

use crate::database::{Database, profiles};
use crate::pipeline::roles::Writer;
use crate::pipeline::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::support::{PrivatePostgres, Processor, Record, TestDatabase, TestTopic, eventually};

const DAY_MS: i64 = 86_400_000;

/// What stands still in this test, and why.
const STILL: [(&str, &str); 4] = [
    ("usage_build_info", "a program is one build"),
    ("usage_certificate_expiry_timestamp_seconds", "there is no certificate here: tls::postgres has some"),
    ("usage_dedup_entries_max", "it is what was configured"),
    ("usage_dead_stages", "the process ends with the stage: a test of its own"),
];

/// Which metrics have moved since the first look.
struct Watched {
    processor: Processor,
    first: BTreeMap<String, f64>,
    moved: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Watched {
    fn new(processor: Processor) -> Self {
        let first = processor.metrics();
        Self { processor, first, moved: BTreeSet::new(), seen: BTreeSet::new() }
    }

    /// Looks again; gives what there is.
    fn look(&mut self) -> BTreeMap<String, f64> {
        let metrics = self.processor.metrics();
        for (series, value) in &metrics {
            let name = series.split('{').next().unwrap();
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            let is_declared = |name: &str| declared::ALL.iter().any(|metric| metric.name == name);
            let name = histogram.filter(|name| is_declared(name)).unwrap_or(name);
            self.seen.insert(name.to_owned());
            if self.first.get(series).is_none_or(|first| (first - value).abs() > 0.0) {
                self.moved.insert(name.to_owned());
            }
        }
        metrics
    }

    /// Looks until this series has such a value.
    #[track_caller]
    fn wait_for(&mut self, series: &str, is_it: impl Fn(f64) -> bool) {
        eventually(series, PATIENCE, || match self.look().get(series) {
            Some(value) if is_it(*value) => Ok(()),
            other => Err(other.copied()),
        });
    }

    /// Looks until this metric has moved.
    #[track_caller]
    fn wait_until_moved(&mut self, name: &str) {
        eventually(name, PATIENCE, || {
            self.look();
            if self.moved.contains(name) { Ok(()) } else { Err(()) }
        });
    }
}

/// On a server that can be crashed; all else is shared.
fn case_on(server: &PrivatePostgres, partition_count: i32) -> Case {
    let database = TestDatabase::create_at(&server.url());
    Case::with(TestTopic::create(partition_count), Database::migrated_in(database, profiles().pop().unwrap()))
}

fn builder(case: &Case) -> crate::support::ProcessorBuilder {
    case.processor_with_strange_address()
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("BATCH_SIZE", "10")
        .env("DECODER_THREADS", "1")
        .env("DEDUP_MAX_ENTRIES", "1000")
        .env("DRAIN_TIMEOUT", "1s")
        .env("KAFKA_OPTIONS", "session.timeout.ms=6000,enable.sparse.connections=false")
}

#[test]
fn every_declared_metric_moves() {
    let server = PrivatePostgres::start();
    let mut case = case_on(&server, 8);
    server.stop();
    let mut watched = Watched::new(builder(&case).spawn());
    server.restart();
    case.database.reconnect();
    prepare_database(&mut case.database);
    watched.wait_for("usage_database_up", |up| up > 0.0);
    watched.wait_for("usage_assigned_partitions", |count| count > 7.0);

    ordinary_and_odd_events(&case);
    watched.wait_for("usage_rows_written_total", |rows| rows > 3.0);
    watched.wait_for("usage_duplicates_total{found_by=\"memory\"}", |count| count > 0.0);
    watched.wait_for("usage_duplicates_total{found_by=\"database\"}", |count| count > 0.0);
    watched.wait_for("usage_dead_letters_total{reason=\"invalid_json\"}", |count| count > 0.0);
    watched.wait_for("usage_dead_letters_total{reason=\"conflict\"}", |count| count > 0.0);
    watched.wait_for("usage_late_events_total", |count| count > 0.0);
    watched.wait_for("usage_dedup_oldest_seconds", |seconds| seconds > 99.0);

    server.crash();
    case.produce(&[event("during an outage", now_ms())]);
    watched.wait_for("usage_database_up", |up| up < 1.0);
    watched.wait_for("usage_write_retries_total{sqlstate_class=\"none\"}", |count| count > 0.0);
    watched.wait_for("usage_write_retrying_seconds", |seconds| seconds > 0.0);
    server.restart();
    case.database.reconnect();
    watched.wait_for("usage_database_reconnects_total", |count| count > 0.0);
    watched.wait_for("usage_write_retrying_seconds", |seconds| seconds < 0.001);

    full_and_revoked(&case, &mut watched);
    watched.wait_for("usage_dedup_evictions_total", |count| count > 0.0);
    for name in ["folded_until", "oldest_unfolded"] {
        watched.wait_until_moved(&format!("usage_database_{name}_timestamp_seconds"));
    }
    for name in ["usage_kafka_request_errors_total", "usage_kafka_broker_rtt_seconds"] {
        watched.wait_until_moved(name);
    }
    watched.wait_for("usage_database_uncompressed_chunks_past_due", |count| {
        count > 0.0 || profiles().len() == 1 // Nothing is compressed without TimescaleDB.
    });
    watched.wait_for("usage_messages_in_flight", |count| count < 1.0);
    assert_all_moved(&mut watched);
    assert_the_books_agree(&watched.processor);
}

/// A job that has failed, which none does by itself here, and a bound that no retention has moved yet.
fn prepare_database(database: &mut Database) {
    let since = "UPDATE usage_bounds SET retained_since = now() - INTERVAL '80 days'";
    database.client.batch_execute(since).unwrap();
    if profiles().pop() == Some(Profile::TimescaleDb) {
        let failed = "
            INSERT INTO _timescaledb_internal.bgw_job_stat
            SELECT job_id, now(), now(), 'infinity', now(), false, 3, '1 s', '1 s', 0, 3, 0, 3, 0
              FROM timescaledb_information.jobs WHERE proc_name = 'usage_maintain_job'
            ON CONFLICT (job_id) DO UPDATE SET total_failures = 3";
        database.client.batch_execute(failed).unwrap();
    }
}

/// A copy within the window, one across partitions, a conflict, a malformed one, a late one, and an old one.
fn ordinary_and_odd_events(case: &Case) {
    let now = now_ms();
    let first = event("a", now);
    let conflict = first.replace("/v1/orders", "/v1/refunds");
    let late = event("late", now - 2 * 3_600_000);
    let (earlier, old) = (event("earlier", now - 100_000), event("old", now - 20 * DAY_MS));
    case.topic.produce(&[
        Record::new(ORGANIZATION, old.as_bytes()).at(now - 20 * DAY_MS).to(7),
        Record::new(ORGANIZATION, earlier.as_bytes()).at(now - 100_000).to(0),
        Record::new(ORGANIZATION, first.as_bytes()).at(now).to(0),
        Record::new(ORGANIZATION, first.as_bytes()).at(now).to(0),
        Record::new(ORGANIZATION, conflict.as_bytes()).at(now).to(0),
        Record::new(ORGANIZATION, b"{").at(now).to(0),
        Record::new(ORGANIZATION, late.as_bytes()).at(now).to(0),
    ]);
    case.wait_until_at_end();
    case.topic.produce(&[Record::new(ORGANIZATION, first.as_bytes()).at(now).to(1)]);
}

/// A locked table fills the pipeline, and another instance takes half of the partitions away meanwhile.
fn full_and_revoked(case: &Case, watched: &mut Watched) {
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    let now = now_ms();
    let produce = |range: std::ops::Range<i32>| {
        let events: Vec<_> = range.map(|n| (n % 8, event(&format!("{n}"), now))).collect();
        let records: Vec<_> =
            events.iter().map(|(p, e)| Record::new(ORGANIZATION, e.as_bytes()).to(*p)).collect();
        case.topic.produce(&records);
    };
    // Of each partition something is on its way when it is taken away.
    produce(0..8);
    watched.wait_for("usage_messages_in_flight", |count| count >= 8.0);
    produce(8..4_000);
    watched.wait_for("usage_paused_partitions", |count| count > 0.0);
    watched.wait_for("usage_queue_length{queue=\"decoder-0\"}", |length| length > 0.0);
    watched.wait_for("usage_watermark_stuck_seconds", |seconds| seconds > 1.0);
    watched.wait_until_moved("usage_kafka_fetch_queue_messages");
    let second = case.processor().spawn();
    watched.wait_for("usage_messages_returned_total", |count| count > 0.0);
    lock.rollback().unwrap();
    watched.wait_for("usage_late_spans_total", |count| count > 0.0);
    second.wait_for_line("assigned 4 partitions", PATIENCE);
    case.wait_until_at_end();
    assert!(watched.look()["usage_rebalances_total"] >= 2.0);
}

fn assert_all_moved(watched: &mut Watched) {
    let declared: BTreeSet<_> = declared::ALL.iter().map(|metric| metric.name).collect();
    let is_still = |name: &str| STILL.iter().any(|(still, _)| *still == name);
    let is_absent = |name: &str| name == "usage_database_job_failures_total" && profiles().len() == 1;
    let still: Vec<_> = declared
        .iter()
        .filter(|name| !watched.moved.contains(**name) && !is_still(name) && !is_absent(name))
        .collect();
    assert!(still.is_empty(), "these stood still: {still:?}");
    let undeclared: Vec<_> = watched
        .seen
        .iter()
        .filter(|name| name.starts_with("usage_") && !declared.contains(name.as_str()))
        .collect();
    assert!(undeclared.is_empty(), "{undeclared:?}");
    for name in ["cpu_seconds_total", "open_fds", "max_fds", "resident_memory_bytes", "start_time_seconds"] {
        assert!(watched.seen.contains(&format!("process_{name}")), "{name}: {:?}", watched.seen);
    }
    // Of the process, not of 1970 or of the host: the alert on restarts looks at it.
    let started = watched.look()["process_start_time_seconds"];
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit")]
    let age_s = now_ms() as f64 / 1_000.0 - started;
    assert!((-60.0..600.0).contains(&age_s), "started {age_s} s ago, at {started}");
}

/// With each other, and with the status: everything has come to rest.
fn assert_the_books_agree(processor: &Processor) {
    let (metrics, status) = (processor.metrics(), processor.status());
    let sum = |name: &str| -> f64 {
        metrics
            .iter()
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .map(|(_, value)| value)
            .sum()
    };
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let totals = [
        ("usage_messages_consumed_total", status.totals.messages as f64),
        ("usage_rows_written_total", status.totals.written as f64),
        ("usage_dead_letters_total", status.totals.dead_letters as f64),
        ("usage_messages_returned_total", status.totals.returned as f64),
        ("usage_dedup_evictions_total", status.dedup.evictions as f64),
        ("usage_database_reconnects_total", status.database.reconnects as f64),
        ("usage_write_retries_total", status.database.retries as f64),
        ("usage_assigned_partitions", status.partitions.len() as f64),
    ];
    for (name, total) in totals {
        assert!((sum(name) - total).abs() < 0.5, "{name}: {} and {total}", sum(name));
    }
    let parts = ["rows_written_total", "duplicates_total", "dead_letters_total", "messages_returned_total"];
    let parts: f64 = parts.iter().map(|name| sum(&format!("usage_{name}"))).sum();
    assert!((sum("usage_messages_consumed_total") - parts).abs() < 0.5);
    assert_eq!(status.dead_letters.len(), 2, "{:?}", status.dead_letters);
    let letters = &status.last_dead_letters;
    assert!(letters.len() == 2 && letters[0].offset >= letters[1].offset, "{letters:?}");
    assert!(status.settings.iter().any(|setting| setting.name == "METRICS_ADDR"));
    assert!(status.database.server.contains("PostgreSQL") && status.database.table_bytes.is_some());
}

#[test]
fn promtool_finds_nothing_to_say() {
    let case = Case::new(2);
    let processor = case.processor().env("METRICS_ADDR", "127.0.0.1:0").spawn();
    processor.wait_for_line("assigned 2 partitions", PATIENCE);
    case.produce(&[event("a", now_ms()), "{".to_owned()]);
    case.wait_until_at_end();
    let text = eventually("the database was asked", PATIENCE, || {
        let text = processor.get("/metrics").body;
        if text.contains("usage_database_last_asked") { Ok(text) } else { Err(()) }
    });
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool, which tests/servers/install brings");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn a_stage_that_failed_is_told_until_the_process_has_drained() {
    let case = Case::new(1);
    let mut processor = case
        .processor()
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("DEAD_LETTER_MAX_RATIO", "0.1")
        // The writers are locked: none of the batches is to be too old to be filled.
        .env("BATCH_TIMEOUT", "60s")
        .spawn();
    processor.wait_for_line("assigned 1 partitions", PATIENCE);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_dead_letters").unwrap();
    let payloads = vec!["{".to_owned(); 10_000];
    case.produce(&payloads);
    processor.wait_for_line("; stopping", PATIENCE);
    assert!(processor.metrics()["usage_dead_stages"] > 0.0);
    let answer = processor.get("/healthz");
    assert_eq!(answer.status, 503, "{answer:?}");
    lock.rollback().unwrap();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(7));
}

#[test]
fn a_writers_role_may_ask_for_all_of_the_databases_figures() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let writer = Writer::create(&mut case);
        let processor = writer.run(&case, &case.group).env("METRICS_ADDR", "127.0.0.1:0").spawn();
        let figures = eventually("the database was asked", PATIENCE, || {
            let metrics = processor.metrics();
            if metrics.contains_key("usage_database_last_asked_timestamp_seconds") {
                Ok(metrics)
            } else {
                Err(())
            }
        });
        for name in ["table_bytes", "chunks", "uncompressed_chunks_past_due"] {
            assert!(
                figures.contains_key(&format!("usage_database_{name}")),
                "{profile}: {name}: {figures:?}"
            );
        }
        let has_jobs = figures.contains_key("usage_database_job_failures_total");
        assert_eq!(has_jobs, profile == Profile::TimescaleDb, "{profile}");
        let sessions = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'usage-processor observer'";
        assert_eq!(case.database.test.count(sessions), 1, "{profile}");
        thread::sleep(Duration::from_millis(200));
        let said: Vec<_> =
            processor.lines().into_iter().filter(|line| line.contains("for its figures")).collect();
        assert_eq!(said, [""; 0], "{profile}");
    }
}

#[test]
fn the_table_lists_every_metric() {
    let table =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/monitoring/metrics.md")).unwrap();
    let listed: Vec<_> =
        table.lines().filter(|line| line.starts_with("| `usage_") && line.contains("` | ")).collect();
    for metric in declared::ALL {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let meaning = metric.help.trim_end_matches('.');
        let row = format!("| `{}` | {kind} | {} | {meaning} |", metric.name, labels.join(", "));
        assert!(listed.contains(&row.as_str()), "missing in monitoring/metrics.md: {row}");
    }
}
