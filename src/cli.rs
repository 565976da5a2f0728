//! The command line: every option is an environment variable too. Values are taken as text here and
//! judged in `config.rs`, so that all mistakes can be reported at once.

pub(crate) mod help;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};

use crate::commands::audit::AuditArgs;
use crate::commands::dead_letters::DeadLettersArgs;
use crate::commands::generate::GenerateArgs;
use crate::commands::generate_docs::GenerateDocsArgs;
use crate::commands::latency::LatencyArgs;
use crate::commands::maintain::MaintainArgs;
use crate::commands::migrate::MigrateArgs;
use crate::commands::rewind::RewindArgs;
use crate::commands::smoke::SmokeArgs;
use crate::commands::status::StatusArgs;
use crate::migrations::ProfileChoice;

/// Version and commit, as `--version` prints them.
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("USAGE_PROCESSOR_COMMIT"), ")");

/// Takes API usage events from Apache Kafka, removes duplicates and copies them into TimescaleDB
/// (or plain PostgreSQL), where customers are billed from them.
#[derive(Debug, Parser)]
#[command(name = "usage-processor", version = VERSION, after_help = help::ALL)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines to print to standard error: error, warn, info, debug, trace, or a filter
    /// such as `info,librdkafka=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// How the log's lines look: text, json (an object a line), or journal (with the priorities that journald
    /// reads from a unit's standard error).
    #[arg(long, env = "LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Process events until a signal says stop.
    #[command(after_long_help = help::RUN)]
    Run(RunArgs),
    /// Print the effective configuration, without secrets, and try both servers.
    #[command(after_long_help = help::CHECK_CONFIG)]
    CheckConfig(CheckConfigArgs),
    /// Create the database's tables, or take the last step back.
    #[command(after_long_help = help::MIGRATE)]
    Migrate {
        /// Where.
        #[command(flatten)]
        database: DatabaseArgs,
        /// What.
        #[command(flatten)]
        migrate: MigrateArgs,
    },
    /// Look at messages that are no valid events, export, replay or delete them.
    #[command(after_long_help = help::DEAD_LETTERS)]
    DeadLetters(DeadLettersArgs),
    /// Do what is due in the database: fold events into the figures, make partitions ahead, drop rows
    /// that are no longer retained. For a timer that calls it every hour.
    ///
    /// As the role that owns the tables. `run` does the same when it is given MAINTENANCE_DATABASE_URL.
    /// Any number of callers may try, and one at a time works. Rows whose figures cannot be proven equal
    /// are kept, with a warning.
    #[command(after_long_help = help::MAINTAIN)]
    Maintain(MaintainArgs),
    /// Check that everything in the database adds up, in one snapshot; exit code 6 when it does not.
    ///
    /// Every message against the ledger, every row against the days written, dead letters, requests
    /// that are there twice, and the aggregates against the rows. Reads all rows several times.
    #[command(after_long_help = help::AUDIT)]
    Audit(AuditArgs),
    /// Read partitions again from a time or an offset. Nothing is billed twice by it.
    ///
    /// The group must be stopped. Without --partition, partitions that have not come as far as that
    /// are left alone.
    #[command(after_long_help = help::REWIND)]
    Rewind(Box<RewindArgs>),
    /// Check a deployment that is running: send 5 events of a marked organization, and look for them in Kafka, in the
    /// group's offsets, in the table and in the views.
    ///
    /// Nobody is billed for them. They are removed at the end, and that is booked, so `audit` agrees; as the role of
    /// MAINTENANCE_DATABASE_URL. Stops at the first step that fails and says what to do: exit code 3 when a server cannot be
    /// used (nothing was sent then), 1 for any other step.
    #[command(after_long_help = help::SMOKE)]
    Smoke(Box<SmokeArgs>),
    /// Produce realistic events, as an API gateway would, and keep the truth about them.
    #[command(after_long_help = help::GENERATE)]
    Generate(GenerateArgs),
    /// Print percentiles from the files in LATENCY_DIR, compare two, draw them.
    #[command(after_long_help = help::LATENCY)]
    Latency(LatencyArgs),
    /// Print what a running process does and how it fares, as its status page shows it.
    #[command(after_long_help = help::STATUS)]
    Status(StatusArgs),
    /// Show the whole way with a million events, and check every figure. `make demo` starts the
    /// private servers for it.
    ///
    /// Works in a topic and a group of its own and in a database without usage events. The processor
    /// runs with its default settings, unless BATCH_SIZE, WRITER_THREADS and the like are set in the
    /// environment. Exits with an error if a single figure is off.
    #[command(after_long_help = help::DEMO)]
    Demo(DemoArgs),
    /// Write manual pages and shell completions, for a package.
    #[command(hide = true, after_long_help = help::GENERATE_DOCS)]
    GenerateDocs(GenerateDocsArgs),
}

