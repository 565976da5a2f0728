//! What a Kafka log may hold beside payloads: compressed batches, transactions, gaps, headers,
//! timestamps of any kind.

use rdkafka::ClientConfig;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::database::{Database, profiles};
use crate::support::{PrivateBroker, ProcessorBuilder, Record, TestTopic, eventually};

#[test]
fn batches_of_every_codec_are_unpacked() {
    // An uncompressed batch of this many events would be refused as too large.
    let case = Case::in_topic_with(&[("max.message.bytes", "30000")]);
    let now = now_ms();
    let codecs = ["gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let payloads: Vec<_> = (0..300).map(|n| event(&format!("{codec} {n}"), now)).collect();
        let records: Vec<_> =
            payloads.iter().map(|payload| Record::new(ORGANIZATION, payload.as_bytes())).collect();
        case.topic.produce_with(&records, &[("compression.type", codec), ("linger.ms", "1000")]);
    }
    case.process_all();
    for codec in codecs {
        let sql =
            format!("SELECT count(DISTINCT request_id) FROM usage_events WHERE request_id LIKE '{codec} %'");
        assert_eq!(case.database.test.count(&sql), 300, "{codec}");
    }
    assert_eq!((case.rows(), case.dead_letters()), (1_200, 0));
    case.assert_all_accounted_for();
}

/// A producer of transactions.
struct Transactional<'a> {
    case: &'a Case,
    producer: BaseProducer,
}

impl<'a> Transactional<'a> {
    fn new(case: &'a Case, id: &str) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", case.topic.brokers())
            .set("transactional.id", format!("{} {id}", case.topic.name()))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        Self { case, producer }
    }

    fn begin(&self) {
        self.producer.begin_transaction().unwrap();
    }

