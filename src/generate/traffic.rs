//! What the traffic is like and when each message is due: the knobs of the stream, checked before
//! anything is sent. Pure.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::share::Share;

/// The age at which the pipeline refuses an event is 90 days; late events stay a day inside it, so
/// that the seconds of a retry can never carry one over.
pub const LATE_UP_TO_MAX: Duration = Duration::from_secs(89 * 86_400);

/// A gateway gives up after this many retries of one request.
pub(super) const RETRIES_MAX: u32 = 10;
/// A retry follows the attempt before it within this time: 10 of them stay inside the dedup window
/// of 5 minutes.
pub(super) const RETRY_DELAY_MAX: Duration = Duration::from_secs(20);
/// A retry follows the attempt before it within this many messages, which bounds what a stream remembers.
pub(super) const RETRY_DISTANCE_MAX: u64 = 10_000;

/// What the stream consists of. The same traffic and schedule give the same bytes.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Seeds every draw.
    pub seed: u64,
    /// How many messages in all: first attempts, duplicates and malformed ones.
    pub message_count: u64,
    /// How many organizations send; the k-th is 1/k times as busy as the first.
    pub organization_count: u32,
    /// How many of the messages are a gateway's retries of an earlier one. At most one half.
    pub duplicates: Share,
    /// How many of the duplicates carry a later `time` than the first attempt; the others are the same bytes.
    pub retimed: Share,
    /// How many of the messages no pipeline may accept.
    pub malformed: Share,
    /// How many of the first attempts happened long before they are published.
    pub late: Share,
    /// Late events are up to this much older than their message, evenly. At most [`LATE_UP_TO_MAX`].
    pub late_up_to: Duration,
    /// Bytes of a field `padding` that valid messages have besides, which no pipeline looks at; 0: without it.
    pub padding_bytes: u32,
}

/// When each message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// That many messages a second, as the clock runs.
    Steady {
        /// Messages a second.
        rate: NonZeroU32,
    },
    /// As fast as Kafka takes them; they claim to have been published evenly over `spread`, as if
    /// the processor had been down meanwhile.
    Backlog {
        /// From the first message to after the last.
        spread: Duration,
    },
}

/// Publication times: message `n` is due `n * micros / messages` after the start.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start_micros: i64,
    micros: u64,
    messages: u64,
}

/// What cannot be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    /// Too many duplicates.
    #[error("at most 50% of the messages can be duplicates, not {0}")]
    Duplicates(Share),
    /// More than everything.
    #[error("duplicates ({duplicates}) and malformed messages ({malformed}) are more than all messages")]
    Shares {
        /// The share of duplicates.
        duplicates: Share,
        /// The share of malformed messages.
        malformed: Share,
    },
    /// Nobody to send anything.
    #[error("at least one organization is needed")]
    NoOrganization,
    /// Late events would become dead letters.
    #[error("events can be late by 1s up to 89 days, not {}", humantime::format_duration(*.0))]
    LateUpTo(Duration),
    /// Messages so far apart that no retry would fall into the dedup window.
    #[error(
        "with duplicates, messages must follow each other within {}",
        humantime::format_duration(RETRY_DELAY_MAX)
    )]
    TooFarApart,
    /// The broker and the pipeline refuse timestamps in the future.
    #[error("the messages would be published in the future")]
    InTheFuture,
}

impl Traffic {
    /// Checks that this traffic can be generated at that pace.
    pub fn check(&self, pace: Pace) -> Result<(), TrafficError> {
        if self.duplicates > Share::from_parts_per_million(500_000) {
            return Err(TrafficError::Duplicates(self.duplicates));
        }
        if self.malformed > self.duplicates.rest() {
            return Err(TrafficError::Shares { duplicates: self.duplicates, malformed: self.malformed });
        }
        if self.organization_count == 0 {
            return Err(TrafficError::NoOrganization);
        }
        if self.late_up_to < Duration::from_secs(1) || self.late_up_to > LATE_UP_TO_MAX {
            return Err(TrafficError::LateUpTo(self.late_up_to));
        }
        let schedule = Schedule::new(UNIX_EPOCH, pace, self.message_count);
        if self.duplicates != Share::NONE && schedule.offset(1) > RETRY_DELAY_MAX {
            return Err(TrafficError::TooFarApart);
        }
        Ok(())
    }
}

