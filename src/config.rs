//! The configuration: text from the command line and the environment, judged as a whole. Every
//! mistake is reported, all at once, each with the variable, the value and what is allowed.

mod judge;
mod secrets;

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use judge::Judge;
use secrets::names_maintenance;
pub use secrets::{database_config, kafka_options, maintenance_config};

use crate::cli::{EventArgs, KafkaArgs, PipelineArgs};
use crate::database_target::DatabaseTarget;
use crate::decode::write_batch::BatchLimits;
use crate::kafka_options::KafkaOptions;
use crate::latency::reporter::ReportPolicy;
use crate::poll::consumer_config::{consumer_config, effective_duration, refusal};
use crate::poll::start_position::{OffsetReset, StartPolicy};
use crate::usage_event::TimeLimits;
use crate::write::dead_letter_topic::DeadLetterTarget;
use crate::write::session::ServerTimeouts;

/// A configuration that holds together.
#[derive(Debug, Clone)]
pub struct Config {
    /// KAFKA_BROKERS.
    pub kafka_brokers: String,
    /// KAFKA_TOPIC.
    pub kafka_topic: String,
    /// KAFKA_GROUP_ID.
    pub kafka_group_id: String,
    /// KAFKA_GROUP_INSTANCE_ID.
    pub kafka_group_instance_id: Option<String>,
    /// KAFKA_OPTIONS, in order.
    pub kafka_options: KafkaOptions,
    /// KAFKA_AUTO_OFFSET_RESET and ACCEPT_LOSS.
    pub start_policy: StartPolicy,
    /// DATABASE_URL; its `Debug` shows no password.
    pub database: DatabaseTarget,
    /// MAINTENANCE_DATABASE_URL, or the same.
    pub maintenance: DatabaseTarget,
    /// Whether `run` maintains the database: MAINTENANCE_DATABASE_URL is given.
    pub maintains: bool,
    /// STATEMENT_TIMEOUT and LOCK_TIMEOUT.
    pub server_timeouts: ServerTimeouts,
    /// DB_MAX_CONNECTIONS.
    pub db_connections_max: usize,
    /// BATCH_SIZE and BATCH_TIMEOUT.
    pub batch: BatchLimits,
    /// DEDUP_WINDOW.
    pub dedup_window: Duration,
    /// DEDUP_MAX_ENTRIES.
    pub dedup_entries_max: usize,
    /// DECODER_THREADS.
    pub decoder_count: usize,
    /// WRITER_THREADS.
    pub writer_count: usize,
    /// DRAIN_TIMEOUT.
    pub drain_timeout: Duration,
    /// STATS_INTERVAL.
    pub stats_interval: Duration,
    /// METRICS_ADDR, unless it is none.
    pub metrics_address: Option<SocketAddr>,
    /// LATENCY_DIR and LATENCY_INTERVAL.
    pub latency_reports: ReportPolicy,
    /// MAX_EVENT_AGE and MAX_CLOCK_SKEW.
    pub time_limits: TimeLimits,
    /// DEAD_LETTER_MAX_RATIO.
    pub dead_letter_ratio_max: f64,
    /// DEAD_LETTER_TOPIC and DEAD_LETTER_BROKERS.
    pub dead_letter_target: Option<DeadLetterTarget>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The environment variable.
    pub variable: &'static str,
    /// What it was set to, unless that is a secret.
    pub value: Option<String>,
    /// What is allowed.
    pub allowed: String,
}

