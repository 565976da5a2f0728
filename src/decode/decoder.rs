//! The decoder stage: polled batches in, write batches out. N threads; each decodes the partitions
//! that the poller routes to it, in offset order.
//!
//! The channel to the writers has no room: handing a batch over means that a writer was free to
//! take it, and the batch grows until then. Ends when the poller hangs up, after handing over what
//! it holds; returns early when every writer is gone, which reports its own error. When too much
//! is rejected it fails, and what it holds goes with it: no offset passes that.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, Sender};

use super::circuit_breaker::DecodeError;
use super::sift::Sieve;
use super::write_batch::BatchLimits;
use crate::clock;
use crate::crash_point::{self, CrashPoint};
use crate::latency::{Latencies, Stage};
use crate::messages::{DecodedBatch, PolledBatch, WriteBatch};
use crate::observe::activity::Activity;
use crate::observe::instruments::{DecodeInstruments, Leave};

/// An event is late when its time is so long before its Kafka timestamp.
const LATE_AFTER_MICROS: i64 = 3_600 * 1_000_000;
/// How long after a batch the windows' memory is noted down: looking at all tables takes some microseconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// One decoder thread's ends.
#[derive(Debug)]
pub struct Decoder {
    /// What the poller routes here.
    pub polled_batches: Receiver<PolledBatch>,
    /// Taken by whichever writer is free; no capacity.
    pub write_batches: Sender<WriteBatch>,
    /// Decides about messages.
    pub sieve: Sieve,
    /// Bounds of a write batch.
    pub limits: BatchLimits,
    /// Records how long messages took to get here, waited, and were worked on.
    pub latencies: Latencies,
    /// What it does, and why batches leave.
    pub instruments: DecodeInstruments,
}

/// What a decoder does next.
enum Event {
    Polled(PolledBatch),
    HandedOver,
    /// Time has passed, or the other side woke us for nothing.
    Elapsed,
    PollerGone,
    WritersGone,
}

impl Decoder {
    /// Decodes until the poller hangs up.
    pub fn run(mut self) -> Result<(), DecodeError> {
        let mut batch = WriteBatch::default();
        // A polled batch that did not fit: the collecting batch must leave first.
        let mut waiting: Option<PolledBatch> = None;
        // When to note down what the windows take, if something has come since the last time.
        let mut look_due: Option<Instant> = None;
        loop {
            match self.next_event(&mut batch, waiting.is_some(), look_due) {
                Event::Polled(polled) if self.limits.admits(&batch, &polled, Instant::now()) => {
                    self.add(polled, &mut batch)?;
                    look_due.get_or_insert_with(|| Instant::now() + LOOK_INTERVAL);
                }
                Event::Polled(polled) => waiting = Some(polled),
                Event::HandedOver => {
                    if let Some(polled) = waiting.take() {
                        self.add(polled, &mut batch)?;
                    }
                }
                Event::Elapsed => {}
                Event::PollerGone => {
                    if !batch.polled.is_empty() {
                        self.instruments.activity.enter(Activity::Blocked);
                        self.instruments.counters.batch_left(Leave::End, batch.rows.len());
                        // If this fails the writers are gone and have reported why.
                        drop(self.write_batches.send(batch));
                    }
                    return Ok(());
                }
                Event::WritersGone => return Ok(()),
            }
            if look_due.is_some_and(|due| Instant::now() >= due) {
                self.sieve.look();
                look_due = None;
            }
        }
    }

    fn add(&mut self, polled: PolledBatch, batch: &mut WriteBatch) -> Result<(), DecodeError> {
        let (taken_at, taken_at_micros) = (Instant::now(), clock::now_micros());
        batch.opened_at.get_or_insert(taken_at);
        let row_count = batch.rows.len();
        self.sieve.sift(polled, batch, taken_at_micros / 1_000)?;
        crash_point::reach(CrashPoint::AfterDedup);
        self.count_late(batch, row_count);
        self.record_latency(batch, taken_at, taken_at_micros);
        Ok(())
    }

