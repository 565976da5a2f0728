//! Stopping: in order, at once, too slowly, and by a crash.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::{BACKLOG, Case, PATIENCE, event, now_ms, traffic};
use crate::database::Database;
use crate::support::{PrivatePostgres, TestDatabase, TestTopic, eventually};

#[test]
fn sigterm_drains_and_commits() {
    let mut case = Case::new(8);
    let truth = case.generate(traffic(200_000, "100%"), BACKLOG);
    let mut processor = case.processor().spawn();
    eventually("the first rows", PATIENCE, || if case.rows() > 0 { Ok(()) } else { Err("none") });
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    processor.wait_for_line("everything in flight is written and committed", PATIENCE);
    // Every committed message is a row, a duplicate or a dead letter, and no other is anything.
    let committed: i64 = case.topic.committed_offsets(&case.group).into_iter().flatten().sum();
    let stats = processor.lines().into_iter().rfind(|line| line.contains("Stats - ")).unwrap();
    assert!(
        stats.contains(&format!("Messages: {committed}, Written: {},", case.rows())),
        "{stats} {committed}"
    );
    assert!(stats.contains(&format!("Dead letters: {},", case.dead_letters())), "{stats}");
    assert!(stats.contains("In flight: 0,"), "{stats}");
    case.process_all();
    case.assert_truth(&truth);
}

#[test]
fn kill_9_and_restart_adds_and_loses_nothing() {
    let mut case = Case::new(8);
    let truth = case.generate(traffic(400_000, "100%"), BACKLOG);
    for round in 0..3 {
        let before = case.rows();
        let mut processor = case
            .processor()
            .env("KAFKA_OPTIONS", "session.timeout.ms=6000")
            .env("DRAIN_TIMEOUT", "5s")
            .spawn();
        eventually("more rows", PATIENCE, || if case.rows() > before { Ok(()) } else { Err("none") });
        std::thread::sleep(Duration::from_millis(200 * round));
        processor.kill();
        assert_eq!(processor.wait_exit(PATIENCE).signal(), Some(9));
    }
    case.process_all();
    case.assert_truth(&truth);
    case.assert_at_end();
}

#[test]
fn a_lost_database_is_waited_for() {
    let server = PrivatePostgres::start();
    let test = TestDatabase::create_at(&server.url());
    let mut case = Case::with(
        TestTopic::create(4),
        Database::migrated_in(test, usage_processor::migrations::Profile::PostgreSql),
    );
    let truth = case.generate(traffic(150_000, "50%"), BACKLOG);
    let processor = case.processor().spawn();
    eventually("the first rows", PATIENCE, || if case.rows() > 0 { Ok(()) } else { Err("none") });
    server.crash();
    processor.wait_for_line("connecting to PostgreSQL", PATIENCE);
    std::thread::sleep(Duration::from_secs(3)); // Beyond the moment for which the poller holds its batch.
    server.restart();
    case.wait_until_at_end();
    case.database.reconnect();
    case.assert_truth(&truth);
    let log = processor.lines().join("\n");
    assert!(log.contains("trying again in"), "{log}");
    assert!(!log.contains("revoked"), "the partitions are kept: {log}");
}

#[test]
fn a_drain_that_takes_too_long_ends_with_its_own_exit_code() {
    let case = Case::new(1);
    let mut processor =
        case.processor().env("DRAIN_TIMEOUT", "1s").env("KAFKA_OPTIONS", "session.timeout.ms=6000").spawn();
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    case.produce(&[event("a", now_ms())]);
    processor.wait_for_line("In flight: 1,", PATIENCE);
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(4));
    processor.wait_for_line("after the drain timeout of 1s", PATIENCE);
    lock.rollback().unwrap();
    case.process_all();
    assert_eq!(case.rows(), 1);
}

#[test]
fn a_second_signal_ends_at_once() {
    let case = Case::new(1);
    let mut processor =
        case.processor().env("DRAIN_TIMEOUT", "5s").env("KAFKA_OPTIONS", "session.timeout.ms=6000").spawn();
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    case.produce(&[event("a", now_ms())]);
    processor.wait_for_line("In flight: 1,", PATIENCE);
    processor.terminate();
    // Both signals in the same moment would count as one.
    std::thread::sleep(Duration::from_millis(500));
    processor.terminate();
    assert_eq!(processor.wait_exit(Duration::from_secs(5)).code(), Some(143));
    lock.rollback().unwrap();
    case.process_all();
    assert_eq!(case.rows(), 1);
}