/// How to reach the database.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// The database, as a URL (`postgresql://user:password@host:5432/database`) or as
    /// `key=value` pairs. Required.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true, help_heading = "Database")]
    pub database_url: Option<String>,
    /// A file that holds DATABASE_URL, such as a systemd credential.
    #[arg(long, env = "DATABASE_URL_FILE", global = true, help_heading = "Database")]
    pub database_url_file: Option<PathBuf>,
    /// The same database as a role that owns the tables: for `migrate`, `run --migrate`, `maintain`,
    /// `audit`, `smoke`, and `dead-letters replay` and `purge` [default: DATABASE_URL]. `run` maintains the
    /// database too, once an hour, when this is given.
    #[arg(
        long,
        env = "MAINTENANCE_DATABASE_URL",
        hide_env_values = true,
        global = true,
        help_heading = "Database"
    )]
    pub maintenance_database_url: Option<String>,
    /// A file that holds MAINTENANCE_DATABASE_URL.
    #[arg(long, env = "MAINTENANCE_DATABASE_URL_FILE", global = true, help_heading = "Database")]
    pub maintenance_database_url_file: Option<PathBuf>,
}

/// How to reach Kafka.
#[derive(Debug, Clone, Args)]
pub struct KafkaArgs {
    /// Brokers to start from, separated by commas.
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092")]
    pub kafka_brokers: String,
    /// The topic that the gateways write to.
    #[arg(long, env = "KAFKA_TOPIC", default_value = "usage-events")]
    pub kafka_topic: String,
    /// The consumer group; instances of one group share the partitions.
    #[arg(long, env = "KAFKA_GROUP_ID", default_value = "usage-processor-group")]
    pub kafka_group_id: String,
    /// A name of this instance's own, for `run`: static membership [default: none]. Started again within
    /// `session.timeout.ms`, it has its partitions back, and no other instance notices.
    #[arg(long, env = "KAFKA_GROUP_INSTANCE_ID")]
    pub kafka_group_instance_id: Option<String>,
    /// Where a group without any offset starts: earliest or latest.
    #[arg(long, env = "KAFKA_AUTO_OFFSET_RESET", default_value = "earliest")]
    pub kafka_auto_offset_reset: String,
    /// Settings handed to librdkafka, as `key=value,...` (a comma within a value is written `\,`),
    /// such as `security.protocol=SASL_SSL,sasl.mechanism=SCRAM-SHA-512`. Those that would break
    /// a promise are refused by name.
    #[arg(long, env = "KAFKA_OPTIONS", default_value = "", hide_env_values = true)]
    pub kafka_options: String,
    /// A file that holds KAFKA_OPTIONS, such as a systemd credential.
    #[arg(long, env = "KAFKA_OPTIONS_FILE")]
    pub kafka_options_file: Option<PathBuf>,
}

/// What an event is judged by.
#[derive(Debug, Clone, Args)]
pub struct EventArgs {
    /// How far apart two copies of an event may lie to be seen as such in memory.
    #[arg(long, env = "DEDUP_WINDOW", default_value = "5m")]
    pub dedup_window: String,
    /// Events older than this at their Kafka timestamp become dead letters.
    #[arg(long, env = "MAX_EVENT_AGE", default_value = "90d")]
    pub max_event_age: String,
    /// Events further ahead of their Kafka timestamp than this become dead letters.
    #[arg(long, env = "MAX_CLOCK_SKEW", default_value = "5m")]
    pub max_clock_skew: String,
}

