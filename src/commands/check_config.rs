//! `check-config`: the effective configuration as a table, without secrets, and what is found when both servers are
//! asked: each finding with its reason and with what to do.

mod database;
mod finding;
mod kafka;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::table;
use crate::cli::CheckConfigArgs;
use crate::clock;
use crate::config::{Config, ConfigError, core_count, format_duration};
use crate::database_target::{DatabaseTarget, certificates};
use crate::latency::reporter::try_directory;
use crate::poll::consumer_config::DEFAULTS;
use crate::poll::start_position::OffsetReset;
use finding::{Finding, Grade, summary};

/// Why `check-config` exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum CheckConfigError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `run` would not work, or not as promised; standard output says why.
    #[error("{0} of the findings are problems")]
    Problems(usize),
    /// Standard output is closed.
    #[error("printing the configuration")]
    Print(#[from] io::Error),
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json<'a> {
    /// Whether there is no problem.
    is_usable: bool,
    /// Whether the servers were asked.
    is_online: bool,
    /// Variables, and librdkafka's settings by their own names, with effective values.
    configuration: BTreeMap<&'a str, &'a str>,
    findings: &'a [Finding],
}

/// Prints and tries.
pub fn run(args: &CheckConfigArgs) -> Result<(), CheckConfigError> {
    let config = Config::from_args(&args.pipeline, core_count())?;
    let settings = settings(&config);
    if !args.json {
        let mut out = table::out();
        for (variable, value) in &settings {
            writeln!(out, "{variable:<34} {value}")?;
        }
        writeln!(out)?;
    }
    let mut findings = find(&config, args.offline);
    findings.sort_by_key(|finding| finding.grade); // The worst last, where a terminal shows it.
    let problem_count = findings.iter().filter(|finding| finding.grade == Grade::Problem).count();
    if args.json {
        let configuration =
            settings.iter().map(|(name, value)| (name.trim_start(), value.as_str())).collect();
        let (is_usable, is_online) = (problem_count == 0, !args.offline);
        let json = Json { is_usable, is_online, configuration, findings: &findings };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &json).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let mut out = table::out();
        findings.iter().try_for_each(|finding| finding.print(&mut out))?;
        if args.offline {
            writeln!(out, "The configuration holds together; the servers were not tried (--offline).")?;
        } else {
            writeln!(out, "{}", summary(&findings))?;
        }
    }
    if problem_count == 0 { Ok(()) } else { Err(CheckConfigError::Problems(problem_count)) }
}

fn find(config: &Config, is_offline: bool) -> Vec<Finding> {
    let mut findings: Vec<_> = latency_directory(config).into_iter().collect();
    findings.extend(certificate_findings(config));
    if !is_offline {
        let database = database::look(config);
        findings.extend(kafka::look(config, database.has_ledger));
        findings.extend(database.findings);
    }
    findings
}

/// `run` goes on without it, and says so too.
fn latency_directory(config: &Config) -> Option<Finding> {
    const CHECK: &str = "latency_dir";
    let directory = config.latency_reports.directory.as_ref()?;
    Some(match try_directory(directory) {
        Ok(()) => Finding::ok(CHECK, format!("{} takes files", directory.display())),
        Err(error) => Finding::warning(
            CHECK,
            format!("{} takes no files: {error}", directory.display()),
            "`run` goes on and writes no latencies",
            "make the directory for the user that runs this (under systemd: LogsDirectory=usage-processor), or unset LATENCY_DIR",
        ),
    })
}

/// Variables and effective values.
pub(super) fn settings(config: &Config) -> Vec<(String, String)> {
    let offset_reset = match config.start_policy.offset_reset {
        OffsetReset::Earliest => "earliest",
        OffsetReset::Latest => "latest",
    };
    let mut settings: Vec<(String, String)> = [
        ("KAFKA_BROKERS", config.kafka_brokers.clone()),
        ("KAFKA_TOPIC", config.kafka_topic.clone()),
        ("KAFKA_GROUP_ID", config.kafka_group_id.clone()),
        (
            "KAFKA_GROUP_INSTANCE_ID",
            config.kafka_group_instance_id.clone().unwrap_or_else(|| "none".to_owned()),
        ),
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
            settings.push((format!("  {name}"), (*default).to_owned()));
        }
    }
    for (name, value) in config.kafka_options.iter() {
        let value = if is_secret(name) { "(secret)" } else { value };
        settings.push((format!("  {name}"), format!("{value}  (KAFKA_OPTIONS)")));
    }
    settings
}

/// librdkafka's settings that hold, or may hold, a secret.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "pem", "key", "token", "oauthbearer.config", "jaas"]
        .iter()
        .any(|word| name.contains(word))
}

/// With how the connection is protected.
pub(super) fn describe(target: &DatabaseTarget) -> String {
    format!("{}, sslmode={}", target.describe(), target.describe_tls())
}

/// Certificates that will soon be of no use, or are not any more.
fn certificate_findings(config: &Config) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    const WARNING_DAYS: i64 = 14;
    let now = clock::now_ms() / 1_000;
    let ends = certificates(&[&config.database, &config.maintenance], &config.kafka_options);
    let soon = ends.into_iter().map(|(name, ends_at)| (name, (ends_at - now).div_euclid(86_400)));
    soon.filter(|(_, days)| *days < WARNING_DAYS)
        .map(|(name, days)| {
            let found = match days {
                ..0 => format!("{name} has expired"),
                days => format!("{name} ends in {days} days"),
            };
            let why = "a server that checks it refuses every new connection from then on";
            Finding::warning(CHECK, found, why, "renew it; new connections read the file again")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::PipelineArgs;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        pipeline: PipelineArgs,
    }

    /// The defaults, but for these arguments.
    pub(super) fn config(arguments: &[&str]) -> Config {
        let database = "--database-url=postgresql://billing:hunter2@db/usage";
        let cli = TestCli::parse_from(["test", database, "--decoder-threads=1"].iter().chain(arguments));
        Config::from_args(&cli.pipeline, 2).unwrap()
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert!(is_secret(name), "{name}");
        }
        assert!(!is_secret("sasl.username"));
    }
}
