//! What is allowed in a configuration, and what is said about the rest.

use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct TestCli {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
    config_with(Some("postgresql://billing:hunter2@db/usage"), arguments)
}

fn config_with(url: Option<&str>, arguments: &[&str]) -> Result<Config, ConfigError> {
    let mut pipeline = TestCli::parse_from(["test"].iter().chain(arguments)).pipeline;
    pipeline.database.database_url = url.map(str::to_owned);
    Config::from_args(&pipeline, 2)
}

fn variables(arguments: &[&str]) -> Vec<&'static str> {
    config(arguments).unwrap_err().mistakes.iter().map(|mistake| mistake.variable).collect()
}

#[test]
fn the_defaults_need_only_a_database() {
    let config = config(&[]).unwrap();
    assert_eq!((config.batch.row_count_max, config.batch.age_max), (10_000, 5 * SECOND));
    assert_eq!((config.decoder_count, config.writer_count), (1, 2));
    assert_eq!(config.dedup_window, 300 * SECOND);
    let missing = config_with(None, &[]);
    assert!(missing.is_err_and(|error| error.mistakes[0].variable == "DATABASE_URL"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let arguments = [
        "--batch-size=0",
        "--batch-timeout=soon",
        "--dedup-window=2d",
        "--kafka-topic= ",
        "--writer-threads=21",
        "--kafka-auto-offset-reset=none",
        "--lock-timeout=1m",
        "--drain-timeout=30s",
        "--dead-letter-max-ratio=0",
        "--metrics-addr=9464",
    ];
    assert_eq!(
        variables(&arguments),
        [
            "DEDUP_WINDOW",
            "KAFKA_TOPIC",
            "KAFKA_AUTO_OFFSET_RESET",
            "BATCH_SIZE",
            "BATCH_TIMEOUT",
            "METRICS_ADDR",
            "DEAD_LETTER_MAX_RATIO",
            "WRITER_THREADS",
            "LOCK_TIMEOUT",
            "DRAIN_TIMEOUT"
        ]
    );
    let text = config(&arguments).unwrap_err().to_string();
    assert!(text.contains("BATCH_SIZE=\"0\": wanted is a whole number from 1 to 10000"), "{text}");
}

#[test]
fn a_promise_cannot_be_broken_by_an_option() {
    let error =
        config(&["--kafka-options=enable.auto.commit=true,linger.ms=5,no.such.setting=1"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("enable.auto.commit is refused"), "{text}");
    assert!(text.contains("no.such.setting"), "{text}");
}

#[test]
fn dead_letters_cannot_be_fed_back() {
    let error = config(&["--dead-letter-topic=usage-events"]).unwrap_err();
    assert!(error.to_string().contains("must be another topic than KAFKA_TOPIC"), "{error}");
    let target = config(&["--dead-letter-topic=letters", "--kafka-brokers=kafka:9092"])
        .unwrap()
        .dead_letter_target
        .unwrap();
    assert_eq!(target.to_string(), "letters at kafka:9092");
}

#[test]
fn durations_are_printed_as_they_are_written() {
    for text in ["90d", "36h", "5m", "25s", "1500ms", "0ms"] {
        assert_eq!(format_duration(humantime::parse_duration(text).unwrap()), text);
    }
}

#[test]
fn a_server_that_nobody_could_verify_is_refused_rather_than_waited_for() {
    let error = config_with(Some("postgresql://u:hunter2@db/usage?sslmode=verify-full"), &[]).unwrap_err();
    assert!(error.to_string().contains("DATABASE_URL: asks by its sslmode for a verified server"), "{error}");
    let text = "postgresql://u:hunter2@db/usage?sslmode=verify-full&sslrootcert=/nowhere";
    let error = config_with(Some(text), &[]).unwrap_err().to_string();
    assert!(error.contains("DATABASE_URL: sslrootcert=/nowhere: cannot be read: No such file"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn no_secret_is_repeated() {
    let error =
        config_with(Some("postgresql://billing:hunter2@db:port/usage"), &["--kafka-options=sasl.password"]);
    assert!(!error.unwrap_err().to_string().contains("hunter2"));
    assert!(!format!("{:?}", config(&[]).unwrap()).contains("hunter2"));
}
