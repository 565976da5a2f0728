//! What a stage's thread is doing, and for how long it has done what: one mechanism for the time that each stage
//! is starved or blocked, and for telling a stage that waits from one that is stuck.
//!
//! The stage's own thread writes, without a lock or an allocation, a few times a batch; any thread reads. What that costs is
//! the look at the clock: of 176 ns for a change of activity 141 (2026-11-28, 2 busy cores of a virtual machine).

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::crash_point;

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It does what it is there for.
    Working,
    /// It waits for something to do.
    Starved,
    /// It waits for the next stage to take what it has.
    Blocked,
    /// What it does has failed, and is tried again until it succeeds.
    Retrying,
}

impl Activity {
    /// All of them, in the order of [`Reading::nanos`].
    pub const ALL: [Self; 4] = [Self::Working, Self::Starved, Self::Blocked, Self::Retrying];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Starved => "starved",
            Self::Blocked => "blocked",
            Self::Retrying => "retrying",
        }
    }
}

/// Before the first activity, and after the last.
const NONE: u8 = u8::MAX;

/// A handle on one thread's record; clones share it. Only that thread may write.
#[derive(Debug, Clone)]
pub struct StageActivity(Arc<Record>);

#[derive(Debug)]
struct Record {
    name: String,
    /// How long it may work without a sign before it counts as stuck.
    working_max: Duration,
    /// The same while it waits: for ever, unless it looks up now and then.
    waiting_max: Duration,
    /// Odd while the fields below are being changed: whoever reads them then reads again.
    version: AtomicU64,
    current: AtomicU8,
    /// When the activity began, and when the thread last gave a sign, in nanoseconds of [`nanos_now`].
    since: AtomicU64,
    signed_at: AtomicU64,
    nanos: [AtomicU64; Activity::ALL.len()],
}

/// A thread's record at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What it does; nothing before it began and after it ended.
    pub current: Option<Activity>,
    /// How long ago it gave a sign of moving on.
    pub silent: Duration,
    /// Nanoseconds by activity since the start, the current one included.
    pub nanos: [u64; Activity::ALL.len()],
}

impl Record {
    fn new(name: String, working_max: Duration) -> Self {
        Self {
            name,
            working_max,
            waiting_max: Duration::MAX,
            version: AtomicU64::new(0),
            current: AtomicU8::new(NONE),
            since: AtomicU64::new(0),
            signed_at: AtomicU64::new(0),
            nanos: Default::default(),
        }
    }
}

impl StageActivity {
    /// A thread that has not begun. `working_max` is how long it may be at work without a sign.
    pub fn new(name: impl Into<String>, working_max: Duration) -> Self {
        let working_max = crash_point::patience(working_max);
        Self(Arc::new(Record::new(name.into(), working_max)))
    }

    /// Of a thread that looks up now and then while it waits: how long it may not do so. Before it is shared.
    #[must_use]
    pub fn looking_up_within(self, waiting_max: Duration) -> Self {
        let name = self.0.name.clone();
        let working_max = self.0.working_max;
        Self(Arc::new(Record { waiting_max, ..Record::new(name, working_max) }))
    }

    /// The thread's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// From now on the thread does this. To enter an activity again is a sign that it moves on.
    pub fn enter(&self, activity: Activity) {
        self.change(activity as u8);
    }

    /// A sign, in whatever it is doing: one of several long steps is done.
    pub fn sign(&self) {
        self.0.signed_at.store(nanos_now(), Ordering::Relaxed);
    }

    /// A guard that ends the record when the thread drops it.
    pub fn until_end(&self) -> UntilEnd {
        UntilEnd(self.clone())
    }

    fn change(&self, activity: u8) {
        let Record { version, current, since, signed_at, nanos, .. } = &*self.0;
        let before = current.load(Ordering::Relaxed);
        let at = version.load(Ordering::Relaxed);
        version.store(at + 1, Ordering::Relaxed);
        // The time is taken when every reader can see that something changes: one that took a later time and saw nothing
        // yet, as when this thread is interrupted here, would have counted more than the sum gets.
        fence(Ordering::SeqCst);
        let now = nanos_now();
        if let Some(sum) = nanos.get(usize::from(before)) {
            let lasted = now.saturating_sub(since.load(Ordering::Relaxed));
            sum.store(sum.load(Ordering::Relaxed) + lasted, Ordering::Relaxed);
        }
        since.store(now, Ordering::Relaxed);
        signed_at.store(now, Ordering::Relaxed);
        current.store(activity, Ordering::Relaxed);
        version.store(at + 2, Ordering::Release);
    }

