//! `usage-processor run` as a child process, so that what is measured is the processor alone: not
//! the generator, not the broker, not the database.
//!
//! CPU time and peak memory are the kernel's (`/proc/PID`): the resource usage that `wait` reports
//! would count this process's own memory, which a child has until it becomes another program.
//! The child shares our standard error, so its log lines and its progress bar are real ones.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::target::Route;
use crate::commands::run_summary::RunSummary;
use crate::shutdown::Shutdown;

/// How often the child is looked at. Its peak memory is the highest mark the kernel kept, so only
/// what it allocates within the last of these can be missed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What decides about events or about where to read has its default in a demo, or the truth would
/// be another one.
const RESET_VARIABLES: [&str; 6] =
    ["KAFKA_OPTIONS", "ACCEPT_LOSS", "DEDUP_WINDOW", "DEDUP_MAX_ENTRIES", "MAX_EVENT_AGE", "MAX_CLOCK_SKEW"];

/// Why the processor could not be run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// It could not be started.
    #[error("starting the processor as a child process")]
    Start(#[source] io::Error),
    /// It could not be told to stop.
    #[error("sending SIGTERM to the processor")]
    Signal(#[source] io::Error),
    /// It could not be waited for.
    #[error("waiting for the processor")]
    Wait(#[source] io::Error),
    /// It ended with another code than 0.
    #[error("the processor ended with {0}")]
    Failed(ExitStatus),
    /// It ended before it was told to.
    #[error("the processor ended by itself, with {0}")]
    EndedEarly(ExitStatus),
    /// It did not end.
    #[error("the processor was still running after {0:?}")]
    Overdue(Duration),
    /// Its last line is no summary.
    #[error("reading the processor's summary")]
    Summary(#[source] serde_json::Error),
    /// The demo itself was told to stop.
    #[error("stopped by a signal")]
    Interrupted,
}

/// A running child. Dropping it ends it.
#[derive(Debug)]
pub struct Processor {
    child: Child,
    started: Instant,
    cost: Cost,
    /// CPU time that it took to get ready, if that is not to be counted.
    cpu_until_ready: Duration,
}

/// What the kernel counted for the child, from when it was ready to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// In user and in kernel mode, on all threads.
    pub cpu: Duration,
    /// The highest resident memory.
    pub memory_peak_bytes: u64,
}

/// A child that ended well.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// What it says it did.
    pub summary: RunSummary,
    /// What it took.
    pub cost: Cost,
    /// From its start to its end.
    pub elapsed: Duration,
}

impl Processor {
    /// Starts `usage-processor run` with these further arguments; `program` is that binary.
    pub fn start(program: &Path, route: &Route, arguments: &[&str]) -> Result<Self, ProcessorError> {
        Self::start_with(program, route, arguments, &[])
    }

    /// The same with further settings, by the environment.
    pub fn start_with(
        program: &Path,
        route: &Route,
        arguments: &[&str],
        settings: &[(String, String)],
    ) -> Result<Self, ProcessorError> {
        let mut command = Command::new(program);
        command
            .args(["run", "--print-summary"])
            .args(arguments)
            // By the environment: command lines can be read by everybody, and the URL has a password.
            .env("DATABASE_URL", &route.database_url)
            .env("KAFKA_BROKERS", &route.brokers)
            .env("KAFKA_TOPIC", &route.topic)
            .env("KAFKA_GROUP_ID", &route.topic)
            .env("KAFKA_AUTO_OFFSET_RESET", "earliest")
            // What serving costs is part of what is measured; several run at the same time.
            .env("METRICS_ADDR", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for variable in RESET_VARIABLES {
            command.env_remove(variable);
        }
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().map_err(ProcessorError::Start)?;
        let (started, cost) = (Instant::now(), Cost::default());
        Ok(Self { child, started, cost, cpu_until_ready: Duration::ZERO })
    }

    /// Fails if the child has ended.
    pub fn ensure_running(&mut self) -> Result<(), ProcessorError> {
        self.cost = cost_of(self.child.id()).unwrap_or(self.cost);
        match self.child.try_wait().map_err(ProcessorError::Wait)? {
            None => Ok(()),
            Some(status) => Err(ProcessorError::EndedEarly(status)),
        }
    }

    /// Waits until the child has read what refills its dedup windows and rests; counts its CPU time
    /// from here.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<(), ProcessorError> {
        /// A core is at rest when it works for less than a tenth of this.
        const REST: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + patience;
        loop {
            self.ensure_running()?;
            let before = self.cost.cpu;
            thread::sleep(REST);
            self.ensure_running()?;
            if self.cost.cpu - before < REST / 10 {
                self.cpu_until_ready = self.cost.cpu;
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ProcessorError::Overdue(patience));
            }
        }
    }

    /// Sends SIGTERM and waits until the child has drained.
    pub fn terminate(self, patience: Duration, shutdown: &Shutdown) -> Result<Finished, ProcessorError> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .map_err(|errno| ProcessorError::Signal(errno.into()))?;
        self.wait(patience, shutdown)
    }

    /// Waits until the child ends by itself.
    pub fn wait(mut self, patience: Duration, shutdown: &Shutdown) -> Result<Finished, ProcessorError> {
        let deadline = Instant::now() + patience;
        // Before it is waited for, a child that has ended still shows its CPU time.
        while let Some(look) = look_at(self.child.id()) {
            self.cost = look.cost.max_memory(self.cost);
            if shutdown.is_requested() {
                return Err(ProcessorError::Interrupted);
            }
            if look.has_ended {
                break;
            }
            if Instant::now() >= deadline {
                return Err(ProcessorError::Overdue(patience));
            }
            thread::sleep(LOOK_INTERVAL);
        }
        let elapsed = self.started.elapsed();
        let status = self.child.wait().map_err(ProcessorError::Wait)?;
        if !status.success() {
            return Err(ProcessorError::Failed(status));
        }
        let mut line = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut line).map_err(ProcessorError::Wait)?;
        }
        let summary = RunSummary::read(&line).map_err(ProcessorError::Summary)?;
        let cost = Cost { cpu: self.cost.cpu.saturating_sub(self.cpu_until_ready), ..self.cost };
        Ok(Finished { summary, cost, elapsed })
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // Nothing happens to one that has been waited for.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            log::warn!("ending the processor: {error}");
        }
    }
}

