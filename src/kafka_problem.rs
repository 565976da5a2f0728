//! What librdkafka says of brokers that cannot be reached or do not let us in, and what to do about it. For the log
//! of `run`, and for commands that ask Kafka a question and give up.
//!
//! librdkafka tells of a failed connection in a log line (`FAIL`, repeated once in 30 s at most), and a failed
//! request only says that it has failed. So a [`Listener`] keeps the line. Used on the caller's thread.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// How long one request may take, within the patience for all of them: then the log is looked into.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// What to do about a connection that failed, by librdkafka's words for it. Waiting does not cure any of these.
pub fn advice(message: &str) -> Option<&'static str> {
    let says = |part: &str| message.contains(part);
    if says("certificate verify failed") {
        Some(
            "the broker's certificate has expired, is not signed by a CA in ssl.ca.location, or is for another host \
             name than the one we connect to (look at it by `openssl s_client -connect HOST:PORT`)",
        )
    } else if says("alert bad certificate") || says("alert unknown ca") || says("certificate required") {
        // Java's alert is the same without a certificate and with a strange one.
        Some(
            "the broker wants a client certificate that a CA in its truststore has signed: set ssl.certificate.location \
             and ssl.key.location, or have that certificate renewed",
        )
    } else if says("wrong version number") || says("PLAINTEXT broker listener") {
        Some("the listener has no TLS: is it the right port, and security.protocol right?")
    } else if says("mechanism handshake failed") {
        Some("the listener does not take this sasl.mechanism, or no SASL at all")
    } else if says("uthentication failed") {
        Some("check sasl.mechanism, sasl.username and sasl.password in KAFKA_OPTIONS")
    } else {
        None
    }
}

/// What it may be about a connection that was hung up on, if it goes on: brokers that stop do the same.
pub fn guess(message: &str) -> Option<&'static str> {
    let is_early =
        ["APIVERSION_QUERY", "SSL_HANDSHAKE", "state UP"].iter().any(|state| message.contains(state));
    // What is seen of it depends on who was faster.
    let is_hang_up =
        ["Disconnected", "Broken pipe", "Connection reset"].iter().any(|words| message.contains(words));
    (is_hang_up && is_early).then_some(
        "security.protocol may not fit the broker's listener, which may want TLS, SASL, both, or neither",
    )
}

/// Why Kafka gave no answer.
#[derive(Debug)]
pub struct KafkaProblem {
    error: KafkaError,
    /// What the latest failed connection was told of.
    reason: Option<String>,
}

impl fmt::Display for KafkaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => match advice(reason).or_else(|| guess(reason)) {
                Some(advice) => write!(f, "{reason}; {advice}"),
                None => f.write_str(reason),
            },
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for KafkaProblem {}

impl From<KafkaError> for KafkaProblem {
    fn from(error: KafkaError) -> Self {
        Self { error, reason: None }
    }
}

/// Keeps what went wrong last.
#[derive(Debug, Default)]
pub struct Listener {
    failure: Mutex<Failure>,
}

#[derive(Debug, Default)]
struct Failure {
    reason: Option<String>,
    /// Asking again is of no use.
    is_final: bool,
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!(target: "librdkafka", "{fac}: {message}");
        if fac == "FAIL" {
            let mut failure = self.failure.lock();
            failure.is_final |= advice(message).is_some();
            // One with advice is not forgotten for a connection that was merely closed after it.
            if failure.reason.as_deref().is_none_or(|reason| advice(reason).is_none())
                || advice(message).is_some()
            {
                failure.reason = Some(message.to_owned());
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!(target: "librdkafka", "{error}: {reason}");
        self.failure.lock().is_final |= error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Listener {}

/// A client to ask questions with.
pub type Inquirer = BaseConsumer<Listener>;

/// A client with these settings; connects when it is first used.
///
/// # Errors
/// When librdkafka does not accept them.
pub fn inquirer(config: &ClientConfig) -> Result<Inquirer, KafkaProblem> {
    Ok(BaseConsumer::from_config_and_context(config, Listener::default())?)
}

/// Asks until there is an answer, `patience` is over, or it is clear that a person must mend something.
///
/// # Errors
/// With what the last failed connection was told of, if there was one.
pub fn ask<T>(
    client: &Inquirer,
    patience: Duration,
    request: impl Fn(&Inquirer, Duration) -> KafkaResult<T>,
) -> Result<T, KafkaProblem> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match request(client, left.min(REQUEST_TIMEOUT)) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // Logs and errors wait to be polled for; without a subscription nothing else comes.
        while client.poll(Duration::from_millis(10)).is_some() {}
        let failure = client.context().failure.lock();
        if failure.is_final || Instant::now() >= deadline {
            return Err(KafkaProblem { error, reason: failure.reason.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_that_are_away_need_no_advice() {
        for message in [
            "b:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)",
            "b:9092/1: Disconnected while requesting (after 90000ms in state CONNECT)",
        ] {
            assert_eq!((advice(message), guess(message)), (None, None), "{message}");
        }
    }
}
