//! How long Kafka has confirmed no commit of a partition. An asynchronous commit that is refused, for a right that the
//! group's principal lacks, say, is told to nobody, and repeated for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::offsets::{Offset, Partition};

/// Longer than a broker's restart should take, and than a rebalance may: while its callback waits for the database, up to two
/// minutes and the drain, nothing is heard of what was confirmed.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Partitions with a watermark that Kafka has not confirmed: what it had confirmed when that was first seen, and when.
#[derive(Debug, Default)]
pub(super) struct Confirmations {
    waiting: HashMap<Partition, (Option<Offset>, Instant)>,
}

impl Confirmations {
    /// The partitions, ascending, of which nothing was confirmed for [`PATIENCE`]. `unconfirmed`: all partitions that
    /// Kafka is behind in, with the offset it has.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        unconfirmed: impl IntoIterator<Item = (Partition, Option<Offset>)>,
    ) -> Vec<Partition> {
        let before = std::mem::take(&mut self.waiting);
        for (partition, confirmed) in unconfirmed {
            let known = before.get(&partition).copied().filter(|(at_first, _)| *at_first == confirmed);
            self.waiting.insert(partition, known.unwrap_or((confirmed, now)));
        }
        let is_overdue = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let mut overdue: Vec<_> =
            self.waiting.iter().filter(|(_, (_, since))| is_overdue(*since)).map(|(p, _)| *p).collect();
        overdue.sort_unstable();
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_or_is_confirmed_is_not_overdue() {
        let mut confirmations = Confirmations::default();
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        assert!(confirmations.overdue(at(0), [(0, None), (1, Some(5)), (2, Some(7))]).is_empty());
        assert!(confirmations.overdue(at(150), [(0, None), (1, Some(6)), (2, Some(7))]).is_empty());
        assert_eq!(confirmations.overdue(at(300), [(0, None), (1, Some(6)), (2, Some(7))]), [0, 2]);
        // Partition 0 was confirmed meanwhile, and falls behind anew.
        assert_eq!(confirmations.overdue(at(301), [(1, Some(6)), (2, Some(7))]), [2]);
        assert_eq!(confirmations.overdue(at(451), [(0, None), (1, Some(6)), (2, Some(7))]), [1, 2]);
        assert!(confirmations.overdue(at(452), []).is_empty());
    }
}
