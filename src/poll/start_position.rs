//! Where reading a partition starts. Pure; the database is asked through [`StartLedger`].
//!
//! The ledger decides: what is durable is in the database's own books, and Kafka's committed offset
//! is only what the group has said about it. A committed offset beyond the books means that the
//! database has lost commits, and everything since is read again. We resolve positions ourselves and
//! assign them explicitly, since librdkafka's own `auto.offset.reset` would skip over deleted events
//! without a word.

use crate::offsets::{Offset, Partition};
use crate::stage::BoxedError;

/// What to do for a partition without a committed offset (`KAFKA_AUTO_OFFSET_RESET`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// Read it from its beginning.
    Earliest,
    /// Read only what comes from now on, provided that the group has no offset at all: a partition
    /// that was added later is read from its beginning, or its first messages would be skipped.
    Latest,
}

/// How far a partition is durable, as the database has recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The partition.
    pub partition: Partition,
    /// Which deliberate beginning this counts from.
    pub epoch: i32,
    /// Where the gapless prefix of its spans ends: the next offset to read.
    pub end: Offset,
    /// The lowest offset that anything was ever written from; 0 if that was before there was a ledger.
    pub first: Offset,
}

/// Why reading begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeginReason {
    /// The group has never read the partition.
    FirstStart,
    /// The group had a committed offset from before there was a ledger.
    AdoptedCommittedOffset,
    /// Somebody wants it read again.
    Rewind,
    /// Events were deleted before they were read, and that was accepted.
    LossAccepted,
    /// The log ends before the next offset to read, and that was accepted.
    TopicRecreated,
}

impl BeginReason {
    /// As it is recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstStart => "first start",
            Self::AdoptedCommittedOffset => "adopted committed offset",
            Self::Rewind => "rewind",
            Self::LossAccepted => "loss accepted",
            Self::TopicRecreated => "topic recreated",
        }
    }
}

/// A deliberate beginning of reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The partition.
    pub partition: Partition,
    /// One more than the last one's; 1 for the first.
    pub epoch: i32,
    /// The first offset to read.
    pub start: Offset,
    /// Why.
    pub reason: BeginReason,
    /// Offsets below `start` that were never read and are gone.
    pub lost_offsets: i64,
}

/// Where progress is recorded. Both calls are repeated when they fail, and must bear it.
pub trait StartLedger: std::fmt::Debug + Send + Sync {
    /// How far partitions are durable; those that were never begun are left out.
    fn recorded(&self, partitions: &[Partition]) -> Result<Vec<Recorded>, BoxedError>;
    /// Records beginnings, and gives what holds then: another instance may have been first.
    fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<Recorded>, BoxedError>;
}

/// What is known about a partition at assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// The partition.
    pub partition: Partition,
    /// What the database has recorded.
    pub recorded: Option<Recorded>,
    /// The group's committed offset.
    pub committed: Option<Offset>,
    /// Whether that offset was committed behind a ledger ([`crate::offsets::LEDGER_MARK`]).
    pub is_marked: bool,
    /// The first offset that retention has left.
    pub low: Offset,
    /// One past the last readable offset.
    pub high: Offset,
}

/// How positions are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPolicy {
    /// For partitions without a committed offset.
    pub offset_reset: OffsetReset,
    /// Go on when events were deleted before they were read.
    pub accept_loss: bool,
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartPosition {
    /// The partition.
    pub partition: Partition,
    /// The deliberate beginning that it counts from.
    pub epoch: i32,
    /// The first offset to read.
    pub start: Offset,
    /// The lowest offset that may be history: what lies below was written by nobody, so that a retry
    /// of it is no duplicate.
    pub history_floor: Offset,
    /// One past the last readable offset at assignment.
    pub high: Offset,
}