    /// What it does now. Sums never go back from one reading to the next.
    pub fn read(&self) -> Reading {
        let Record { version, current, since, signed_at, nanos, .. } = &*self.0;
        loop {
            let before = version.load(Ordering::Acquire);
            let (activity, since) = (current.load(Ordering::Relaxed), since.load(Ordering::Relaxed));
            let mut nanos = nanos.each_ref().map(|sum| sum.load(Ordering::Relaxed));
            // Before it is known that nothing has changed, or a sum would count what came after a change.
            let now = nanos_now();
            fence(Ordering::SeqCst);
            if before % 2 == 1 || version.load(Ordering::Relaxed) != before {
                std::hint::spin_loop();
                continue;
            }
            let lasted = now.saturating_sub(since);
            if let Some(sum) = nanos.get_mut(usize::from(activity)) {
                *sum += lasted;
            }
            let silent = now.saturating_sub(signed_at.load(Ordering::Relaxed));
            return Reading {
                current: Activity::ALL.get(usize::from(activity)).copied(),
                silent: Duration::from_nanos(silent),
                nanos,
            };
        }
    }

    /// For how long it has given no sign, if that is longer than its work can take. A thread that waits is not stuck,
    /// however long, unless it should look up now and then: whom it waits for may be.
    pub fn stuck_for(&self) -> Option<Duration> {
        let reading = self.read();
        let max = match reading.current? {
            Activity::Working => self.0.working_max,
            Activity::Starved | Activity::Blocked | Activity::Retrying => self.0.waiting_max,
        };
        (reading.silent > max).then_some(reading.silent)
    }
}

impl Default for StageActivity {
    /// For tests: nobody looks.
    fn default() -> Self {
        Self::new("unnamed", Duration::MAX)
    }
}

/// Ends the record of a thread's activities.
#[derive(Debug)]
pub struct UntilEnd(StageActivity);

impl Drop for UntilEnd {
    fn drop(&mut self) {
        self.0.change(NONE);
    }
}

/// Nanoseconds since this was first asked: 584 years fit.
fn nanos_now() -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    u64::try_from(EPOCH.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const BRIEF: Duration = Duration::from_millis(2);

    #[test]
    fn time_is_counted_by_what_was_done() {
        let activity = StageActivity::new("writer-0", Duration::MAX);
        assert_eq!((activity.read().current, activity.read().nanos), (None, [0; 4]));
        for entered in Activity::ALL {
            activity.enter(entered);
            thread::sleep(BRIEF);
        }
        let reading = activity.read();
        assert_eq!(reading.current, Some(Activity::Retrying));
        assert!(reading.nanos.iter().all(|nanos| *nanos >= 2_000_000), "{reading:?}");
        drop(activity.until_end());
        let ended = activity.read();
        thread::sleep(BRIEF);
        assert!(ended.current.is_none() && activity.read().nanos == ended.nanos);
    }

    #[test]
    fn only_work_without_a_sign_is_stuck() {
        let activity = StageActivity::new("decoder-0", BRIEF);
        for waiting in [Activity::Starved, Activity::Blocked, Activity::Retrying] {
            activity.enter(waiting);
            thread::sleep(2 * BRIEF);
            assert_eq!(activity.stuck_for(), None, "{waiting:?}");
        }
        activity.enter(Activity::Working);
        thread::sleep(2 * BRIEF);
        assert!(activity.stuck_for().is_some_and(|silent| silent >= 2 * BRIEF));
        let looking_up = StageActivity::new("poller", Duration::MAX).looking_up_within(BRIEF);
        looking_up.enter(Activity::Starved);
        thread::sleep(2 * BRIEF);
        assert!(looking_up.stuck_for().is_some());
        let patient = StageActivity::new("decoder-0", Duration::from_secs(60));
        patient.enter(Activity::Working);
        thread::sleep(2 * BRIEF);
        assert_eq!(patient.stuck_for(), None);
    }

    #[test]
    fn sums_never_go_back_while_they_are_written() {
        let activity = StageActivity::new("poller", Duration::MAX);
        let reader = activity.clone();
        thread::scope(|scope| {
            scope.spawn(move || (0..200_000).for_each(|n| activity.enter(Activity::ALL[n % 4])));
            let mut last = [0; 4];
            for _ in 0..20_000 {
                let nanos = reader.read().nanos;
                assert!(nanos.iter().zip(&last).all(|(now, before)| now >= before), "{last:?} {nanos:?}");
                last = nanos;
            }
        });
    }
}
