//! The watchdog stage: one thread that watches how long the writers wait for the database. Watches
//! in, nothing out but its failure, which stops the process.
//!
//! The server's `statement_timeout` ends a statement that the server is stuck in. It cannot end one
//! whose answer never comes, from a half-open connection or a proxy that has forgotten it, and the
//! client has no read timeout. So a call that has gone on for longer than any statement may is
//! cancelled from here, and then the process stops: what it had in flight is not committed to Kafka
//! and is delivered again. Ends when every writer has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::database_target::Canceller;

use crate::observe::activity::StageActivity;

/// Why the watchdog stopped the process.
#[derive(Debug, thiserror::Error)]
#[error(
    "{writer} has waited {waited:?} for the database: the server answers neither within STATEMENT_TIMEOUT nor \
     to being cancelled"
)]
pub struct WatchdogError {
    writer: String,
    waited: Duration,
}

/// One writer's conversation with the server.
#[derive(Default)]
struct Conversation {
    /// Since when the writer has waited for an answer; `None` while it does not talk.
    waiting_since: Option<Instant>,
    /// How to cancel what the current session does; `None` until there is one.
    cancel: Option<Canceller>,
    /// The latest thread that cancels: at most one, as that may hang too.
    canceller: Option<JoinHandle<()>>,
    is_cancelled: bool,
}

/// A writer's end: it says when it begins to wait, and when it has done.
#[derive(Clone)]
pub struct Watch {
    conversation: Arc<Mutex<Conversation>>,
    /// Where the writer's signs of moving on go.
    activity: StageActivity,
    /// Never sent through: the watchdog ends when all of them are gone.
    _is_alive: Option<Sender<Infallible>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// The same, that gives signs of moving on there.
    pub(super) fn with_activity(self, activity: StageActivity) -> Self {
        Self { activity, ..self }
    }

    /// The next call to the server begins: whatever was called before has been answered.
    pub(super) fn renew(&self) {
        self.activity.sign();
        let mut conversation = self.conversation.lock();
        conversation.waiting_since = Some(Instant::now());
        conversation.is_cancelled = false;
    }

    /// There is a session now, which can be cancelled by `cancel`.
    pub(super) fn connected(&self, cancel: Canceller) {
        self.renew();
        self.conversation.lock().cancel = Some(cancel);
    }

    /// The writer waits for nothing.
    pub(super) fn rest(&self) {
        self.conversation.lock().waiting_since = None;
    }
}

/// The watchdog thread's ends.
pub struct Watchdog {
    conversations: Vec<(String, Arc<Mutex<Conversation>>)>,
    is_alive: Option<Sender<Infallible>>,
    hang_up: Receiver<Infallible>,
    cancel_after: Duration,
    fail_after: Duration,
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchdog").field("cancel_after", &self.cancel_after).finish_non_exhaustive()
    }
}

/// How often the watches are read; what matters is seconds.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Two checks further apart than this: the process was stopped, or the machine slept.
const CHECK_GAP_MAX: Duration = Duration::from_secs(2);
/// What a statement's answer may take beyond the server's own limit, and then a cancelled one's: as
/// long as that limit, within these bounds.
const MARGIN_MIN: Duration = Duration::from_secs(2);
const MARGIN_MAX: Duration = Duration::from_secs(10);

impl Watchdog {
    /// Watches nobody yet.
    pub fn new(statement_timeout: Duration) -> Self {
        let (is_alive, hang_up) = bounded(0);
        let margin = statement_timeout.clamp(MARGIN_MIN, MARGIN_MAX);
        let cancel_after = statement_timeout.saturating_add(margin);
        let fail_after = cancel_after.saturating_add(margin);
        Self { conversations: Vec::new(), is_alive: Some(is_alive), hang_up, cancel_after, fail_after }
    }

    /// A writer to be watched.
    pub fn watch(&mut self, writer: &str) -> Watch {
        let conversation = Arc::default();
        self.conversations.push((writer.to_owned(), Arc::clone(&conversation)));
        Watch { conversation, activity: StageActivity::default(), _is_alive: self.is_alive.clone() }
    }

