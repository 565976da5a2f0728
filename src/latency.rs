//! Latency from a message's Kafka timestamp to the COMMIT that holds its row, in HdrHistograms: one
//! a writer, locked once a batch, merged by whoever reports.

use std::fmt;
use std::sync::Arc;

use hdrhistogram::{CreationError, Histogram};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Microseconds that a histogram tells apart: up to a day, to three digits.
const LATENCY_MICROS_MAX: u64 = 86_400_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// The histograms of all writers since the last report, and of the whole run.
#[derive(Debug)]
pub struct Latency {
    recorders: Vec<LatencyRecorder>,
    interval: Histogram<u64>,
    overall: Histogram<u64>,
}

/// One writer's histogram.
#[derive(Debug, Clone)]
pub struct LatencyRecorder {
    histogram: Arc<Mutex<Histogram<u64>>>,
}

/// p50, p99 and p99.9, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Rows that were measured.
    pub count: u64,
    /// The median.
    pub p50_micros: u64,
    /// 99 of 100 rows were faster.
    pub p99_micros: u64,
    /// 999 of 1,000 rows were faster.
    pub p999_micros: u64,
}

impl Latency {
    /// Histograms for this many writers.
    pub fn new(writer_count: usize) -> Result<Self, CreationError> {
        let recorders = (0..writer_count)
            .map(|_| Ok(LatencyRecorder { histogram: Arc::new(Mutex::new(histogram()?)) }))
            .collect::<Result<_, _>>()?;
        Ok(Self { recorders, interval: histogram()?, overall: histogram()? })
    }

    /// The recorder of the writer with this number.
    pub fn recorder(&self, writer_idx: usize) -> LatencyRecorder {
        self.recorders[writer_idx].clone()
    }

    /// Percentiles since the last call.
    pub fn take_interval(&mut self) -> Percentiles {
        self.interval.reset();
        for recorder in &self.recorders {
            let mut histogram = recorder.histogram.lock();
            // All have the same bounds, so nothing can fail to fit.
            for merged in [&mut self.interval, &mut self.overall] {
                if let Err(error) = merged.add(&*histogram) {
                    log::error!("merging latency histograms: {error}");
                }
            }
            histogram.reset();
        }
        Percentiles::of(&self.interval)
    }

    /// Percentiles of the whole run, up to the last [`Latency::take_interval`].
    pub fn overall(&self) -> Percentiles {
        Percentiles::of(&self.overall)
    }
}

impl LatencyRecorder {
    /// Records a batch's latencies, in microseconds; what is negative (a producer's clock ahead of
    /// ours) counts as 0 and what is beyond the range as its end.
    pub fn record_all(&self, latencies_micros: impl Iterator<Item = i64>) {
        let mut histogram = self.histogram.lock();
        for latency_micros in latencies_micros {
            histogram.saturating_record(u64::try_from(latency_micros).unwrap_or(0));
        }
    }
}

fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, SIGNIFICANT_DIGITS)
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_micros: histogram.value_at_quantile(0.5),
            p99_micros: histogram.value_at_quantile(0.99),
            p999_micros: histogram.value_at_quantile(0.999),
        }
    }
}

impl fmt::Display for Percentiles {
    /// `4.1/11.9/18.0 ms`, or `-/-/- ms` when nothing was measured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("-/-/- ms");
        }
        let [p50, p99, p999] = [self.p50_micros, self.p99_micros, self.p999_micros].map(millis);
        write!(f, "{p50}/{p99}/{p999} ms")
    }
}

/// Milliseconds to one decimal.
fn millis(micros: u64) -> String {
    let tenths = (micros + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_merge_all_writers_and_start_anew() {
        let mut latency = Latency::new(2).unwrap();
        latency.recorder(0).record_all([1, 2, 3].into_iter());
        latency.recorder(1).record_all([-5, 100, i64::MAX].into_iter());
        let interval = latency.take_interval();
        assert_eq!((interval.count, interval.p50_micros), (6, 2));
        assert!(interval.p999_micros >= LATENCY_MICROS_MAX);
        assert_eq!(latency.take_interval().to_string(), "-/-/- ms");
        latency.recorder(0).record_all([1_250].into_iter());
        assert_eq!(latency.take_interval().to_string(), "1.3/1.3/1.3 ms");
        assert_eq!((latency.overall().count, latency.overall().p50_micros), (7, 3));
    }
}
