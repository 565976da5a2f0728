//! librdkafka's own lines, on its own threads: into the same log, each at its level, by every client of ours.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// What filters know these lines by.
pub(super) const TARGET: &str = "librdkafka";

/// Writes a line of librdkafka's.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    let level = match level {
        // The committer repeats commits until they are confirmed; a rebalance refuses a few.
        _ if facility.starts_with("COMMITFAIL") => log::Level::Debug,
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => log::Level::Error,
        RDKafkaLogLevel::Warning => log::Level::Warn,
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => log::Level::Info,
        RDKafkaLogLevel::Debug => log::Level::Debug,
    };
    log::log!(target: TARGET, level, "{facility}: {message}");
}

/// Writes an event that librdkafka has logged already, or that a call returns as well: thirty times a second while
/// a broker is away, so at `debug`.
pub fn log_error(error: &KafkaError, reason: &str) {
    log::debug!(target: TARGET, "{error}: {reason}");
}

/// The context of a client that only asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking;

impl ClientContext for Asking {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_error(&error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Asking {}
