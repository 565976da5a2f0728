//! Offsets, spans of offsets and assignment generations: the vocabulary in which every stage
//! says how far it has come. Pure values; used by all threads.
//!
//! Spans are half-open, so no code has to compute a neighbour's offset: a span's `start` is the
//! previous span's `end`, and `end` is what gets committed.

use std::fmt;

/// A partition's number within the one topic that this process consumes.
pub type Partition = i32;

/// The offset of one message, or a place between two messages.
pub type Offset = i64;

/// Metadata of every offset that this program commits: the database has a ledger that reaches as far.
/// If it then knows nothing of the partition, it is not the database that it was.
pub const LEDGER_MARK: &str = "in the ledger";

/// How often a partition has been assigned to this process. Progress that was issued under an
/// older generation is ignored: the partition may have had another owner in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

/// Offsets `[start, end)` of one partition under one assignment.
///
/// Numbers that Kafka skipped (compaction, transaction markers) lie inside some span, so that the
/// spans of a generation tile the partition without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetSpan {
    /// The partition that the offsets belong to.
    pub partition: Partition,
    /// The assignment under which the span was issued.
    pub generation: Generation,
    /// The deliberate beginning of reading the partition that the assignment went on from. A span that
    /// comes late does not count for a newer one: the topic may have been made again in between.
    pub epoch: i32,
    /// The previous span's `end`, or where the assignment started.
    pub start: Offset,
    /// One past the last offset that is accounted for: the offset to commit.
    pub end: Offset,
}

impl OffsetSpan {
    /// Whether it holds no offset: there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for OffsetSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}, {})", self.partition, self.start, self.end)
    }
}
