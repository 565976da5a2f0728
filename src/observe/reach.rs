//! Whether the database answers, by the last attempt of whoever tried: each writer, and the thread that asks for
//! its figures. Success costs a load; only failures and the first success after one take a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;

/// Something that goes wrong, since when, and how often so far.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// When it began.
    pub since: Instant,
    /// The same, in milliseconds since 1970.
    pub since_ms: i64,
    /// The last error, with its causes.
    pub error: String,
}

impl Trouble {
    /// `since 2026-11-24T10:00:00Z (35 s): connecting to PostgreSQL: connection refused`.
    pub fn describe(&self) -> String {
        let since = std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.since_ms).unwrap_or(0));
        let lasted = self.since.elapsed().as_secs();
        format!("since {} ({lasted} s): {}", humantime::format_rfc3339_seconds(since), self.error)
    }
}

/// One who tries; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Attempts(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_failing: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

impl Attempts {
    /// An attempt has failed. The trouble began with the first failure since the last success.
    pub fn failed(&self, error: String) {
        let mut trouble = self.0.trouble.lock();
        match &mut *trouble {
            Some(trouble) => trouble.error = error,
            None => *trouble = Some(Trouble { since: Instant::now(), since_ms: clock::now_ms(), error }),
        }
        self.0.is_failing.store(true, Ordering::Release);
    }

    /// An attempt has succeeded.
    pub fn succeeded(&self) {
        if self.0.is_failing.load(Ordering::Acquire) {
            *self.0.trouble.lock() = None;
            self.0.is_failing.store(false, Ordering::Release);
        }
    }

    /// What is wrong, if the last attempt failed.
    pub fn trouble(&self) -> Option<Trouble> {
        if self.0.is_failing.load(Ordering::Acquire) { self.0.trouble.lock().clone() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_from_the_first_failure_to_the_next_success() {
        let attempts = Attempts::default();
        attempts.succeeded();
        assert!(attempts.trouble().is_none());
        attempts.failed("connection refused".to_owned());
        let first = attempts.trouble().unwrap();
        attempts.failed("the database system is starting up".to_owned());
        let second = attempts.trouble().unwrap();
        assert_eq!(
            (second.since, second.error.as_str()),
            (first.since, "the database system is starting up")
        );
        assert!(second.describe().contains("Z (0 s): the database system"), "{}", second.describe());
        attempts.succeeded();
        assert!(attempts.trouble().is_none());
    }
}