/// Events that were never read are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventsLost {
    /// Retention was faster than we.
    #[error(
        "partition {partition}: {missed} offsets from {committed} to {low} were deleted by Kafka's retention \
         before they were read; restore them, or go on without them by --accept-loss (ACCEPT_LOSS=true) for one start"
    )]
    Deleted {
        /// The partition.
        partition: Partition,
        /// The next offset to read.
        committed: Offset,
        /// The first offset left.
        low: Offset,
        /// Offsets between the two.
        missed: i64,
    },
    /// The topic was deleted and made again, or a broker lost its log.
    #[error(
        "partition {partition}: the next offset to read, {committed}, lies beyond the end of the log, {high}: the topic \
         was recreated or has lost messages; read it from its beginning by --accept-loss (ACCEPT_LOSS=true) for one start"
    )]
    Truncated {
        /// The partition.
        partition: Partition,
        /// The next offset to read.
        committed: Offset,
        /// The end of the log.
        high: Offset,
    },
}

impl StartPolicy {
    /// Chooses a partition's start, and the beginning to record if it is a new one.
    /// `group_has_offsets`: whether the group has a committed offset in any partition of the topic.
    pub fn resolve(
        self,
        state: PartitionState,
        group_has_offsets: bool,
    ) -> Result<(StartPosition, Option<Beginning>), EventsLost> {
        let PartitionState { partition, recorded, committed, is_marked, low, high } = state;
        let next = recorded.map(|recorded| recorded.end).or(committed);
        let (start, reason, lost_offsets) = match next {
            Some(next) if next < low => {
                let missed = low - next;
                self.accept(EventsLost::Deleted { partition, committed: next, low, missed })?;
                (low, Some(BeginReason::LossAccepted), missed)
            }
            Some(next) if next > high => {
                self.accept(EventsLost::Truncated { partition, committed: next, high })?;
                (low, Some(BeginReason::TopicRecreated), 0)
            }
            Some(next) if recorded.is_some() => {
                warn_of_lost_commits(partition, next, committed);
                (next, None, 0)
            }
            Some(next) if is_marked => {
                log::error!(
                    partition, offset = next;
                    "partition {partition}: the group has committed offset {next} behind a ledger, and this database's \
                     ledger knows nothing of it (another database, or a backup from before the first start); reading \
                     all {} offsets that Kafka has below it again",
                    next - low
                );
                (low, Some(BeginReason::FirstStart), 0)
            }
            Some(next) => (next, Some(BeginReason::AdoptedCommittedOffset), 0),
            None => {
                let start = match self.offset_reset {
                    OffsetReset::Latest if !group_has_offsets => high,
                    OffsetReset::Latest | OffsetReset::Earliest => low,
                };
                (start, Some(BeginReason::FirstStart), 0)
            }
        };
        let last_epoch = recorded.map_or(0, |recorded| recorded.epoch);
        let epoch = last_epoch + i32::from(reason.is_some());
        let history_floor = match recorded {
            Some(recorded) => recorded.first.min(start),
            None if reason == Some(BeginReason::AdoptedCommittedOffset) => 0,
            None => start,
        };
        let beginning = reason.map(|reason| Beginning { partition, epoch, start, reason, lost_offsets });
        Ok((StartPosition { partition, epoch, start, history_floor, high }, beginning))
    }

    fn accept(self, lost: EventsLost) -> Result<(), EventsLost> {
        if !self.accept_loss {
            return Err(lost);
        }
        log::error!("{lost}: accepted");
        Ok(())
    }
}