    /// Among the rows from this one on.
    fn count_late(&self, batch: &WriteBatch, first_row: usize) {
        let is_late = |time_micros: i64, timestamp_ms: i64| {
            time_micros.saturating_add(LATE_AFTER_MICROS) <= timestamp_ms.saturating_mul(1_000)
        };
        let late_count = batch.rows[first_row..]
            .iter()
            .filter(|row| {
                let timestamp_ms = batch.message(row.source).1.timestamp_ms;
                timestamp_ms.is_some_and(|timestamp_ms| is_late(row.time_micros, timestamp_ms))
            })
            .count();
        if late_count > 0 {
            self.instruments.counters.late_events.inc_by(late_count as u64);
        }
    }

    /// Of the batch's last polled batch, which was taken up at this moment, by both clocks.
    fn record_latency(&self, batch: &mut WriteBatch, taken_at: Instant, taken_at_micros: i64) {
        let Some(polled) = batch.polled.last() else { return };
        let at = Instant::now();
        let waited = taken_at.saturating_duration_since(polled.polled_at);
        let polled_at_micros = taken_at_micros - i64::try_from(waited.as_micros()).unwrap_or(0);
        let news = || polled.messages.iter().filter(|message| !polled.is_history(message));
        let timestamps_ms = news().filter_map(|message| message.timestamp_ms);
        self.latencies.record_since(Stage::Polled, timestamps_ms, polled_at_micros);
        let message_count = news().count() as u64;
        self.latencies.record(Stage::DecoderQueue, waited, message_count);
        self.latencies.record(Stage::Decoded, at.saturating_duration_since(taken_at), message_count);
        batch.decoded.push(DecodedBatch { at, message_count });
    }

    /// Waits for a polled batch (unless one is waiting), for a free writer (once the batch is
    /// ripe), or for the batch to ripen.
    fn next_event(&self, batch: &mut WriteBatch, is_blocked: bool, look_due: Option<Instant>) -> Event {
        let event = self.await_event(batch, is_blocked, look_due);
        self.instruments.activity.enter(Activity::Working);
        event
    }

    fn await_event(&self, batch: &mut WriteBatch, is_blocked: bool, look_due: Option<Instant>) -> Event {
        let DecodeInstruments { activity, counters } = &self.instruments;
        if batch.polled.is_empty() {
            activity.enter(Activity::Starved);
            let polled = match look_due {
                Some(due) => self.polled_batches.recv_deadline(due),
                None => self.polled_batches.recv().map_err(Into::into),
            };
            return match polled {
                Ok(polled) => Event::Polled(polled),
                Err(RecvTimeoutError::Timeout) => Event::Elapsed,
                Err(RecvTimeoutError::Disconnected) => Event::PollerGone,
            };
        }
        let now = Instant::now();
        let mut select = Select::new();
        let receiving = (!is_blocked).then(|| select.recv(&self.polled_batches));
        let sending =
            (is_blocked || self.limits.is_ripe(batch, now)).then(|| select.send(&self.write_batches));
        let operation = if sending.is_some() {
            activity.enter(Activity::Blocked);
            select.select()
        } else {
            activity.enter(Activity::Starved);
            match select.select_timeout(self.limits.until_ripe(batch, now)) {
                Ok(operation) => operation,
                Err(_) => return Event::Elapsed,
            }
        };
        if Some(operation.index()) == receiving {
            return operation.recv(&self.polled_batches).map_or(Event::PollerGone, Event::Polled);
        }
        let is_full = batch.rows.len() >= self.limits.row_count_max;
        let why = match is_blocked {
            true if self.limits.is_old(batch, Instant::now()) => Leave::Timeout,
            false if !is_full => Leave::WriterFree,
            _ => Leave::Full,
        };
        counters.batch_left(why, batch.rows.len());
        let next = batch.empty_alike();
        match operation.send(&self.write_batches, std::mem::replace(batch, next)) {
            Ok(()) => Event::HandedOver,
            Err(_) => Event::WritersGone,
        }
    }
}