impl Cost {
    fn max_memory(self, other: Cost) -> Cost {
        Cost { memory_peak_bytes: self.memory_peak_bytes.max(other.memory_peak_bytes), ..self }
    }
}

/// A process as the kernel shows it.
struct Look {
    cost: Cost,
    has_ended: bool,
}

/// `None` when there is no such process.
fn look_at(pid: u32) -> Option<Look> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let (has_ended, ticks) = parse_stat(&stat)?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let cost = Cost {
        cpu: Duration::from_millis(ticks * 1_000 / ticks_per_second),
        memory_peak_bytes: parse_peak_kib(&status) * 1_024,
    };
    Some(Look { cost, has_ended })
}

fn cost_of(pid: u32) -> Option<Cost> {
    look_at(pid).map(|look| look.cost)
}

/// Whether the process is a zombie, and its CPU time in clock ticks. The program's name, in
/// parentheses, may hold anything; the state is the 3rd field, the times are the 14th and 15th.
fn parse_stat(stat: &str) -> Option<(bool, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some((matches!(state, "Z" | "X"), user + kernel))
}

/// A process that has ended has no such line: 0.
fn parse_peak_kib(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figures_are_read() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 7 0";
        assert_eq!(parse_stat(stat), Some((false, 175)));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), Some((true, 175)));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_peak_kib("VmPeak:\t  9 kB\nVmHWM:\t  141234 kB\n"), 141_234);
        assert_eq!(parse_peak_kib("State:\tZ (zombie)\n"), 0);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let look = look_at(std::process::id()).unwrap();
        assert!(!look.has_ended);
        assert!(look.cost.memory_peak_bytes > 1_000_000);
    }
}
