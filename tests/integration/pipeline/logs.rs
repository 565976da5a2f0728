//! The log of a real process: every line in its format, librdkafka's too; no password in any; an outage that does not
//! flood it; and nobody who reads it.

use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Case, PATIENCE, event, now_ms};
use crate::support::{
    PrivateBroker, Processor, ProcessorBuilder, Proxy, Record, TestTopic, eventually, server_client,
};

const KAFKA_PASSWORD: &str = "hunter2-of-kafka";

/// The line's parts, if it is in this format: level or priority, target, message.
fn parse(format: &str, line: &str) -> Option<(String, String, String)> {
    if format == "json" {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let timestamp = text("timestamp")?;
        assert!(timestamp.len() == 24 && humantime::parse_rfc3339(&timestamp).is_ok(), "{line}");
        return Some((text("level")?, text("target")?, text("message")?));
    }
    let (priority, rest) = line.strip_prefix('<')?.split_once('>')?;
    let (target, message) = rest.split_once(": ")?;
    ["3", "4", "6", "7"]
        .contains(&priority)
        .then(|| (priority.to_owned(), target.to_owned(), message.to_owned()))
}

#[track_caller]
fn assert_format(format: &str, processor: &Processor) -> Vec<(String, String, String)> {
    let parsed = |line: &String| parse(format, line).unwrap_or_else(|| panic!("no line of {format}: {line}"));
    processor.lines().iter().map(parsed).collect()
}

#[test]
fn every_line_is_in_its_format_and_has_no_password() {
    let case = Case::new(1);
    let url = case.database.test.url();
    let (credentials, _) = url.split_once('@').unwrap();
    let (_, database_password) = credentials.rsplit_once(':').unwrap();
    for (format, info, warning) in [("json", "INFO", "ERROR"), ("journal", "6", "3")] {
        // Nobody listens there.
        let options = format!(
            "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=billing,sasl.password={KAFKA_PASSWORD},\
             debug=all"
        );
        let builder = case.processor().env("KAFKA_BROKERS", "127.0.0.1:1").env("KAFKA_OPTIONS", &options);
        let mut processor = builder.env("LOG_FORMAT", format).env("LOG_LEVEL", "trace").spawn();
        processor.wait_for_line("Connect to ipv4#127.0.0.1:1 failed", PATIENCE);
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        let lines = assert_format(format, &processor);
        let is_there = |level: &str, target: &str, part: &str| {
            lines.iter().any(|(l, t, message)| l == level && t.starts_with(target) && message.contains(part))
        };
        assert!(is_there(info, "usage_processor::commands::run", "Connected to"), "{lines:?}");
        assert!(is_there(warning, "librdkafka", "Connect to ipv4#127.0.0.1:1 failed"), "{lines:?}");
        let log = processor.lines().join("\n");
        assert!(!log.contains(database_password) && !log.contains(KAFKA_PASSWORD), "{log}");
    }
}

#[test]
fn mistakes_and_refusals_are_told_in_the_format_and_without_the_password() {
    let case = Case::new(1);
    let refused = case.database.test.url().replacen("//postgres:", "//postgres:hunter2-", 1);
    let check = |format: &str, builder: ProcessorBuilder, code: i32, part: &str| {
        let mut processor = builder.env("LOG_FORMAT", format).spawn();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(code), "{:?}", processor.lines());
        processor.wait_for_line(part, PATIENCE);
        assert!(!processor.lines().join("\n").contains("hunter2"), "{:?}", processor.lines());
        processor
    };
    for format in ["json", "journal"] {
        let mistaken =
            case.processor().env("BATCH_SIZE", "0").env("DATABASE_URL", "postgresql://x:hunter2@db:port/");
        assert_format(format, &check(format, mistaken, 2, "BATCH_SIZE"));
        assert_format(
            format,
            &check(
                format,
                case.processor().env("DATABASE_URL", &refused),
                3,
                "(SQLSTATE 28P01): correct the password",
            ),
        );
    }
    check("xml", case.processor(), 2, "LOG_FORMAT=\"xml\": wanted is text, json or journal");
    check("text", case.processor().env("LOG_LEVEL", "a=b=c"), 2, "LOG_LEVEL=\"a=b=c\": wanted is");
}

#[test]
fn a_database_that_is_waited_for_is_told_by_its_sqlstate() {
    let case = Case::new(1);
    let name = case.database.test.name();
    let closed = format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false");
    server_client().batch_execute(&closed).unwrap();
    let mut waiting = case.processor().env("LOG_FORMAT", "json").spawn();
    let line = waiting.wait_for_line("trying again in ", PATIENCE);
    let fields: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&fields["sqlstate"], &fields["attempt"]), (&"55000".into(), &1.into()), "{line}");
    waiting.terminate();
    assert_eq!(waiting.wait_exit(PATIENCE).code(), Some(0), "{:?}", waiting.lines());
}

