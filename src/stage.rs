//! Threads of the pipeline: each has a name, a guard and a join. A stage that fails or panics
//! requests shutdown; the first failure is what the process reports.

use std::any::Any;
use std::error::Error;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::error_chain::error_chain;
use crate::shutdown::Shutdown;

/// Any stage's error, kept as it is for the report.
pub type BoxedError = Box<dyn Error + Send + Sync>;

/// Why the pipeline did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The thread could not be started.
    #[error("starting the thread {stage}")]
    Spawn {
        /// The thread's name.
        stage: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The stage returned an error.
    #[error("{stage} failed")]
    Failed {
        /// The thread's name.
        stage: String,
        /// Its error.
        source: BoxedError,
    },
    /// The stage panicked, which is a bug.
    #[error("{stage} panicked: {message}")]
    Panicked {
        /// The thread's name.
        stage: String,
        /// The panic's message.
        message: String,
    },
    /// Shutdown took too long.
    #[error(
        "still running {stages:?} after the drain timeout of {timeout:?}; \
         offsets that were not durable are not committed and will be delivered again"
    )]
    DrainTimeout {
        /// Threads that had not ended.
        stages: Vec<String>,
        /// DRAIN_TIMEOUT.
        timeout: Duration,
    },
}

/// The running threads of the pipeline.
#[derive(Debug)]
pub struct Stages {
    shutdown: Shutdown,
    running: Vec<String>,
    ended: Receiver<(String, Result<(), StageError>)>,
    ended_sender: Sender<(String, Result<(), StageError>)>,
    failed_count: Arc<AtomicUsize>,
}

/// More stages than any configuration can have, so that reporting an end never blocks.
const STAGE_COUNT_MAX: usize = 1_024;

impl Stages {
    /// No thread yet.
    pub fn new(shutdown: Shutdown) -> Self {
        let (ended_sender, ended) = bounded(STAGE_COUNT_MAX);
        Self { shutdown, running: Vec::new(), ended, ended_sender, failed_count: Arc::default() }
    }

    /// Counts stages that fail or panic there too, for whoever watches.
    #[must_use]
    pub fn counting_failures(self, failed_count: Arc<AtomicUsize>) -> Self {
        Self { failed_count, ..self }
    }

    /// Starts a stage. Linux shows 15 bytes of a thread's name: keep `name` within them.
    pub fn spawn<E>(
        &mut self,
        name: impl Into<String>,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), StageError>
    where
        E: Into<BoxedError>,
    {
        let stage = name.into();
        debug_assert!(stage.len() <= 15, "{stage} is longer than a thread's name");
        let alarm = self.shutdown.alarm();
        let ended = self.ended_sender.clone();
        let failed_count = Arc::clone(&self.failed_count);
        let name = stage.clone();
        let body = move || {
            let outcome = match panic::catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(StageError::Failed { stage: name.clone(), source: error.into() }),
                Err(panic) => {
                    Err(StageError::Panicked { stage: name.clone(), message: panic_message(&*panic) })
                }
            };
            if outcome.is_ok() {
                alarm.disarm();
            } else {
                failed_count.fetch_add(1, Ordering::AcqRel);
            }
            // The channel is larger than the number of stages and outlives them.
            drop(ended.send((name, outcome)));
        };
        thread::Builder::new()
            .name(stage.clone())
            .spawn(body)
            .map_err(|source| StageError::Spawn { stage: stage.clone(), source })?;
        self.running.push(stage);
        Ok(())
    }

    /// Waits until every stage has ended, calling `on_tick` every `tick`. Once shutdown is
    /// requested, waits `drain_timeout` at most. The first failure wins.
    pub fn join(
        mut self,
        drain_timeout: Duration,
        tick: Duration,
        mut on_tick: impl FnMut(),
    ) -> Result<(), StageError> {
        // How soon a request for shutdown is seen, which only starts the drain's clock.
        const SHUTDOWN_CHECK: Duration = Duration::from_millis(200);
        let mut first_failure = Ok(());
        let mut drain_deadline = None;
        let mut next_tick = Instant::now() + tick;
        while !self.running.is_empty() {
            match self.ended.recv_timeout(SHUTDOWN_CHECK) {
                Ok((name, outcome)) => {
                    self.running.retain(|running| *running != name);
                    if let Err(error) = &outcome {
                        log::error!("{}; stopping", error_chain(error));
                    }
                    first_failure = first_failure.and(outcome);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            let now = Instant::now();
            if now >= next_tick {
                on_tick();
                next_tick = now + tick;
            }
            if self.shutdown.is_requested() {
                let deadline = *drain_deadline.get_or_insert(now + drain_timeout);
                if now >= deadline {
                    return first_failure
                        .and(Err(StageError::DrainTimeout { stages: self.running, timeout: drain_timeout }));
                }
            }
        }
        first_failure
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_failure_stops_all_and_names_its_stage() {
        let shutdown = Shutdown::default();
        let mut stages = Stages::new(shutdown.clone());
        let (work, inbox) = bounded::<()>(1);
        stages
            .spawn("waiter", move || -> Result<(), BoxedError> {
                // Ends by hang-up, as every stage but the poller does.
                while inbox.recv().is_ok() {}
                Ok(())
            })
            .unwrap();
        stages
            .spawn("broken", move || -> Result<(), BoxedError> {
                let _held = work;
                Err("no such table".into())
            })
            .unwrap();
        let error = stages.join(LONG, LONG, || {}).unwrap_err();
        assert_eq!(error.to_string(), "broken failed");
        assert!(shutdown.is_requested());
    }

    #[test]
    fn a_panic_is_an_error_with_the_stages_name() {
        let mut stages = Stages::new(Shutdown::default());
        stages.spawn("writer-0", || -> Result<(), BoxedError> { panic!("index 7") }).unwrap();
        let error = stages.join(LONG, LONG, || {}).unwrap_err();
        assert_eq!(error.to_string(), "writer-0 panicked: index 7");
    }

    #[test]
    fn a_stage_that_does_not_drain_is_named() {
        let shutdown = Shutdown::default();
        let mut stages = Stages::new(shutdown.clone());
        let (release, blocked) = bounded::<()>(1);
        stages
            .spawn("writer-0", move || -> Result<(), BoxedError> {
                assert!(blocked.recv().is_err());
                Ok(())
            })
            .unwrap();
        shutdown.request();
        let error = stages.join(Duration::from_millis(10), LONG, || {}).unwrap_err();
        assert!(
            matches!(error, StageError::DrainTimeout { ref stages, .. } if stages == &["writer-0"]),
            "{error}"
        );
        drop(release);
    }
}
