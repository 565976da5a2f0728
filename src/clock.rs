//! The wall clock, in Kafka's unit and in PostgreSQL's.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, or 0 on a clock that is set before it.
pub fn now_ms() -> i64 {
    now_micros() / 1_000
}

/// Microseconds since 1970, or 0 on a clock that is set before it.
pub fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_micros()).ok())
        .unwrap_or(0)
}