/// All mistakes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub mistakes: Vec<Mistake>,
}

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        Self { mistakes: vec![mistake] }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s):", self.mistakes.len())?;
        for Mistake { variable, value, allowed } in &self.mistakes {
            match value {
                Some(value) => write!(f, "\n  {variable}={value:?}: {allowed}")?,
                None => write!(f, "\n  {variable}: {allowed}")?,
            }
        }
        Ok(())
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl Config {
    /// Judges all of it. `core_count` decides the number of threads that are not given.
    pub fn from_args(args: &PipelineArgs, core_count: usize) -> Result<Self, ConfigError> {
        let mut judge = Judge::default();
        let db_connections_max = judge.number("DB_MAX_CONNECTIONS", &args.db_max_connections, 1..=1_000);
        let (dedup_window, time_limits) = judge.event_rules(&args.events);
        let config = Self {
            kafka_brokers: judge.text("KAFKA_BROKERS", &args.kafka.kafka_brokers),
            kafka_topic: judge.text("KAFKA_TOPIC", &args.kafka.kafka_topic),
            kafka_group_id: judge.text("KAFKA_GROUP_ID", &args.kafka.kafka_group_id),
            kafka_group_instance_id: judge.group_instance_id(args.kafka.kafka_group_instance_id.as_deref()),
            kafka_options: judge.kafka_options(&args.kafka),
            start_policy: StartPolicy {
                offset_reset: judge.offset_reset(&args.kafka.kafka_auto_offset_reset),
                accept_loss: args.accept_loss,
            },
            database: judge.database(database_config(&args.database)),
            maintenance: judge.database(maintenance_config(&args.database)),
            maintains: names_maintenance(&args.database),
            server_timeouts: ServerTimeouts {
                statement: judge.duration("STATEMENT_TIMEOUT", &args.statement_timeout, SECOND..=HOUR),
                lock: judge.duration("LOCK_TIMEOUT", &args.lock_timeout, SECOND / 10..=HOUR),
            },
            db_connections_max,
            batch: BatchLimits {
                row_count_max: judge.number("BATCH_SIZE", &args.batch_size, 1..=10_000),
                age_max: judge.duration(
                    "BATCH_TIMEOUT",
                    &args.batch_timeout,
                    Duration::from_millis(1)..=60 * SECOND,
                ),
            },
            dedup_window,
            dedup_entries_max: judge.number(
                "DEDUP_MAX_ENTRIES",
                &args.dedup_max_entries,
                1_000..=1_000_000_000,
            ),
            decoder_count: args
                .decoder_threads
                .as_ref()
                .map_or((core_count / 4).clamp(1, 16), |text| judge.number("DECODER_THREADS", text, 1..=64)),
            writer_count: args
                .writer_threads
                .as_ref()
                .map_or(core_count.max(2).min(db_connections_max), |text| {
                    judge.number("WRITER_THREADS", text, 1..=256)
                }),
            drain_timeout: judge.duration("DRAIN_TIMEOUT", &args.drain_timeout, SECOND..=DAY),
            stats_interval: judge.duration("STATS_INTERVAL", &args.stats_interval, SECOND..=DAY),
            metrics_address: judge.metrics_address(&args.metrics_addr),
            latency_reports: ReportPolicy {
                // An empty variable is as good as none.
                directory: args.latency_dir.clone().filter(|directory| !directory.as_os_str().is_empty()),
                interval: judge.duration("LATENCY_INTERVAL", &args.latency_interval, SECOND..=DAY),
            },
            time_limits,
            dead_letter_ratio_max: judge.ratio("DEAD_LETTER_MAX_RATIO", &args.dead_letter_max_ratio),
            dead_letter_target: judge.dead_letter_target(args),
        };
        judge.relations(&config, args);
        if judge.mistakes.is_empty() { Ok(config) } else { Err(ConfigError { mistakes: judge.mistakes }) }
    }
}

/// A duration in the largest unit that it is a whole number of: `90d`, `5m`, `1500ms`.
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let millis = duration.as_millis();
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| millis >= *size && millis.is_multiple_of(*size))
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

/// What an event is judged by: DEDUP_WINDOW, MAX_EVENT_AGE and MAX_CLOCK_SKEW.
pub fn event_rules(args: &EventArgs) -> Result<(Duration, TimeLimits), ConfigError> {
    let mut judge = Judge::default();
    let rules = judge.event_rules(args);
    if judge.mistakes.is_empty() { Ok(rules) } else { Err(ConfigError { mistakes: judge.mistakes }) }
}

/// Cores of this machine that this process may use.
pub fn core_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

impl Judge {
    fn offset_reset(&mut self, value: &str) -> OffsetReset {
        match value.trim() {
            "earliest" => OffsetReset::Earliest,
            "latest" => OffsetReset::Latest,
            _ => {
                self.mistake("KAFKA_AUTO_OFFSET_RESET", value, "wanted is earliest or latest");
                OffsetReset::Earliest
            }
        }
    }

    fn metrics_address(&mut self, value: &str) -> Option<SocketAddr> {
        if value.trim() == "none" {
            return None;
        }
        let address = value.trim().parse();
        if address.is_err() {
            self.mistake(
                "METRICS_ADDR",
                value,
                "wanted is IP:PORT, such as 127.0.0.1:9464 or [::1]:9464, or none",
            );
        }
        address.ok()
    }

