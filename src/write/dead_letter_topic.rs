//! Dead letters as Kafka messages, for those who listen instead of querying: key and payload as they
//! came, reason and origin in headers. A writer thread's own producer, used inside the transaction that
//! stores the letters, before its COMMIT: what is committed is never read again.
//!
//! Promises at least once: every letter is acknowledged by all in-sync replicas before it is durable
//! in the database, and is produced again when that COMMIT fails. A broker that is away is waited
//! for. A letter that the topic finds too large goes without its payload.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::writer::pauses;
use crate::kafka_options::KafkaOptions;
use crate::logging::librdkafka;
use crate::messages::{DeadLetter, WriteBatch};
use crate::observe::activity::{Activity, StageActivity};

/// Where dead letters go besides the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterTarget {
    /// DEAD_LETTER_BROKERS.
    pub brokers: String,
    /// DEAD_LETTER_TOPIC.
    pub topic: String,
}

impl fmt::Display for DeadLetterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.topic, self.brokers)
    }
}

/// How long a message may wait for its acknowledgement before it counts as failed and is sent again.
const MESSAGE_TIMEOUT_MS: &str = "10000";
/// How long one look at the producer's queue takes at most.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A producer of dead letters.
pub struct DeadLetterTopic {
    target: DeadLetterTarget,
    /// The topic that the messages came from.
    origin_topic: String,
    client: ClientConfig,
    producer: BaseProducer<Failures>,
}

impl fmt::Debug for DeadLetterTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterTopic").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Letters, by their place in the call, that the broker did not take.
#[derive(Debug, Clone, Default)]
struct Failures(Arc<Mutex<Vec<(usize, KafkaError)>>>);

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        librdkafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        librdkafka::log_error(&error, reason);
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, letter_idx: usize) {
        if let Err((error, _)) = result {
            self.0.lock().push((letter_idx, error.clone()));
        }
    }
}

impl DeadLetterTopic {
    /// A producer to `target`; connects when it is first used.
    ///
    /// # Errors
    /// When librdkafka does not accept the options.
    pub fn new(
        target: &DeadLetterTarget,
        origin_topic: &str,
        options: &KafkaOptions,
    ) -> Result<Self, KafkaError> {
        let mut client = ClientConfig::new();
        for (name, value) in options.iter() {
            client.set(name, value);
        }
        client
            .set("bootstrap.servers", &target.brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", MESSAGE_TIMEOUT_MS)
            // The topic's own limit decides up to here; what did not fit into the queue below would be
            // told to wait for ever.
            .set("message.max.bytes", "64000000")
            // A batch's payloads are in memory once; this bounds the copy.
            .set("queue.buffering.max.kbytes", "65536");
        let producer = client.create_with_context(Failures::default())?;
        Ok(Self { target: target.clone(), origin_topic: origin_topic.to_owned(), client, producer })
    }

    /// Produces the batch's dead letters, and the rows that the database `refused`; returns when all
    /// are acknowledged, however long that takes.
    pub fn publish(&mut self, batch: &WriteBatch, refused: &[DeadLetter], activity: &StageActivity) {
        let letters: Vec<_> = batch.dead_letters.iter().chain(refused).collect();
        let mut unsent: Vec<usize> = (0..letters.len()).collect();
        let mut has_payload = vec![true; letters.len()];
        let (mut attempt, mut pauses) = (1_u32, pauses());
        while !unsent.is_empty() {
            let mut failures = self.attempt(batch, &letters, &unsent, &has_payload);
            unsent.clear();
            failures.retain(|(letter_idx, error)| {
                let is_too_large = error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge);
                let goes_on = !is_too_large || has_payload[*letter_idx];
                if is_too_large {
                    let (polled, message) = batch.message(letters[*letter_idx].source);
                    log::error!(
                        repeats = "a dead letter is too large";
                        "the dead letter of partition {}, offset {} is too large for {}{}; usage_dead_letters has it",
                        polled.spans[message.span_idx as usize].partition,
                        message.offset,
                        self.target,
                        if goes_on { ", and is sent without its payload" } else { " even without its payload" }
                    );
                    has_payload[*letter_idx] = false;
                }
                goes_on
            });
            let Some((_, error)) = failures.first() else { break };
            activity.enter(Activity::Retrying);
            let pause = pauses.next().unwrap_or(PAUSE_MAX);
            log::error!(
                repeats:% = error;
                "attempt {attempt}: {} of {} dead letters could not be produced to {}: {error}; trying again in {pause:?}",
                failures.len(),
                letters.len(),
                self.target
            );
            attempt = attempt.saturating_add(1);
            std::thread::sleep(pause);
            unsent.extend(failures.drain(..).map(|(letter_idx, _)| letter_idx));
            unsent.sort_unstable();
            self.renew();
        }
        activity.enter(Activity::Working);
    }

    /// Sends these letters and waits for every answer; gives those that failed.
    fn attempt(
        &self,
        batch: &WriteBatch,
        letters: &[&DeadLetter],
        wanted: &[usize],
        has_payload: &[bool],
    ) -> Vec<(usize, KafkaError)> {
        for &letter_idx in wanted {
            if let Err(error) = self.send(batch, letters[letter_idx], letter_idx, has_payload[letter_idx]) {
                self.producer.context().0.lock().push((letter_idx, error));
            }
        }
        // Each message is answered or times out, so this ends.
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL_INTERVAL);
        }
        std::mem::take(&mut *self.producer.context().0.lock())
    }

    fn send(
        &self,
        batch: &WriteBatch,
        letter: &DeadLetter,
        letter_idx: usize,
        has_payload: bool,
    ) -> Result<(), KafkaError> {
        let (polled, message) = batch.message(letter.source);
        let partition = polled.spans[message.span_idx as usize].partition.to_string();
        let offset = message.offset.to_string();
        let timestamp = message.timestamp_ms.map(|timestamp_ms| timestamp_ms.to_string());
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            ("reason", Some(letter.rejection.reason.as_str())),
            ("detail", Some(&letter.rejection.detail)),
            ("origin_topic", Some(&self.origin_topic)),
            ("origin_partition", Some(&partition)),
            ("origin_offset", Some(&offset)),
            ("origin_timestamp", timestamp.as_deref()),
        ] {
            headers = headers.insert(Header { key, value });
        }
        if !has_payload {
            headers = headers.insert(Header { key: "payload_omitted", value: Some("too large") });
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&self.target.topic, letter_idx).headers(headers);
        record.key = polled.key(message);
        record.payload = polled.payload(message).filter(|_| has_payload);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, returned)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    // Answers and timeouts make room.
                    self.producer.poll(POLL_INTERVAL);
                    record = returned;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// An idempotent producer does not outlive a fatal error, so each attempt has one of its own.
    fn renew(&mut self) {
        match self.client.create_with_context(Failures::default()) {
            Ok(producer) => self.producer = producer,
            Err(error) => {
                log::error!("creating another producer of dead letters to {}: {error}", self.target)
            }
        }
    }
}
