//! A histogram that any thread records into without a lock: HdrHistogram's buckets, each an atomic
//! count that only grows. One reader copies them and takes the difference to its last copy.
//!
//! The crate's own way (`SyncHistogram`) has an unbounded queue, and what a thread that falls idle
//! recorded last is not seen until it records again: the reader would wait for it, or miss it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};

/// Values are told apart to three digits.
const SIGNIFICANT_DIGITS: u8 = 3;
/// The least that is told apart: 512 ns, the power of two below a microsecond.
const UNIT_SHIFT: u32 = 9;
const NANOS_MIN: u64 = 1_000;
/// What is longer counts as a hundred days: nothing is retained for longer by default.
const NANOS_MAX: u64 = 100 * 86_400 * 1_000_000_000;
/// Below 2,048 units each has a bucket; each further doubling is divided into 1,024.
const LINEAR_BUCKETS: u64 = 2_048;
const BUCKETS_A_DOUBLING: usize = 1_024;

/// The counts of one histogram, 287 kB.
#[derive(Debug)]
pub(super) struct Counts {
    buckets: Box<[AtomicU64]>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self { buckets: (0..=bucket_of(NANOS_MAX)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Adds `count` events of this length. No thread ever waits for another.
    pub(super) fn record(&self, length: Duration, count: u64) {
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(NANOS_MAX).min(NANOS_MAX);
        self.buckets[bucket_of(nanos)].fetch_add(count, Ordering::Relaxed);
    }

    /// A copy, in nanoseconds. What is being recorded meanwhile is in it or in the next one.
    pub(super) fn copy(&self) -> Result<Histogram<u64>, CreationError> {
        let mut histogram = Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, SIGNIFICANT_DIGITS)?;
        for (bucket, count) in self.buckets.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                histogram.saturating_record_n(lowest_of(bucket), count);
            }
        }
        Ok(histogram)
    }
}

/// The bucket of a length, as in HdrHistogram (`countsArrayIndex`).
fn bucket_of(nanos: u64) -> usize {
    let units = nanos >> UNIT_SHIFT;
    let doublings = (LINEAR_BUCKETS - 1).leading_zeros() - (units | (LINEAR_BUCKETS - 1)).leading_zeros();
    let within = usize::try_from(units >> doublings).unwrap_or(usize::MAX);
    doublings as usize * BUCKETS_A_DOUBLING + within
}

/// The least length in a bucket.
fn lowest_of(bucket: usize) -> u64 {
    let doublings = (bucket / BUCKETS_A_DOUBLING).saturating_sub(1);
    ((bucket - doublings * BUCKETS_A_DOUBLING) as u64) << doublings << UNIT_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_those_of_hdrhistogram(
            lengths in prop::collection::vec((0_u32..64, any::<u64>(), 1_u64..1_000_000), 1..200),
        ) {
            let counts = Counts::new();
            let mut model = Histogram::<u64>::new_with_bounds(NANOS_MIN, NANOS_MAX, SIGNIFICANT_DIGITS).unwrap();
            for (shift, bits, count) in lengths {
                // Every magnitude, as often.
                let nanos = bits >> shift;
                counts.record(Duration::from_nanos(nanos), count);
                model.record_n(nanos.min(NANOS_MAX), count).unwrap();
            }
            let copy = counts.copy().unwrap();
            let [copied, expected] = [&copy, &model].map(|histogram| {
                let recorded = histogram.iter_recorded();
                recorded.map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value())).collect::<Vec<_>>()
            });
            prop_assert_eq!(copied, expected);
        }
    }
}
