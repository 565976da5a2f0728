//! How many of the last N outcomes were rejections: an exact sliding window as a ring of bits. Pure;
//! owned by whoever pushes.
//!
//! It has no opinion until it is full: the first message after a start says nothing about the traffic.

/// The last N outcomes, a bit each.
#[derive(Debug, Clone)]
pub struct RejectionRatio {
    /// Outcome `idx` is bit `idx % 64` of word `idx / 64`; the oldest is overwritten.
    words: Vec<u64>,
    capacity: usize,
    next_idx: usize,
    len: usize,
    rejected_count: usize,
}

impl RejectionRatio {
    /// An empty window over the last `capacity` outcomes, at least one.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { words: vec![0; capacity.div_ceil(64)], capacity, next_idx: 0, len: 0, rejected_count: 0 }
    }

    /// Adds an outcome; once the window is full, the oldest one leaves it.
    pub fn push(&mut self, is_rejected: bool) {
        let (word, bit) = (&mut self.words[self.next_idx / 64], 1_u64 << (self.next_idx % 64));
        // A place that was never used holds no bit.
        self.rejected_count -= usize::from(*word & bit != 0);
        self.rejected_count += usize::from(is_rejected);
        if is_rejected {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        self.next_idx = (self.next_idx + 1) % self.capacity;
        self.len = (self.len + 1).min(self.capacity);
    }

    /// Rejections within the window.
    pub fn rejected_count(&self) -> usize {
        self.rejected_count
    }

    /// Outcomes that the window holds when it is full.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the window is full and more than `ratio_max` of it are rejections. A `ratio_max` of 1
    /// is never exceeded.
    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52 outcomes")]
    pub fn is_exceeded(&self, ratio_max: f64) -> bool {
        self.len == self.capacity && self.rejected_count as f64 > ratio_max * self.capacity as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_exceeded_before_the_window_is_full() {
        let mut ratio = RejectionRatio::new(100);
        for _ in 0..99 {
            ratio.push(true);
            assert!(!ratio.is_exceeded(0.5));
        }
        ratio.push(true);
        assert!(ratio.is_exceeded(0.5));
    }

    #[test]
    fn exactly_the_ratio_is_allowed_and_one_more_is_not() {
        let mut ratio = RejectionRatio::new(10);
        for idx in 0..10 {
            ratio.push(idx < 5);
        }
        assert!(!ratio.is_exceeded(0.5));
        for _ in 0..5 {
            ratio.push(true);
        }
        ratio.push(true);
        assert_eq!(ratio.rejected_count(), 6);
        assert!(ratio.is_exceeded(0.5));
    }

    #[test]
    fn one_switches_it_off() {
        let mut ratio = RejectionRatio::new(3);
        for _ in 0..9 {
            ratio.push(true);
        }
        assert!(!ratio.is_exceeded(1.0));
    }

    proptest! {
        #[test]
        fn it_counts_as_a_list_of_the_last_outcomes_does(
            capacity in 1_usize..200,
            outcomes in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let mut ratio = RejectionRatio::new(capacity);
            let mut model = VecDeque::new();
            for is_rejected in outcomes {
                ratio.push(is_rejected);
                model.push_back(is_rejected);
                if model.len() > capacity {
                    model.pop_front();
                }
                let rejected_count = model.iter().filter(|rejected| **rejected).count();
                prop_assert_eq!(ratio.rejected_count(), rejected_count);
                let is_majority = model.len() == capacity && 2 * rejected_count > capacity;
                prop_assert_eq!(ratio.is_exceeded(0.5), is_majority);
            }
        }
    }
}
