//! `usage-processor generate`: options to the load generator, its progress bar and its summary.

use std::fmt::Display;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::HumanCount;
use rand::TryRngCore;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::progress_bar::message_bar;
use crate::config::{self, ConfigError};
use crate::generate::{
    self, GenerateError, GenerateOptions, Generated, Pace, Progress, Share, Traffic, Truth, TruthError,
};

/// The rate that a backlog claims to have come in at, unless --spread says otherwise.
const BACKLOG_RATE: u64 = 10_000;
const DEFAULT_COUNT: u64 = 100_000;

/// Produce synthetic usage events, as an API gateway does, and the truth about them.
///
/// The traffic is lifelike: a few organizations send most of it, gateways retry requests under the
/// same request id, clocks write different formats, and some messages are broken. The same seed,
/// options and start time give the same bytes. Every message is keyed by its organization.
///
/// Examples:
///
///   A backlog of a million messages, as fast as Kafka takes them, and what must come of it:
///     usage-processor generate --count 1000000 --duplicates 1% --malformed 0.1% --truth truth.json
///
///   Ten thousand messages a second for a minute, as the clock runs:
///     usage-processor generate --rate 10000 --duration 1m
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct GenerateArgs {
    /// Brokers to send to: host:port, several separated by commas
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092", value_name = "LIST")]
    pub kafka_brokers: String,

    /// Topic to send to; create it with --partitions if it does not exist
    #[arg(long, env = "KAFKA_TOPIC", default_value = "usage-events", value_name = "NAME")]
    pub kafka_topic: String,

    /// Further librdkafka properties, as for `run` (TLS, SASL, compression.type ...)
    #[arg(
        long,
        env = "KAFKA_OPTIONS",
        hide_env_values = true,
        default_value = "",
        value_name = "KEY=VALUE,..."
    )]
    pub kafka_options: String,

    /// A file that holds KAFKA_OPTIONS
    #[arg(long, env = "KAFKA_OPTIONS_FILE", value_name = "FILE")]
    pub kafka_options_file: Option<PathBuf>,

    /// Create the topic with this many partitions (one replica) unless it exists
    #[arg(long, env = "GENERATE_PARTITIONS", value_name = "N")]
    pub partitions: Option<u16>,

    /// Messages in all, duplicates and malformed ones included [default: 100000, or rate x duration]
    #[arg(long, env = "GENERATE_COUNT", value_name = "N", conflicts_with = "duration")]
    pub count: Option<u64>,

    /// Messages a second, each stamped with the instant at which it was due, so that falling behind shows as
    /// latency; 0: a backlog, as fast as Kafka takes it
    #[arg(long, env = "GENERATE_RATE", default_value_t = 0, value_name = "N")]
    pub rate: u32,

    /// How long to send at --rate, such as 10s or 5m, instead of --count
    #[arg(long, env = "GENERATE_DURATION", value_parser = humantime::parse_duration, value_name = "TIME", requires = "rate")]
    pub duration: Option<Duration>,

    /// Spread a backlog's timestamps evenly over this time, up to now, such as 3h [default: as if sent at
    /// 10000 a second]
    #[arg(long, env = "GENERATE_SPREAD", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub spread: Option<Duration>,

    /// Seed of all randomness; organizations are the same for every seed [default: random, printed]
    #[arg(long, env = "GENERATE_SEED", value_name = "N")]
    pub seed: Option<u64>,

    /// Share of messages that are a retry: same request id and payload, at most 20s after the attempt before
    #[arg(long, env = "GENERATE_DUPLICATES", default_value = "1%", value_name = "PERCENT")]
    pub duplicates: Share,

    /// Share of duplicates that carry a later `time` (retimed); the others are the same bytes (identical).
    /// A database key on the time cannot stop a retimed one, only the processor's dedup window can
    #[arg(long, env = "GENERATE_RETIMED", default_value = "50%", value_name = "PERCENT")]
    pub retimed: Share,

    /// Share of messages that must become dead letters: broken JSON, missing fields, wrong types, NUL
    /// characters, bad ids, impossible times, tombstones ...
    #[arg(long, env = "GENERATE_MALFORMED", default_value = "0.1%", value_name = "PERCENT")]
    pub malformed: Share,

    /// Organizations that send; the k-th is 1/k times as busy as the first
    #[arg(long, env = "GENERATE_ORGANIZATIONS", default_value_t = 200, value_name = "N")]
    pub organizations: u32,

    /// Share of events that happened long before they are sent
    #[arg(long, env = "GENERATE_LATE", default_value = "0%", value_name = "PERCENT")]
    pub late: Share,

    /// How late those are at most (evenly spread); up to 89d
    #[arg(long, env = "GENERATE_LATE_UP_TO", default_value = "1d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub late_up_to: Duration,

    /// Bytes of a field `padding`, which is ignored, in every message that is not malformed; 0: no such field.
    /// A message without it has about 315 bytes
    #[arg(long, env = "GENERATE_PADDING", default_value_t = 0, value_name = "BYTES")]
    pub padding: u32,

    /// Write what a correct pipeline must end up with to this file, as JSON: requests, billable requests
    /// and units by organization and hour, duplicates, dead letters by reason
    #[arg(long, env = "GENERATE_TRUTH", value_name = "FILE")]
    pub truth: Option<PathBuf>,

    /// Timestamp of the first message, as 2026-01-31T12:00:00Z, for the same bytes again [default: now, or
    /// so that a backlog ends now]
    #[arg(long, env = "GENERATE_START_TIME", value_parser = humantime::parse_rfc3339, value_name = "TIME")]
    pub start_time: Option<SystemTime>,

    /// How long a message may wait for others to be sent along with
    #[arg(long, env = "GENERATE_LINGER", default_value = "5ms", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub linger: Duration,
}

