//! The decoder stage: polled batches in, write batches out. N threads; each decodes the partitions
//! that the poller routes to it, in offset order.
//!
//! The channel to the writers has no room: handing a batch over means that a writer was free to
//! take it, and the batch grows until then. Ends when the poller hangs up, after handing over what
//! it holds; returns early when every writer is gone, which reports its own error. When too much
//! is rejected it fails, and what it holds goes with it: no offset passes that.

use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender};

use super::circuit_breaker::DecodeError;
use super::sift::Sieve;
use super::write_batch::BatchLimits;
use crate::clock;
use crate::crash_point::{self, CrashPoint};
use crate::latency::{Latencies, Stage};
use crate::messages::{DecodedBatch, PolledBatch, WriteBatch};

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
        loop {
            match self.next_event(&mut batch, waiting.is_some()) {
                Event::Polled(polled) if self.limits.admits(&batch, &polled, Instant::now()) => {
                    self.add(polled, &mut batch)?;
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
                        // If this fails the writers are gone and have reported why.
                        drop(self.write_batches.send(batch));
                    }
                    return Ok(());
                }
                Event::WritersGone => return Ok(()),
            }
        }
    }

    fn add(&mut self, polled: PolledBatch, batch: &mut WriteBatch) -> Result<(), DecodeError> {
        let (taken_at, taken_at_micros) = (Instant::now(), clock::now_micros());
        batch.opened_at.get_or_insert(taken_at);
        self.sieve.sift(polled, batch, taken_at_micros / 1_000)?;
        crash_point::reach(CrashPoint::AfterDedup);
        self.record_latency(batch, taken_at, taken_at_micros);
        Ok(())
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
    fn next_event(&self, batch: &mut WriteBatch, is_blocked: bool) -> Event {
        if batch.polled.is_empty() {
            return self.polled_batches.recv().map_or(Event::PollerGone, Event::Polled);
        }
        let now = Instant::now();
        let mut select = Select::new();
        let receiving = (!is_blocked).then(|| select.recv(&self.polled_batches));
        let sending =
            (is_blocked || self.limits.is_ripe(batch, now)).then(|| select.send(&self.write_batches));
        let operation = if sending.is_some() {
            select.select()
        } else {
            match select.select_timeout(self.limits.until_ripe(batch, now)) {
                Ok(operation) => operation,
                Err(_) => return Event::Elapsed,
            }
        };
        if Some(operation.index()) == receiving {
            return operation.recv(&self.polled_batches).map_or(Event::PollerGone, Event::Polled);
        }
        let next = batch.empty_alike();
        match operation.send(&self.write_batches, std::mem::replace(batch, next)) {
            Ok(()) => Event::HandedOver,
            Err(_) => Event::WritersGone,
        }
    }
}
