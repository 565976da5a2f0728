//! The process under test: the real binary, its log, and signals to it.

use super::{SERVER_TIMEOUT, TestDatabase, TestTopic};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Puts a command line and an environment together.
#[derive(Debug)]
pub(crate) struct ProcessorBuilder {
    command: Command,
}

impl ProcessorBuilder {
    /// Reads this topic as a member of this consumer group.
    pub(crate) fn source(mut self, topic: &TestTopic, group: &str) -> Self {
        self.command
            .env("KAFKA_BROKERS", topic.brokers())
            .env("KAFKA_TOPIC", topic.name())
            .env("KAFKA_GROUP_ID", group);
        self
    }

    /// Writes to this database.
    pub(crate) fn database(self, database: &TestDatabase) -> Self {
        self.env("DATABASE_URL", &database.url())
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    #[track_caller]
    pub(crate) fn spawn(self) -> Processor {
        Processor::spawn(self.command)
    }
}

/// A running `usage-processor`; killed when dropped, and its log shown if the test has failed.
#[derive(Debug)]
pub(crate) struct Processor {
    child: Child,
    log: Arc<Log>,
}

/// What the process has printed, standard error and standard output in one.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    closed_count: usize,
}

/// Standard error and standard output.
const STREAM_COUNT: usize = 2;

impl Processor {
    /// `usage-processor run`, with nothing of this process's environment but what any program needs. Many run at
    /// the same time: none serves metrics unless it is asked to.
    pub(crate) fn run() -> ProcessorBuilder {
        Self::command("run")
    }

    /// Any other of its commands.
    pub(crate) fn command(name: &str) -> ProcessorBuilder {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usage-processor"));
        command.arg(name).env_clear().env("RUST_BACKTRACE", "1");
        for inherited in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        if name == "run" {
            command.env("METRICS_ADDR", "none");
        }
        ProcessorBuilder { command }
    }

    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the process under test");
        let log = Arc::new(Log::default());
        Log::follow(&log, child.stderr.take().expect("its standard error"));
        Log::follow(&log, child.stdout.take().expect("its standard output"));
        Self { child, log }
    }

    /// Returns the first line that contains `part`, past ones included.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, part: &str, deadline: Duration) -> String {
        let is_part_there = |lines: &[String]| lines.iter().any(|line| line.contains(part));
        let state = self.log.state.lock().unwrap();
        let (state, _) = self
            .log
            .changed
            .wait_timeout_while(state, deadline, |state| {
                state.closed_count < STREAM_COUNT && !is_part_there(&state.lines)
            })
            .unwrap();
        let found = state.lines.iter().find(|line| line.contains(part)).cloned();
        let has_ended = state.closed_count == STREAM_COUNT;
        drop(state); // Or the log could not be shown.
        match found {
            Some(line) => line,
            None if has_ended => panic!("the process has ended without a line with {part:?}"),
            None => panic!("no line with {part:?} within {deadline:?}"),
        }
    }

    /// What it has printed so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.state.lock().unwrap().lines.clone()
    }

    /// SIGTERM: the request to drain and to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL: the crash.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGSTOP: frozen, with all its connections open.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: goes on as if nothing had been.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Any other signal. The child has not been waited for, so its id cannot be another's.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("send a signal to the process under test");
    }

    /// How it has ended, if it has.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look whether the process under test runs")
    }

    /// How much memory it holds now, by the kernel's account.
    #[track_caller]
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("read the process's status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()).expect("its resident memory");
        number.parse().expect("a number of KiB")
    }

    /// Returns when it has ended and its log is complete.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let status = super::eventually("the process under test ends", deadline, || {
            self.child.try_wait().expect("wait for the process under test").ok_or("it runs")
        });
        self.log.wait_until_closed(SERVER_TIMEOUT);
        status
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- log of process {}", self.child.id());
            for line in self.lines() {
                eprintln!("{line}");
            }
            eprintln!("--- end of log");
        }
    }
}

impl Log {
    /// Reads a stream to its end, on a thread of its own, so that the process never waits for us.
    fn follow(log: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(log);
        thread::Builder::new()
            .name("log-reader".to_owned())
            .spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    log.state.lock().unwrap().lines.push(line);
                    log.changed.notify_all();
                }
                log.state.lock().unwrap().closed_count += 1;
                log.changed.notify_all();
            })
            .expect("start a thread");
    }

    fn wait_until_closed(&self, deadline: Duration) {
        let started = Instant::now();
        let mut state = self.state.lock().unwrap();
        while state.closed_count < STREAM_COUNT && started.elapsed() < deadline {
            (state, _) = self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap();
        }
    }
}
