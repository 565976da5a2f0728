//! A pipeline that is full, servers that are away or are none.

use std::io::Write as _;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::{Case, PATIENCE, event, generate, now_ms, steady, traffic};
use crate::database::{Database, profiles};
use crate::support::{PrivateBroker, ProcessorBuilder, TestTopic, eventually};

#[test]
fn a_full_pipeline_pauses_and_keeps_its_partitions() {
    let case = Case::new(4);
    let now = now_ms();
    let payloads: Vec<_> = (0..2_000).map(|n| event(&format!("r-{n}"), now)).collect();
    let processor = case
        .processor()
        .env("BATCH_SIZE", "10")
        .env("DRAIN_TIMEOUT", "2s")
        .env("KAFKA_OPTIONS", "session.timeout.ms=10000,max.poll.interval.ms=10000")
        .spawn();
    processor.wait_for_line("assigned 4 partitions", PATIENCE);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_events").unwrap();
    case.produce(&payloads);
    processor.wait_for_line("the pipeline is full: pausing 4 partitions", PATIENCE);
    // Longer than the group lets anyone go without polling.
    thread::sleep(Duration::from_secs(13));
    lock.rollback().unwrap();
    processor.wait_for_line("the pipeline has room again", PATIENCE);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 2_000);
    let log = processor.lines().join("\n");
    assert!(!log.contains("revoked") && !log.contains("lost partitions"), "{log}");
}

#[test]
fn a_database_that_goes_away_while_it_is_asked_about_its_schema_is_waited_for() {
    let case = Case::new(1);
    let mut client = case.database.connect();
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE usage_schema_migrations").unwrap();
    let mut processor = case.processor().spawn();
    let terminate = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'usage-processor'
                        AND wait_event_type = 'Lock'";
    let mut control = case.database.connect();
    eventually("the question about the schema is cut off", PATIENCE, || {
        let terminated: String = control.query_one(terminate, &[]).unwrap().get(0);
        if terminated == "1" { Ok(()) } else { Err(terminated) }
    });
    processor.wait_for_line("trying again in", PATIENCE);
    // Waiting for an answer, it still heeds a signal.
    eventually("it asks again", PATIENCE, || {
        let waiting = case.database.test.count(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'",
        );
        if waiting == 1 { Ok(()) } else { Err(waiting) }
    });
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    processor.wait_for_line("stopped before the database was reached", PATIENCE);
}

#[test]
fn a_standby_that_is_not_promoted_yet_is_waited_for_by_a_migration() {
    let database = Database::create();
    let case = Case::with(TestTopic::create(1), database);
    let name = case.database.test.name();
    let mut client = case.database.connect();
    let read_only =
        |is_read_only| format!("ALTER DATABASE {name} SET default_transaction_read_only = {is_read_only}");
    client.batch_execute(&read_only("on")).unwrap();
    let mut processor = case.processor().arg("--migrate").arg("--stop-at-end").spawn();
    processor.wait_for_line("(SQLSTATE 25006); trying again in", PATIENCE);
    client.batch_execute("SET default_transaction_read_only = off").unwrap();
    client.batch_execute(&read_only("off")).unwrap();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
}

impl Case {
    /// `run`, with an address before the broker's where something answers that is none, as a load
    /// balancer does; it ends with the test's process.
    pub(crate) fn processor_with_strange_address(&self) -> ProcessorBuilder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let strange = listener.local_addr().unwrap();
        let balance = move || {
            for client in listener.incoming().map_while(Result::ok) {
                (&client).write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").ok();
            }
        };
        thread::Builder::new().name("balancer".to_owned()).spawn(balance).unwrap();
        self.processor()
            .env("KAFKA_BROKERS", &format!("{strange},{}", self.topic.brokers()))
            // It would connect to one of the two.
            .env("KAFKA_OPTIONS", "enable.sparse.connections=false")
    }
}

#[test]
fn an_address_that_is_no_brokers_is_named_and_the_other_one_serves() {
    let case = Case::new(1);
    let processor = case.processor_with_strange_address().spawn();
    processor.wait_for_line("something that is no broker's answer", PATIENCE);
    case.produce(&[event("a", now_ms())]);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 1);
}

#[test]
fn terminated_backends_lose_and_double_nothing() {
    let mut case = Case::new(8);
    let _processor = case.processor().spawn();
    let truth = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(100_000, "0%"), steady(15_000)));
        let mut client = case.database.connect();
        // In mid-COPY, in mid-COMMIT, between two batches: wherever they are.
        while !generator.is_finished() {
            client
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name LIKE 'usage-processor writer%'
                        AND random() < 0.5",
                    &[],
                )
                .unwrap();
            thread::sleep(Duration::from_millis(53));
        }
        generator.join().unwrap()
    });
    case.wait_until_at_end();
    case.assert_truth(&truth);
}

#[test]
fn a_broker_that_was_away_is_found_again() {
    let broker = PrivateBroker::start();
    let topic = TestTopic::create_at(&broker.address(), 4);
    let mut case = Case::with(topic, Database::migrated(profiles().pop().unwrap()));
    let mut truth = case.generate(traffic(5_000, "0%"), steady(5_000));
    let processor = case.processor().spawn();
    case.wait_until_at_end();
    broker.crash();
    thread::sleep(Duration::from_secs(2));
    broker.restart();
    case.topic.await_leaders();
    let more = super::Traffic { seed: 43, ..traffic(5_000, "0%") };
    truth.merge(&case.generate(more, steady(5_000)));
    case.wait_until_at_end();
    case.assert_truth(&truth);
    eventually("it is still the same process", PATIENCE, || {
        let lines = processor.lines();
        if lines.iter().any(|line| line.contains("In flight: 0, Lag: 0")) { Ok(()) } else { Err(lines) }
    });
}