/// Why `generate` failed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateCommandError {
    /// KAFKA_OPTIONS are not to be had.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `--duration` says nothing about a backlog.
    #[error("--duration needs a --rate above 0")]
    DurationWithoutRate,
    /// No seed to be had.
    #[error("drawing a random seed")]
    Seed(#[source] rand::rand_core::OsError),
    /// No signal handler.
    #[error("installing the signal handlers")]
    Signals(#[source] io::Error),
    /// The load generator failed.
    #[error("generating messages")]
    Generate(#[from] GenerateError),
    /// The truth could not be kept.
    #[error("keeping the truth")]
    Truth(#[from] TruthError),
    /// The summary could not be printed.
    #[error("printing the summary")]
    Print(#[source] io::Error),
}

impl GenerateArgs {
    /// The options of the library for these arguments.
    pub fn options(&self) -> Result<GenerateOptions, GenerateCommandError> {
        let rate = NonZeroU32::new(self.rate);
        let message_count = match (self.duration, rate) {
            (None, _) => self.count.unwrap_or(DEFAULT_COUNT),
            (Some(_), None) => return Err(GenerateCommandError::DurationWithoutRate),
            (Some(duration), Some(rate)) => messages_in(duration, rate),
        };
        let backlog_default =
            || Duration::from_micros(message_count.saturating_mul(1_000_000 / BACKLOG_RATE));
        let pace = match rate {
            Some(rate) => Pace::Steady { rate },
            None => Pace::Backlog { spread: self.spread.unwrap_or_else(backlog_default) },
        };
        Ok(GenerateOptions {
            brokers: self.kafka_brokers.clone(),
            topic: self.kafka_topic.clone(),
            kafka_options: config::kafka_options(&self.kafka_options, self.kafka_options_file.as_deref())
                .map_err(ConfigError::from)?
                .to_vec(),
            linger: self.linger,
            traffic: Traffic {
                // Random by default: a second run into the same topic must not repeat the first one's request ids.
                seed: self.seed.map_or_else(random_seed, Ok)?,
                message_count,
                organization_count: self.organizations,
                duplicates: self.duplicates,
                retimed: self.retimed,
                malformed: self.malformed,
                late: self.late,
                late_up_to: self.late_up_to,
                padding_bytes: self.padding,
            },
            pace,
            start_time: self.start_time,
        })
    }
}

/// Generates, writes the truth file and prints a summary. SIGINT and SIGTERM end the stream early, with a
/// truth about what was sent; a second one ends the process.
pub fn run(args: &GenerateArgs) -> Result<(), GenerateCommandError> {
    let options = args.options()?;
    if let Some(path) = &args.truth {
        // Find out that the file cannot be written before a million messages are sent, not after.
        Truth::default().write(path)?;
    }
    let interrupted = watch_signals().map_err(GenerateCommandError::Signals)?;
    if let Some(partitions) = args.partitions {
        generate::create_topic(&options.brokers, &options.topic, partitions, &options.kafka_options)?;
    }
    let bar = message_bar(options.traffic.message_count);
    let generated = generate::run(&options, &mut |progress: Progress| {
        bar.set_position(progress.delivered);
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    if let Some(path) = &args.truth {
        generated.truth.write(path)?;
    }
    print_summary(&mut io::stdout().lock(), &options, &generated).map_err(GenerateCommandError::Print)
}

fn messages_in(duration: Duration, rate: NonZeroU32) -> u64 {
    u64::try_from(duration.as_micros() * u128::from(rate.get()) / 1_000_000).unwrap_or(u64::MAX)
}

fn random_seed() -> Result<u64, GenerateCommandError> {
    rand::rngs::OsRng.try_next_u64().map_err(GenerateCommandError::Seed)
}

/// A flag that the first SIGINT or SIGTERM sets; the second exits with 130, as shells expect.
fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn print_summary(out: &mut dyn Write, options: &GenerateOptions, generated: &Generated) -> io::Result<()> {
    let Generated { truth, elapsed, behind_max } = generated;
    let usage = truth.total_usage();
    // For people to read: a fraction of a message a second is no loss.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rate = (truth.messages as f64 / elapsed.as_secs_f64().max(1e-9)) as u64;
    writeln!(
        out,
        "Produced {} messages to {} in {:.1} s ({}/s), seed {}",
        HumanCount(truth.messages),
        options.topic,
        elapsed.as_secs_f64(),
        HumanCount(rate),
        options.traffic.seed
    )?;
    writeln!(
        out,
        "  requests   {:>12}  billable {}, units {}, late {}, organizations {}",
        HumanCount(usage.requests).to_string(),
        HumanCount(usage.billable_requests),
        HumanCount(usage.billable_units),
        HumanCount(truth.late),
        truth.usage.len()
    )?;
    let duplicates = truth.duplicates.iter().map(|(kind, count)| (format!("{kind:?}").to_lowercase(), count));
    print_counts(out, "duplicates", truth.duplicate_count(), duplicates)?;
    print_counts(out, "malformed", truth.malformed_count(), truth.dead_letters.iter())?;
    if matches!(options.pace, Pace::Steady { .. }) {
        writeln!(out, "  at most {:.1} ms behind schedule", behind_max.as_secs_f64() * 1_000.0)?;
    }
    out.flush()
}

fn print_counts<'a, Name: Display>(
    out: &mut dyn Write,
    title: &str,
    total: u64,
    parts: impl Iterator<Item = (Name, &'a u64)>,
) -> io::Result<()> {
    let parts: Vec<String> = parts.map(|(name, count)| format!("{name} {}", HumanCount(*count))).collect();
    writeln!(out, "  {title:<10} {:>12}  {}", HumanCount(total).to_string(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: GenerateArgs,
    }

    fn options(line: &[&str]) -> GenerateOptions {
        Cli::parse_from(std::iter::once(&"generate").chain(line)).args.options().unwrap()
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_duration_is_a_count_at_a_rate() {
        let options = options(&["--rate", "250", "--duration", "10s"]);
        assert_eq!(options.traffic.message_count, 2_500);
        assert_eq!(options.pace, Pace::Steady { rate: NonZeroU32::new(250).unwrap() });
        let args = Cli::parse_from(["generate", "--rate", "0", "--duration", "10s"]).args;
        assert!(matches!(args.options(), Err(GenerateCommandError::DurationWithoutRate)));
    }

    #[test]
    fn a_backlog_is_spread_as_if_sent_at_ten_thousand_a_second() {
        let options = options(&["--count", "1000000", "--duplicates", "0.5%"]);
        assert_eq!(options.pace, Pace::Backlog { spread: Duration::from_secs(100) });
        assert_eq!(options.traffic.duplicates.to_string(), "0.5%");
    }

    #[test]
    fn seeds_differ_unless_given() {
        assert_ne!(options(&[]).traffic.seed, options(&[]).traffic.seed);
        assert_eq!(options(&["--seed", "7"]).traffic.seed, 7);
    }
}
