//! The writer stage: write batches in, durable spans out. M threads with a connection each.
//!
//! A span is reported only after the COMMIT that holds its rows and dead letters, and after the
//! dead letters are acknowledged by their topic, if there is one. Errors of the
//! database never lose a batch: it is retried with growing pauses until it is durable or the
//! process stops. Ends when every decoder has hung up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use crossbeam_channel::{Receiver, Sender};

use super::sqlstate::Remedy;
use crate::clock;
use crate::crash_point::{self, CrashPoint};
use crate::error_chain::error_chain;
use crate::latency::{Latencies, Stage};
use crate::messages::{LetterCount, Progress, SpanOutcome, WriteBatch};
use crate::observe::activity::Activity;
use crate::observe::instruments::WriteInstruments;
use crate::offsets::{Offset, OffsetSpan, Partition};
use crate::status::LastDeadLetter;

/// Where rows go: the database, or a test's double.
pub trait RowSink {
    /// Why a batch is not durable.
    type Error: std::error::Error + 'static;

    /// Makes a batch durable as a whole or not at all.
    fn write(&mut self, batch: &WriteBatch) -> Result<Written, Self::Error>;

    /// What the error asks for.
    fn remedy(error: &Self::Error) -> Remedy;

    /// The SQLSTATE of the server's answer, if there was one.
    fn sqlstate(error: &Self::Error) -> Option<&str>;

    /// Whether there is no server to be had: the next batch would fail as well.
    fn is_unreachable(error: &Self::Error) -> bool;
}

/// A batch that is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// What became of each span, in the order of [`WriteBatch::outcomes`].
    pub outcomes: Vec<SpanOutcome>,
    /// Of their dead letters, how many had which reason.
    pub letters: Vec<LetterCount>,
    /// The last few of them.
    pub last_letters: Vec<LastDeadLetter>,
    /// How long the COMMIT took; nothing when there was nothing to commit.
    pub commit_time: Duration,
}

/// One writer thread's ends.
#[derive(Debug)]
pub struct Writer<S> {
    /// What the decoders hand over.
    pub write_batches: Receiver<WriteBatch>,
    /// To the committer.
    pub progress: Sender<Progress>,
    /// Where rows go.
    pub sink: S,
    /// Records how long messages waited for a writer, and rows until they were durable.
    pub latencies: Latencies,
    /// What it does, and how the attempts went.
    pub instruments: WriteInstruments,
}

impl<S: RowSink> Writer<S> {
    /// Writes batches until every decoder has hung up.
    pub fn run(mut self) -> Result<(), std::convert::Infallible> {
        let activity = self.instruments.activity.clone();
        activity.enter(Activity::Starved);
        while let Ok(batch) = self.write_batches.recv() {
            activity.enter(Activity::Working);
            let taken_at = Instant::now();
            let written = self.write_with_retry(&batch);
            crash_point::reach(CrashPoint::AfterCommit);
            self.record_latency(&batch, taken_at, written.commit_time);
            self.instruments.counters.letters_stored(written.last_letters);
            let durable = Progress::Durable { outcomes: written.outcomes, letters: written.letters };
            activity.enter(Activity::Blocked);
            if self.progress.send(durable).is_err() {
                break; // The committer is gone and reports its own error.
            }
            activity.enter(Activity::Starved);
            crash_point::reach(CrashPoint::AfterProgress);
        }
        Ok(())
    }

    fn write_with_retry(&mut self, batch: &WriteBatch) -> Written {
        let mut pauses = pauses();
        let mut attempt = 1_u32;
        loop {
            let began = Instant::now();
            let error = match self.sink.write(batch) {
                Ok(written) => {
                    self.record_success(began.elapsed(), written.commit_time);
                    return written;
                }
                Err(error) => error,
            };
            self.record_failure(&error);
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            let (rows, places, chain) = (batch.rows.len(), places(batch), error_chain(&error));
            let sqlstate = S::sqlstate(&error);
            match S::remedy(&error) {
                Remedy::RetryAndAlarm => log::error!(
                    repeats:% = chain, sqlstate, attempt, rows, spans:% = places;
                    "{chain}: attempt {attempt} to write {rows} rows of partitions {places} failed in a way that \
                     waiting may not cure; trying again in {pause:?}"
                ),
                _ => log::warn!(
                    repeats:% = chain, sqlstate, attempt, rows, spans:% = places;
                    "{chain}: attempt {attempt} to write {rows} rows of partitions {places}; trying again in {pause:?}"
                ),
            }
            std::thread::sleep(pause);
            self.instruments.activity.enter(Activity::Working);
            attempt = attempt.saturating_add(1);
        }
    }

    fn record_success(&self, written_in: Duration, commit_time: Duration) {
        let WriteInstruments { batch, counters, .. } = &self.instruments;
        if !commit_time.is_zero() {
            counters.written(written_in.saturating_sub(commit_time), commit_time);
            counters.reach.succeeded();
        }
        batch.succeeded();
    }

