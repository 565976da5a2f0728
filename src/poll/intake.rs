//! Where each message goes: which decoder's batch, which span. Pure; owned by the poller thread.
//!
//! All messages of a partition go to one decoder, in offset order. A message below its partition's
//! position was handed on before (the broker may hand over an offset twice after an incremental
//! assignment) and is dropped here, so that spans never overlap.

use std::collections::HashMap;

use super::start_position::StartPosition;
use crate::messages::{IssuedSpan, PolledBatch};
use crate::offsets::{Generation, Offset, OffsetSpan, Partition};

/// Bytes of keys and payloads at which a polled batch is full; one message may lie beyond it.
const POLLED_BYTES_MAX: usize = 1 << 20;

/// Batches under construction, one a decoder, and the positions of the assigned partitions.
#[derive(Debug)]
pub struct Intake {
    partitions: HashMap<Partition, Assigned>,
    batches: Vec<PolledBatch>,
    message_count_max: usize,
}

#[derive(Debug)]
struct Assigned {
    /// Whose batches its messages go into.
    decoder_idx: usize,
    generation: Generation,
    epoch: i32,
    /// Where the assignment started; what comes below is history.
    start: Offset,
    /// History has been read up to here.
    history_position: Offset,
    /// The next offset: the end of the last span.
    position: Offset,
    /// Read no further than this.
    stop_at: Option<Offset>,
    /// Whether the fetcher has reported the end of the partition after the last message.
    is_at_end: bool,
    /// The end that was named behind it, waiting to be named once more.
    gap_end: Option<Offset>,
}

/// A message as the Kafka client gives it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its partition.
    pub partition: Partition,
    /// Its offset.
    pub offset: Offset,
    /// Its Kafka timestamp, milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
}

impl Intake {
    /// No partition yet; batches for this many decoders, of at most `message_count_max` messages.
    pub fn new(decoder_count: usize, message_count_max: usize) -> Self {
        let batches = (0..decoder_count).map(|_| PolledBatch::with_capacity(0)).collect();
        Self { partitions: HashMap::new(), batches, message_count_max }
    }

    /// Starts a partition at its position; with `stops_at_end`, ends it where the log ended then. A new
    /// one goes to the decoder that has the fewest: their numbers say nothing, since an instance of two
    /// may well have got the even ones.
    pub fn assign(&mut self, position: StartPosition, generation: Generation, stops_at_end: bool) {
        let StartPosition { partition, epoch, start, high, .. } = position;
        let decoder_idx = self.partitions.get(&partition).map(|assigned| assigned.decoder_idx);
        let assigned = Assigned {
            decoder_idx: decoder_idx.unwrap_or_else(|| self.idlest_decoder()),
            generation,
            epoch,
            start,
            history_position: Offset::MIN,
            position: start,
            stop_at: stops_at_end.then_some(high),
            is_at_end: false,
            gap_end: None,
        };
        self.partitions.insert(partition, assigned);
    }

    /// Forgets partitions that were taken away, with their messages that were not handed on. The
    /// others' messages stay: dropping those too would let the next span claim offsets that
    /// nobody wrote.
    pub fn revoke(&mut self, partitions: &[Partition]) {
        let mut by_decoder = vec![Vec::new(); self.batches.len()];
        for partition in partitions {
            if let Some(assigned) = self.partitions.remove(partition) {
                by_decoder[assigned.decoder_idx].push(*partition);
            }
        }
        for (batch, mine) in self.batches.iter_mut().zip(by_decoder) {
            if batch.spans.iter().any(|span| mine.contains(&span.partition)) {
                *batch = without(batch, &mine);
            }
            batch.revoked.extend(mine);
        }
    }

    /// Takes a message in. Gives the decoder whose batch is full now, if one is.
    pub fn accept(&mut self, message: Incoming<'_>) -> Option<usize> {
        let assigned = self.partitions.get_mut(&message.partition)?;
        let decoder_idx = assigned.decoder_idx;
        assigned.forget_end();
        if message.offset < assigned.start {
            return self.accept_history(message, decoder_idx);
        }
        if message.offset < assigned.position {
            log::debug!("partition {}: offset {} came again", message.partition, message.offset);
            return None;
        }
        if let Some(stop_at) = assigned.stop_at.filter(|stop_at| message.offset >= *stop_at) {
            // Whatever lies between the last message and the end was skipped by Kafka.
            self.advance(message.partition, stop_at);
            return None;
        }
        let end = message.offset + 1;
        let span_idx = self.advance(message.partition, end)?;
        self.push(decoder_idx, span_idx, message)
    }

