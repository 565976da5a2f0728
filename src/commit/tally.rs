//! The books: every message that was issued is written, a duplicate, a dead letter, returned, or
//! in flight, at any moment. Kept by the committer, which alone sees both ends; read as one
//! snapshot by whoever reports.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::messages::{LetterCount, SpanOutcome};
use crate::offsets::{Offset, Partition};
use crate::status::PartitionStatus;
use crate::usage_event::RejectReason;

/// Messages since the process started, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Handed on by the poller.
    pub messages: u64,
    /// Inserted as rows.
    pub written: u64,
    /// Dropped by the dedup window.
    pub duplicates: u64,
    /// In the database already.
    pub database_duplicates: u64,
    /// Stored as dead letters.
    pub dead_letters: u64,
    /// The same by reason, in the order of [`RejectReason::ALL`].
    pub by_reason: [u64; RejectReason::ALL.len()],
    /// Not durable when their partition was taken away; the next owner reads them again.
    pub returned: u64,
    /// Spans that completed after their partition had been taken away: not counted above.
    pub late_spans: u64,
    /// High-water marks minus watermarks, summed over the assigned partitions.
    pub lag: u64,
}

impl Tally {
    /// Issued and not yet accounted for.
    pub fn in_flight(&self) -> u64 {
        self.messages
            - self.written
            - self.duplicates
            - self.database_duplicates
            - self.dead_letters
            - self.returned
    }

    /// Duplicates, whoever found them.
    pub fn all_duplicates(&self) -> u64 {
        self.duplicates + self.database_duplicates
    }

    /// Counts a durable span.
    pub fn complete(&mut self, outcome: &SpanOutcome) {
        debug_assert_eq!(
            outcome.messages,
            outcome.written + outcome.duplicates + outcome.database_duplicates + outcome.dead_letters
        );
        self.written += outcome.written;
        self.duplicates += outcome.duplicates;
        self.database_duplicates += outcome.database_duplicates;
        self.dead_letters += outcome.dead_letters;
    }

    /// Counts dead letters of a durable span, which are among its outcome's.
    pub fn count_letters(&mut self, letters: &LetterCount) {
        self.by_reason[letters.reason as usize] += letters.count;
    }

    /// What has come since an earlier one; the lag is what it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            written: self.written - earlier.written,
            duplicates: self.duplicates - earlier.duplicates,
            database_duplicates: self.database_duplicates - earlier.database_duplicates,
            dead_letters: self.dead_letters - earlier.dead_letters,
            by_reason: std::array::from_fn(|reason| self.by_reason[reason] - earlier.by_reason[reason]),
            returned: self.returned - earlier.returned,
            late_spans: self.late_spans - earlier.late_spans,
            lag: self.lag,
        }
    }
}

/// The committer's latest books, for readers on other threads.
#[derive(Debug, Clone, Default)]
pub struct TallyBoard(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    tally: Tally,
    /// The assigned ones, by number.
    partitions: Vec<PartitionStatus>,
    /// Beside each, since when its watermark has stood where it is, while something of it is in flight.
    standing_since: Vec<Option<Instant>>,
}

impl TallyBoard {
    /// Replaces the snapshot: books and partitions of the same moment, each with whether something of it is in flight.
    pub fn publish(&self, tally: Tally, partitions: impl Iterator<Item = (PartitionStatus, bool)>) {
        let now = Instant::now();
        let mut partitions: Vec<_> = partitions.collect();
        partitions.sort_unstable_by_key(|(status, _)| status.partition);
        let mut books = self.0.lock();
        let standing_since = partitions.iter().map(|(status, is_in_flight)| {
            is_in_flight.then(|| books.standing_since_of(status).unwrap_or(now))
        });
        let standing_since = standing_since.collect();
        *books = Books {
            tally,
            partitions: partitions.into_iter().map(|(status, _)| status).collect(),
            standing_since,
        };
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Tally {
        self.0.lock().tally
    }

    /// The assigned partitions, by number.
    pub fn partitions(&self) -> Vec<PartitionStatus> {
        self.0.lock().partitions.clone()
    }

    /// How many partitions are assigned.
    pub fn partition_count(&self) -> usize {
        self.0.lock().partitions.len()
    }

    /// The watermarks of the assigned partitions.
    pub fn watermarks(&self) -> Vec<(Partition, Offset)> {
        self.0.lock().partitions.iter().map(|status| (status.partition, status.watermark)).collect()
    }

    /// How long the watermark has stood still that has done so for longest, of partitions with messages in flight.
    pub fn stuck_for(&self) -> Option<Duration> {
        self.0.lock().standing_since.iter().flatten().min().map(Instant::elapsed)
    }
}

impl Books {
    /// Since when this watermark has been where it is, if it is where it was.
    fn standing_since_of(&self, now: &PartitionStatus) -> Option<Instant> {
        let idx = self.partitions.binary_search_by_key(&now.partition, |status| status.partition).ok()?;
        (self.partitions[idx].watermark == now.watermark).then_some(self.standing_since[idx]).flatten()
    }
}
