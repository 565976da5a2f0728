//! The domain: a usage event, what makes one valid, and the names of what can be wrong with one.
//! Free of Kafka, JSON and SQL; pure; runs on the decoder threads.
//!
//! Whether an event is accepted depends on the event and its message's Kafka timestamp alone,
//! never on the wall clock, so that a replay decides as the first run did.

use std::borrow::Cow;
use std::time::Duration;

/// The longest request id, in characters: `varchar(128)`.
pub const REQUEST_ID_CHARS_MAX: usize = 128;
/// The longest endpoint, in characters: `varchar(255)`.
pub const ENDPOINT_CHARS_MAX: usize = 255;
/// The longest method, in characters: `varchar(10)`.
pub const METHOD_CHARS_MAX: usize = 10;

/// One API request as it will be billed; strings borrow from the message's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageEvent<'a> {
    /// When the request happened: microseconds since 1970-01-01T00:00:00Z.
    pub time_micros: i64,
    /// The gateway's id of the request, unique within the organization.
    pub request_id: &'a str,
    /// The billed organization: a UUID, big-endian.
    pub organization_id: u128,
    /// The API key that was used: a UUID, big-endian.
    pub api_key_id: u128,
    /// The route, such as `/v1/orders`.
    pub endpoint: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// The HTTP status, 100 to 599.
    pub status_code: i32,
    /// How long the request took, in milliseconds, 0 to 2^31-1.
    pub response_time_ms: i32,
    /// Whether the request counts towards the bill.
    pub billable: bool,
    /// Units that the request counts for, 0 to 2^31-1.
    pub weight: i32,
}

/// Why a message became a dead letter. The names are stored and must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// The value is null or empty.
    Tombstone,
    /// The value is larger than an event may be.
    TooLarge,
    /// Not JSON, or not UTF-8, or nested too deeply.
    InvalidJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A required field is absent (or null).
    MissingField,
    /// A field appears twice.
    DuplicateField,
    /// A field has another type than its rule says.
    WrongType,
    /// A number outside its range.
    OutOfRange,
    /// A string that is empty or too long.
    InvalidLength,
    /// A string with U+0000, which JSON may carry and PostgreSQL text may not.
    NulCharacter,
    /// Not a UUID.
    InvalidUuid,
    /// Not an RFC 3339 time with an offset.
    InvalidTime,
    /// Older than `MAX_EVENT_AGE` before the message's Kafka timestamp.
    TooOld,
    /// Further ahead of the message's Kafka timestamp than `MAX_CLOCK_SKEW`.
    TooFarAhead,
    /// The message has no Kafka timestamp to judge `time` by.
    MissingTimestamp,
    /// The same identity as an earlier event, with another payload: in the window, or in the
    /// database at the same time.
    Conflict,
    /// Accepted, but written so late that rows of its day are no longer retained.
    Expired,
    /// The table takes no such row: a constraint that was added, a column that was narrowed.
    DatabaseRejected,
}

impl RejectReason {
    /// All of them; each at the place that `as usize` gives.
    pub const ALL: [Self; 18] = [
        Self::Tombstone,
        Self::TooLarge,
        Self::InvalidJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::DuplicateField,
        Self::WrongType,
        Self::OutOfRange,
        Self::InvalidLength,
        Self::NulCharacter,
        Self::InvalidUuid,
        Self::InvalidTime,
        Self::TooOld,
        Self::TooFarAhead,
        Self::MissingTimestamp,
        Self::Conflict,
        Self::Expired,
        Self::DatabaseRejected,
    ];

    /// The stored name, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::TooLarge => "too_large",
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::DuplicateField => "duplicate_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::InvalidLength => "invalid_length",
            Self::NulCharacter => "nul_character",
            Self::InvalidUuid => "invalid_uuid",
            Self::InvalidTime => "invalid_time",
            Self::TooOld => "too_old",
            Self::TooFarAhead => "too_far_ahead",
            Self::MissingTimestamp => "missing_timestamp",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::DatabaseRejected => "database_rejected",
        }
    }
}

/// A message that is no valid event: data, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The class, stored with the dead letter and counted by.
    pub reason: RejectReason,
    /// Which field, what was found, what is allowed.
    pub detail: Cow<'static, str>,
}

impl Rejection {
    /// A rejection with its explanation.
    pub fn new(reason: RejectReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// How far an event's `time` may lie from its message's Kafka timestamp.
///
/// One garbage clock would otherwise create chunks in the year 2500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// Not older than this (`MAX_EVENT_AGE`).
    pub event_age_max: Duration,
    /// Not further ahead than this (`MAX_CLOCK_SKEW`).
    pub clock_skew_max: Duration,
}

impl TimeLimits {
    /// Judges `time_micros` by the message's Kafka timestamp, in milliseconds since 1970 (`None`
    /// when the message carries none).
    pub fn check(self, time_micros: i64, kafka_timestamp_ms: Option<i64>) -> Result<(), Rejection> {
        let Some(timestamp_ms) = kafka_timestamp_ms else {
            return Err(Rejection::new(
                RejectReason::MissingTimestamp,
                "the message has no Kafka timestamp to judge its time by",
            ));
        };
        let ahead_micros = i128::from(time_micros) - i128::from(timestamp_ms) * 1_000;
        if ahead_micros > micros(self.clock_skew_max) {
            return Err(Rejection::new(
                RejectReason::TooFarAhead,
                format!(
                    "time is {} s ahead of the Kafka timestamp, allowed are {} s",
                    ahead_micros / 1_000_000,
                    self.clock_skew_max.as_secs()
                ),
            ));
        }
        if -ahead_micros > micros(self.event_age_max) {
            return Err(Rejection::new(
                RejectReason::TooOld,
                format!(
                    "time is {} s before the Kafka timestamp, allowed are {} s",
                    -ahead_micros / 1_000_000,
                    self.event_age_max.as_secs()
                ),
            ));
        }
        Ok(())
    }
}

/// A `Duration` in microseconds; `Duration::MAX` has less than 2^85 of them.
fn micros(duration: Duration) -> i128 {
    i128::try_from(duration.as_micros()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimeLimits = TimeLimits {
        event_age_max: Duration::from_secs(90 * 86_400),
        clock_skew_max: Duration::from_secs(300),
    };

    fn check(time_ms: i64, timestamp_ms: Option<i64>) -> Option<RejectReason> {
        LIMITS.check(time_ms * 1_000, timestamp_ms).err().map(|rejection| rejection.reason)
    }

    #[test]
    fn time_is_judged_by_the_kafka_timestamp() {
        let now = 1_800_000_000_000;
        assert_eq!(check(now, Some(now)), None);
        assert_eq!(check(now + 300_000, Some(now)), None);
        assert_eq!(check(now + 300_001, Some(now)), Some(RejectReason::TooFarAhead));
        assert_eq!(check(now - 90 * 86_400_000, Some(now)), None);
        assert_eq!(check(now - 90 * 86_400_000 - 1, Some(now)), Some(RejectReason::TooOld));
        assert_eq!(check(now, None), Some(RejectReason::MissingTimestamp));
        assert_eq!(check(i64::MAX / 1_000, Some(i64::MIN)), Some(RejectReason::TooFarAhead));
    }
}
