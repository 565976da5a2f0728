//! The accounts of one batch: from what became of each row to what became of each span, of each day,
//! and which rows are dead letters. Pure; runs on the writer threads.
//!
//! Whatever happens to a row, its message is counted once: written, there already (redelivered), or
//! a dead letter. A dead letter that was stored before counts as redelivered.

use std::collections::HashSet;

use crate::clock;
use crate::messages::{DeadLetter, LetterCount, SpanOutcome, WriteBatch};
use crate::offsets::{Offset, Partition};
use crate::status::LastDeadLetter;
use crate::usage_event::{RejectReason, Rejection};

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Inserted.
    Written,
    /// The same row was there already.
    Present,
    /// A row with the same identity and time was there already, and says something else.
    Conflict,
    /// Older than what is retained; not tried.
    Expired,
    /// The database takes no such row; what it said.
    Refused(String),
}

/// What a batch's transaction did, or will have done when it commits.
#[derive(Debug, Default)]
pub struct Settlement {
    /// Each span's outcome, in the batch's order.
    pub outcomes: Vec<SpanOutcome>,
    /// Rows that became dead letters.
    pub refused: Vec<DeadLetter>,
    /// Dead letters that were stored, by span and reason.
    pub letter_counts: Vec<LetterCount>,
    /// The last few of them, oldest first.
    pub last_letters: Vec<LastDeadLetter>,
    /// Rows inserted by UTC day of their event: days since 1970, ascending, and their rows.
    pub written_by_day: Vec<(i32, i64)>,
}

/// More are not shown.
const LAST_LETTERS_MAX: usize = 10;

/// Events are counted by UTC day, and the portable profile keeps each in a partition.
const DAY_MICROS: i64 = 86_400_000_000;

/// The UTC day of an event, since 1970. An event's time is validated to four-digit years.
pub fn day_of(time_micros: i64) -> i32 {
    i32::try_from(time_micros.div_euclid(DAY_MICROS)).unwrap_or(i32::MAX)
}

impl Settlement {
    /// Settles `batch`, of which the decoder has counted every row as written. `fates` are by row.
    pub fn new(batch: &WriteBatch, fates: &[Fate]) -> Self {
        let mut settlement = Self { outcomes: batch.outcomes.clone(), ..Self::default() };
        for (row, fate) in batch.rows.iter().zip(fates) {
            let outcome = &mut settlement.outcomes[row.outcome_idx as usize];
            let rejection = match fate {
                Fate::Written => {
                    settlement.count_written(day_of(row.time_micros));
                    continue;
                }
                Fate::Present => {
                    outcome.written -= 1;
                    outcome.database_duplicates += 1;
                    continue;
                }
                Fate::Conflict => Rejection::new(
                    RejectReason::Conflict,
                    "an earlier event has the same organization_id, time and request_id, but another \
                     api key, endpoint, method, billable or weight",
                ),
                Fate::Expired => Rejection::new(
                    RejectReason::Expired,
                    "its day is no longer retained: what it added up to is final, and its rows are dropped",
                ),
                Fate::Refused(said) => Rejection::new(RejectReason::DatabaseRejected, said.clone()),
            };
            outcome.written -= 1;
            outcome.dead_letters += 1;
            settlement.refused.push(DeadLetter { source: row.source, rejection });
        }
        settlement.written_by_day.sort_unstable();
        settlement
    }

    /// A batch has few days, mostly one, and its rows come in runs of one day.
    fn count_written(&mut self, day: i32) {
        match self.written_by_day.iter_mut().rev().find(|(counted, _)| *counted == day) {
            Some((_, written)) => *written += 1,
            None => self.written_by_day.push((day, 1)),
        }
    }

    /// All of the batch's dead letters: the decoder's and those that were rows.
    pub fn letters<'a>(&'a self, batch: &'a WriteBatch) -> impl Iterator<Item = &'a DeadLetter> {
        batch.dead_letters.iter().chain(&self.refused)
    }

    /// Rows that the database takes not even by themselves.
    pub fn refused_by_database(&self) -> usize {
        let refused = |letter: &&DeadLetter| letter.rejection.reason == RejectReason::DatabaseRejected;
        self.refused.iter().filter(refused).count()
    }

    /// Counts every dead letter that is not among the `inserted` ones as redelivered, and those that are by reason.
    pub fn discount_stored(&mut self, batch: &WriteBatch, mut inserted: HashSet<(Partition, Offset)>) {
        let mut first_outcome_idx = Vec::with_capacity(batch.polled.len());
        let mut outcome_count = 0;
        for polled in &batch.polled {
            first_outcome_idx.push(outcome_count);
            outcome_count += polled.spans.len();
        }
        let mut stored = Vec::with_capacity(inserted.len());
        for letter in batch.dead_letters.iter().chain(&self.refused) {
            let (polled, message) = batch.message(letter.source);
            let span_idx = message.span_idx as usize;
            let outcome_idx = first_outcome_idx[letter.source.batch_idx as usize] + span_idx;
            let place = (polled.spans[span_idx].partition, message.offset);
            // Removed, since a message may be in the batch twice: stored once, it counts once.
            if inserted.remove(&place) {
                count_letter(&mut self.letter_counts, outcome_idx, letter.rejection.reason);
                stored.push((letter, place));
            } else {
                let outcome = &mut self.outcomes[outcome_idx];
                outcome.dead_letters -= 1;
                outcome.database_duplicates += 1;
            }
        }
        let at_ms = clock::now_ms();
        let last = stored.iter().skip(stored.len().saturating_sub(LAST_LETTERS_MAX));
        self.last_letters = last
            .map(|(letter, (partition, offset))| LastDeadLetter {
                at_ms,
                partition: *partition,
                offset: *offset,
                reason: letter.rejection.reason.as_str().to_owned(),
                detail: letter.rejection.detail.to_string(),
            })
            .collect();
    }
}

/// A batch has few reasons, and its letters come in runs of one span.
fn count_letter(counts: &mut Vec<LetterCount>, outcome_idx: usize, reason: RejectReason) {
    let outcome_idx = u32::try_from(outcome_idx).unwrap_or(u32::MAX);
    let is_its = |count: &&mut LetterCount| (count.outcome_idx, count.reason) == (outcome_idx, reason);
    match counts.iter_mut().rev().find(is_its) {
        Some(count) => count.count += 1,
        None => counts.push(LetterCount { outcome_idx, reason, count: 1 }),
    }
}