impl Pace {
    /// How long the messages take from the first to after the last.
    pub fn span(self, message_count: u64) -> Duration {
        match self {
            Pace::Steady { .. } => Schedule::new(UNIX_EPOCH, self, message_count).offset(message_count),
            Pace::Backlog { spread } => spread,
        }
    }
}

impl Schedule {
    /// `message_count` messages at that pace from `start` on.
    pub fn new(start: SystemTime, pace: Pace, message_count: u64) -> Schedule {
        let since_epoch = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (micros, messages) = match pace {
            Pace::Steady { rate } => (1_000_000, u64::from(rate.get())),
            Pace::Backlog { spread } => (saturating_micros(spread), message_count.max(1)),
        };
        Schedule { start_micros: signed(saturating_micros(since_epoch)), micros, messages }
    }

    /// How long after the start message number `position` is due.
    pub fn offset(&self, position: u64) -> Duration {
        let micros = u128::from(position) * u128::from(self.micros) / u128::from(self.messages);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// When message number `position` is due, in microseconds since 1970.
    pub fn due_micros(&self, position: u64) -> i64 {
        self.start_micros.saturating_add(signed(saturating_micros(self.offset(position))))
    }

    /// How many messages come due within a time, at least one.
    pub(super) fn messages_within(&self, time: Duration) -> u64 {
        let messages = time.as_micros() * u128::from(self.messages) / u128::from(self.micros.max(1));
        u64::try_from(messages).unwrap_or(u64::MAX).max(1)
    }
}

fn saturating_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn signed(micros: u64) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic() -> Traffic {
        Traffic {
            seed: 1,
            message_count: 1_000,
            organization_count: 10,
            duplicates: "1%".parse().unwrap(),
            retimed: "50%".parse().unwrap(),
            malformed: "1%".parse().unwrap(),
            late: Share::NONE,
            late_up_to: Duration::from_secs(3_600),
            padding_bytes: 0,
        }
    }

    const PACE: Pace = Pace::Backlog { spread: Duration::from_secs(100) };

    #[test]
    fn what_cannot_be_generated_is_refused() {
        assert_eq!(traffic().check(PACE), Ok(()));
        let check = |change: fn(&mut Traffic)| {
            let mut traffic = traffic();
            change(&mut traffic);
            traffic.check(PACE).unwrap_err().to_string()
        };
        assert!(check(|t| t.duplicates = Share::ALL).contains("50%"));
        assert!(check(|t| t.malformed = Share::ALL).contains("more than all"));
        assert!(check(|t| t.organization_count = 0).contains("organization"));
        assert!(check(|t| t.late_up_to = LATE_UP_TO_MAX * 2).contains("89 days"));
        assert!(check(|t| t.message_count = 2).contains("20s"));
    }

    #[test]
    fn messages_are_due_evenly() {
        let rate = NonZeroU32::new(3).unwrap();
        let schedule = Schedule::new(UNIX_EPOCH + Duration::from_secs(10), Pace::Steady { rate }, 99);
        let due: Vec<i64> = (0..4).map(|position| schedule.due_micros(position)).collect();
        assert_eq!(due, [10_000_000, 10_333_333, 10_666_666, 11_000_000]);
        assert_eq!(schedule.messages_within(RETRY_DELAY_MAX), 60);
        assert_eq!(Schedule::new(UNIX_EPOCH, PACE, 1_000).offset(500), Duration::from_secs(50));
    }
}
