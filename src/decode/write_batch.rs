//! When a write batch is full, ripe and closed: adaptive batching without a knob. Pure.
//!
//! A batch is offered to the writers once it is *ripe*: what came together is in it. It
//! leaves as soon as a writer is free; until then it grows, up to its bounds or its age limit.
//! Low load therefore gives low latency, and high load large batches.

use std::time::{Duration, Instant};

use crate::messages::{PolledBatch, WriteBatch};

/// How long a batch collects before it is offered: what one answer of the broker brought is polled in less, over all of
/// its partitions. Waiting for the next answer, 2 ms on average, made commits no larger and the median 1.5 ms later.
const RIPE_AFTER: Duration = Duration::from_micros(500);

/// Payload bytes at which a batch is full whatever its rows: 8 MiB bound the memory of a batch
/// when payloads are large, and hold 10,000 of the usual 300 bytes more than twice over.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// The bounds of a write batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most rows (`BATCH_SIZE`).
    pub row_count_max: usize,
    /// How long a batch may collect (`BATCH_TIMEOUT`).
    pub age_max: Duration,
}

impl BatchLimits {
    /// Whether `polled` can join `batch` at `now`. An empty batch takes any polled batch, as one
    /// polled batch is never split over two.
    pub fn admits(&self, batch: &WriteBatch, polled: &PolledBatch, now: Instant) -> bool {
        batch.polled.is_empty()
            || (batch.rows.len() + batch.dead_letters.len() + polled.messages.len() <= self.row_count_max
                && batch.payload_bytes + polled.byte_count() <= PAYLOAD_BYTES_MAX
                && !self.is_old(batch, now))
    }

    /// Whether the batch has collected for as long as it may.
    pub fn is_old(&self, batch: &WriteBatch, now: Instant) -> bool {
        age(batch, now) >= self.age_max
    }

    /// Whether the batch can be offered to the writers.
    pub fn is_ripe(&self, batch: &WriteBatch, now: Instant) -> bool {
        self.until_ripe(batch, now).is_zero() || batch.rows.len() >= self.row_count_max
    }

    /// How long until the batch is ripe by age.
    pub fn until_ripe(&self, batch: &WriteBatch, now: Instant) -> Duration {
        RIPE_AFTER.min(self.age_max).saturating_sub(age(batch, now))
    }
}

fn age(batch: &WriteBatch, now: Instant) -> Duration {
    batch.opened_at.map_or(Duration::ZERO, |opened_at| now.saturating_duration_since(opened_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { row_count_max: 3, age_max: Duration::from_secs(5) };

    fn polled(message_count: i64, payload: &[u8]) -> PolledBatch {
        let mut batch = PolledBatch::with_capacity(0);
        for offset in 0..message_count {
            batch.push(0, offset, None, None, Some(payload));
        }
        batch
    }

    fn collecting(opened_at: Instant) -> WriteBatch {
        WriteBatch { polled: vec![polled(1, b"")], opened_at: Some(opened_at), ..WriteBatch::default() }
    }

    #[test]
    fn an_empty_batch_admits_anything_and_a_collecting_one_only_what_fits() {
        let now = Instant::now();
        assert!(LIMITS.admits(&WriteBatch::default(), &polled(9, b""), now));
        assert!(LIMITS.admits(&collecting(now), &polled(3, b""), now));
        assert!(!LIMITS.admits(&collecting(now), &polled(4, b""), now));
        assert!(!LIMITS.admits(&collecting(now), &polled(1, &[b' '; PAYLOAD_BYTES_MAX + 1]), now));
    }

    #[test]
    fn a_batch_collects_no_longer_than_its_age_limit() {
        let now = Instant::now();
        let batch = collecting(now);
        assert!(LIMITS.admits(&batch, &polled(1, b""), now + Duration::from_millis(4_999)));
        assert!(!LIMITS.admits(&batch, &polled(1, b""), now + LIMITS.age_max));
    }

    #[test]
    fn a_batch_ripens_within_milliseconds() {
        let now = Instant::now();
        let batch = collecting(now);
        assert!(!LIMITS.is_ripe(&batch, now));
        assert_eq!(LIMITS.until_ripe(&batch, now), RIPE_AFTER);
        assert!(LIMITS.is_ripe(&batch, now + RIPE_AFTER));
        let hasty = BatchLimits { age_max: Duration::from_millis(1), ..LIMITS };
        assert!(hasty.is_ripe(&batch, now + Duration::from_millis(1)));
    }
}
