//! Watermarks: per partition, the end of the longest run of completed spans from where the
//! assignment started. Pure; owned by the committer thread.

use std::collections::{HashMap, VecDeque};

use crate::messages::{IssuedSpan, SpanOutcome};
use crate::offsets::{Generation, Offset, OffsetSpan, Partition};

/// What was issued and what has completed, of every assigned partition.
#[derive(Debug, Default)]
pub struct Watermarks {
    partitions: HashMap<Partition, AssignedPartition>,
}

#[derive(Debug)]
struct AssignedPartition {
    generation: Generation,
    watermark: Offset,
    /// Issued and not yet passed by the watermark, in order.
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    issued: IssuedSpan,
    is_durable: bool,
}

/// A span that breaks the tiling of its partition: a bug, which must stop the process before it
/// commits anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("span {span} was issued where {expected} was the next offset")]
pub struct BrokenTiling {
    span: OffsetSpan,
    expected: Offset,
}

impl Watermarks {
    /// A partition was assigned and will be read from `start`. Whatever was in flight under an
    /// older generation is forgotten.
    pub fn assign(&mut self, partition: Partition, generation: Generation, start: Offset) {
        let assigned = AssignedPartition { generation, watermark: start, in_flight: VecDeque::new() };
        self.partitions.insert(partition, assigned);
    }

    /// A span was handed on. Spans of a partition come in order and without gaps.
    ///
    /// Returns whether the span counts: one of a partition that is gone does not.
    pub fn issue(&mut self, issued: IssuedSpan) -> Result<bool, BrokenTiling> {
        let Some(partition) = self.current(&issued.span) else { return Ok(false) };
        let expected = partition.in_flight.back().map_or(partition.watermark, |last| last.issued.span.end);
        if issued.span.start != expected || issued.span.end <= issued.span.start {
            return Err(BrokenTiling { span: issued.span, expected });
        }
        partition.in_flight.push_back(InFlight { issued, is_durable: false });
        Ok(true)
    }

    /// A span is durable; the watermark moves past it once everything before it is.
    ///
    /// Returns whether the span counts: a late one of an older generation, or one that was
    /// reported before, does not.
    pub fn complete(&mut self, outcome: &SpanOutcome) -> bool {
        let Some(partition) = self.current(&outcome.span) else { return false };
        let found = partition
            .in_flight
            .binary_search_by_key(&outcome.span.start, |in_flight| in_flight.issued.span.start);
        let Some(in_flight) = found.ok().and_then(|idx| partition.in_flight.get_mut(idx)) else {
            return false;
        };
        if std::mem::replace(&mut in_flight.is_durable, true) {
            return false;
        }
        while partition.in_flight.front().is_some_and(|first| first.is_durable) {
            if let Some(first) = partition.in_flight.pop_front() {
                partition.watermark = first.issued.span.end;
            }
        }
        true
    }

    /// Forgets a partition; gives the number of its messages that were issued and are not durable.
    pub fn forget(&mut self, partition: Partition) -> u64 {
        self.partitions.remove(&partition).map_or(0, |assigned| {
            let lost = assigned.in_flight.iter().filter(|in_flight| !in_flight.is_durable);
            lost.map(|in_flight| in_flight.issued.messages).sum()
        })
    }

    /// Whether everything issued of these partitions is durable.
    pub fn are_drained(&self, partitions: &[Partition]) -> bool {
        partitions
            .iter()
            .filter_map(|partition| self.partitions.get(partition))
            .all(|p| p.in_flight.is_empty())
    }

    /// The next offset that is safe to commit, if the partition is assigned.
    pub fn watermark(&self, partition: Partition) -> Option<Offset> {
        self.partitions.get(&partition).map(|assigned| assigned.watermark)
    }

