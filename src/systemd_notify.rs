//! What systemd is told of a running processor: that it is ready, how it goes, that it needs more time, and, as long as
//! its stages progress, that it need not be killed. A thread beside the pipeline, which asks once a second and knows
//! neither stages nor metrics. Without NOTIFY_SOCKET in the environment there is none.

use std::convert::Infallible;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;

use crate::shutdown::Shutdown;

/// How often it looks at the process and tells of it. A watchdog is fed at least four times in its interval.
const TICK_MAX: Duration = Duration::from_secs(1);
/// How soon a request for shutdown is seen.
const SHUTDOWN_CHECK: Duration = Duration::from_millis(100);
/// How much time each message asks for while a server is waited for: many of them may be late, and once the process is
/// stuck it is killed soon.
const START_EXTENSION: Duration = Duration::from_secs(30);
/// What the end may take beyond the drain timeout: latencies are written, the group is left, the log says so.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// How long the end of the process waits for the last message.
const LAST_MESSAGE_MAX: Duration = Duration::from_secs(1);

/// The process at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Stages progress, have nothing to do, or wait for a server. When not, the watchdog is not fed.
    pub is_alive: bool,
    /// The group has said which partitions are ours, were it none, and the database is reached. Told once.
    pub is_ready: bool,
    /// Messages a second.
    pub rate: f64,
    /// Messages that are not durable yet, of the assigned partitions.
    pub lag: u64,
    /// Partitions assigned.
    pub assigned: u32,
    /// What else a person should know: what is waited for, what is stuck.
    pub note: Option<String>,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Notifier {
    end: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

impl Notifier {
    /// Starts the thread, which asks `observed` about the process. Once `shutdown` is requested it tells that the process
    /// stops, which may take `drain_timeout` and a bit more.
    pub fn spawn(
        observed: impl Fn() -> Observed + Send + 'static,
        shutdown: Shutdown,
        drain_timeout: Duration,
    ) -> io::Result<Self> {
        let (end, end_asked) = bounded(0);
        let (still_running, ended) = bounded(0);
        if env::var_os("NOTIFY_SOCKET").is_some() {
            let mut teller = Teller { drain_timeout, is_ready: false, stop_deadline: None, is_deaf: false };
            let run = move || {
                let _until_the_end = still_running;
                teller.run(&observed, &shutdown, &end_asked);
            };
            thread::Builder::new().name("systemd".to_owned()).spawn(run)?;
        }
        Ok(Self { end, ended })
    }

    /// Waits a moment for the last message, so that the end of the process cannot overtake it.
    pub fn finish(self) {
        drop(self.end);
        if self.ended.recv_timeout(LAST_MESSAGE_MAX) == Err(RecvTimeoutError::Timeout) {
            log::debug!("systemd was not told of the end within {LAST_MESSAGE_MAX:?}");
        }
    }
}

/// What systemd has been told.
struct Teller {
    drain_timeout: Duration,
    is_ready: bool,
    /// Until when it may take to stop, once it has been told that we do.
    stop_deadline: Option<Instant>,
    /// The last message did not arrive.
    is_deaf: bool,
}

impl Teller {
    fn run(
        &mut self,
        observed: &impl Fn() -> Observed,
        shutdown: &Shutdown,
        end_asked: &Receiver<Infallible>,
    ) {
        let tick = sd_notify::watchdog_enabled().map_or(TICK_MAX, |interval| TICK_MAX.min(interval / 4));
        loop {
            self.tell(&observed(), shutdown.is_requested());
            let due = Instant::now() + tick;
            let is_news = || shutdown.is_requested() && self.stop_deadline.is_none();
            while Instant::now() < due && !is_news() {
                if end_asked.recv_timeout(SHUTDOWN_CHECK.min(tick)) != Err(RecvTimeoutError::Timeout) {
                    if is_news() {
                        self.tell(&observed(), true);
                    }
                    return;
                }
            }
        }
    }

    fn tell(&mut self, observed: &Observed, is_stopping: bool) {
        // Once is enough: what is not ready any more is waited for, and the status says so.
        let is_ready = self.is_ready || !is_stopping && observed.is_ready;
        let status = status(observed, is_ready, is_stopping);
        let mut states = vec![NotifyState::Status(&status)];
        let now = Instant::now();
        let stop_deadline =
            is_stopping.then(|| self.stop_deadline.unwrap_or(now + self.drain_timeout + STOP_MARGIN));
        if let Some(deadline) = stop_deadline {
            if self.stop_deadline.is_none() {
                states.push(NotifyState::Stopping);
            }
            // Repeated, since one message can ask for an hour at most.
            states.push(NotifyState::ExtendTimeoutUsec(micros(deadline.saturating_duration_since(now))));
        } else if is_ready && !self.is_ready {
            states.push(NotifyState::Ready);
        } else if !self.is_ready && observed.is_alive {
            states.push(NotifyState::ExtendTimeoutUsec(micros(START_EXTENSION)));
        }
        // The end is bounded by a deadline of its own, also after a stage has failed.
        if observed.is_alive || is_stopping {
            states.push(NotifyState::Watchdog);
        }
        match sd_notify::notify(&states) {
            // What has not arrived is told again.
            Ok(()) => {
                self.is_ready = is_ready;
                self.stop_deadline = stop_deadline;
                self.is_deaf = false;
            }
            Err(error) if self.is_deaf => log::debug!("telling systemd: {error}"),
            Err(error) => {
                log::warn!("telling systemd how it goes: {error}; trying again every {TICK_MAX:?}");
                self.is_deaf = true;
            }
        }
    }
}

/// The line in `systemctl status`.
fn status(observed: &Observed, is_ready: bool, is_stopping: bool) -> String {
    let Observed { rate, lag, assigned, note, .. } = observed;
    let figures = format!("{rate:.0} messages/s, lag {lag}, {assigned} partitions");
    let state = match (is_stopping, is_ready) {
        (true, _) => format!("Stopping: {figures}"),
        (false, true) => figures,
        (false, false) => "Starting".to_owned(),
    };
    match note {
        // A line break would begin another message.
        Some(note) => format!("{state}; {}", note.replace(['\n', '\r'], " ")),
        None => state,
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
