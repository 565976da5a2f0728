//! Dead letters as one statement: a batch's rejected messages become rows of
//! `usage_dead_letters`. Pure but for the statement; runs in the batch's transaction.

use std::collections::HashSet;

use postgres::{GenericClient, Statement};

use crate::messages::{DeadLetter, WriteBatch};
use crate::offsets::{Offset, Partition};

/// Inserts any number of dead letters and gives partition and offset of those that were not there
/// yet; one that is there already (a redelivery) stays as it is.
/// Parameters: topic, then one array a column in the order of the `unnest`.
pub const INSERT: &str = "\
INSERT INTO usage_dead_letters
       (kafka_topic, kafka_partition, kafka_offset, kafka_timestamp, kafka_key, payload, reason, detail)
SELECT $1, kafka_partition, kafka_offset, to_timestamp(timestamp_ms / 1000.0), kafka_key, payload, reason, detail
  FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], $7::text[], $8::text[])
    AS letter (kafka_partition, kafka_offset, timestamp_ms, kafka_key, payload, reason, detail)
    ON CONFLICT DO NOTHING
RETURNING kafka_partition, kafka_offset";

/// Stands for a missing Kafka timestamp, as on the wire.
const NO_TIMESTAMP_MS: i64 = -1;
/// 9999-12-31T23:59:59Z: later than this is a broken clock, and not every year fits a timestamptz.
const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_000;

/// The most that is kept of a payload or a key. By default no more than this arrives unless it was inflated
/// from a compressed batch (`receive.message.max.bytes`), and a kilobyte can be inflated to a megabyte: PostgreSQL
/// takes no value of 1 GiB, and for one little smaller it takes longer than a statement may.
const KEPT_BYTES_MAX: usize = 100_000_000;

/// Runs [`INSERT`] for `letters`, which are messages of `batch`, and gives those that went in.
pub fn insert<'a>(
    client: &mut impl GenericClient,
    statement: &Statement,
    topic: &str,
    batch: &WriteBatch,
    letters: impl Iterator<Item = &'a DeadLetter>,
) -> Result<HashSet<(Partition, Offset)>, postgres::Error> {
    let count = letters.size_hint().0;
    let mut partitions = Vec::with_capacity(count);
    let mut offsets = Vec::with_capacity(count);
    let mut timestamps = Vec::with_capacity(count);
    let mut keys = Vec::with_capacity(count);
    let mut payloads = Vec::with_capacity(count);
    let mut reasons = Vec::with_capacity(count);
    let mut details = Vec::with_capacity(count);
    for letter in letters {
        let (polled, message) = batch.message(letter.source);
        partitions.push(polled.spans[message.span_idx as usize].partition);
        offsets.push(message.offset);
        let timestamp_ms = message.timestamp_ms.unwrap_or(NO_TIMESTAMP_MS);
        timestamps.push(timestamp_ms.clamp(NO_TIMESTAMP_MS, TIMESTAMP_MS_MAX));
        let (key, is_key_cut) = kept(polled.key(message));
        let (payload, is_payload_cut) = kept(polled.payload(message));
        keys.push(key);
        payloads.push(payload);
        reasons.push(letter.rejection.reason.as_str());
        // Details quote what was found, and PostgreSQL text holds no NUL.
        let mut detail = letter.rejection.detail.replace('\0', "\\0");
        if is_key_cut || is_payload_cut {
            detail += &format!("; of key and payload the first {KEPT_BYTES_MAX} bytes are kept");
        }
        details.push(detail);
    }
    let inserted = client.query(
        statement,
        &[&topic, &partitions, &offsets, &timestamps, &keys, &payloads, &reasons, &details],
    )?;
    Ok(inserted.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What is kept of a key or a payload, and whether that is less than all.
fn kept(bytes: Option<&[u8]>) -> (Option<&[u8]>, bool) {
    match bytes {
        Some(bytes) if bytes.len() > KEPT_BYTES_MAX => (Some(&bytes[..KEPT_BYTES_MAX]), true),
        _ => (bytes, false),
    }
}
