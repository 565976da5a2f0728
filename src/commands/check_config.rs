//! `check-config`: the effective configuration as a table, without secrets, and a try of both
//! servers.

use std::io::{self, Write};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use super::connect::{describe, open};
use super::run::retention_warning;
use crate::cli::CheckConfigArgs;
use crate::config::{Config, ConfigError, core_count, format_duration};
use crate::error_chain::error_chain;
use crate::latency::reporter::try_directory;
use crate::maintenance::Bounds;
use crate::poll::consumer_config::{DEFAULTS, consumer_config};
use crate::poll::start_position::OffsetReset;
use crate::secondary_indexes;

/// How long Kafka may take to answer.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Why `check-config` exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum CheckConfigError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A server is not as it must be; the table says how.
    #[error("{0} of 2 servers cannot be used as configured")]
    Servers(usize),
    /// Standard output is closed.
    #[error("printing the configuration")]
    Print(#[from] io::Error),
}

/// Prints and tries.
pub fn run(args: &CheckConfigArgs) -> Result<(), CheckConfigError> {
    let config = Config::from_args(&args.pipeline, core_count())?;
    let mut out = io::stdout().lock();
    for (variable, value) in table(&config) {
        writeln!(out, "{variable:<34} {value}")?;
    }
    // `run` goes on without it, and says so too.
    if let Some(directory) = &config.latency_reports.directory
        && let Err(error) = try_directory(directory)
    {
        writeln!(out, "LATENCY_DIR: WARNING, takes no files: {error}")?;
    }
    if args.offline {
        writeln!(out, "The configuration holds together; the servers were not tried (--offline).")?;
        return Ok(());
    }
    let checks = [("Kafka", try_kafka(&config)), ("Database", try_database(&config))];
    let failures = checks.iter().filter(|(_, outcome)| outcome.is_err()).count();
    for (server, outcome) in checks {
        match outcome {
            Ok(found) => writeln!(out, "{server}: ok, {found}")?,
            Err(problem) => writeln!(out, "{server}: FAILED, {problem}")?,
        }
    }
    if failures == 0 { Ok(()) } else { Err(CheckConfigError::Servers(failures)) }
}

/// Variables and effective values.
pub(super) fn table(config: &Config) -> Vec<(String, String)> {
    let offset_reset = match config.start_policy.offset_reset {
        OffsetReset::Earliest => "earliest",
        OffsetReset::Latest => "latest",
    };
    let mut table: Vec<(String, String)> = [
        ("KAFKA_BROKERS", config.kafka_brokers.clone()),
        ("KAFKA_TOPIC", config.kafka_topic.clone()),
        ("KAFKA_GROUP_ID", config.kafka_group_id.clone()),
        ("KAFKA_AUTO_OFFSET_RESET", offset_reset.to_owned()),
        ("ACCEPT_LOSS", config.start_policy.accept_loss.to_string()),
        ("DATABASE_URL", describe(&config.database)),
        ("MAINTENANCE_DATABASE_URL", describe(&config.maintenance)),
        ("DB_MAX_CONNECTIONS", config.db_connections_max.to_string()),
        ("STATEMENT_TIMEOUT", format_duration(config.server_timeouts.statement)),
        ("LOCK_TIMEOUT", format_duration(config.server_timeouts.lock)),
        ("BATCH_SIZE", config.batch.row_count_max.to_string()),
        ("BATCH_TIMEOUT", format_duration(config.batch.age_max)),
        ("DEDUP_WINDOW", format_duration(config.dedup_window)),
        ("DEDUP_MAX_ENTRIES", config.dedup_entries_max.to_string()),
        ("DECODER_THREADS", config.decoder_count.to_string()),
        ("WRITER_THREADS", config.writer_count.to_string()),
        ("DRAIN_TIMEOUT", format_duration(config.drain_timeout)),
        ("STATS_INTERVAL", format_duration(config.stats_interval)),
        (
            "METRICS_ADDR",
            config.metrics_address.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        ),
        (
            "LATENCY_DIR",
            config
                .latency_reports
                .directory
                .as_ref()
                .map_or_else(|| "none".to_owned(), |directory| directory.display().to_string()),
        ),
        ("LATENCY_INTERVAL", format_duration(config.latency_reports.interval)),
        ("MAX_EVENT_AGE", format_duration(config.time_limits.event_age_max)),
        ("MAX_CLOCK_SKEW", format_duration(config.time_limits.clock_skew_max)),
        ("DEAD_LETTER_MAX_RATIO", config.dead_letter_ratio_max.to_string()),
        (
            "DEAD_LETTER_TOPIC",
            config.dead_letter_target.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        ),
    ]
    .map(|(variable, value)| (variable.to_owned(), value))
    .into();
    for (name, default) in DEFAULTS {
        if !config.kafka_options.iter().any(|(option, _)| option == name) {
            table.push((format!("  {name}"), (*default).to_owned()));
        }
    }
    for (name, value) in config.kafka_options.iter() {
        let value = if is_secret(name) { "(secret)" } else { value };
        table.push((format!("  {name}"), format!("{value}  (KAFKA_OPTIONS)")));
    }
    table
}

/// librdkafka's settings that hold, or may hold, a secret.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "key", "token", "oauthbearer.config", "jaas"]
        .iter()
        .any(|word| name.contains(word))
}

fn try_kafka(config: &Config) -> Result<String, String> {
    let attempt = || -> Result<(usize, usize), KafkaError> {
        let client = consumer_config(&config.kafka_brokers, &config.kafka_group_id, &config.kafka_options);
        let consumer: BaseConsumer = client.create()?;
        let metadata = consumer.fetch_metadata(Some(&config.kafka_topic), KAFKA_TIMEOUT)?;
        let partition_count = metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
        Ok((metadata.brokers().len(), partition_count))
    };
    match attempt() {
        Ok((brokers, 0)) => {
            Err(format!("{brokers} broker(s), but no topic {}: create it", config.kafka_topic))
        }
        Ok((brokers, partitions)) => {
            Ok(format!("{brokers} broker(s), {} has {partitions} partitions", config.kafka_topic))
        }
        Err(error) => Err(format!("no answer from {}: {error}", config.kafka_brokers)),
    }
}

fn try_database(config: &Config) -> Result<String, String> {
    let (mut client, server) = open(&config.database).map_err(|error| error_chain(&error))?;
    let bounds = Bounds::read(&mut client).map_err(|error| error_chain(&error))?;
    let mut found = format!(
        "{server}\n  retention: {}, retained since: {}, folded until: {}",
        bounds.retention, bounds.retained_since, bounds.folded_until
    );
    let indexes = secondary_indexes::describe(&mut client).map_err(|error| error_chain(&error))?;
    found += &format!("\n  {indexes}");
    if let Some(warning) = retention_warning(config.time_limits.event_age_max, &bounds) {
        found += &format!("\n  {warning}");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("sasl.username"));
    }
}
