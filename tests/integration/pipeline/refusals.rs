//! What the program refuses to do, by which exit code and in which words.

use super::{Case, PATIENCE, event, now_ms};
use crate::support::{Processor, TestDatabase};

#[test]
fn events_deleted_before_they_were_read_stop_it_unless_the_loss_is_accepted() {
    let case = Case::new(1);
    let now = now_ms();
    case.produce(&[event("a", now)]);
    case.process_all();
    case.produce(&["b", "c", "d"].map(|id| event(id, now)));
    case.topic.delete_before(0, 3);

    let mut processor = case.processor().spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(5));
    processor.wait_for_line("2 offsets from 1 to 3 were deleted by Kafka's retention", PATIENCE);
    assert_eq!(case.topic.committed_offsets(&case.group), [Some(1)], "nothing is passed over");

    let mut processor = case.processor().arg("--accept-loss").arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(case.rows(), 2);
}

#[test]
fn a_wrong_configuration_is_refused_with_all_its_mistakes() {
    let mut processor = Processor::run()
        .env("BATCH_SIZE", "0")
        .env("BATCH_TIMEOUT", "tomorrow")
        .env("KAFKA_OPTIONS", "enable.auto.commit=true")
        .spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(2));
    for part in [
        "BATCH_SIZE=\"0\"",
        "BATCH_TIMEOUT=\"tomorrow\"",
        "enable.auto.commit is refused",
        "DATABASE_URL: is required",
    ] {
        processor.wait_for_line(part, PATIENCE);
    }
}

#[test]
fn a_database_without_the_schema_is_refused_and_can_be_migrated_at_start() {
    let database = TestDatabase::create();
    let case = Case::new(1);
    let run = || Processor::run().source(&case.topic, &case.group).database(&database).arg("--stop-at-end");
    let mut processor = run().spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(3));
    processor.wait_for_line("usage-processor migrate up", PATIENCE);
    let mut processor = run().arg("--migrate").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_wrong_password_is_refused_and_not_repeated() {
    let database = TestDatabase::create();
    let (scheme_and_user, rest) =
        database.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let user = scheme_and_user.rsplit_once(':').unwrap().0;
    let url = format!("{user}:hunter2@{rest}");
    let mut processor = Processor::run().env("DATABASE_URL", &url).spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(3));
    let log = processor.lines().join("\n");
    assert!(log.contains("password authentication failed") && !log.contains("hunter2"), "{log}");
}

#[test]
fn a_topic_that_does_not_exist_has_no_end() {
    let case = Case::new(1);
    let mut processor = case.processor().env("KAFKA_TOPIC", "no-such-topic").arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(3));
    processor.wait_for_line("topic no-such-topic does not exist", PATIENCE);
}

#[test]
fn check_config_tries_both_servers() {
    let case = Case::new(3);
    let check =
        || Processor::command("check-config").source(&case.topic, "group").database(&case.database.test);
    let mut processor = check().spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    processor.wait_for_line("1 broker(s) at ", PATIENCE);
    processor.wait_for_line("has 3 partitions", PATIENCE);
    processor.wait_for_line(" ok, 1 warning, 0 problems", PATIENCE);

    let mut processor = check().env("KAFKA_TOPIC", "no-such-topic").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(3));
    processor.wait_for_line("but no topic no-such-topic", PATIENCE);

    let mut processor = check().env("KAFKA_BROKERS", "127.0.0.1:1").arg("--offline").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    processor.wait_for_line("the servers were not tried", PATIENCE);
}