    fn send(&self, partition: i32, request_ids: &[&str]) {
        for request_id in request_ids {
            let payload = event(request_id, now_ms());
            let record = BaseRecord::to(self.case.topic.name()).key(ORGANIZATION).payload(&payload);
            self.producer.send(record.partition(partition)).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    fn commit(&self) {
        self.producer.commit_transaction(PATIENCE).unwrap();
    }

    fn abort(&self) {
        self.producer.abort_transaction(PATIENCE).unwrap();
    }
}

#[test]
fn of_transactions_in_mid_log_only_committed_ones_become_rows() {
    let mut case = Case::new(2);
    let (first, second) = (Transactional::new(&case, "first"), Transactional::new(&case, "second"));
    first.begin();
    first.send(0, &["committed 0"]);
    first.send(1, &["committed 1"]);
    first.commit();
    first.begin();
    first.send(0, &["aborted", "retried"]);
    // Beside an open transaction: one of another producer, and none at all.
    second.begin();
    second.send(0, &["beside 0"]);
    second.send(1, &["beside 1"]);
    let plain = event("plain", now_ms());
    case.topic.produce(&[Record::new(ORGANIZATION, plain.as_bytes()).to(0)]);
    first.send(0, &["aborted too"]);
    first.abort();
    second.commit();
    // A producer's retry of what it has aborted is no duplicate, since the first was never there.
    first.begin();
    first.send(0, &["retried"]);
    first.commit();
    first.begin();
    first.send(1, &["aborted at the end"]);
    first.abort();
    drop((first, second));

    let processor = case.process_all();
    let rows = case.database.texts("SELECT request_id::text FROM usage_events ORDER BY request_id");
    assert_eq!(rows, ["beside 0", "beside 1", "committed 0", "committed 1", "plain", "retried"]);
    processor.wait_for_line("Messages: 6, Written: 6, Duplicates: 0, Dead letters: 0,", PATIENCE);
    // 10 messages and a marker for each partition that a transaction wrote to.
    assert_eq!(case.topic.end_offsets().iter().sum::<i64>(), 10 + 7);
    case.assert_all_accounted_for();
}

#[test]
fn gaps_of_a_compacted_topic_are_passed_and_accounted_for() {
    let broker = PrivateBroker::start_with(&["log.cleaner.backoff.ms=100"]);
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1"),
        ("min.cleanable.dirty.ratio", "0.0"),
        ("max.compaction.lag.ms", "1"),
    ];
    let topic = TestTopic::create_at_with(&broker.address(), 1, &settings);
    let mut case = Case::with(topic, Database::migrated(profiles().pop().unwrap()));
    let now = now_ms();
    // Five keys, of which the last copies are 5, 9, 12, 13 and 14.
    let keys = ["a", "b", "a", "c", "b", "a", "c", "d", "b", "b", "c", "d", "c", "d", "e"];
    for (n, key) in (0..).zip(keys) {
        let payload = event(&format!("{n}"), now);
        case.topic.produce(&[Record::new(key, payload.as_bytes()).at(now + n)]);
    }
    // Only a segment that is closed is compacted: the last record opens a new one.
    let kept = [5, 9, 12, 13, 14, 15];
    case.topic.produce(&[Record::new("last", event("15", now).as_bytes()).at(now + 60_000)]);
    eventually("only the last record of each key is left", PATIENCE, || {
        let offsets: Vec<_> = case.topic.messages().iter().map(Message::offset).collect();
        if offsets == kept { Ok(()) } else { Err(offsets) }
    });

    let processor = case.process_all();
    processor.wait_for_line("Messages: 6, Written: 6, Duplicates: 0, Dead letters: 0,", PATIENCE);
    let rows = case.database.texts("SELECT request_id::text FROM usage_events ORDER BY request_id::int");
    assert_eq!(rows, kept.map(|offset| offset.to_string()));
    case.assert_all_accounted_for();
}

#[test]
fn headers_are_ignored_whatever_is_in_them() {
    let mut case = Case::new(1);
    let now = now_ms();
    let header = |key, value| Header { key, value };
    let mut headers = OwnedHeaders::new()
        .insert(header("text", Some(&b"value"[..])))
        .insert(header("null", None))
        .insert(header("binary", Some(&[0, 0xff, 0xc0, b'\n'])))
        .insert(header("empty", Some(&[])))
        .insert(header("", Some(b"no name")))
        .insert(header("reason", Some(b"conflict")));
    for _ in 0..500 {
        headers = headers.insert(header("again", Some(&[0xff; 100])));
    }
    let (valid, other) = (event("a", now), event("b", now));
    case.topic.produce(&[
        Record::new(ORGANIZATION, valid.as_bytes()).with(&headers),
        Record::new(ORGANIZATION, b"{").with(&headers),
        Record::tombstone(ORGANIZATION).with(&headers),
        Record::new(ORGANIZATION, other.as_bytes()),
        Record::new(ORGANIZATION, valid.as_bytes()),
    ]);
    let processor = case.process_all();
    processor.wait_for_line("Messages: 5, Written: 2, Duplicates: 1, Dead letters: 2,", PATIENCE);
    let letters =
        "SELECT concat_ws(' ', kafka_offset, reason, convert_from(payload, 'UTF8')) FROM usage_dead_letters
                    ORDER BY kafka_offset";
    assert_eq!(case.database.texts(letters), ["1 invalid_json {", "2 tombstone"]);
    case.assert_all_accounted_for();
}

#[test]
fn timestamps_that_are_none_or_beyond_any_calendar_neither_stop_it_nor_make_a_row_of_today() {
    // Kafka refuses timestamps more than an hour ahead, unless told otherwise.
    let mut case = Case::in_topic_with(&[("message.timestamp.after.max.ms", "9223372036854775807")]);
    let now = now_ms();
    // -1 is how Kafka says that there is none.
    for (n, timestamp_ms) in (0..).zip([-1, -2, i64::MIN, i64::MAX, 253_402_300_800_000, now]) {
        let payload = event(&format!("{n}"), now);
        case.topic.produce(&[Record::new(ORGANIZATION, payload.as_bytes()).at(timestamp_ms)]);
    }
    case.process_all();
    let letters = case.database.texts(
        "SELECT concat_ws(' ', kafka_offset, kafka_timestamp, reason) FROM usage_dead_letters ORDER BY kafka_offset",
    );
    assert_eq!(
        letters,
        [
            "0 1969-12-31 23:59:59.999+00 missing_timestamp",
            "1 1969-12-31 23:59:59.999+00 missing_timestamp",
            "2 1969-12-31 23:59:59.999+00 missing_timestamp",
            "3 9999-12-31 23:59:59+00 too_old",
            "4 9999-12-31 23:59:59+00 too_old",
        ]
    );
    assert_eq!(case.database.texts("SELECT request_id::text FROM usage_events"), ["5"]);
    case.assert_all_accounted_for();

    // A clock that is wrong for the event and the message alike: a row, which the audit finds.
    let year_293506 = 9_200_000_000_000_000;
    let payload = event("far", year_293506);
    case.topic.produce(&[Record::new(ORGANIZATION, payload.as_bytes()).at(year_293506)]);
    case.process_all();
    case.assert_at_end();
    assert_eq!((case.rows(), case.dead_letters()), (2, 5));
    let (code, lines) = case.audit();
    assert_eq!(code, Some(6), "{lines}");
    assert!(lines.contains("1 events lie in the future, up to 293506-"), "{lines}");
}

#[test]
fn where_the_broker_sets_timestamps_those_of_producers_do_not_matter() {
    let case = Case::in_topic_with(&[("message.timestamp.type", "LogAppendTime")]);
    let now = now_ms();
    let payloads = ["a", "b", "c"].map(|request_id| event(request_id, now));
    let records = payloads.iter().zip([-1, 1_000, i64::MAX]);
    let records: Vec<_> = records
        .map(|(payload, timestamp_ms)| Record::new(ORGANIZATION, payload.as_bytes()).at(timestamp_ms))
        .collect();
    case.topic.produce(&records);
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (3, 0));
    case.assert_all_accounted_for();
}