    fn record_failure(&self, error: &S::Error) {
        let WriteInstruments { activity, batch, counters } = &self.instruments;
        activity.enter(Activity::Retrying);
        counters.retried(S::sqlstate(error));
        batch.failed(error_chain(error));
        if S::is_unreachable(error) {
            counters.reach.failed(error_chain(error));
        } else {
            counters.reach.succeeded(); // It did answer.
        }
    }

    /// Of a batch that this writer has taken at this moment and that is durable now.
    fn record_latency(&self, batch: &WriteBatch, taken_at: Instant, commit_time: Duration) {
        let (written_in, durable_at_micros) = (taken_at.elapsed(), clock::now_micros());
        for decoded in &batch.decoded {
            let waited = taken_at.saturating_duration_since(decoded.at);
            self.latencies.record(Stage::WriterQueue, waited, decoded.message_count);
        }
        let row_count = batch.rows.len() as u64;
        self.latencies.record(Stage::Copy, written_in.saturating_sub(commit_time), row_count);
        self.latencies.record(Stage::Commit, commit_time, row_count);
        let timestamps_ms = batch.rows.iter().filter_map(|row| batch.message(row.source).1.timestamp_ms);
        self.latencies.record_since(Stage::Durable, timestamps_ms, durable_at_micros);
    }
}

/// Which offsets a batch has of which partitions, for the log: `0[5, 9), 3[0, 12) and 14 more`.
fn places(batch: &WriteBatch) -> String {
    const PLACES_MAX: usize = 4;
    let mut by_partition: BTreeMap<Partition, Range<Offset>> = BTreeMap::new();
    for OffsetSpan { partition, start, end, .. } in batch.outcomes.iter().map(|outcome| outcome.span) {
        let place = by_partition.entry(partition).or_insert(start..end);
        *place = place.start.min(start)..place.end.max(end);
    }
    let each =
        by_partition.iter().map(|(partition, place)| format!("{partition}[{}, {})", place.start, place.end));
    let mut places = each.take(PLACES_MAX).collect::<Vec<_>>().join(", ");
    if by_partition.len() > PLACES_MAX {
        places += &format!(" and {} more", by_partition.len() - PLACES_MAX);
    }
    places
}

/// The longest pause between two attempts, before jitter, which may double it.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pauses from 50 ms, doubling, with jitter so that the writers of a fleet do not come in step.
pub fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::Generation;
    use crossbeam_channel::bounded;

    /// Fails as often as it is told to, then accepts.
    #[derive(Debug)]
    struct Flaky {
        failures_left: u32,
        attempts: u32,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("connection reset")]
    struct Reset;

    impl RowSink for Flaky {
        type Error = Reset;

        fn write(&mut self, batch: &WriteBatch) -> Result<Written, Reset> {
            self.attempts += 1;
            if self.failures_left == 0 {
                return Ok(Written { outcomes: batch.outcomes.clone(), ..Written::default() });
            }
            self.failures_left -= 1;
            Err(Reset)
        }

        fn remedy(_: &Reset) -> Remedy {
            Remedy::Retry
        }

        fn sqlstate(_: &Reset) -> Option<&str> {
            None
        }

        fn is_unreachable(_: &Reset) -> bool {
            true
        }
    }

    #[test]
    fn a_batch_is_reported_only_once_it_is_durable() {
        let span = OffsetSpan { partition: 0, generation: Generation(1), epoch: 1, start: 5, end: 9 };
        let (batches, write_batches) = bounded(1);
        let (progress, reports) = bounded(2);
        batches.send(WriteBatch { outcomes: vec![SpanOutcome::new(span)], ..WriteBatch::default() }).unwrap();
        drop(batches);
        let sink = Flaky { failures_left: 2, attempts: 0 };
        let instruments = WriteInstruments::unwatched();
        Writer {
            write_batches,
            progress,
            sink,
            latencies: Latencies::new(),
            instruments: instruments.clone(),
        }
        .run()
        .unwrap();
        assert_eq!(instruments.counters.retry_count(), 2);
        assert!(instruments.batch.trouble().is_none(), "it was written in the end");
        let reports: Vec<_> = reports.iter().collect();
        assert!(
            matches!(&reports[..], [Progress::Durable { outcomes, .. }] if outcomes[0].span == span),
            "{reports:?}"
        );
    }

    #[test]
    fn the_log_says_where_a_batch_comes_from() {
        let span = |partition, start, end| {
            SpanOutcome::new(OffsetSpan { partition, generation: Generation(1), epoch: 1, start, end })
        };
        let mut batch = WriteBatch {
            outcomes: vec![span(3, 0, 2), span(0, 5, 9), span(3, 2, 12)],
            ..WriteBatch::default()
        };
        assert_eq!(places(&batch), "0[5, 9), 3[0, 12)");
        batch.outcomes.extend((4..10).map(|partition| span(partition, 0, 1)));
        assert_eq!(places(&batch), "0[5, 9), 3[0, 12), 4[0, 1), 5[0, 1) and 4 more");
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let pauses: Vec<_> = pauses().take(20).collect();
        assert!(pauses[0] < Duration::from_millis(200) && pauses[19] <= PAUSE_MAX * 2);
    }
}