/// Offsets are committed only behind the database's COMMIT, so a commit beyond the books means that
/// the database has forgotten some.
fn warn_of_lost_commits(partition: Partition, recorded_end: Offset, committed: Option<Offset>) {
    if let Some(committed) = committed.filter(|committed| *committed > recorded_end) {
        log::error!(
            partition, offset = recorded_end;
            "partition {partition}: the database has lost commits: the group has committed offset {committed}, but \
             the ledger ends at {recorded_end} (a restored backup, or a standby that was behind); reading these {} \
             offsets again",
            committed - recorded_end
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(offset_reset: OffsetReset, committed: Option<Offset>, group_has_offsets: bool) -> Offset {
        let state =
            PartitionState { partition: 0, recorded: None, committed, is_marked: false, low: 10, high: 90 };
        StartPolicy { offset_reset, accept_loss: false }.resolve(state, group_has_offsets).unwrap().0.start
    }

    #[test]
    fn the_committed_offset_decides() {
        for committed in [10, 50, 90] {
            assert_eq!(start(OffsetReset::Latest, Some(committed), true), committed);
        }
    }

    #[test]
    fn latest_applies_only_to_a_group_without_any_offset() {
        assert_eq!(start(OffsetReset::Earliest, None, false), 10);
        assert_eq!(start(OffsetReset::Latest, None, false), 90);
        assert_eq!(start(OffsetReset::Latest, None, true), 10);
    }

    #[test]
    fn history_begins_where_writing_began() {
        let floor = |committed, recorded| {
            let state =
                PartitionState { partition: 0, recorded, committed, is_marked: false, low: 10, high: 90 };
            let policy = StartPolicy { offset_reset: OffsetReset::Latest, accept_loss: true };
            policy.resolve(state, committed.is_some()).unwrap().0.history_floor
        };
        assert_eq!(floor(None, None), 90, "nobody wrote what lies before a first start");
        assert_eq!(floor(Some(50), None), 0, "another program did");
        assert_eq!(floor(None, Some(Recorded { partition: 0, epoch: 1, end: 60, first: 40 })), 40);
        assert_eq!(
            floor(None, Some(Recorded { partition: 0, epoch: 1, end: 99, first: 40 })),
            10,
            "read again"
        );
    }

    #[test]
    fn deleted_events_stop_us_unless_the_loss_is_accepted() {
        let policy = StartPolicy { offset_reset: OffsetReset::Earliest, accept_loss: false };
        let deleted = PartitionState {
            partition: 3,
            recorded: None,
            committed: Some(4),
            is_marked: false,
            low: 10,
            high: 90,
        };
        assert!(matches!(policy.resolve(deleted, true), Err(EventsLost::Deleted { missed: 6, .. })));
        let recreated = PartitionState { committed: Some(91), ..deleted };
        assert!(matches!(policy.resolve(recreated, true), Err(EventsLost::Truncated { .. })));
        let accepting = StartPolicy { accept_loss: true, ..policy };
        assert_eq!(accepting.resolve(deleted, true).unwrap().0.start, 10);
        assert_eq!(accepting.resolve(recreated, true).unwrap().0.start, 10);
    }

    #[test]
    fn the_ledger_decides_whatever_kafka_says() {
        let policy = StartPolicy { offset_reset: OffsetReset::Latest, accept_loss: false };
        let recorded = Some(Recorded { partition: 0, epoch: 4, end: 50, first: 7 });
        for committed in [None, Some(20), Some(50), Some(80)] {
            let state =
                PartitionState { partition: 0, recorded, committed, is_marked: false, low: 10, high: 90 };
            let (position, beginning) = policy.resolve(state, true).unwrap();
            assert_eq!((position.start, beginning), (50, None), "{committed:?}");
            assert_eq!((position.epoch, position.history_floor), (4, 7));
        }
    }

    #[test]
    fn an_offset_that_was_committed_behind_a_ledger_counts_for_nothing_without_it() {
        let policy = StartPolicy { offset_reset: OffsetReset::Latest, accept_loss: false };
        let state = PartitionState {
            partition: 0,
            recorded: None,
            committed: Some(50),
            is_marked: true,
            low: 10,
            high: 90,
        };
        assert_eq!(policy.resolve(state, true).unwrap().0.start, 10);
    }

    #[test]
    fn every_beginning_says_why() {
        let policy = StartPolicy { offset_reset: OffsetReset::Earliest, accept_loss: true };
        let recorded = |end| Some(Recorded { partition: 0, epoch: 4, end, first: 7 });
        for (recorded, committed, expected) in [
            (None, None, (1, 10, BeginReason::FirstStart, 0)),
            (None, Some(30), (1, 30, BeginReason::AdoptedCommittedOffset, 0)),
            (recorded(4), Some(30), (5, 10, BeginReason::LossAccepted, 6)),
            (recorded(91), Some(30), (5, 10, BeginReason::TopicRecreated, 0)),
        ] {
            let state =
                PartitionState { partition: 0, recorded, committed, is_marked: false, low: 10, high: 90 };
            let Beginning { epoch, start, reason, lost_offsets, .. } =
                policy.resolve(state, true).unwrap().1.unwrap();
            assert_eq!((epoch, start, reason, lost_offsets), expected);
        }
    }
}