    fn event_rules(&mut self, args: &EventArgs) -> (Duration, TimeLimits) {
        let window = self.duration("DEDUP_WINDOW", &args.dedup_window, SECOND..=DAY);
        let limits = TimeLimits {
            event_age_max: self.duration("MAX_EVENT_AGE", &args.max_event_age, 60 * SECOND..=3_660 * DAY),
            clock_skew_max: self.duration("MAX_CLOCK_SKEW", &args.max_clock_skew, Duration::ZERO..=DAY),
        };
        (window, limits)
    }

    fn dead_letter_target(&mut self, args: &PipelineArgs) -> Option<DeadLetterTarget> {
        const VARIABLE: &str = "DEAD_LETTER_TOPIC";
        let topic = args.dead_letter_topic.as_deref().map(str::trim).filter(|topic| !topic.is_empty())?;
        if topic == args.kafka.kafka_topic.trim() {
            self.mistake(VARIABLE, topic, "must be another topic than KAFKA_TOPIC, which would never end");
        }
        let brokers = args.dead_letter_brokers.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let brokers = brokers.unwrap_or(args.kafka.kafka_brokers.trim());
        Some(DeadLetterTarget { brokers: brokers.to_owned(), topic: topic.to_owned() })
    }

    fn database(&mut self, target: Result<DatabaseTarget, Mistake>) -> DatabaseTarget {
        target.unwrap_or_else(|mistake| {
            // Without a URL of its own, maintenance repeats the other's mistake.
            if !self.mistakes.contains(&mistake) {
                self.mistakes.push(mistake);
            }
            DatabaseTarget::default()
        })
    }

    fn kafka_options(&mut self, args: &KafkaArgs) -> KafkaOptions {
        const VARIABLE: &str = "KAFKA_OPTIONS";
        let options = kafka_options(&args.kafka_options, args.kafka_options_file.as_deref());
        let options = options.unwrap_or_else(|mistake| {
            self.mistakes.push(mistake);
            KafkaOptions::default()
        });
        for (name, _) in options.iter() {
            if let Some(reason) = refusal(name) {
                self.secret_mistake(VARIABLE, format!("{name} is refused: {reason}"));
            }
        }
        options
    }

    /// What must hold between values.
    fn relations(&mut self, config: &Config, args: &PipelineArgs) {
        if config.writer_count > config.db_connections_max {
            self.mistake(
                "WRITER_THREADS",
                args.writer_threads.as_deref().unwrap_or_default(),
                format!("must not exceed DB_MAX_CONNECTIONS, which is {}", config.db_connections_max),
            );
        }
        if config.server_timeouts.lock >= config.server_timeouts.statement {
            let limit = format_duration(config.server_timeouts.statement);
            self.mistake(
                "LOCK_TIMEOUT",
                &args.lock_timeout,
                format!(
                    "must be below STATEMENT_TIMEOUT, which is {limit}: a lock's timeout would never come"
                ),
            );
        }
        for setting in ["session.timeout.ms", "max.poll.interval.ms"] {
            if let Some(limit) = effective_duration(setting, &config.kafka_options)
                && config.drain_timeout >= limit
            {
                self.mistake(
                    "DRAIN_TIMEOUT",
                    &args.drain_timeout,
                    format!("must be below Kafka's {setting}, which is {limit:?}: the group would give the partitions away while they are drained"),
                );
            }
        }
        let client = consumer_config(&config.kafka_brokers, &config.kafka_group_id, &config.kafka_options);
        if let Err(error) = client.create_native_config() {
            // librdkafka's text names the setting; values are left out, as one may be a secret.
            let what = match &error {
                rdkafka::error::KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
                other => other.to_string(),
            };
            self.secret_mistake("KAFKA_OPTIONS", what);
        } else if client.get("sasl.mechanism").or(client.get("sasl.mechanisms")) == Some("OAUTHBEARER")
            && client.get("enable.sasl.oauthbearer.unsecure.jwt") != Some("true")
        {
            // It would wait for ever for a program to give it a token.
            self.secret_mistake(
                "KAFKA_OPTIONS",
                "sasl.mechanism=OAUTHBEARER: tokens are not fetched here (OIDC is not compiled in); what works is \
                 enable.sasl.oauthbearer.unsecure.jwt=true, for tests"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests;
