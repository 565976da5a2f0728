//! `/healthz` and `/readyz` through a start, an outage, a rebalance and a drain.

use std::thread;
use std::time::Duration;

use usage_processor::health::Verdict;

use crate::database::{Database, profiles};
use crate::pipeline::{Case, PATIENCE, event, now_ms};
use crate::support::{PrivateBroker, PrivatePostgres, Processor, TestDatabase, TestTopic, eventually};

/// Status code and verdict, which must agree.
#[track_caller]
fn ask(processor: &Processor, path: &str) -> Verdict {
    let answer = processor.get(path);
    let verdict: Verdict = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer.status, if verdict.is_ok { 200 } else { 503 }, "{path}: {verdict:?}");
    verdict
}

#[track_caller]
fn assert_alive(processor: &Processor) {
    let verdict = ask(processor, "/healthz");
    assert!(verdict.is_ok, "{verdict:?}");
}

#[track_caller]
fn wait_until_ready(processor: &Processor) {
    eventually("it is ready", PATIENCE, || {
        let verdict = ask(processor, "/readyz");
        if verdict.is_ok { Ok(()) } else { Err(verdict) }
    });
}

/// Waits until it is not ready for a reason that contains this.
#[track_caller]
fn wait_until_unready(processor: &Processor, reason: &str) {
    eventually("it is not ready", PATIENCE, || {
        let verdict = ask(processor, "/readyz");
        let is_it = !verdict.is_ok && verdict.reasons.iter().any(|said| said.contains(reason));
        if is_it { Ok(()) } else { Err(verdict) }
    });
}

fn observed(case: &Case) -> Processor {
    case.processor().env("METRICS_ADDR", "127.0.0.1:0").spawn()
}

#[test]
fn an_outage_of_kafka_is_waited_for_alive_and_ready_with_a_note() {
    let broker = PrivateBroker::start();
    let database = Database::migrated(profiles().pop().unwrap());
    let case = Case::with(TestTopic::create_at(&broker.address(), 2), database);
    broker.crash();
    let processor = observed(&case);
    wait_until_unready(
        &processor,
        &format!(
            "which partitions are ours: no Kafka broker is connected (KAFKA_BROKERS={})",
            broker.address()
        ),
    );
    assert_alive(&processor);
    broker.restart();
    wait_until_ready(&processor);
    case.produce(&[event("before", now_ms())]);
    case.wait_until_at_end();
    broker.crash();
    eventually("the outage is noted", PATIENCE, || {
        let verdict = ask(&processor, "/readyz");
        let is_noted =
            verdict.is_ok && verdict.reasons.iter().any(|said| said == "no Kafka broker is connected");
        if is_noted { Ok(()) } else { Err(verdict) }
    });
    assert_alive(&processor);
    broker.restart();
    eventually("the note is gone", PATIENCE, || {
        let verdict = ask(&processor, "/readyz");
        if verdict.is_ok && verdict.reasons.is_empty() { Ok(()) } else { Err(verdict) }
    });
}

#[test]
fn an_outage_of_the_database_is_waited_for_alive_and_not_ready() {
    let server = PrivatePostgres::start();
    let profile = profiles().pop().unwrap();
    let database = Database::migrated_in(TestDatabase::create_at(&server.url()), profile);
    let case = Case::with(TestTopic::create(2), database);
    let processor = observed(&case);
    wait_until_ready(&processor);
    case.produce(&[event("before", now_ms())]);
    case.wait_until_at_end();
    server.crash();
    // Nothing is being written: whoever asks for figures finds out.
    wait_until_unready(&processor, "the database cannot be reached since 20");
    assert_alive(&processor);
    assert!(processor.metrics()["usage_database_up"] < 1.0);
    case.produce(&[event("meanwhile", now_ms())]);
    eventually("a batch is being retried", PATIENCE, || {
        let metrics = processor.metrics();
        let retrying = metrics["usage_write_retrying_seconds"];
        if retrying > 1.0 { Ok(()) } else { Err(retrying) }
    });
    assert_alive(&processor);
    let database = processor.status().database;
    assert!(!database.is_reachable && database.retries > 0, "{database:?}");
    // A writer's, or that of whoever asks for figures.
    assert!(database.last_error.is_some_and(|error| error.contains("connecting to ")));
    server.restart();
    wait_until_ready(&processor);
    assert_alive(&processor);
    case.wait_until_at_end();
    let metrics = processor.metrics();
    assert!(metrics["usage_database_up"] > 0.0 && metrics["usage_write_retrying_seconds"] < 0.001);
}

#[test]
fn a_table_that_takes_nothing_is_no_reason_to_be_killed_and_none_to_be_ready() {
    let case = Case::new(1);
    let processor = case.processor().env("METRICS_ADDR", "127.0.0.1:0").env("LOCK_TIMEOUT", "1s").spawn();
    wait_until_ready(&processor);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    case.produce(&[event("a", now_ms())]);
    wait_until_unready(&processor, "tries to write a batch since 20");
    assert_alive(&processor);
    lock.rollback().unwrap();
    wait_until_ready(&processor);
}

#[test]
fn a_processor_that_drains_is_alive_and_not_ready() {
    let case = Case::new(1);
    let mut processor = observed(&case);
    wait_until_ready(&processor);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    case.produce(&[event("in flight", now_ms())]);
    eventually("the event is in flight", PATIENCE, || {
        let in_flight = processor.metrics()["usage_messages_in_flight"];
        if in_flight > 0.0 { Ok(()) } else { Err(in_flight) }
    });
    processor.terminate();
    wait_until_unready(&processor, "stopping");
    assert_alive(&processor);
    lock.rollback().unwrap();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(case.rows(), 1);
}

#[test]
fn a_rebalance_leaves_members_ready_and_one_too_many_is_ready_too() {
    let case = Case::new(1);
    let first = observed(&case);
    wait_until_ready(&first);
    let second = observed(&case);
    wait_until_ready(&second);
    for _ in 0..20 {
        let verdict = ask(&first, "/readyz");
        assert!(verdict.is_ok, "{verdict:?}");
        thread::sleep(Duration::from_millis(50));
    }
    // One of the two has the only partition.
    let counts = || {
        let count = |processor: &Processor| processor.metrics()["usage_assigned_partitions"];
        (count(&first), count(&second))
    };
    eventually("one of two idles", PATIENCE, || {
        let (first, second) = counts();
        if (first + second - 1.0).abs() < 0.5 { Ok(()) } else { Err((first, second)) }
    });
    let idle = if counts().0 < 0.5 { &first } else { &second };
    let verdict = ask(idle, "/readyz");
    assert!(verdict.is_ok && verdict.reasons.iter().any(|note| note.contains("no partition is assigned")));
    assert_alive(idle);
}

#[test]
fn before_the_database_is_reached_it_is_alive_and_says_what_it_waits_for() {
    let server = PrivatePostgres::start();
    let profile = profiles().pop().unwrap();
    let database = Database::migrated_in(TestDatabase::create_at(&server.url()), profile);
    let case = Case::with(TestTopic::create(1), database);
    server.stop();
    let processor = observed(&case);
    wait_until_unready(&processor, "waiting for the database: connecting to database");
    assert_alive(&processor);
    server.restart();
    wait_until_ready(&processor);
}
