//! What page and terminal both conclude from a status, so that they cannot differ. Pure.

use super::{LatencyPoint, PartitionStatus, Status, Totals};
use crate::latency::Percentiles;

/// A point is ten seconds; one that is older than two of them is no longer "now".
const NOW_MS: i64 = 20_000;

type Percentile = (&'static str, fn(&Percentiles) -> u64);

/// What is told of latency: name, and value in microseconds.
pub(super) const PERCENTILES: [Percentile; 3] =
    [("p50", |of| of.p50_micros), ("p99", |of| of.p99_micros), ("p99.9", |of| of.p999_micros)];

/// A part of all messages read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The field's name in `Totals`.
    pub(super) id: &'static str,
    /// What became of them.
    pub(super) label: &'static str,
    /// How many.
    pub(super) count: u64,
}

impl Totals {
    /// What became of all messages: `messages` is their sum.
    pub(super) fn shares(&self) -> [Share; 6] {
        [
            Share { id: "written", label: "written as rows", count: self.written },
            Share { id: "memory_duplicates", label: "duplicates, by memory", count: self.memory_duplicates },
            Share {
                id: "database_duplicates",
                label: "duplicates, by the database",
                count: self.database_duplicates,
            },
            Share { id: "dead_letters", label: "dead letters", count: self.dead_letters },
            Share { id: "returned", label: "returned with their partition", count: self.returned },
            Share { id: "in_flight", label: "in flight", count: self.in_flight },
        ]
    }

    /// The sum of the shares.
    pub(super) fn accounted(&self) -> u64 {
        self.shares().iter().fold(0, |sum, share| sum.saturating_add(share.count))
    }

    /// Both kinds.
    pub(super) fn duplicates(&self) -> u64 {
        self.memory_duplicates.saturating_add(self.database_duplicates)
    }
}

impl Status {
    /// Whether nobody needs to look.
    pub fn is_well(&self) -> bool {
        self.alive.is_ok && self.ready.is_ok
    }

    /// The verdicts in a few words.
    pub(super) fn verdict(&self) -> &'static str {
        match (self.alive.is_ok, self.ready.is_ok) {
            (true, true) => "alive and ready",
            (true, false) => "alive, not ready",
            (false, true) => "stuck",
            (false, false) => "stuck, and not ready",
        }
    }

    /// Of all assigned partitions.
    pub(super) fn lag(&self) -> u64 {
        self.partitions.iter().fold(0, |sum, partition| sum.saturating_add(partition.lag))
    }

    /// Of the last ten seconds, if anything became durable in them.
    pub(super) fn latency_now(&self) -> Option<Percentiles> {
        let is_now = |point: &&LatencyPoint| self.now_ms.saturating_sub(point.at_ms) <= NOW_MS;
        let last = self.latency.last().filter(is_now)?.percentiles;
        (last.count > 0).then_some(last)
    }

    /// At most `max` partitions, by number: all, or those with the most lag; and how many are left out.
    pub(super) fn partitions_shown(&self, max: usize) -> (Vec<PartitionStatus>, usize) {
        let mut shown = self.partitions.clone();
        let left_out = shown.len().saturating_sub(max);
        if left_out > 0 {
            shown.sort_by_key(|partition| (std::cmp::Reverse(partition.lag), partition.partition));
            shown.truncate(max);
        }
        shown.sort_by_key(|partition| partition.partition);
        (shown, left_out)
    }
}

#[cfg(test)]
mod tests {
    use crate::status::samples;

    #[test]
    fn the_partitions_furthest_behind_are_shown() {
        let mut status = samples::loaded();
        let (all, none) = status.partitions_shown(16);
        assert_eq!((all, none), (status.partitions.clone(), 0));
        status.partitions[7].lag = 1_000_000;
        status.partitions[3].lag = 2_000_000;
        let (shown, left_out) = status.partitions_shown(2);
        assert_eq!((shown.iter().map(|of| of.partition).collect::<Vec<_>>(), left_out), (vec![3, 7], 14));
    }

    #[test]
    fn a_latency_of_long_ago_is_not_now() {
        let mut status = samples::loaded();
        assert!(status.latency_now().is_some());
        status.now_ms += 60_000;
        assert_eq!(status.latency_now(), None);
        assert_eq!(samples::idle().latency_now(), None);
    }

    #[test]
    fn every_sample_adds_up() {
        for status in samples::all() {
            assert_eq!(status.1.totals.accounted(), status.1.totals.messages, "{}", status.0);
        }
    }
}
