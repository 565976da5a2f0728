//! What becomes of a message: row, duplicate, redelivery, dead letter; and the offsets behind it.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::support::Record;

#[test]
fn a_duplicate_at_another_offset_is_dropped() {
    let mut case = Case::new(1);
    let now = now_ms();
    // The retry carries another time, so that the database's unique key would let it in.
    case.produce(&[event("a", now), event("b", now), event("a", now + 1), event("a", now)]);
    let processor = case.process_all();
    processor.wait_for_line("Messages: 4, Written: 2, Duplicates: 2,", PATIENCE);
    let kept = case.database.texts(
        "SELECT (extract(epoch FROM time) * 1000)::bigint::text FROM usage_events WHERE request_id = 'a'",
    );
    assert_eq!(kept, [now.to_string()], "the first one is kept");
    case.assert_at_end();
}

#[test]
fn a_redelivery_at_the_same_offset_reaches_the_database() {
    let case = Case::new(1);
    let now = now_ms();
    case.produce(&[event("a", now), "{".to_owned(), event("b", now)]);
    case.process_all();
    // One row was never written: as after a crash between the dedup window and the COMMIT.
    case.database.test.client().execute("DELETE FROM usage_events WHERE request_id = 'b'", &[]).unwrap();
    case.produce(&[event("c", now)]);
    // Another group is delivered everything again, at the same offsets; the dead letter is there.
    let processor = case.process_all_as("redelivery");
    processor.wait_for_line("Messages: 4, Written: 2, Duplicates: 2, Dead letters: 0,", PATIENCE);
    assert_eq!((case.rows(), case.dead_letters()), (3, 1));
}

#[test]
fn a_retry_after_a_restart_is_still_stopped() {
    let case = Case::new(1);
    let now = now_ms();
    let minutes_ago = |minutes: i64| now - minutes * 60_000;
    let produce_at = |request_id: &str, time_ms: i64| {
        let payload = event(request_id, time_ms);
        case.topic.produce(&[Record::new(ORGANIZATION, payload.as_bytes()).at(time_ms)]);
    };
    produce_at("long ago", minutes_ago(30));
    produce_at("lately", minutes_ago(12));
    case.process_all();
    // Both retries carry another time, so only the window knows them; it reaches five minutes back.
    produce_at("lately", minutes_ago(8));
    produce_at("long ago", minutes_ago(8));
    let processor = case.process_all();
    processor.wait_for_line("Messages: 2, Written: 1, Duplicates: 1,", PATIENCE);
    assert_eq!(case.rows(), 3);
    case.assert_at_end();
}

#[test]
fn a_retry_of_an_event_that_latest_has_skipped_is_written() {
    let case = Case::new(1);
    case.produce(&[event("a", now_ms())]);
    let mut processor = case.processor().env("KAFKA_AUTO_OFFSET_RESET", "latest").spawn();
    processor.wait_for_line("assigned 1 partitions: 0 at 1; 0 offsets before them", PATIENCE);
    case.produce(&[event("a", now_ms())]);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 1);
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    // It is history now, and what lies before it still is not.
    case.produce(&[event("a", now_ms() + 1)]);
    let processor = case.process_all();
    processor.wait_for_line("0 at 2; 1 offsets before them", PATIENCE);
    assert_eq!(case.rows(), 1);
}

#[test]
fn a_conflicting_payload_is_a_dead_letter_and_the_first_is_kept() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&[event("a", now), event("a", now).replace("/v1/orders", "/v1/refunds")]);
    case.process_all();
    assert_eq!(case.database.texts("SELECT endpoint FROM usage_events"), ["/v1/orders"]);
    assert_eq!(case.database.texts("SELECT reason FROM usage_dead_letters"), ["conflict"]);
}

