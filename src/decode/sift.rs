//! Sifts a polled batch: every message becomes a row, a duplicate that is dropped, or a dead
//! letter, and is counted in its span's outcome. Pure but for the windows it remembers in; one
//! sieve per decoder thread.

use std::time::Duration;

use super::circuit_breaker::{CircuitBreaker, DecodeError};
use super::dedup::{DedupBudget, Verdict, Window};
use super::identity::IdentityHasher;
use super::json::JsonDecoder;
use crate::copy_tuple::append_tuple;
use crate::messages::{
    DeadLetter, EncodedRow, MessageRef, PolledBatch, PolledMessage, SpanOutcome, WriteBatch,
};
use crate::offsets::{Generation, OffsetSpan, Partition};
use crate::usage_event::{RejectReason, Rejection, TimeLimits, UsageEvent};

/// Decodes, judges and encodes.
#[derive(Debug)]
pub struct Sieve {
    json: JsonDecoder,
    time_limits: TimeLimits,
    hasher: IdentityHasher,
    window_length: Duration,
    budget: DedupBudget,
    /// One window a partition.
    windows: Vec<AssignedWindow>,
    /// For each span of a batch the index of its window; empty between batches.
    window_idx: Vec<usize>,
    breaker: CircuitBreaker,
    /// What became of a batch's messages, for the breaker; empty between batches.
    judged: Vec<Option<RejectReason>>,
}

/// The window of a partition, valid for one assignment.
#[derive(Debug)]
struct AssignedWindow {
    partition: Partition,
    generation: Generation,
    window: Window,
}

impl Sieve {
    /// A sieve without any memory yet, which rejects without limit.
    pub fn new(
        time_limits: TimeLimits,
        hasher: IdentityHasher,
        window_length: Duration,
        budget: DedupBudget,
    ) -> Self {
        Self {
            json: JsonDecoder::default(),
            time_limits,
            hasher,
            window_length,
            budget,
            windows: Vec::new(),
            window_idx: Vec::new(),
            breaker: CircuitBreaker::new(1.0),
            judged: Vec::new(),
        }
    }

    /// The same, that stops when too much is rejected.
    #[must_use]
    pub fn with_breaker(self, breaker: CircuitBreaker) -> Self {
        Self { breaker, ..self }
    }

    /// Notes down in the budget what the windows take and remember.
    pub fn look(&self) {
        self.budget.look(self.windows.iter().map(|assigned| &assigned.window));
    }

    /// Adds what became of `polled`'s messages, and the batch itself, to `batch`. `now_ms` is the
    /// wall clock, which only caps timestamps from the future.
    ///
    /// # Errors
    /// When too much is rejected: then `batch` must not be handed on.
    pub fn sift(
        &mut self,
        polled: PolledBatch,
        batch: &mut WriteBatch,
        now_ms: i64,
    ) -> Result<(), DecodeError> {
        self.windows.retain(|assigned| !polled.revoked.contains(&assigned.partition));
        self.window_idx.clear();
        for span in &polled.spans {
            let idx = self.window_idx_of(span);
            self.window_idx.push(idx);
        }
        let batch_idx = narrow(batch.polled.len());
        let first_outcome_idx = narrow(batch.outcomes.len());
        batch.outcomes.extend(polled.spans.iter().map(|span| SpanOutcome::new(*span)));
        for (idx, message) in polled.messages.iter().enumerate() {
            let source = MessageRef { batch_idx, message_idx: narrow(idx) };
            let outcome_idx = first_outcome_idx + message.span_idx;
            self.sift_message(&polled, message, source, outcome_idx, batch, now_ms);
        }
        batch.payload_bytes += polled.byte_count();
        batch.polled.push(polled);
        let outcome = self.breaker.record(&self.judged);
        self.judged.clear();
        outcome
    }

    /// The index of the partition's window under this generation: whatever an older one saw is forgotten, since
    /// the partition may have had another owner in between.
    fn window_idx_of(&mut self, span: &OffsetSpan) -> usize {
        let known = self.windows.iter().position(|assigned| assigned.partition == span.partition);
        if let Some(idx) = known
            && self.windows[idx].generation == span.generation
        {
            return idx;
        }
        let window = Window::new(self.window_length, self.budget.clone());
        let assigned = AssignedWindow { partition: span.partition, generation: span.generation, window };
        let idx = known.unwrap_or(self.windows.len());
        match known {
            Some(idx) => self.windows[idx] = assigned,
            None => self.windows.push(assigned),
        }
        idx
    }

