//! Where reading a partition starts. Pure.
//!
//! We resolve positions ourselves and assign them explicitly, since librdkafka's own
//! `auto.offset.reset` would skip over deleted events without a word.

use crate::offsets::{Offset, Partition};

/// What to do for a partition without a committed offset (`KAFKA_AUTO_OFFSET_RESET`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// Read it from its beginning.
    Earliest,
    /// Read only what comes from now on, provided that the group has no offset at all: a partition
    /// that was added later is read from its beginning, or its first messages would be skipped.
    Latest,
}

/// What Kafka knows about a partition at assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionState {
    /// The partition.
    pub partition: Partition,
    /// The group's committed offset.
    pub committed: Option<Offset>,
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
    /// The first offset to read.
    pub start: Offset,
    /// One past the last readable offset at assignment.
    pub high: Offset,
}

/// Events that were never read are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventsLost {
    /// Retention was faster than we.
    #[error(
        "partition {partition}: {missed} offsets from {committed} to {low} were deleted by Kafka's retention \
         before they were read; restore them or go on without them by --accept-loss"
    )]
    Deleted {
        /// The partition.
        partition: Partition,
        /// The group's committed offset.
        committed: Offset,
        /// The first offset left.
        low: Offset,
        /// Offsets between the two.
        missed: i64,
    },
    /// The topic was deleted and made again, or a broker lost its log.
    #[error(
        "partition {partition}: the committed offset {committed} lies beyond the end of the log, {high}: the topic \
         was recreated or has lost messages; read it from its beginning by --accept-loss"
    )]
    Truncated {
        /// The partition.
        partition: Partition,
        /// The group's committed offset.
        committed: Offset,
        /// The end of the log.
        high: Offset,
    },
}

impl StartPolicy {
    /// Chooses a partition's start. `group_has_offsets`: whether the group has a committed offset
    /// in any partition of the topic.
    pub fn resolve(
        self,
        state: PartitionState,
        group_has_offsets: bool,
    ) -> Result<StartPosition, EventsLost> {
        let PartitionState { partition, committed, low, high } = state;
        let lost = match committed {
            Some(committed) if committed < low => {
                Some(EventsLost::Deleted { partition, committed, low, missed: low - committed })
            }
            Some(committed) if committed > high => Some(EventsLost::Truncated { partition, committed, high }),
            _ => None,
        };
        let start = match (lost, committed) {
            (Some(lost), _) if self.accept_loss => {
                log::error!("{lost}: accepted");
                low
            }
            (Some(lost), _) => return Err(lost),
            (None, Some(committed)) => committed,
            (None, None) => match self.offset_reset {
                OffsetReset::Latest if !group_has_offsets => high,
                OffsetReset::Latest | OffsetReset::Earliest => low,
            },
        };
        Ok(StartPosition { partition, start, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(offset_reset: OffsetReset, committed: Option<Offset>, group_has_offsets: bool) -> Offset {
        let state = PartitionState { partition: 0, committed, low: 10, high: 90 };
        StartPolicy { offset_reset, accept_loss: false }.resolve(state, group_has_offsets).unwrap().start
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
    fn deleted_events_stop_us_unless_the_loss_is_accepted() {
        let policy = StartPolicy { offset_reset: OffsetReset::Earliest, accept_loss: false };
        let deleted = PartitionState { partition: 3, committed: Some(4), low: 10, high: 90 };
        assert!(matches!(policy.resolve(deleted, true), Err(EventsLost::Deleted { missed: 6, .. })));
        let recreated = PartitionState { committed: Some(91), ..deleted };
        assert!(matches!(policy.resolve(recreated, true), Err(EventsLost::Truncated { .. })));
        let accepting = StartPolicy { accept_loss: true, ..policy };
        assert_eq!(accepting.resolve(deleted, true).unwrap().start, 10);
        assert_eq!(accepting.resolve(recreated, true).unwrap().start, 10);
    }
}