/// What the pipeline is tuned by.
#[derive(Debug, Clone, Args)]
pub struct PipelineArgs {
    /// How to reach the database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// How to reach Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// What an event is judged by.
    #[command(flatten)]
    pub events: EventArgs,
    /// Most rows in a transaction, 1 to 10000. Batches are smaller when load is low.
    #[arg(long, env = "BATCH_SIZE", default_value = "10000")]
    pub batch_size: String,
    /// How long a batch may collect at most. It leaves after milliseconds when a writer is free.
    #[arg(long, env = "BATCH_TIMEOUT", default_value = "5s")]
    pub batch_timeout: String,
    /// Most copies of events remembered (at most 48 bytes each); beyond it the oldest go early.
    #[arg(long, env = "DEDUP_MAX_ENTRIES", default_value = "4000000")]
    pub dedup_max_entries: String,
    /// How long the database may take for one statement of a writer, 1s to 1h. Beyond it the
    /// statement is cancelled and tried again; a database that does not even answer that stops the
    /// process.
    #[arg(long, env = "STATEMENT_TIMEOUT", default_value = "1m")]
    pub statement_timeout: String,
    /// How long a writer waits for a lock in the database, 100ms to 1h and below STATEMENT_TIMEOUT.
    /// Beyond it, sessions of frozen writers that may hold the lock are terminated.
    #[arg(long, env = "LOCK_TIMEOUT", default_value = "10s")]
    pub lock_timeout: String,
    /// Most connections of this process to the database.
    #[arg(long, env = "DB_MAX_CONNECTIONS", default_value = "20")]
    pub db_max_connections: String,
    /// Decoder threads [default: one for four cores].
    #[arg(long, env = "DECODER_THREADS")]
    pub decoder_threads: Option<String>,
    /// Writer threads, each with a connection [default: as many as cores, at least 2, within
    /// DB_MAX_CONNECTIONS].
    #[arg(long, env = "WRITER_THREADS")]
    pub writer_threads: Option<String>,
    /// How long shutdown, and giving partitions back, may wait for events in flight.
    #[arg(long, env = "DRAIN_TIMEOUT", default_value = "25s")]
    pub drain_timeout: String,
    /// How often the statistics line is logged.
    #[arg(long, env = "STATS_INTERVAL", default_value = "30s")]
    pub stats_interval: String,
    /// Where metrics, health and status are served, as IP:PORT, or none. There is no password: on an
    /// address that others reach, put something before it that asks for one.
    #[arg(long, env = "METRICS_ADDR", default_value = "127.0.0.1:9464")]
    pub metrics_addr: String,
    /// Where latencies are written, as HdrHistogram's interval logs and percentile tables [default:
    /// nowhere]. SIGUSR1 logs percentiles, and writes them here at once.
    #[arg(long, env = "LATENCY_DIR")]
    pub latency_dir: Option<PathBuf>,
    /// How often latencies are written, 1s to 1d.
    #[arg(long, env = "LATENCY_INTERVAL", default_value = "1m")]
    pub latency_interval: String,
    /// Stop, with exit code 7, when more than this ratio of the last 10,000 messages are no valid
    /// events, rather than divert everything: above 0, up to 1. 1 switches this off.
    #[arg(long, env = "DEAD_LETTER_MAX_RATIO", default_value = "0.5")]
    pub dead_letter_max_ratio: String,
    /// A Kafka topic that dead letters are produced to as well, before their offsets are passed.
    #[arg(long, env = "DEAD_LETTER_TOPIC")]
    pub dead_letter_topic: Option<String>,
    /// The brokers of that topic [default: KAFKA_BROKERS]. KAFKA_OPTIONS hold for them too.
    #[arg(long, env = "DEAD_LETTER_BROKERS")]
    pub dead_letter_brokers: Option<String>,
    /// Go on when events were deleted from Kafka before they were read, instead of stopping: at the
    /// first assignment of each partition after this start, and not at later ones.
    #[arg(long, env = "ACCEPT_LOSS", value_parser = BoolishValueParser::new())]
    pub accept_loss: bool,
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Apply pending migrations first.
    #[arg(long, env = "MIGRATE", value_parser = BoolishValueParser::new())]
    pub migrate: bool,
    /// Process up to the end of each partition as it is at the start, commit, print a summary and
    /// exit: for backfills, benches and tests.
    #[arg(long)]
    pub stop_at_end: bool,
    /// Print the final figures to standard output, as one line of JSON, once everything in flight is
    /// written and committed: for scripts. The log goes to standard error.
    #[arg(long)]
    pub print_summary: bool,
}

/// `check-config`.
#[derive(Debug, Clone, Args)]
pub struct CheckConfigArgs {
    /// The pipeline.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Do not try the servers.
    #[arg(long)]
    pub offline: bool,
    /// Print it all as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// The database: one without usage events.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Brokers to start from, separated by commas [default: none, and then librdkafka's mock cluster
    /// stands in, at a pace that it can hold].
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Which schema the database gets.
    #[arg(long, env = "DATABASE_PROFILE", value_enum, default_value_t)]
    pub profile: ProfileChoice,
    /// Events to drain in the first part.
    #[arg(long, default_value_t = 1_000_000)]
    pub count: u64,
    /// Events a second in the second part.
    #[arg(long, default_value = "10000")]
    pub rate: NonZeroU32,
    /// How long the second part lasts.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Seed of the traffic [default: random].
    #[arg(long)]
    pub seed: Option<u64>,
}

/// The process's exit codes.
pub mod exit_code {
    /// A stage failed.
    pub const FAILED: u8 = 1;
    /// The configuration is wrong.
    pub const CONFIGURATION: u8 = 2;
    /// A server refuses us, or is not as it must be.
    pub const REFUSED: u8 = 3;
    /// Shutdown took too long.
    pub const DRAIN_TIMEOUT: u8 = 4;
    /// Events were lost upstream.
    pub const EVENTS_LOST: u8 = 5;
    /// The audit found an inconsistency.
    pub const INCONSISTENT: u8 = 6;
    /// The circuit breaker tripped: most messages are no valid events.
    pub const MOSTLY_REJECTED: u8 = 7;
}