    /// Takes in a message from before the start: it lies below its span, which stays as it is.
    fn accept_history(&mut self, message: Incoming<'_>, decoder_idx: usize) -> Option<usize> {
        let assigned = self.partitions.get_mut(&message.partition)?;
        if message.offset < assigned.history_position {
            return None; // It would count as seen later than it was.
        }
        assigned.history_position = message.offset + 1;
        let empty = OffsetSpan {
            partition: message.partition,
            generation: assigned.generation,
            epoch: assigned.epoch,
            start: assigned.position,
            end: assigned.position,
        };
        let span_idx = span_idx_of(&mut self.batches[decoder_idx].spans, empty);
        self.push(decoder_idx, span_idx, message)
    }

    fn push(&mut self, decoder_idx: usize, span_idx: u32, message: Incoming<'_>) -> Option<usize> {
        let batch = &mut self.batches[decoder_idx];
        batch.push(span_idx, message.offset, message.timestamp_ms, message.key, message.payload);
        let is_full =
            batch.messages.len() >= self.message_count_max || batch.byte_count() >= POLLED_BYTES_MAX;
        is_full.then_some(decoder_idx)
    }

    /// The fetcher has reached the end of the partition as it was at that moment.
    pub fn reached_end(&mut self, partition: Partition) {
        if let Some(assigned) = self.partitions.get_mut(&partition) {
            assigned.is_at_end = true;
        }
    }

    /// The fetcher starts again behind the last message that it gave us (partitions are paused, or
    /// the group rebalances): what it had fetched is thrown away, so the ends that it has reported
    /// may lie behind messages that are still to come.
    pub fn forget_ends(&mut self) {
        self.partitions.values_mut().for_each(Assigned::forget_end);
    }

    /// Accounts for offsets up to `end` that hold no message (aborted transactions, control
    /// records, compacted keys at the tail). Counts only if the fetcher has reported an end since
    /// the last message, and only the second time: the fetcher may have started again in the
    /// moment in which the first figures were made, and its word of it may still be under way.
    /// The caller vouches that what was fetched before the figures were made has been taken in.
    pub fn close_gap(&mut self, partition: Partition, end: Offset) {
        let Some(assigned) = self.partitions.get_mut(&partition) else { return };
        if assigned.is_at_end && assigned.gap_end.replace(end) == Some(end) {
            self.advance(partition, end);
        }
    }

    /// Extends the partition's span to `end`, if that is ahead; gives its index in the batch.
    fn advance(&mut self, partition: Partition, end: Offset) -> Option<u32> {
        let assigned = self.partitions.get_mut(&partition)?;
        if end <= assigned.position {
            return None;
        }
        let start = std::mem::replace(&mut assigned.position, end);
        let spans = &mut self.batches[assigned.decoder_idx].spans;
        let idx = span_idx_of(
            spans,
            OffsetSpan { partition, generation: assigned.generation, epoch: assigned.epoch, start, end },
        );
        spans[idx as usize].end = end;
        Some(idx)
    }

    /// Whether the decoder's batch has anything to tell.
    pub fn has_batch(&self, decoder_idx: usize) -> bool {
        !self.batches[decoder_idx].is_empty()
    }

    /// Takes the decoder's batch, and what to tell the committer about it.
    pub fn take(&mut self, decoder_idx: usize) -> (Vec<IssuedSpan>, PolledBatch) {
        let batch = &mut self.batches[decoder_idx];
        let next = batch.empty_alike();
        let batch = std::mem::replace(batch, next);
        let mut issued: Vec<_> =
            batch.spans.iter().map(|span| IssuedSpan { span: *span, messages: 0 }).collect();
        for message in batch.messages.iter().filter(|message| !batch.is_history(message)) {
            issued[message.span_idx as usize].messages += 1;
        }
        issued.retain(|issued| !issued.span.is_empty());
        (issued, batch)
    }

    /// Partitions that have been read to where they stop.
    pub fn finished(&self) -> impl Iterator<Item = Partition> + '_ {
        self.partitions
            .iter()
            .filter(|(_, assigned)| assigned.stop_at.is_some_and(|stop_at| assigned.position >= stop_at))
            .map(|(partition, _)| *partition)
    }

    /// Partitions assigned now.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    fn idlest_decoder(&self) -> usize {
        let mut loads = vec![0; self.batches.len()];
        self.partitions.values().for_each(|assigned| loads[assigned.decoder_idx] += 1);
        loads.iter().enumerate().min_by_key(|(_, load)| **load).map_or(0, |(decoder_idx, _)| decoder_idx)
    }
}

