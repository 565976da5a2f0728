//! Partitions that are paused or busy: what the Kafka client throws away with a pause must be read
//! again, never passed, and no partition is forgotten over another.

use std::thread;
use std::time::Duration;

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::support::Record;

#[test]
fn messages_that_arrive_while_the_pipeline_is_held_are_not_taken_for_a_gap() {
    let case = Case::new(8);
    let processor = case.processor().env("BATCH_SIZE", "10").spawn();
    processor.wait_for_line("assigned 8 partitions", PATIENCE);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    // One partition fills the pipeline; the others are read to their ends, and go on slowly.
    let now = now_ms();
    let flood: Vec<_> = (0..2_000).map(|n| event(&format!("flood-{n}"), now)).collect();
    let records: Vec<_> = flood.iter().map(|e| Record::new(ORGANIZATION, e.as_bytes()).to(0)).collect();
    case.topic.produce(&records);
    for round in 0..25 {
        let payloads: Vec<_> = (1..8).map(|p| (p, event(&format!("slow-{p}-{round}"), now))).collect();
        let records: Vec<_> =
            payloads.iter().map(|(p, e)| Record::new(ORGANIZATION, e.as_bytes()).to(*p)).collect();
        case.topic.produce(&records);
        thread::sleep(Duration::from_millis(100));
    }
    processor.wait_for_line("the pipeline is full: pausing 8 partitions", PATIENCE);
    lock.rollback().unwrap();
    case.wait_until_at_end();
    assert_eq!(case.rows(), 2_000 + 7 * 25);
}

#[test]
fn a_partition_that_was_taken_away_while_paused_is_read_when_it_comes_back() {
    let case = Case::new(8);
    let spawn = |drain_timeout| {
        case.processor()
            .env("BATCH_SIZE", "10")
            .env("DRAIN_TIMEOUT", drain_timeout)
            .env("KAFKA_OPTIONS", "session.timeout.ms=6000")
            .spawn()
    };
    // The first one cannot drain under the lock; the second one has to.
    let first = spawn("1s");
    first.wait_for_line("assigned 8 partitions", PATIENCE);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    let produce = |prefix: &str| {
        let now = now_ms();
        let events: Vec<_> = (0..1_600).map(|n| (n % 8, event(&format!("{prefix}-{n}"), now))).collect();
        let records: Vec<_> =
            events.iter().map(|(p, e)| Record::new(ORGANIZATION, e.as_bytes()).to(*p)).collect();
        case.topic.produce(&records);
    };
    produce("a");
    first.wait_for_line("the pipeline is full: pausing 8 partitions", PATIENCE);
    let mut second = spawn("5s");
    first.wait_for_line("revoked", PATIENCE);
    lock.rollback().unwrap();
    second.wait_for_line("assigned 4 partitions", PATIENCE);
    second.terminate();
    // It may still be connecting, and has five seconds for all of it.
    assert!(matches!(second.wait_exit(PATIENCE).code(), Some(0 | 4)));
    first.wait_for_line("assigned 4 partitions", PATIENCE);
    produce("b");
    case.wait_until_at_end();
    assert_eq!(case.rows(), 3_200);
}

#[test]
fn a_backlog_of_one_partition_does_not_hold_back_another() {
    const BACKLOG_COUNT: i64 = 60_000;
    let mut case = Case::new(2);
    let now = now_ms();
    let backlog: Vec<_> = (0..BACKLOG_COUNT).map(|n| event(&format!("backlog-{n}"), now)).collect();
    let records: Vec<_> = backlog.iter().map(|e| Record::new(ORGANIZATION, e.as_bytes()).to(0)).collect();
    case.topic.produce(&records);
    case.topic.produce(&[Record::new(ORGANIZATION, event("single", now).as_bytes()).to(1)]);
    let _processor = case.processor().env("DECODER_THREADS", "2").spawn();
    case.wait_until_at_end();
    let rows_then: i64 = case
        .database
        .text(
            "SELECT count(*)::text FROM usage_events
              WHERE pg_xact_commit_timestamp(xmin) <
                    (SELECT pg_xact_commit_timestamp(xmin) FROM usage_events WHERE request_id = 'single')",
        )
        .parse()
        .unwrap();
    assert!(rows_then < BACKLOG_COUNT / 2, "it came behind {rows_then} others");
}
