//! `demo`: the whole way, shown and checked. A backlog is produced and drained, then a steady
//! stream is followed as the clock runs, and at the end every figure in the database and every
//! committed offset is compared with the generator's truth.
//!
//! The processor is `usage-processor run` in a child process; this process generates and checks.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use rand::TryRngCore;

use crate::cli::DemoArgs;
use crate::config::{ConfigError, database_config};
use crate::demo::figures::Figures;
use crate::demo::measure::{self, MeasureError};
use crate::demo::offsets::{GroupOffsets, OffsetsError};
use crate::demo::processor::{Processor, ProcessorError};
use crate::demo::progress::Progress;
use crate::demo::screen::{Backlog, Screen, Steady};
use crate::demo::target::{PARTITION_COUNT, Target, TargetError};
use crate::generate::{
    self, GenerateError, GenerateOptions, Generated, LATE_UP_TO_MAX, Pace, Share, Traffic, Truth,
};
use crate::shutdown::Shutdown;

/// Organizations that send.
const ORGANIZATION_COUNT: u32 = 200;
/// The rate at which the backlog claims to have come in.
const BACKLOG_RATE: u64 = 10_000;
/// What the mock cluster can hold: it keeps about 5 MB a partition and drops what is older, read or not.
const MOCK_RATE_MAX: NonZeroU32 = match NonZeroU32::new(5_000) {
    Some(rate) => rate,
    None => NonZeroU32::MIN,
};
/// How long the processor may take for a step before the demo gives it up: a slow machine needs a minute.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long until a group has its partitions.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// The broker calls a group stable just before the processor reads its first message: what refills
/// its dedup windows. Ten milliseconds of the stream are the slowest 0.1 %: what the start costs
/// would be all that p99.9 tells.
const SETTLING_TIME: Duration = Duration::from_secs(1);
/// A mock cluster cannot tell whether a group has its partitions; it takes 3 s to hand them out.
const MOCK_JOIN_TIME: Duration = Duration::from_secs(5);
/// How often the broker is asked how far the group is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Why `demo` failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No signal handlers.
    #[error("installing signal handlers")]
    Signals(#[source] io::Error),
    /// No seed.
    #[error("drawing a random seed")]
    Seed(#[source] rand::rand_core::OsError),
    /// It cannot work there.
    #[error("preparing the demo's database and topic")]
    Target(#[from] TargetError),
    /// The generator failed.
    #[error("generating messages")]
    Generate(#[from] GenerateError),
    /// The processor failed.
    #[error("running the processor")]
    Processor(#[from] ProcessorError),
    /// The broker could not be asked.
    #[error("following the processor's progress")]
    Offsets(#[from] OffsetsError),
    /// The processor did not get or did not finish its work.
    #[error("the processor {what} within {patience:?}")]
    Overdue {
        /// What it did not do.
        what: &'static str,
        /// How long it had.
        patience: Duration,
    },
    /// The database could not be asked.
    #[error("checking the figures")]
    Measure(#[from] MeasureError),
    /// The figures are wrong.
    #[error("{0} figures are not what the generator says they must be")]
    Differences(usize),
    /// A signal.
    #[error("stopped by a signal; nothing was checked")]
    Interrupted,
    /// Standard output is closed.
    #[error("printing")]
    Print(#[from] io::Error),
}

/// Shows the whole way, and fails if a single figure is off.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let mut demo = Demo::prepare(args)?;
    let backlog = if demo.target.is_mock() { None } else { Some(demo.drain_backlog(args.count)?) };
    let rate = if demo.target.is_mock() { args.rate.min(MOCK_RATE_MAX) } else { args.rate };
    let steady = demo.follow_stream(rate, args.duration)?;
    demo.check(backlog, steady)
}

/// A demo under way.
struct Demo {
    /// Before the target, and so gone before a mock cluster is, or it would complain of its loss.
    offsets: GroupOffsets,
    target: Target,
    /// This program.
    program: PathBuf,
    shutdown: Shutdown,
    seed: u64,
    /// About everything sent so far.
    truth: Truth,
}

impl Demo {
    fn prepare(args: &DemoArgs) -> Result<Self, DemoError> {
        let database = database_config(&args.database).map_err(ConfigError::from)?;
        let shutdown = Shutdown::default();
        shutdown.on_signals().map_err(DemoError::Signals)?;
        let seed = args.seed.map_or_else(|| rand::rngs::OsRng.try_next_u64().map_err(DemoError::Seed), Ok)?;
        // Not the seed: with one that is given, the second demo's topic must be another one, too.
        let topic = format!("usage-demo-{}", crate::clock::now_ms());
        let brokers = args.kafka_brokers.as_deref().map(str::trim).filter(|brokers| !brokers.is_empty());
        let url = args.database.database_url.clone().unwrap_or_default();
        let target = Target::prepare(&database, url, brokers, topic, args.profile)?;
        let offsets = GroupOffsets::new(&target.route, PARTITION_COUNT)?;
        let program = std::env::current_exe().map_err(ProcessorError::Start)?;
        let demo = Self { offsets, target, program, shutdown, seed, truth: Truth::default() };
        say(&format!("demo: {}, seed {seed}", demo.route(&database.describe())))?;
        if demo.target.is_mock() {
            say(
                "demo: no Kafka broker (KAFKA_BROKERS is not set): librdkafka's mock cluster stands in. It holds too \
                 little for a backlog, so there is only the second part, at a pace that it can hold.",
            )?;
        }
        Ok(demo)
    }

    fn broker(&self) -> String {
        if self.target.is_mock() {
            "librdkafka's mock cluster (no Kafka broker)".to_owned()
        } else {
            format!("Kafka at {}", self.target.route.brokers)
        }
    }

    fn route(&self, database: &str) -> String {
        format!(
            "topic and group {} with {PARTITION_COUNT} partitions on {}, into {database} ({})",
            self.target.route.topic,
            self.broker(),
            self.target.server
        )
    }

    /// Part one: as many messages as fast as Kafka takes them, then the processor until their end.
    fn drain_backlog(&mut self, count: u64) -> Result<Backlog, DemoError> {
        say(&format!("\n1. a backlog of {} messages: producing it ...", HumanCount(count)))?;
        let spread = Duration::from_micros(count.saturating_mul(1_000_000 / BACKLOG_RATE));
        let generated = self.generate(count, Pace::Backlog { spread })?;
        let seconds = generated.elapsed.as_secs_f64();
        say(&format!("   produced in {seconds:.1} s; processing it ..."))?;
        let run = Processor::start(&self.program, &self.target.route, &["--stop-at-end"])?
            .wait(PATIENCE, &self.shutdown)?;
        let writing_time = measure::writing_time(&mut self.target.client)?;
        say(&format!("   processed in {:.1} s", run.elapsed.as_secs_f64()))?;
        Ok(Backlog { run, writing_time })
    }

    /// Part two: the processor beside a steady stream, and SIGTERM when it has caught up.
    fn follow_stream(&mut self, rate: NonZeroU32, duration: Duration) -> Result<Steady, DemoError> {
        let count =
            u64::try_from(duration.as_micros() * u128::from(rate.get()) / 1_000_000).unwrap_or(u64::MAX);
        let events_per_second = HumanCount(rate.get().into());
        say(&format!(
            "\n2. a steady stream, {events_per_second} messages/s for {duration:?}: starting the processor ..."
        ))?;
        let mut processor = Processor::start(&self.program, &self.target.route, &[])?;
        self.await_partitions(&mut processor)?;
        say("   it has its partitions; producing ...")?;
        let generated = self.generate(count, Pace::Steady { rate })?;
        self.await_end(&mut processor)?;
        say("   everything is durable and committed; sending SIGTERM ...")?;
        let run = processor.terminate(PATIENCE, &self.shutdown)?;
        Ok(Steady { run, rate: rate.get(), messages: count, behind_max: generated.behind_max })
    }

    /// Compares every figure and prints the screen.
    fn check(mut self, backlog: Option<Backlog>, steady: Steady) -> Result<(), DemoError> {
        say("\n3. checking every figure against the generator's truth ...\n")?;
        let runs: Vec<_> = backlog.map(|backlog| backlog.run).into_iter().chain([steady.run]).collect();
        let expected = Figures::expected(&self.truth);
        let found = measure::measure(&mut self.target.client, &self.offsets.partitions()?, &runs)?;
        let differences = expected.differences(&found.figures);
        let screen = Screen {
            server: &self.target.server,
            broker: &self.broker(),
            is_mock: self.target.is_mock(),
            backlog,
            steady,
            truth: &self.truth,
            found: &found,
            figure_count: expected.len(),
            differences: &differences,
        };
        say(&screen.to_string())?;
        if differences.is_empty() { Ok(()) } else { Err(DemoError::Differences(differences.len())) }
    }

    /// Sends messages, and adds to the truth. The seed is another one each time: a request id must
    /// not come twice.
    fn generate(&mut self, message_count: u64, pace: Pace) -> Result<Generated, DemoError> {
        let options = GenerateOptions {
            brokers: self.target.route.brokers.clone(),
            topic: self.target.route.topic.clone(),
            kafka_options: Vec::new(),
            linger: Duration::from_millis(5),
            traffic: Traffic {
                seed: self.seed,
                message_count,
                organization_count: ORGANIZATION_COUNT,
                duplicates: Share::from_parts_per_million(10_000),
                retimed: Share::from_parts_per_million(500_000),
                malformed: Share::from_parts_per_million(1_000),
                late: Share::NONE,
                late_up_to: LATE_UP_TO_MAX,
                padding_bytes: 0,
            },
            pace,
            start_time: None,
        };
        self.seed = self.seed.wrapping_add(1);
        let mut progress = Progress::new(message_count);
        let mut printed = Ok(());
        let generated = generate::run(&options, &mut |report| {
            printed = progress.set(report.delivered);
            let goes_on = printed.is_ok() && !self.shutdown.is_requested();
            if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        printed?;
        self.ensure_not_interrupted()?;
        self.truth.merge(&generated.truth);
        Ok(generated)
    }

    fn await_partitions(&self, processor: &mut Processor) -> Result<(), DemoError> {
        let is_mock = self.target.is_mock();
        let started = Instant::now();
        self.wait_until(processor, JOIN_PATIENCE, "had no partitions", || {
            if is_mock { Ok(started.elapsed() >= MOCK_JOIN_TIME) } else { self.offsets.is_stable() }
        })?;
        thread::sleep(SETTLING_TIME);
        Ok(processor.wait_until_ready(JOIN_PATIENCE)?)
    }

    fn await_end(&self, processor: &mut Processor) -> Result<(), DemoError> {
        self.wait_until(processor, PATIENCE, "did not reach the end of the topic", || {
            Ok(self.offsets.partitions()?.iter().all(|partition| partition.committed == partition.end))
        })
    }

    fn wait_until(
        &self,
        processor: &mut Processor,
        patience: Duration,
        what: &'static str,
        mut is_done: impl FnMut() -> Result<bool, OffsetsError>,
    ) -> Result<(), DemoError> {
        let deadline = Instant::now() + patience;
        while !is_done()? {
            // In this order: Ctrl-C at a terminal reaches both processes.
            self.ensure_not_interrupted()?;
            processor.ensure_running()?;
            if Instant::now() >= deadline {
                return Err(DemoError::Overdue { what, patience });
            }
            thread::sleep(ASK_INTERVAL);
        }
        Ok(())
    }

    fn ensure_not_interrupted(&self) -> Result<(), DemoError> {
        if self.shutdown.is_requested() { Err(DemoError::Interrupted) } else { Ok(()) }
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