    /// All watermarks.
    pub fn iter(&self) -> impl Iterator<Item = (Partition, Offset)> + Clone + '_ {
        self.partitions.iter().map(|(partition, assigned)| (*partition, assigned.watermark))
    }

    fn current(&mut self, span: &OffsetSpan) -> Option<&mut AssignedPartition> {
        self.partitions.get_mut(&span.partition).filter(|assigned| assigned.generation == span.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn span(generation: u32, start: Offset, end: Offset) -> OffsetSpan {
        OffsetSpan { partition: 0, generation: Generation(generation), epoch: 1, start, end }
    }

    fn issue(watermarks: &mut Watermarks, span: OffsetSpan) -> bool {
        watermarks.issue(IssuedSpan { span, messages: 1 }).unwrap()
    }

    fn complete(watermarks: &mut Watermarks, span: OffsetSpan) -> bool {
        watermarks.complete(&SpanOutcome::new(span))
    }

    #[test]
    fn the_watermark_waits_for_the_earliest_span() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0, Generation(1), 10);
        for (start, end) in [(10, 12), (12, 20), (20, 21)] {
            assert!(issue(&mut watermarks, span(1, start, end)));
        }
        assert!(complete(&mut watermarks, span(1, 12, 20)));
        assert_eq!(watermarks.watermark(0), Some(10));
        assert!(complete(&mut watermarks, span(1, 10, 12)));
        assert_eq!(watermarks.watermark(0), Some(20));
        assert!(!watermarks.are_drained(&[0]));
        assert!(complete(&mut watermarks, span(1, 20, 21)));
        assert_eq!(watermarks.watermark(0), Some(21));
        assert!(watermarks.are_drained(&[0, 7]));
    }

    #[test]
    fn a_late_completion_of_an_older_generation_moves_nothing() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0, Generation(1), 0);
        assert!(issue(&mut watermarks, span(1, 0, 5)));
        assert_eq!(watermarks.forget(0), 1);
        assert!(!complete(&mut watermarks, span(1, 0, 5)));
        watermarks.assign(0, Generation(2), 0);
        assert!(issue(&mut watermarks, span(2, 0, 5)));
        assert!(!complete(&mut watermarks, span(1, 0, 5)));
        assert_eq!(watermarks.watermark(0), Some(0));
    }

    #[test]
    fn a_gap_between_spans_is_refused() {
        let mut watermarks = Watermarks::default();
        watermarks.assign(0, Generation(1), 0);
        let error = watermarks.issue(IssuedSpan { span: span(1, 1, 2), messages: 1 }).unwrap_err();
        assert_eq!(error.to_string(), "span 0[1, 2) was issued where 0 was the next offset");
        assert!(watermarks.issue(IssuedSpan { span: span(1, 0, 0), messages: 0 }).is_err());
    }

    /// Watermarks said naively: a set of durable offsets.
    #[derive(Debug, Default)]
    struct Model {
        start: Offset,
        issued: Vec<(OffsetSpan, bool)>,
    }

    impl Model {
        fn watermark(&self) -> Offset {
            self.issued
                .iter()
                .take_while(|(_, durable)| *durable)
                .last()
                .map_or(self.start, |(span, _)| span.end)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Assign { start: Offset },
        Issue { len: i64 },
        Complete { pick: prop::sample::Index },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0_i64..100).prop_map(|start| Step::Assign { start }),
            10 => (1_i64..9).prop_map(|len| Step::Issue { len }),
            10 => any::<prop::sample::Index>().prop_map(|pick| Step::Complete { pick }),
        ]
    }

    proptest! {
        #[test]
        fn watermarks_match_the_model(steps in vec(any_step(), 1..300)) {
            let (mut real, mut model, mut generation) = (Watermarks::default(), Model::default(), 0);
            let mut ever_issued: Vec<OffsetSpan> = Vec::new();
            real.assign(0, Generation(0), 0);
            for step in steps {
                match step {
                    Step::Assign { start } => {
                        generation += 1;
                        real.assign(0, Generation(generation), start);
                        model = Model { start, issued: Vec::new() };
                    }
                    Step::Issue { len } => {
                        let start = model.issued.last().map_or(model.start, |(span, _)| span.end);
                        let span = span(generation, start, start + len);
                        prop_assert!(issue(&mut real, span));
                        model.issued.push((span, false));
                        ever_issued.push(span);
                    }
                    // Any span ever issued may be reported, late or twice.
                    Step::Complete { pick } if !ever_issued.is_empty() => {
                        let span = ever_issued[pick.index(ever_issued.len())];
                        let mut counts = false;
                        for (issued, durable) in &mut model.issued {
                            if *issued == span {
                                counts = !std::mem::replace(durable, true);
                            }
                        }
                        prop_assert_eq!(complete(&mut real, span), counts);
                    }
                    Step::Complete { .. } => {}
                }
                prop_assert_eq!(real.watermark(0), Some(model.watermark()));
            }
        }
    }
}
