//! Points between poll and offset commit at which the process can be made to die, as by SIGKILL, or one of
//! its threads to stand still for ever, so that a test can go through all of them. Only in builds with the
//! feature `failpoints`, and there only when `CRASH_AT=after_copy=3` (the third time), or `HANG_AT`
//! likewise, is in the environment; `STUCK_AFTER_MS` is then how soon that is seen. In a release build
//! nothing of it is left.

/// A step after which a crash must lose nothing and double nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// The span is announced to the committer, its batch not yet handed to the decoder.
    AfterIssue,
    /// The identities are in the dedup window, the rows nowhere.
    AfterDedup,
    /// Rows, dead letters and ledger are in the transaction, which is not committed.
    AfterCopy,
    /// The transaction is committed, and the committer does not know.
    AfterCommit,
    /// The committer has been told, and has not committed offsets.
    AfterProgress,
    /// Offsets are about to be sent.
    BeforeOffsetCommit,
    /// Offsets have been sent.
    AfterOffsetCommit,
    /// Partitions are drained and not yet given back.
    InRevoke,
    /// Everything in flight is durable at shutdown, and the last offsets are not committed.
    InDrain,
}

#[cfg(feature = "failpoints")]
pub use armed::{patience, reach};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::CrashPoint;

    impl CrashPoint {
        /// All of them, in the order in which a message passes them.
        pub const ALL: [Self; 9] = [
            Self::AfterIssue,
            Self::AfterDedup,
            Self::AfterCopy,
            Self::AfterCommit,
            Self::AfterProgress,
            Self::BeforeOffsetCommit,
            Self::AfterOffsetCommit,
            Self::InRevoke,
            Self::InDrain,
        ];

        /// As `CRASH_AT` names it.
        pub fn name(self) -> &'static str {
            match self {
                Self::AfterIssue => "after_issue",
                Self::AfterDedup => "after_dedup",
                Self::AfterCopy => "after_copy",
                Self::AfterCommit => "after_commit",
                Self::AfterProgress => "after_progress",
                Self::BeforeOffsetCommit => "before_offset_commit",
                Self::AfterOffsetCommit => "after_offset_commit",
                Self::InRevoke => "in_revoke",
                Self::InDrain => "in_drain",
            }
        }
    }

    /// The point that was asked for, and how often it is still to be passed.
    type Ask = Option<(String, AtomicU32)>;

    static CRASH_AT: OnceLock<Ask> = OnceLock::new();
    static HANG_AT: OnceLock<Ask> = OnceLock::new();

    fn asked_for(variable: &str) -> Ask {
        let text = std::env::var(variable).ok()?;
        let (name, count) = text.split_once('=')?;
        Some((name.to_owned(), AtomicU32::new(count.parse().ok()?)))
    }

    /// How long a stage may be at work without a sign: this long, unless a test is in a hurry.
    pub fn patience(max: Duration) -> Duration {
        let millis = std::env::var("STUCK_AFTER_MS").ok().and_then(|text| text.parse().ok());
        millis.map_or(max, Duration::from_millis)
    }

    fn is_due(ask: &Ask, point: CrashPoint) -> bool {
        ask.as_ref()
            .is_some_and(|(name, left)| name == point.name() && left.fetch_sub(1, Ordering::SeqCst) == 1)
    }

    /// Dies here, if it is the point and the time that were asked for: no unwinding, no drop. Or the thread
    /// stands still, while all others go on.
    pub fn reach(point: CrashPoint) {
        if is_due(CRASH_AT.get_or_init(|| asked_for("CRASH_AT")), point) {
            log::error!("dying at {}, as CRASH_AT asks for", point.name());
            std::process::abort();
        }
        if is_due(HANG_AT.get_or_init(|| asked_for("HANG_AT")), point) {
            log::error!("hanging at {}, as HANG_AT asks for", point.name());
            loop {
                std::thread::park();
            }
        }
    }
}

/// How long a stage may be at work without a sign.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn patience(max: std::time::Duration) -> std::time::Duration {
    max
}

/// Dies or hangs here, if it is the point and the time that were asked for.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_: CrashPoint) {}
