//! Several processors of one group, coming and going while events come in.

use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use usage_processor::migrations::Profile;

use super::{Case, PATIENCE, event, generate, now_ms, steady, traffic};
use crate::database::Database;
use crate::support::{PrivatePostgres, Record, TestDatabase, TestTopic, eventually};

#[test]
fn a_rebalance_loses_and_doubles_nothing() {
    let mut case = Case::new(8);
    let spawn = || {
        case.processor().env("KAFKA_OPTIONS", "session.timeout.ms=6000").env("DRAIN_TIMEOUT", "5s").spawn()
    };
    // All retries carry another time: the unique key cannot stop them, only a window that survives
    // the change of owner.
    let truth = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(45_000, "100%"), steady(3_000)));
        let mut first = spawn();
        first.wait_for_line("assigned 8 partitions", PATIENCE);
        let mut second = spawn();
        // Cooperative: the first one gives half of them back and keeps the others.
        second.wait_for_line("assigned 4 partitions", PATIENCE);
        first.wait_for_line("revoked", PATIENCE);
        thread::sleep(Duration::from_secs(1));
        let third = spawn();
        third.wait_for_line("assigned", PATIENCE);
        first.terminate();
        // On a slow machine it has no time for all that it has.
        assert!(matches!(first.wait_exit(PATIENCE).code(), Some(0 | 4)));
        thread::sleep(Duration::from_secs(1));
        second.kill();
        second.wait_exit(PATIENCE);
        let truth = generator.join().unwrap();
        // The third one inherits the dead one's partitions when its session has timed out.
        case.wait_until_at_end();
        truth
    });
    case.assert_truth(&truth);
}

#[test]
fn a_frozen_processor_that_wakes_up_loses_and_doubles_nothing() {
    let mut case = Case::new(8);
    let spawn = || {
        case.processor().env("KAFKA_OPTIONS", "session.timeout.ms=6000").env("DRAIN_TIMEOUT", "5s").spawn()
    };
    let (truth, _processors) = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(75_000, "0%"), steady(3_000)));
        let first = spawn();
        first.wait_for_line("assigned 8 partitions", PATIENCE);
        let second = spawn();
        second.wait_for_line("assigned 4 partitions", PATIENCE);
        // Each in turn sleeps through its session, with batches on their way, and is replaced.
        for frozen in [&first, &second] {
            frozen.freeze();
            thread::sleep(Duration::from_secs(8));
            frozen.thaw();
            frozen.wait_for_line("the group gave them to others", PATIENCE);
        }
        (generator.join().unwrap(), [first, second])
    });
    case.wait_until_at_end();
    case.assert_truth(&truth);
}

#[test]
fn an_assignment_waits_for_a_database_that_is_away_and_gives_up_only_to_stop() {
    let server = PrivatePostgres::start();
    let database = Database::migrated_in(TestDatabase::create_at(&server.url()), Profile::PostgreSql);
    let case = Case::with(TestTopic::create(2), database);
    let processor = case.processor().spawn();
    processor.wait_for_line("assigned 2 partitions", PATIENCE);

    server.crash();
    let lines_before = processor.lines().len();
    drop(Guest::join(&case));
    // The guest has left, and the partition that it had comes back.
    processor
        .wait_for_line("asking for start positions: connecting to PostgreSQL to ask the ledger", PATIENCE);
    case.produce(&["a", "b", "c"].map(|id| event(id, now_ms())));
    server.restart();
    case.wait_until_at_end();
    assert_eq!(case.rows(), 3);
    assert!(processor.lines()[lines_before..].iter().any(|line| line.contains("assigned 1 partitions")));

    server.crash();
    let mut processor = processor;
    drop(Guest::join(&case));
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    server.restart();
}

#[test]
fn a_loss_that_comes_after_the_one_that_was_accepted_stops_it() {
    let case = Case::new(2);
    let mut processor = case.processor().arg("--accept-loss").spawn();
    processor.wait_for_line("assigned 2 partitions", PATIENCE);

    let guest = Guest::join(&case);
    let event = event("unread", now_ms());
    let unread = Record::new("key", event.as_bytes()).to(guest.partition());
    case.topic.produce(&[unread; 3]);
    case.topic.delete_before(guest.partition(), 2);
    drop(guest);
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(5));
    processor.wait_for_line("2 offsets from 0 to 2 were deleted by Kafka's retention", PATIENCE);
}

/// Another member of the group, which takes its share of the partitions. It leaves when it is dropped.
struct Guest {
    consumer: BaseConsumer,
}

impl Guest {
    fn join(case: &Case) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", case.topic.brokers())
            .set("group.id", &case.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .create()
            .unwrap();
        consumer.subscribe(&[case.topic.name()]).unwrap();
        eventually("the guest has a partition", PATIENCE, || {
            consumer.poll(Duration::from_millis(50));
            if consumer.assignment().unwrap().count() > 0 { Ok(()) } else { Err("it has none") }
        });
        Self { consumer }
    }

    /// The one that it has.
    fn partition(&self) -> i32 {
        self.consumer.assignment().unwrap().elements()[0].partition()
    }
}
