//! The books: every message that was issued is written, a duplicate, a dead letter, returned, or
//! in flight, at any moment. Kept by the committer, which alone sees both ends; read as one
//! snapshot by whoever reports.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::messages::SpanOutcome;
use crate::offsets::{Offset, Partition};

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
}

/// The committer's latest books, for readers on other threads.
#[derive(Debug, Clone, Default)]
pub struct TallyBoard {
    tally: Arc<Mutex<Tally>>,
    watermarks: Arc<Mutex<Vec<(Partition, Offset)>>>,
}

impl TallyBoard {
    /// Replaces the snapshot.
    pub fn publish(&self, tally: Tally) {
        *self.tally.lock() = tally;
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Tally {
        *self.tally.lock()
    }

    /// Replaces the watermarks.
    pub fn publish_watermarks(&self, watermarks: Vec<(Partition, Offset)>) {
        *self.watermarks.lock() = watermarks;
    }

    /// The watermarks of the assigned partitions, as of about a second ago.
    pub fn watermarks(&self) -> Vec<(Partition, Offset)> {
        self.watermarks.lock().clone()
    }
}