    /// Watches until every writer has ended.
    pub fn run(mut self) -> Result<(), WatchdogError> {
        self.is_alive = None; // The writers hold the others.
        let mut checked_at = Instant::now();
        while let Err(RecvTimeoutError::Timeout) = self.hang_up.recv_timeout(CHECK_INTERVAL) {
            let now = Instant::now();
            self.check(checked_at, now)?;
            checked_at = now;
        }
        Ok(())
    }

    fn check(&self, checked_at: Instant, now: Instant) -> Result<(), WatchdogError> {
        let gap = now.saturating_duration_since(checked_at);
        for (writer, conversation) in &self.conversations {
            let mut conversation = conversation.lock();
            let Some(since) = &mut conversation.waiting_since else { continue };
            if gap > CHECK_GAP_MAX {
                *since += gap; // While the process itself stood still it has waited for nobody.
            }
            let waited = now.saturating_duration_since(*since);
            if waited >= self.fail_after {
                return Err(WatchdogError { writer: writer.clone(), waited });
            }
            if waited >= self.cancel_after && !conversation.is_cancelled {
                conversation.cancel(writer, waited);
            }
        }
        Ok(())
    }
}

impl Conversation {
    /// Cancels on a thread of its own, since connecting may hang as the conversation does.
    fn cancel(&mut self, writer: &str, waited: Duration) {
        self.is_cancelled = true;
        let is_busy = self.canceller.as_ref().is_some_and(|canceller| !canceller.is_finished());
        let Some(cancel) = self.cancel.clone().filter(|_| !is_busy) else { return };
        log::error!("{writer} has waited {waited:?} for the database: cancelling");
        let run = move || {
            if let Err(error) = cancel.cancel() {
                log::warn!("asking the database to cancel a statement: {error}");
            }
        };
        match thread::Builder::new().name("cancel".to_owned()).spawn(run) {
            Ok(canceller) => self.canceller = Some(canceller),
            Err(error) => log::warn!("starting the thread that cancels: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog() -> Watchdog {
        Watchdog {
            cancel_after: Duration::from_millis(1),
            fail_after: Duration::from_millis(2),
            ..Watchdog::new(Duration::from_secs(1))
        }
    }

    #[test]
    fn a_writer_that_waits_for_ever_stops_the_process() {
        let mut watchdog = watchdog();
        let (_idle, silent) = (watchdog.watch("writer-0"), watchdog.watch("writer-1"));
        silent.renew();
        assert_eq!(watchdog.run().unwrap_err().writer, "writer-1");
    }

    #[test]
    fn a_process_that_was_stopped_itself_has_not_waited() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let mut watchdog = Watchdog::new(Duration::from_secs(1));
        let watch = watchdog.watch("writer-0");
        watch.renew();
        let (stopped_at, woken_at) = (Instant::now(), Instant::now() + HOUR);
        assert!(watchdog.check(stopped_at, woken_at).is_ok());
        assert!(watchdog.check(woken_at, woken_at + CHECK_INTERVAL).is_ok());
        let too_late = woken_at + watchdog.fail_after;
        assert!(watchdog.check(too_late - CHECK_INTERVAL, too_late).is_err());
    }

    #[test]
    fn it_ends_with_the_last_writer_and_lets_resting_ones_be() {
        let mut watchdog = watchdog();
        let watch = watchdog.watch("writer-0");
        watch.renew();
        watch.rest();
        let (ended, end) = bounded(1);
        let stage = thread::Builder::new().spawn(move || ended.send(watchdog.run().is_ok())).unwrap();
        thread::sleep(2 * CHECK_INTERVAL);
        assert!(end.try_recv().is_err(), "a writer is still there");
        drop(watch);
        assert_eq!(end.recv(), Ok(true));
        stage.join().unwrap().unwrap();
    }
}
