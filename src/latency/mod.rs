//! How long events take from stage to stage, as HdrHistograms: recorded by the stages without locks,
//! read by whoever reports.
//!
//! `counts.rs` is a histogram that many threads record into; `reporter.rs` the thread that writes
//! them to `LATENCY_DIR`, through `files.rs` (names, bounds, the interval log) and `hgrm.rs` (percentile
//! tables); `distribution.rs` reads such files again, for the command `latency`.
//!
//! A row costs 1 to 3 ns where neighbours share their millisecond, 11 where none do, and 27 when two threads
//! do nothing else (2026-11-24, 2 cores, AMD EPYC).
//!
//! Coordinated omission: each event counts with the time that *it* took from its own Kafka timestamp,
//! which the producer's schedule gives and not ours. A stall shows in every event that had to wait.

mod counts;
pub mod distribution;
mod files;
mod hgrm;
pub mod reporter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::{Deserialize, Serialize};

use counts::Counts;

/// A part of an event's way, or the whole. From `Polled` to `Commit` each begins where the one before
/// ended, so that they add up to `Durable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the Kafka timestamp to when the poller handed it on, in a batch.
    Polled,
    /// From there to when its decoder took the batch up.
    DecoderQueue,
    /// From there to when the whole batch was decoded and sifted.
    Decoded,
    /// From there to when a writer took it.
    WriterQueue,
    /// From there to the COMMIT: COPY and all other statements, failed attempts and pauses included.
    Copy,
    /// The COMMIT that succeeded.
    Commit,
    /// From the Kafka timestamp to the end of the COMMIT.
    Durable,
}

impl Stage {
    /// All of them, on the way of an event.
    pub const ALL: [Self; 7] = [
        Self::Polled,
        Self::DecoderQueue,
        Self::Decoded,
        Self::WriterQueue,
        Self::Copy,
        Self::Commit,
        Self::Durable,
    ];

    /// The name in files, a tag of the interval log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Polled => "polled",
            Self::DecoderQueue => "decoder_queue",
            Self::Decoded => "decoded",
            Self::WriterQueue => "writer_queue",
            Self::Copy => "copy",
            Self::Commit => "commit",
            Self::Durable => "durable",
        }
    }
}

/// The histograms of all stages since the start; clones share them. 2 MB, however many threads.
#[derive(Debug, Clone)]
pub struct Latencies {
    stages: Arc<[Counts; Stage::ALL.len()]>,
}

impl Latencies {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self { stages: Arc::new(Stage::ALL.map(|_| Counts::new())) }
    }

    /// `count` events took this long.
    pub fn record(&self, stage: Stage, length: Duration, count: u64) {
        if count > 0 {
            self.stages[stage as usize].record(length, count);
        }
    }

    /// Each event has come from its Kafka timestamp (milliseconds since 1970) to `until_micros` (microseconds
    /// since 1970). A timestamp that is later, by another clock, counts as no time.
    pub fn record_since(&self, stage: Stage, timestamps_ms: impl Iterator<Item = i64>, until_micros: i64) {
        let record = |timestamp_ms: i64, count| {
            let micros = until_micros.saturating_sub(timestamp_ms.saturating_mul(1_000));
            self.record(stage, Duration::from_micros(u64::try_from(micros).unwrap_or(0)), count);
        };
        // Neighbours mostly share their millisecond.
        let mut run: Option<(i64, u64)> = None;
        for timestamp_ms in timestamps_ms {
            match &mut run {
                Some((of_run, count)) if *of_run == timestamp_ms => *count += 1,
                _ => {
                    if let Some((of_run, count)) = run.replace((timestamp_ms, 1)) {
                        record(of_run, count);
                    }
                }
            }
        }
        if let Some((of_run, count)) = run {
            record(of_run, count);
        }
    }

    /// A stage since the start, in nanoseconds.
    pub fn since_start(&self, stage: Stage) -> Result<Histogram<u64>, CreationError> {
        self.stages[stage as usize].copy()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// What a histogram has that an earlier copy of it had not.
fn since(now: &Histogram<u64>, earlier: &Histogram<u64>) -> Histogram<u64> {
    let mut difference = now.clone();
    if let Err(error) = difference.subtract(earlier) {
        log::error!("counts that only grow cannot have shrunk: {error}");
    }
    difference
}

/// How long events took until they were durable, read from time to time.
#[derive(Debug)]
pub struct DurableLatency {
    latencies: Latencies,
    last: Histogram<u64>,
}

impl DurableLatency {
    /// The first interval begins now.
    pub fn new(latencies: &Latencies) -> Result<Self, CreationError> {
        Ok(Self { latencies: latencies.clone(), last: latencies.since_start(Stage::Durable)? })
    }

    /// Percentiles since the last call, and since the start.
    pub fn take_interval(&mut self) -> (Percentiles, Percentiles) {
        // Bounds that held for the first histogram hold for all.
        let Ok(now) = self.latencies.since_start(Stage::Durable) else { return Default::default() };
        let interval = since(&now, &self.last);
        self.last = now;
        (Percentiles::of(&interval), Percentiles::of(&self.last))
    }
}

/// p50, p99 and p99.9, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Percentiles {
    /// Of a histogram in nanoseconds.
    fn of(histogram: &Histogram<u64>) -> Self {
        let micros = |quantile| histogram.value_at_quantile(quantile) / 1_000;
        Self {
            count: histogram.len(),
            p50_micros: micros(0.5),
            p99_micros: micros(0.99),
            p999_micros: micros(0.999),
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
    fn intervals_have_every_thread_and_start_anew() {
        let latencies = Latencies::new();
        let mut durable = DurableLatency::new(&latencies).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| latencies.record_since(Stage::Durable, [5, 5, 5, 9, 5].into_iter(), 7_000));
            }
        });
        let (interval, _) = durable.take_interval();
        // The one that seems to come from the future took no time.
        assert_eq!((interval.count, interval.p50_micros), (20, 2_000));
        assert_eq!(latencies.since_start(Stage::Durable).unwrap().count_at(0), 4);
        assert_eq!(durable.take_interval().0.to_string(), "-/-/- ms");
        latencies.record(Stage::Durable, Duration::from_micros(1_250), 1);
        let (interval, overall) = durable.take_interval();
        assert_eq!(interval.to_string(), "1.3/1.3/1.3 ms");
        assert_eq!((overall.count, overall.p50_micros), (21, 2_000));
    }

    #[test]
    fn what_is_beyond_the_range_counts_at_its_end() {
        let latencies = Latencies::new();
        latencies.record_since(Stage::Polled, [i64::MIN].into_iter(), 0);
        let days = latencies.since_start(Stage::Polled).unwrap().max() / 86_400_000_000_000;
        assert_eq!(days, 100);
    }
}
