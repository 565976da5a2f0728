//! A stored letter, as it is read and exported. Letters are streamed: one is in memory at a time.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Row};
use serde::Serialize;

use super::filter::{CONDITION, Filter, LIMIT};

/// What is read of a letter, in the order of [`Letter::read`].
const COLUMNS: &str = "\
kafka_topic, kafka_partition, kafka_offset, (extract(epoch FROM kafka_timestamp) * 1000)::bigint, \
kafka_key, payload, reason, detail, \
to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), \
to_char(replayed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), replay_outcome";

/// One letter; serialized, a line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Where the message came from.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its Kafka timestamp, milliseconds since 1970; -1 if it had none.
    pub timestamp_ms: i64,
    /// Its key: `key` or `key_base64`, or neither if it had none.
    #[serde(flatten, with = "prefix_key")]
    pub key: Option<Bytes>,
    /// Its payload: `payload` or `payload_base64`, or neither if it had none (a tombstone).
    #[serde(flatten, with = "prefix_payload")]
    pub payload: Option<Bytes>,
    /// Why it is no event.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
    /// When it was stored, RFC 3339.
    pub received_at: String,
    /// When it was last replayed, RFC 3339.
    pub replayed_at: Option<String>,
    /// What came of that: `written`, `duplicate` or `rejected`.
    pub replay_outcome: Option<String>,
}

/// Bytes of a message, as text where they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else, in base64 (RFC 4648, with padding).
    Base64(String),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64(BASE64_STANDARD.encode(error.as_bytes())),
        }
    }
}

impl Letter {
    fn read(row: &Row) -> Result<Self, postgres::Error> {
        let bytes = |idx: usize| row.try_get::<_, Option<Vec<u8>>>(idx).map(|bytes| bytes.map(Bytes::from));
        Ok(Self {
            topic: row.try_get(0)?,
            partition: row.try_get(1)?,
            offset: row.try_get(2)?,
            timestamp_ms: row.try_get(3)?,
            key: bytes(4)?,
            payload: bytes(5)?,
            reason: row.try_get(6)?,
            detail: row.try_get(7)?,
            received_at: row.try_get(8)?,
            replayed_at: row.try_get(9)?,
            replay_outcome: row.try_get(10)?,
        })
    }
}

/// In which order letters come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The last received first.
    Newest,
    /// By topic, partition and offset.
    Offset,
}

/// Calls `on_letter` for each letter that is meant. The server sends no faster than it returns.
///
/// # Errors
/// The database's, or what `on_letter` gives.
pub fn for_each<E: From<postgres::Error>>(
    client: &mut Client,
    filter: &Filter,
    order: Order,
    mut on_letter: impl FnMut(&Letter) -> Result<(), E>,
) -> Result<(), E> {
    let order = match order {
        Order::Newest => "received_at DESC, kafka_topic, kafka_partition, kafka_offset DESC",
        Order::Offset => "kafka_topic, kafka_partition, kafka_offset, kafka_timestamp",
    };
    let sql = format!("SELECT {COLUMNS} FROM usage_dead_letters WHERE {CONDITION} ORDER BY {order} {LIMIT}");
    let values = filter.values();
    let parameters: [&(dyn ToSql + Sync); 8] = values.parameters();
    let mut rows = client.query_raw(&sql, parameters)?;
    while let Some(row) = rows.next()? {
        on_letter(&Letter::read(&row)?)?;
    }
    Ok(())
}

/// How many letters are meant.
pub fn count(client: &mut Client, filter: &Filter) -> Result<i64, postgres::Error> {
    let sql =
        format!("SELECT count(*) FROM (SELECT FROM usage_dead_letters WHERE {CONDITION} {LIMIT}) AS letter");
    client.query_one(&sql, &filter.values().parameters())?.try_get(0)
}

/// Serializes bytes under one of two names, or not at all.
macro_rules! named_bytes {
    ($module:ident: $text:literal, $base64:literal) => {
        mod $module {
            use serde::Serializer;
            use serde::ser::SerializeMap as _;

            use super::Bytes;

            pub(super) fn serialize<S: Serializer>(
                bytes: &Option<Bytes>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                match bytes {
                    Some(Bytes::Text(text)) => map.serialize_entry($text, text)?,
                    Some(Bytes::Base64(text)) => map.serialize_entry($base64, text)?,
                    None => {}
                }
                map.end()
            }
        }
    };
}

named_bytes!(prefix_key: "key", "key_base64");
named_bytes!(prefix_payload: "payload", "payload_base64");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_exported_in_base64() {
        let letter = Letter {
            topic: "usage-events".into(),
            partition: 3,
            offset: 7,
            timestamp_ms: 1_000,
            key: Some(b"org".to_vec().into()),
            payload: Some(vec![b'{', 0xff].into()),
            reason: "invalid_json".into(),
            detail: "no".into(),
            received_at: "2026-01-31T12:00:00.000Z".into(),
            replayed_at: None,
            replay_outcome: None,
        };
        assert_eq!(
            serde_json::to_string(&letter).unwrap(),
            r#"{"topic":"usage-events","partition":3,"offset":7,"timestamp_ms":1000,"key":"org","payload_base64":"e/8=","reason":"invalid_json","detail":"no","received_at":"2026-01-31T12:00:00.000Z","replayed_at":null,"replay_outcome":null}"#
        );
        let tombstone = serde_json::to_string(&Letter { key: None, payload: None, ..letter }).unwrap();
        assert!(!tombstone.contains("key") && !tombstone.contains("payload"), "{tombstone}");
    }
}