/// `run --stop-at-end`, which must stop at a batch that cannot be read, behind the first event.
fn stops_at_the_unreadable(case: &Case, processor: ProcessorBuilder) {
    let mut processor = processor.arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(1));
    processor.wait_for_line("is damaged, or cannot be unpacked; nothing was passed over", PATIENCE);
    assert!(case.rows() <= 1 && case.dead_letters() == 0, "{} rows", case.rows());
    assert!(matches!(case.topic.committed_offsets(&case.group)[..], [None | Some(0 | 1)]));
}

#[test]
fn a_batch_that_inflates_beyond_measure_is_not_passed_and_its_letter_is_cut_to_what_the_database_takes() {
    let mut case = Case::new(1);
    let now = now_ms();
    case.produce(&[event("a", now)]);
    // Some kilobytes in Kafka.
    let payload = vec![b' '; 110_000_000];
    case.topic.produce_with(&[Record::new(ORGANIZATION, &payload)], &[("compression.type", "zstd")]);
    case.produce(&[event("b", now)]);
    stops_at_the_unreadable(&case, case.processor());

    let larger = "receive.message.max.bytes=200000000";
    let mut processor = case.processor().env("KAFKA_OPTIONS", larger).arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(case.rows(), 2);
    let letter =
        "SELECT concat_ws(' ', kafka_offset, reason, length(payload), detail) FROM usage_dead_letters";
    assert_eq!(
        case.database.texts(letter),
        [
            "1 too_large 100000000 the value has 110000000 bytes, allowed are 1048576; of key and payload the first \
          100000000 bytes are kept"
        ]
    );
    case.assert_all_accounted_for();
}

#[test]
fn a_batch_that_was_damaged_on_the_brokers_disk_is_neither_billed_nor_passed() {
    let broker = PrivateBroker::start();
    let topic = TestTopic::create_at(&broker.address(), 1);
    let case = Case::with(topic, Database::migrated(profiles().pop().unwrap()));
    // Three batches. The second one's response time will be 92 ms, which is as good as 12.
    for request_id in ["a", "b", "c"] {
        case.produce(&[event(request_id, now_ms())]);
    }
    let path = broker.log_file(case.topic.name());
    let log = std::fs::read(&path).unwrap();
    let second = (0..log.len()).filter(|at| log[*at..].starts_with(b"_ms\":12")).nth(1).unwrap();
    let mut damaged = log.clone();
    damaged[second + 5] = b'9';
    std::fs::write(&path, damaged).unwrap();
    stops_at_the_unreadable(&case, case.processor());
    // The client says the same of an address that is no broker's.
    stops_at_the_unreadable(&case, case.processor_with_strange_address());

    std::fs::write(&path, log).unwrap();
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (3, 0));
    case.assert_all_accounted_for();
}
