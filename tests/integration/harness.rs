//! Tests of `support` itself: a promise tested with a harness that lies is not tested.

use crate::support::{
    PrivateBroker, PrivatePostgres, Processor, Record, SERVER_TIMEOUT, TestDatabase, TestTopic, eventually,
};
use postgres::{Client, NoTls};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

#[test]
fn each_database_is_empty_and_gone_afterwards() {
    let database = TestDatabase::create();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.count(tables), 0);
    let server = TestDatabase::create();
    let left = format!(
        "SELECT count(*) FROM pg_database WHERE datname = '{}'",
        database.url().rsplit_once('/').unwrap().1
    );
    assert_eq!(server.count(&left), 1);
    let _open_connection = database.client();
    drop(database);
    assert_eq!(server.count(&left), 0);
}

#[test]
fn the_server_keeps_its_promise_of_durability() {
    let database = TestDatabase::create();
    let mut client = database.client();
    for (setting, expected) in
        [("fsync", "on"), ("synchronous_commit", "on"), ("track_commit_timestamp", "on"), ("timezone", "UTC")]
    {
        let row = client.query_one(&format!("SHOW {setting}"), &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{setting}");
    }
}

#[test]
fn produced_records_and_committed_offsets_are_seen() {
    let topic = TestTopic::create(3);
    topic.produce(&[
        Record::new("a", b"one").to(0),
        Record::new("a", b"two").to(0).at(1_700_000_000_000),
        Record::tombstone("b").to(2),
    ]);
    assert_eq!(topic.end_offsets(), [2, 0, 1]);
    assert_eq!(topic.committed_offsets("nobody"), [None, None, None]);

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", topic.brokers())
        .set("group.id", topic.name())
        .create()
        .unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic.name(), 0, Offset::Offset(2)).unwrap();
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
    assert_eq!(topic.committed_offsets(topic.name()), [Some(2), None, None]);
}

#[test]
fn a_process_is_followed_frozen_and_terminated() {
    let mut shell = Command::new("bash");
    // `exec` at the end, so that no grandchild keeps the streams open.
    shell.args(["-c", "trap 'echo drained; exit 0' TERM; echo ready >&2; while :; do sleep 0.1; done"]);
    let mut process = Processor::spawn(shell);
    assert_eq!(process.wait_for_line("read", SERVER_TIMEOUT), "ready");
    process.freeze();
    process.terminate();
    process.thaw();
    assert_eq!(process.wait_exit(SERVER_TIMEOUT).code(), Some(0));
    assert_eq!(process.lines(), ["ready", "drained"]);
}

#[test]
fn a_killed_process_is_reported_as_killed() {
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let mut process = Processor::spawn(sleep);
    process.kill();
    assert_eq!(process.wait_exit(SERVER_TIMEOUT).signal(), Some(9));
}

#[test]
#[should_panic(expected = "the process has ended without a line")]
fn waiting_for_a_line_ends_with_the_process() {
    Processor::spawn(Command::new("true")).wait_for_line("ready", SERVER_TIMEOUT);
}

#[test]
fn the_binary_under_test_starts() {
    let (topic, database) = (TestTopic::create(1), TestDatabase::create());
    let mut processor = Processor::run()
        .source(&topic, topic.name())
        .database(&database)
        .env("LOG_LEVEL", "info")
        .arg("--help")
        .spawn();
    assert_eq!(processor.wait_exit(SERVER_TIMEOUT).code(), Some(0));
}

#[test]
fn a_private_database_survives_a_crash_and_a_stop() {
    let server = PrivatePostgres::start();
    let url = server.url();
    let mut client = Client::connect(&url, NoTls).unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 1 AS one").unwrap();
    server.crash();
    assert!(client.batch_execute("SELECT 1").is_err());
    assert!(Client::connect(&url, NoTls).is_err());
    server.restart();
    assert_eq!(server.url(), url);
    server.stop();
    server.restart();
    let mut client = Client::connect(&url, NoTls).unwrap();
    assert_eq!(client.query("SELECT one FROM kept", &[]).unwrap().len(), 1);
}

#[test]
fn a_private_broker_survives_a_crash() {
    let broker = PrivateBroker::start();
    let topic = TestTopic::create_at(&broker.address(), 2);
    topic.produce(&[Record::new("a", b"one").to(1)]);
    broker.crash();
    broker.restart();
    topic.await_leaders();
    eventually("the partition is back with its message", SERVER_TIMEOUT, || {
        let ends = topic.end_offsets();
        if ends == [0, 1] { Ok(()) } else { Err(ends) }
    });
}

/// `make demo` and `make build` can be repeated: what they install first is all here by now.
#[test]
fn nothing_is_missing_once_it_is_installed() {
    for profile in ["build", "demo"] {
        let install = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/install");
        let output = Command::new(install).arg(profile).env("INSTALL", "no").output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{profile}: {output:?}");
    }
}