#[test]
fn malformed_events_become_dead_letters_and_offsets_advance() {
    let mut case = Case::new(2);
    let now = now_ms();
    let valid = event("a", now);
    let broken_text = [&b"{\"time\":\""[..], &[0xff, 0x00], b"\"}"].concat();
    let deep = "[".repeat(100_000);
    case.topic.produce(&[
        Record::new("k", b"{").to(1).at(now),
        Record::tombstone("k").to(1).at(now),
        Record::new("k", valid.as_bytes()).to(1).at(now),
        Record::new("k", &broken_text).to(1).at(now),
        Record::new("k", deep.as_bytes()).to(1).at(now),
        // Judged by its Kafka timestamp: 91 days before it.
        Record::new("k", event("old", now - 91 * 86_400_000).as_bytes()).to(1).at(now),
    ]);
    case.process_all();
    case.assert_at_end();
    assert_eq!(case.rows(), 1);
    let letters = case.database.texts(&format!(
        "SELECT concat_ws(' ', kafka_partition, kafka_offset, reason, convert_from(kafka_key, 'UTF8'), length(payload))
           FROM usage_dead_letters
          WHERE kafka_topic = '{}' AND kafka_timestamp = to_timestamp({now} / 1000.0) AND detail <> ''
          ORDER BY kafka_offset",
        case.topic.name()
    ));
    let payload_len = event("old", now - 91 * 86_400_000).len();
    assert_eq!(
        letters,
        [
            "1 0 invalid_json k 1",
            "1 1 tombstone k",
            "1 3 invalid_json k 13",
            "1 4 invalid_json k 100000",
            &format!("1 5 too_old k {payload_len}"),
        ]
    );
    let bytes: Vec<u8> = case
        .database
        .client
        .query_one("SELECT payload FROM usage_dead_letters WHERE kafka_offset = 3", &[])
        .unwrap()
        .get(0);
    assert_eq!(bytes, broken_text, "the payload is stored as it came");
}

#[test]
fn a_batch_of_only_duplicates_still_advances() {
    let case = Case::new(1);
    let now = now_ms();
    let processor = case.processor().spawn();
    case.produce(&[event("a", now)]);
    case.wait_until_at_end();
    case.produce(&vec![event("a", now); 50]);
    case.wait_until_at_end();
    case.produce(&vec!["not json".to_owned(); 3]);
    case.wait_until_at_end();
    assert_eq!((case.rows(), case.dead_letters()), (1, 3));
    processor.wait_for_line("Messages: 54, Written: 1, Duplicates: 50, Dead letters: 3,", PATIENCE);
}

#[test]
fn a_day_without_a_partition_gets_one() {
    use usage_processor::migrations::Profile;
    let case = Case::in_profile(Profile::PostgreSql, 1);
    // A backlog of last year: its events are as old as their Kafka timestamps.
    let last_year = now_ms() - 400 * 86_400_000;
    case.topic.produce(&[Record::new(ORGANIZATION, event("a", last_year).as_bytes()).at(last_year)]);
    // And of a producer whose clock starts in 1970: the days in between are not made.
    let in_1970 = 86_400_000;
    case.topic.produce(&[
        Record::new(ORGANIZATION, event("b", in_1970).as_bytes()).at(in_1970),
        Record::new(ORGANIZATION, event("c", now_ms()).as_bytes()).at(now_ms()),
    ]);
    let partition_count = || {
        case.database
            .test
            .count("SELECT count(*) FROM pg_inherits WHERE inhparent = 'usage_events'::regclass")
    };
    let before = partition_count();
    case.process_all();
    assert_eq!((case.rows(), partition_count() - before), (3, 2));
}

#[test]
fn an_aborted_transaction_at_the_tail_is_passed() {
    let case = Case::new(1);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", case.topic.brokers())
        .set("transactional.id", case.topic.name())
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let send = |request_id: &str| {
        let payload = event(request_id, now_ms());
        producer
            .send(BaseRecord::to(case.topic.name()).key(ORGANIZATION).payload(&payload))
            .map_err(|(e, _)| e)
            .unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    producer.begin_transaction().unwrap();
    send("committed");
    producer.commit_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send("aborted");
    producer.abort_transaction(PATIENCE).unwrap();

    // Offsets 1 to 3 hold no message: two markers and an aborted record. They are passed all the same.
    let processor = case.processor().spawn();
    case.wait_until_at_end();
    assert_eq!((case.topic.end_offsets(), case.rows()), (vec![4], 1));
    processor.wait_for_line(
        "Messages: 1, Written: 1, Duplicates: 0, Dead letters: 0, Dedup cache: 1, In flight: 0, Lag: 0,",
        PATIENCE,
    );
    case.process_all_as("once more, with an end");
    assert_eq!(case.rows(), 1);
}
