//! The circuit breaker: when most of the traffic is no valid events, something upstream is broken,
//! and stopping is better than diverting everything. Shared by the decoder threads, which lock it
//! once a polled batch.
//!
//! It promises that the batch that trips it is not handed on, so at most [`WINDOW_MESSAGES`]
//! messages, and what other decoders had in hand, are diverted before the process stops.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::rejection_ratio::RejectionRatio;
use crate::usage_event::RejectReason;

/// Over how many messages the ratio is taken: enough that a burst of one bad client in mixed traffic
/// does not stop the billing, and few enough to look through afterwards.
pub const WINDOW_MESSAGES: usize = 10_000;

/// Why decoding stopped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The circuit breaker tripped.
    #[error(
        "{rejected_count} of the last {message_count} messages are no valid events, more than \
         DEAD_LETTER_MAX_RATIO={ratio_max} allows; the commonest reason is {reason} ({reason_count} times). \
         See `usage-processor dead-letters list`, repair the producers, and start again; \
         DEAD_LETTER_MAX_RATIO=1 diverts them all, without limit"
    )]
    MostlyRejected {
        /// Rejections in the window.
        rejected_count: usize,
        /// The window.
        message_count: usize,
        /// DEAD_LETTER_MAX_RATIO.
        ratio_max: f64,
        /// The commonest reason in the window.
        reason: &'static str,
        /// How often it occurred.
        reason_count: usize,
    },
}

/// A handle on the one breaker of the process; clones share it.
#[derive(Debug, Clone)]
pub struct CircuitBreaker {
    window: Arc<Mutex<Window>>,
    ratio_max: f64,
}

#[derive(Debug)]
struct Window {
    ratio: RejectionRatio,
    /// Why the window's rejections were rejected, oldest first: one an entry of `ratio`.
    reasons: VecDeque<RejectReason>,
}

impl CircuitBreaker {
    /// Trips when more than `ratio_max` of the last [`WINDOW_MESSAGES`] are rejected; never, at 1.
    pub fn new(ratio_max: f64) -> Self {
        Self::with_window(ratio_max, WINDOW_MESSAGES)
    }

    fn with_window(ratio_max: f64, message_count: usize) -> Self {
        let window = Window { ratio: RejectionRatio::new(message_count), reasons: VecDeque::new() };
        Self { window: Arc::new(Mutex::new(window)), ratio_max }
    }

    /// Takes what became of messages, in order: `None` for those that are no dead letters.
    pub fn record(&self, outcomes: &[Option<RejectReason>]) -> Result<(), DecodeError> {
        let mut window = self.window.lock();
        for outcome in outcomes {
            window.push(*outcome);
            if window.ratio.is_exceeded(self.ratio_max) {
                return Err(window.verdict(self.ratio_max));
            }
        }
        Ok(())
    }
}

impl Window {
    fn push(&mut self, outcome: Option<RejectReason>) {
        self.ratio.push(outcome.is_some());
        self.reasons.extend(outcome);
        while self.reasons.len() > self.ratio.rejected_count() {
            self.reasons.pop_front();
        }
    }

    fn verdict(&self, ratio_max: f64) -> DecodeError {
        let mut counts: HashMap<RejectReason, usize> = HashMap::new();
        for reason in &self.reasons {
            *counts.entry(*reason).or_default() += 1;
        }
        let commonest = counts.into_iter().max_by_key(|(reason, count)| (*count, *reason));
        let (reason, reason_count) =
            commonest.map_or(("none", 0), |(reason, count)| (reason.as_str(), count));
        DecodeError::MostlyRejected {
            rejected_count: self.ratio.rejected_count(),
            message_count: self.ratio.capacity(),
            ratio_max,
            reason,
            reason_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RejectReason::{InvalidJson, TooOld};

    #[test]
    fn it_trips_within_the_batch_and_names_the_commonest_reason_of_the_window() {
        let breaker = CircuitBreaker::with_window(0.5, 10);
        // These have left the window when it trips.
        assert_eq!(breaker.record(&[Some(InvalidJson); 5]), Ok(()));
        assert_eq!(breaker.record(&[None; 9]), Ok(()));
        let mixed = [Some(TooOld), Some(InvalidJson), Some(TooOld), Some(TooOld), Some(TooOld), Some(TooOld)];
        let error = breaker.clone().record(&mixed).unwrap_err();
        let DecodeError::MostlyRejected { rejected_count, message_count, reason, reason_count, .. } = error;
        assert_eq!((rejected_count, message_count, reason, reason_count), (6, 10, "too_old", 5));
    }

    #[test]
    fn a_ratio_of_one_diverts_everything() {
        let breaker = CircuitBreaker::with_window(1.0, 10);
        assert_eq!(breaker.record(&[Some(InvalidJson); 100]), Ok(()));
    }
}
