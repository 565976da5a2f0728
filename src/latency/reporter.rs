//! The one who reads the histograms and writes them: a thread beside the pipeline, every
//! `LATENCY_INTERVAL`, on SIGUSR1, and at the end. Whatever happens to its files, the pipeline goes on.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use hdrhistogram::CreationError;
use signal_hook::consts::SIGUSR1;
use signal_hook::flag;

pub use super::files::try_directory;
use super::files::{Histograms, LatencyFiles};
use super::{Latencies, Percentiles, Stage, since};

/// How soon a signal is seen.
const SIGNAL_CHECK: Duration = Duration::from_millis(200);
/// How long the end of the process waits for a disk that does not answer.
const LAST_REPORT_MAX: Duration = Duration::from_secs(5);

/// SIGUSR1 asks for a report. Without this it would end the process.
#[derive(Debug, Clone, Default)]
pub struct ReportRequests {
    requested: Arc<AtomicBool>,
}

impl ReportRequests {
    /// From now on the signal is a request.
    pub fn on_signal(&self) -> io::Result<()> {
        flag::register(SIGUSR1, Arc::clone(&self.requested)).map(drop)
    }
}

/// LATENCY_DIR and LATENCY_INTERVAL.
#[derive(Debug, Clone)]
pub struct ReportPolicy {
    /// Where files go; without it percentiles are only logged, on request.
    pub directory: Option<PathBuf>,
    /// How often they are written.
    pub interval: Duration,
}

/// The thread.
#[derive(Debug)]
pub struct Reporter {
    end: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

/// Why there is no reporter.
#[derive(Debug, thiserror::Error)]
pub enum ReporterError {
    /// No histograms.
    #[error("creating latency histograms")]
    Histograms(#[from] CreationError),
    /// No thread.
    #[error("starting the thread latency")]
    Spawn(#[from] io::Error),
}

impl Reporter {
    /// Starts the thread. The first interval begins now.
    pub fn spawn(
        latencies: &Latencies,
        policy: &ReportPolicy,
        requests: &ReportRequests,
    ) -> Result<Self, ReporterError> {
        if let Some(directory) = &policy.directory
            && let Err(error) = try_directory(directory)
        {
            log::warn!("LATENCY_DIR {} takes no files: {error}; going on without", directory.display());
        }
        let mut report = Report {
            latencies: latencies.clone(),
            files: policy.directory.as_deref().map(LatencyFiles::new),
            written: copy_all(latencies)?,
            written_at: Instant::now(),
            last_error: String::new(),
        };
        let (end, end_asked) = bounded(0);
        let (still_running, ended) = bounded(0);
        let (interval, requests) = (policy.interval, requests.clone());
        let run = move || {
            let _until_the_end = still_running;
            report.run(interval, &requests.requested, &end_asked);
        };
        thread::Builder::new().name("latency".to_owned()).spawn(run)?;
        Ok(Self { end, ended })
    }

    /// Writes what is left, once every stage has ended, and waits for that a moment.
    pub fn finish(self) {
        drop(self.end);
        if self.ended.recv_timeout(LAST_REPORT_MAX) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the last latencies could not be written within {LAST_REPORT_MAX:?}");
        }
    }
}

struct Report {
    latencies: Latencies,
    files: Option<LatencyFiles>,
    /// What the interval log has, and until when.
    written: Histograms,
    written_at: Instant,
    last_error: String,
}

impl Report {
    fn run(&mut self, interval: Duration, requested: &AtomicBool, end_asked: &Receiver<Infallible>) {
        let mut due = Instant::now() + interval;
        loop {
            let is_over = end_asked.recv_timeout(SIGNAL_CHECK) != Err(RecvTimeoutError::Timeout);
            let is_requested = requested.swap(false, Ordering::AcqRel);
            let now = Instant::now();
            if now >= due || is_requested || is_over {
                // Not sooner after a pause of the whole machine.
                due = if now >= due { now + interval } else { due };
                // Bounds that held for the first histograms hold for all.
                if let Ok(all) = copy_all(&self.latencies) {
                    let line = is_requested.then(|| self.line(&all));
                    self.write(now, all);
                    // Whoever asked can read the files now.
                    line.inspect(|line| log::info!("{line}"));
                }
            }
            if is_over {
                return;
            }
        }
    }

    /// What cannot be written now belongs to the next interval.
    fn write(&mut self, now: Instant, all: Histograms) {
        let Some(files) = &mut self.files else { return };
        let interval: Histograms = std::array::from_fn(|stage| since(&all[stage], &self.written[stage]));
        if interval.iter().all(|stage| stage.is_empty()) {
            self.written_at = now;
            return;
        }
        let outcome = files.append(self.written_at, now, &interval).and_then(|()| {
            (self.written_at, self.written) = (now, all);
            files.write_tables(&self.written)
        });
        match outcome {
            Ok(()) => self.last_error.clear(),
            Err(error) => {
                let said = error.to_string();
                if said != self.last_error {
                    log::warn!(
                        "writing latencies to {}: {said}; trying again when it is due",
                        files.pattern()
                    );
                    self.last_error = said;
                }
            }
        }
    }

    fn line(&self, all: &Histograms) -> String {
        let stages = Stage::ALL.iter().zip(all);
        let stages: Vec<_> =
            stages.map(|(stage, all)| format!("{} {}", stage.name(), Percentiles::of(all))).collect();
        let place = match &self.files {
            Some(files) => format!("in {}", files.pattern()),
            None => "in no file, as LATENCY_DIR is not set".to_owned(),
        };
        format!("Latency since the start, p50/p99/p99.9: {}; {place}", stages.join(", "))
    }
}

fn copy_all(latencies: &Latencies) -> Result<Histograms, CreationError> {
    let [polled, decoder_queue, decoded, writer_queue, copy, commit, durable] =
        Stage::ALL.map(|stage| latencies.since_start(stage));
    Ok([polled?, decoder_queue?, decoded?, writer_queue?, copy?, commit?, durable?])
}