    fn sift_message(
        &mut self,
        polled: &PolledBatch,
        message: &PolledMessage,
        source: MessageRef,
        outcome_idx: u32,
        batch: &mut WriteBatch,
        now_ms: i64,
    ) {
        let WriteBatch { rows, tuples, dead_letters, outcomes, .. } = batch;
        let outcome = &mut outcomes[outcome_idx as usize];
        let is_history = polled.is_history(message);
        outcome.messages += u64::from(!is_history);
        let decoded = self.json.decode(polled.payload(message)).and_then(|event| {
            self.time_limits.check(event.time_micros, message.timestamp_ms)?;
            Ok(event)
        });
        if self.budget.is_spent() {
            make_room(&mut self.windows);
        }
        let window = &mut self.windows[self.window_idx[message.span_idx as usize]].window;
        let event = match decoded {
            Ok(event) => event,
            Err(rejection) => {
                // Kafka's answers, by which history is measured, know no difference.
                if let Some(timestamp_ms) = message.timestamp_ms {
                    window.pass(timestamp_ms, now_ms);
                }
                if is_history {
                    return;
                }
                outcome.dead_letters += 1;
                self.judged.push(Some(rejection.reason));
                return dead_letters.push(DeadLetter { source, rejection });
            }
        };
        let identity = self.hasher.identify(&event);
        // The time limits have refused messages without a timestamp.
        let timestamp_ms = message.timestamp_ms.unwrap_or(now_ms);
        let verdict = window.judge(identity, message.offset, timestamp_ms, now_ms);
        if !is_history {
            self.judged.push((verdict == Verdict::Conflict).then_some(RejectReason::Conflict));
        }
        match verdict {
            _ if is_history => {} // Decided by whoever read it first; remembered now.
            Verdict::New | Verdict::Redelivery => {
                outcome.written += 1;
                rows.push(encode(&event, tuples, outcome_idx, source));
            }
            Verdict::Duplicate => outcome.duplicates += 1,
            Verdict::Conflict => {
                outcome.dead_letters += 1;
                let rejection = Rejection::new(
                    RejectReason::Conflict,
                    "an earlier event has the same organization_id and request_id, but another api key, \
                     endpoint, method, billable or weight",
                );
                dead_letters.push(DeadLetter { source, rejection });
            }
        }
    }
}

/// Takes the room from records that have expired, if there are any. Else from the fullest window, whose partition may be
/// idle: a partition that had to make room in its own could remember next to nothing until that one moves on.
fn make_room(windows: &mut [AssignedWindow]) {
    let windows = windows.iter_mut().map(|assigned| &mut assigned.window);
    if let Some(roomiest) = windows.max_by_key(|window| (window.has_expired_records(), window.record_count()))
    {
        roomiest.make_room();
    }
}

fn encode(event: &UsageEvent<'_>, tuples: &mut Vec<u8>, outcome_idx: u32, source: MessageRef) -> EncodedRow {
    let start = narrow(tuples.len());
    append_tuple(tuples, event);
    EncodedRow {
        organization_id: event.organization_id,
        time_micros: event.time_micros,
        start,
        end: narrow(tuples.len()),
        outcome_idx,
        source,
    }
}