#[test]
fn lines_of_producers_come_the_same_way() {
    let broker = PrivateBroker::start();
    let topic = TestTopic::create_at(&broker.address(), 1);
    let case = Case::new(1);
    let mut producer = case
        .processor()
        .env("DEAD_LETTER_TOPIC", topic.name())
        .env("DEAD_LETTER_BROKERS", topic.brokers())
        .env("LOG_FORMAT", "json")
        .env("DRAIN_TIMEOUT", "1s")
        .spawn();
    producer.wait_for_line("assigned 1 partitions", PATIENCE);
    broker.crash();
    case.produce(&["{".to_owned()]);
    producer.wait_for_line("could not be produced", PATIENCE);
    producer.terminate();
    assert_eq!(producer.wait_exit(PATIENCE).code(), Some(4), "{:?}", producer.lines());
    let lines = assert_format("json", &producer);
    let address = broker.address();
    let is_its = |(_, target, message): &&(String, String, String)| {
        target == "librdkafka" && message.contains(&address)
    };
    assert!(lines.iter().any(|line| is_its(&line)), "{lines:?}");
    let warned = lines.iter().filter(is_its).filter(|(level, ..)| level == "ERROR").count();
    assert!(warned < 10, "{lines:?}");
}

#[test]
fn an_outage_does_not_flood_the_log() {
    const WRITERS: i32 = 8;
    let case = Case::new(WRITERS);
    let (proxy, url) = Proxy::before_database(&case.database.test.url());
    let writers = WRITERS.to_string();
    let builder = case.processor().env("DATABASE_URL", &url).env("WRITER_THREADS", &writers);
    let builder = builder.env("DRAIN_TIMEOUT", "1s").env("STATS_INTERVAL", "1h").env("LOG_FORMAT", "json");
    let mut processor = builder.spawn();
    processor.wait_for_line(&format!("assigned {WRITERS} partitions"), PATIENCE);
    let began = Instant::now();
    proxy.lead_to("");
    proxy.cut();
    for (round, partition) in (0..4).flat_map(|round| (0..WRITERS).map(move |partition| (round, partition))) {
        let payload = event(&format!("{round} {partition}"), now_ms());
        case.topic.produce(&[Record::new("k", payload.as_bytes()).to(partition)]);
    }
    let is_attempt = |line: &&String| line.contains(": attempt ") && line.contains(" to write ");
    eventually("writers fail", PATIENCE, || processor.lines().iter().find(is_attempt).cloned().ok_or("none"));
    // Each of them tries a dozen times meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(8));
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(4), "{:?}", processor.lines());
    let lines = processor.lines();
    let suppressed = |line: &String| -> Option<u64> {
        let (_, rest) = line.split_once("said ")?;
        rest.split_once(" more times within")?.0.parse().ok()
    };
    let told: u64 = lines.iter().filter(is_attempt).filter_map(suppressed).sum();
    assert!(told >= 20, "{told}: {lines:?}");
    // Each of a few kinds once in half a minute: what the connection said when it was cut, and what connecting says.
    let attempts = lines.iter().filter(is_attempt).filter(|line| suppressed(line).is_none());
    let intervals = 1 + began.elapsed().as_secs() / 30;
    assert!((attempts.count() as u64) <= 6 * intervals, "{lines:?}");
    let attempt = lines.iter().find(is_attempt).unwrap();
    assert!(attempt.contains("rows of partitions ") && attempt.contains("[0, "), "the facts: {attempt}");
    let fields: Value = serde_json::from_str(attempt).unwrap();
    assert_eq!((&fields["attempt"], &fields["rows"]), (&1.into(), &1.into()), "{attempt}");
    assert!(fields["spans"].as_str().unwrap().contains("[0, 1)"), "{attempt}");
}

/// A terminal that was closed, a journald that was restarted.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    for format in ["text", "json", "journal"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_usage-processor"))
            .arg("run")
            .env_clear()
            .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/usage")
            .env("METRICS_ADDR", "none")
            .env("LOG_FORMAT", format)
            .env("LOG_LEVEL", "trace")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let mut first = [0];
        std::io::Read::read_exact(&mut pipe, &mut first).unwrap();
        drop(pipe);
        std::thread::sleep(std::time::Duration::from_millis(500)); // It goes on logging its attempts.
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = eventually("it ends", PATIENCE, || child.try_wait().unwrap().ok_or("it runs"));
        assert_eq!(status.code(), Some(0), "{format}");
    }
}
