//! Dead letters as Kafka messages: what they carry, and that no offset passes before they are there.

use rdkafka::Message;
use rdkafka::message::{Headers, OwnedMessage};

use super::{Case, PATIENCE, event, now_ms};
use crate::support::{PrivateBroker, Record, TestTopic};

fn headers(message: &OwnedMessage) -> Vec<String> {
    let text = |value: Option<&[u8]>| value.map_or("null".into(), String::from_utf8_lossy).into_owned();
    let headers = message.headers().unwrap().iter();
    headers.map(|header| format!("{}={}", header.key, text(header.value))).collect()
}

#[test]
fn dead_letters_reach_their_topic_as_they_came_with_reason_and_origin() {
    let case = Case::new(2);
    let letters = TestTopic::create(1);
    let now = now_ms();
    case.topic.produce(&[
        Record::new("k", event("a", now).as_bytes()).to(1).at(now),
        Record::new("k", &[b'{', 0xff]).to(1).at(now),
        Record::tombstone("gone").to(1).at(now),
    ]);
    let mut processor =
        case.processor().env("DEAD_LETTER_TOPIC", letters.name()).arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!((case.rows(), case.dead_letters()), (1, 2), "they are in the database too");

    let messages = letters.messages();
    let contents: Vec<_> = messages.iter().map(|message| (message.key(), message.payload())).collect();
    assert_eq!(contents, [(Some(&b"k"[..]), Some(&[b'{', 0xff][..])), (Some(&b"gone"[..]), None)]);
    let headers = headers(&messages[1]);
    let origin = format!("origin_topic={}", case.topic.name());
    let at = format!("origin_timestamp={now}");
    assert_eq!(
        headers,
        [
            "reason=tombstone",
            "detail=the value is null or empty",
            &origin,
            "origin_partition=1",
            "origin_offset=2",
            &at
        ]
    );
}

#[test]
fn a_letter_that_is_too_large_for_its_topic_goes_without_its_payload_and_the_table_has_it() {
    let mut case = Case::in_topic_with(&[("max.message.bytes", "20000000")]);
    let letters = TestTopic::create(1);
    let large = vec![0xff; 10_000_000];
    case.topic.produce(&[Record::new("k", &large), Record::new("k", b"{")]);
    // Small on its way here, and larger than all that may wait for the topic.
    let inflated = vec![b'x'; 70_000_000];
    case.topic.produce_with(&[Record::new("k", &inflated)], &[("compression.type", "zstd")]);
    let mut processor =
        case.processor().env("DEAD_LETTER_TOPIC", letters.name()).arg("--stop-at-end").spawn();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    // The smaller one may overtake it, since it is sent again.
    let mut contents: Vec<_> = letters
        .messages()
        .iter()
        .map(|message| {
            let is_omitted = headers(message).iter().any(|header| header.starts_with("payload_omitted"));
            (message.payload().map(<[u8]>::to_vec), is_omitted)
        })
        .collect();
    contents.sort();
    assert_eq!(contents, [(None, true), (None, true), (Some(b"{".to_vec()), false)]);
    let stored =
        case.database.client.query("SELECT payload FROM usage_dead_letters ORDER BY kafka_offset", &[]);
    let stored = stored.unwrap();
    assert!(stored[0].get::<_, &[u8]>(0) == large && stored[2].get::<_, &[u8]>(0) == inflated);
}

#[test]
fn no_offset_passes_while_the_dead_letter_topic_is_away() {
    let broker = PrivateBroker::start();
    let letters = TestTopic::create_at(&broker.address(), 1);
    let case = Case::new(1);
    broker.crash();
    let processor = case
        .processor()
        .env("DEAD_LETTER_TOPIC", letters.name())
        .env("DEAD_LETTER_BROKERS", &broker.address())
        .spawn();
    case.produce(&["{".to_owned(), event("a", now_ms())]);
    processor.wait_for_line("dead letters could not be produced to", PATIENCE);
    assert_eq!(case.dead_letters(), 0, "what is committed is never read again: nothing is");
    assert!(matches!(case.topic.committed_offsets(&case.group)[..], [None | Some(0)]));

    broker.restart();
    letters.await_leaders();
    case.wait_until_at_end();
    assert_eq!(case.rows(), 1);
    let messages = letters.messages();
    assert!(!messages.is_empty(), "at least once");
    assert!(messages.iter().all(|message| message.payload() == Some(b"{")));
}
