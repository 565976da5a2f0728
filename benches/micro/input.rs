//! What benches and tests feed the pure parts with: polled batches of the generator's messages.

use std::time::{Duration, UNIX_EPOCH};

use usage_processor::decode::dedup::DedupBudget;
use usage_processor::decode::identity::IdentityHasher;
use usage_processor::decode::sift::Sieve;
use usage_processor::generate::{Gateway, Pace, Schedule, Share, Traffic};
use usage_processor::messages::PolledBatch;
use usage_processor::offsets::{Generation, Offset, OffsetSpan};
use usage_processor::usage_event::TimeLimits;

/// When the generator's messages begin: milliseconds since 1970.
pub(crate) const START_MS: i64 = 1_795_505_400_000;
const PARTITIONS: i32 = 16;

/// A message of the generator, with an offset of its own.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) offset: Offset,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Where in the payload the request id's text begins.
    request_id_start: usize,
}

/// `count` valid events of 1,000 organizations, 315 bytes each on average, 10,000 a second, no duplicates.
pub(crate) fn events(count: u64) -> Vec<Message> {
    let traffic = Traffic {
        padding_bytes: 0,
        seed: 7,
        message_count: count,
        organization_count: 1_000,
        duplicates: Share::NONE,
        retimed: Share::NONE,
        malformed: Share::NONE,
        late: Share::NONE,
        late_up_to: Duration::from_secs(3_600),
    };
    let start = UNIX_EPOCH + Duration::from_millis(START_MS.unsigned_abs());
    let spread = Duration::from_micros(count * 100);
    let mut gateway = Gateway::new(&traffic, Schedule::new(start, Pace::Backlog { spread }, count));
    let mut messages = Vec::new();
    while let Some(message) = gateway.next_message() {
        let payload = message.payload.unwrap_or_default().to_vec();
        let name = b"\"request_id\":";
        let value = payload.windows(name.len()).position(|text| text == name).unwrap_or(0) + name.len();
        let quote = payload[value..].iter().position(|byte| *byte == b'"').unwrap_or(0);
        messages.push(Message {
            offset: Offset::try_from(messages.len()).unwrap_or(Offset::MAX),
            timestamp_ms: message.published_at_micros / 1_000,
            key: message.key.to_vec(),
            payload,
            request_id_start: value + quote + 1,
        });
    }
    messages
}

/// Those messages as one polled batch, in 16 partitions by their keys as a producer spreads them. Each `round` follows the
/// one before by `round_ms`, with other request ids, at other offsets.
pub(crate) fn polled(messages: &[Message], round: u32, round_ms: i64) -> PolledBatch {
    let mut batch = PolledBatch::with_capacity(messages.len());
    let shift = i64::from(round) * 1_000_000_000;
    for message in messages {
        let partition = i32::from(message.key[0]) % PARTITIONS;
        let offset = message.offset + shift;
        let known = batch.spans.iter().position(|span| span.partition == partition);
        let span_idx = known.unwrap_or_else(|| {
            let span =
                OffsetSpan { partition, generation: Generation(1), epoch: 1, start: offset, end: offset };
            batch.spans.push(span);
            batch.spans.len() - 1
        });
        batch.spans[span_idx].end = offset + 1;
        let mut payload = message.payload.clone();
        let digits = format!("{round:08x}");
        payload[message.request_id_start..][..8].copy_from_slice(digits.as_bytes());
        let timestamp_ms = message.timestamp_ms + i64::from(round) * round_ms;
        let span_idx = u32::try_from(span_idx).unwrap_or(u32::MAX);
        batch.push(span_idx, offset, Some(timestamp_ms), Some(&message.key), Some(&payload));
    }
    batch
}

/// A sieve with the default limits, a window of a minute, and memory for so many messages.
pub(crate) fn sieve(record_count_max: usize) -> Sieve {
    let limits = TimeLimits {
        event_age_max: Duration::from_secs(90 * 86_400),
        clock_skew_max: Duration::from_secs(300),
    };
    Sieve::new(
        limits,
        IdentityHasher::new([7; 16]),
        Duration::from_secs(300),
        DedupBudget::new(record_count_max),
    )
}