/// Batches hold at most 10,000 rows of less than 2 KiB each, so 32 bits always suffice.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    fn sieve() -> Sieve {
        let limits = TimeLimits {
            event_age_max: Duration::from_secs(90 * 86_400),
            clock_skew_max: Duration::from_secs(300),
        };
        let budget = DedupBudget::new(1_000);
        Sieve::new(limits, IdentityHasher::new([7; 16]), Duration::from_secs(300), budget)
    }

    fn event(request_id: &str, weight: u32) -> String {
        format!(
            r#"{{"time":1000,"request_id":"{request_id}","organization_id":"{ORGANIZATION}","api_key_id":"{ORGANIZATION}",
            "endpoint":"/v1","method":"GET","status_code":200,"response_time_ms":1,"weight":{weight}}}"#
        )
    }

    fn polled(generation: u32, first_offset: i64, payloads: &[String]) -> PolledBatch {
        polled_of(3, generation, first_offset, payloads)
    }

    fn polled_of(
        partition: Partition,
        generation: u32,
        first_offset: i64,
        payloads: &[String],
    ) -> PolledBatch {
        let mut batch = PolledBatch::with_capacity(payloads.len());
        let end = first_offset + i64::try_from(payloads.len()).unwrap();
        batch.spans.push(OffsetSpan {
            partition,
            generation: Generation(generation),
            epoch: 1,
            start: first_offset,
            end,
        });
        for (offset, payload) in (first_offset..).zip(payloads) {
            batch.push(0, offset, Some(1_000), Some(b"key"), Some(payload.as_bytes()));
        }
        batch
    }

    #[test]
    fn every_message_becomes_a_row_a_duplicate_or_a_dead_letter() {
        let mut batch = WriteBatch::default();
        let payloads = [event("a", 1), event("b", 1), "{".to_owned(), event("a", 1), event("b", 2)];
        sieve().sift(polled(1, 40, &payloads), &mut batch, 2_000).unwrap();
        let outcome = batch.outcomes[0];
        assert_eq!(
            (outcome.messages, outcome.written, outcome.duplicates, outcome.dead_letters),
            (5, 2, 1, 2)
        );
        assert_eq!(batch.rows.len(), 2);
        let reasons: Vec<_> = batch.dead_letter_reasons().collect();
        assert_eq!(reasons, [RejectReason::InvalidJson, RejectReason::Conflict]);
        let (source, message) = batch.message(batch.dead_letters[0].source);
        assert_eq!(
            (message.offset, source.payload(message), source.key(message)),
            (42, Some(&b"{"[..]), Some(&b"key"[..]))
        );
    }

    #[test]
    fn a_dead_letter_moves_the_clock_as_any_message() {
        let (mut sieve, mut batch) = (sieve(), WriteBatch::default());
        for (offset, at_ms, payload) in [(0, 1_000, event("a", 1)), (1, 301_001, "{".to_owned())] {
            let mut polled = polled(1, offset, &[payload]);
            polled.messages[0].timestamp_ms = Some(at_ms);
            sieve.sift(polled, &mut batch, 400_000).unwrap();
        }
        // Whoever starts here reads from 1,001 ms on, and has never seen it.
        sieve.sift(polled(1, 2, &[event("a", 1)]), &mut batch, 400_000).unwrap();
        assert_eq!(batch.outcomes[2].written, 1);
    }

    #[test]
    fn a_new_assignment_starts_with_an_empty_window() {
        let (mut sieve, mut batch) = (sieve(), WriteBatch::default());
        sieve.sift(polled(1, 0, &[event("a", 1)]), &mut batch, 2_000).unwrap();
        sieve.sift(polled(1, 1, &[event("a", 1)]), &mut batch, 2_000).unwrap();
        sieve.sift(polled(2, 2, &[event("a", 1)]), &mut batch, 2_000).unwrap();
        let written: Vec<_> = batch.outcomes.iter().map(|outcome| outcome.written).collect();
        assert_eq!(written, [1, 0, 1]);
    }

    #[test]
    fn a_partition_that_fell_silent_makes_room_for_the_others() {
        let (mut sieve, mut batch) = (sieve(), WriteBatch::default());
        let events =
            |name: &str, count| -> Vec<_> { (0..count).map(|n| event(&format!("{name}-{n}"), 1)).collect() };
        // Of identities alone it holds fewer than the other will.
        let retried = [events("flood", 100), vec![event("again", 1); 1_400]].concat();
        sieve.sift(polled_of(3, 1, 0, &retried), &mut batch, 2_000).unwrap();
        sieve.sift(polled_of(4, 1, 0, &events("later", 400)), &mut batch, 2_000).unwrap();
        sieve.sift(polled_of(4, 1, 400, &events("later", 400)), &mut batch, 2_000).unwrap();
        assert_eq!((batch.outcomes[2].written, batch.outcomes[2].duplicates), (0, 400));
        assert_eq!(sieve.budget.record_count(), 1_000);
    }

    #[test]
    fn a_revoked_partition_gives_its_memory_back() {
        let (mut sieve, mut batch) = (sieve(), WriteBatch::default());
        sieve.sift(polled(1, 0, &[event("a", 1)]), &mut batch, 2_000).unwrap();
        assert_eq!(sieve.budget.record_count(), 1);
        let mut notice = PolledBatch::with_capacity(0);
        notice.revoked.push(3);
        sieve.sift(notice, &mut batch, 2_000).unwrap();
        assert_eq!(sieve.budget.record_count(), 0);
    }
}