/// The index of the partition's span, which is `new` if there is none.
fn span_idx_of(spans: &mut Vec<OffsetSpan>, new: OffsetSpan) -> u32 {
    let idx = spans.iter().rposition(|span| span.partition == new.partition).unwrap_or_else(|| {
        spans.push(new);
        spans.len() - 1
    });
    // At most one span a partition, and partitions are numbered by 32 bits.
    u32::try_from(idx).unwrap_or(u32::MAX)
}

impl Assigned {
    fn forget_end(&mut self) {
        self.is_at_end = false;
        self.gap_end = None;
    }
}

/// A copy without the spans and messages of some partitions.
fn without(batch: &PolledBatch, partitions: &[Partition]) -> PolledBatch {
    let mut kept = PolledBatch::with_capacity(batch.messages.len());
    kept.revoked.clone_from(&batch.revoked);
    let mut new_idx = vec![None; batch.spans.len()];
    for (idx, span) in batch.spans.iter().enumerate() {
        if !partitions.contains(&span.partition) {
            new_idx[idx] = u32::try_from(kept.spans.len()).ok();
            kept.spans.push(*span);
        }
    }
    for message in &batch.messages {
        if let Some(span_idx) = new_idx[message.span_idx as usize] {
            kept.push(
                span_idx,
                message.offset,
                message.timestamp_ms,
                batch.key(message),
                batch.payload(message),
            );
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(partition: Partition, start: Offset, high: Offset) -> StartPosition {
        StartPosition { partition, epoch: 1, start, history_floor: 0, high }
    }

    fn intake(partitions: &[(Partition, Offset)]) -> Intake {
        let mut intake = Intake::new(2, 3);
        for &(partition, start) in partitions {
            intake.assign(position(partition, start, 0), Generation(1), false);
        }
        intake
    }

    fn accept(intake: &mut Intake, partition: Partition, offset: Offset) -> Option<usize> {
        let payload = format!("{partition}/{offset}");
        intake.accept(Incoming {
            partition,
            offset,
            timestamp_ms: None,
            key: None,
            payload: Some(payload.as_bytes()),
        })
    }

    fn spans(issued: &[IssuedSpan]) -> Vec<(Partition, Offset, Offset, u64)> {
        issued.iter().map(|i| (i.span.partition, i.span.start, i.span.end, i.messages)).collect()
    }

    #[test]
    fn spans_tile_what_kafka_skipped() {
        let mut intake = intake(&[(0, 10)]);
        assert_eq!(accept(&mut intake, 0, 12), None);
        assert_eq!(accept(&mut intake, 0, 17), None);
        assert_eq!(spans(&intake.take(0).0), [(0, 10, 18, 2)]);
        accept(&mut intake, 0, 20);
        assert_eq!(spans(&intake.take(0).0), [(0, 18, 21, 1)]);
        assert!(!intake.has_batch(0));
    }

    #[test]
    fn partitions_are_spread_evenly_whatever_their_numbers() {
        let mut intake = intake(&[(0, 0), (2, 0), (4, 0), (6, 0)]);
        for partition in [0, 2, 4, 6] {
            accept(&mut intake, partition, 0);
        }
        assert_eq!(spans(&intake.take(0).0), [(0, 0, 1, 1), (4, 0, 1, 1)]);
        assert_eq!(spans(&intake.take(1).0), [(2, 0, 1, 1), (6, 0, 1, 1)]);
        intake.revoke(&[0, 4]);
        intake.assign(position(8, 0, 0), Generation(1), false);
        accept(&mut intake, 8, 0);
        let (issued, batch) = intake.take(0);
        assert_eq!((spans(&issued), batch.revoked), (vec![(8, 0, 1, 1)], vec![0, 4]));
    }

    #[test]
    fn a_partition_stays_with_its_decoder_and_full_batches_are_told() {
        let mut intake = intake(&[(0, 0), (1, 0), (2, 0)]);
        assert_eq!(accept(&mut intake, 0, 0), None);
        assert_eq!(accept(&mut intake, 1, 0), None);
        assert_eq!(accept(&mut intake, 2, 0), None);
        assert_eq!(accept(&mut intake, 0, 1), Some(0));
        let (issued, batch) = intake.take(0);
        assert_eq!(spans(&issued), [(0, 0, 2, 2), (2, 0, 1, 1)]);
        let payloads: Vec<_> = batch.messages.iter().map(|m| batch.payload(m).unwrap()).collect();
        assert_eq!(payloads, [b"0/0", b"2/0", b"0/1"]);
        assert_eq!(spans(&intake.take(1).0), [(1, 0, 1, 1)]);
    }

    #[test]
    fn an_offset_that_comes_again_is_dropped() {
        let mut intake = intake(&[(0, 5)]);
        for offset in [5, 5, 6, 5] {
            accept(&mut intake, 0, offset);
        }
        assert_eq!(spans(&intake.take(0).0), [(0, 5, 7, 2)]);
        assert_eq!(accept(&mut intake, 9, 0), None, "a partition that is not assigned");
    }

    #[test]
    fn revoked_messages_are_dropped_and_the_others_kept() {
        let mut intake = intake(&[(0, 0), (1, 0), (2, 7)]);
        accept(&mut intake, 0, 0);
        accept(&mut intake, 2, 7);
        accept(&mut intake, 2, 8);
        intake.revoke(&[0, 1]);
        let (issued, batch) = intake.take(0);
        assert_eq!(spans(&issued), [(2, 7, 9, 2)]);
        assert_eq!((batch.messages.len(), &batch.revoked[..]), (2, &[0][..]));
        assert_eq!(batch.payload(&batch.messages[0]), Some(&b"2/7"[..]));
        assert_eq!(intake.take(1).1.revoked, [1], "the window of a partition without messages goes too");
    }

    #[test]
    fn what_lies_before_the_start_is_history_and_belongs_to_no_span() {
        let mut intake = intake(&[(0, 5)]);
        accept(&mut intake, 0, 3);
        let (issued, batch) = intake.take(0);
        assert_eq!((issued.len(), batch.messages.len()), (0, 1), "history alone owes nothing");
        assert!(batch.is_history(&batch.messages[0]));
        accept(&mut intake, 0, 3);
        accept(&mut intake, 0, 4);
        accept(&mut intake, 0, 5);
        let (issued, batch) = intake.take(0);
        assert_eq!(spans(&issued), [(0, 5, 6, 1)]);
        let history: Vec<_> = batch.messages.iter().map(|message| batch.is_history(message)).collect();
        assert_eq!(history, [true, false]);
    }

    #[test]
    fn a_gap_at_the_tail_is_closed_only_behind_a_reported_end() {
        let mut intake = intake(&[(0, 0)]);
        let close_twice = |intake: &mut Intake, end| {
            intake.close_gap(0, end);
            intake.close_gap(0, end);
        };
        close_twice(&mut intake, 9);
        assert!(!intake.has_batch(0));
        accept(&mut intake, 0, 0);
        intake.reached_end(0);
        accept(&mut intake, 0, 1);
        close_twice(&mut intake, 9);
        assert_eq!(spans(&intake.take(0).0), [(0, 0, 2, 2)]);
        intake.reached_end(0);
        close_twice(&mut intake, 9);
        close_twice(&mut intake, 3);
        assert_eq!(spans(&intake.take(0).0), [(0, 2, 9, 0)]);
    }

    #[test]
    fn an_end_that_is_named_once_or_behind_thrown_away_messages_closes_no_gap() {
        let mut intake = intake(&[(0, 0)]);
        intake.reached_end(0);
        intake.close_gap(0, 5);
        intake.close_gap(0, 6);
        // Messages 0 to 6 had been fetched and not polled, and are fetched again.
        intake.forget_ends();
        intake.close_gap(0, 7);
        intake.close_gap(0, 7);
        assert!(!intake.has_batch(0));
        for offset in 0..7 {
            accept(&mut intake, 0, offset);
        }
        assert_eq!(intake.take(0).1.messages.len(), 7);
    }

    #[test]
    fn a_bounded_partition_ends_at_its_bound() {
        let mut intake = Intake::new(1, 100);
        intake.assign(position(0, 0, 3), Generation(1), true);
        intake.assign(position(1, 4, 4), Generation(1), true);
        assert_eq!(intake.finished().collect::<Vec<_>>(), [1]);
        accept(&mut intake, 0, 1);
        accept(&mut intake, 0, 5);
        accept(&mut intake, 0, 6);
        assert_eq!(spans(&intake.take(0).0), [(0, 0, 3, 1)]);
        assert_eq!(intake.finished().count(), 2);
    }
}
