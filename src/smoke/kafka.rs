//! The smoke test's questions to the broker: is the topic there, is what was sent in it, and has the group passed it. The consumer
//! here is no member of the group, and commits nothing.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Message as _, Offset as KafkaOffset, TopicPartitionList};

use super::{EVENT_COUNT, ORGANIZATION, Run, SentEvent, Trouble, places};
use crate::config::Config;
use crate::kafka_group::member_count;
use crate::kafka_problem::{self, Inquirer};
use crate::offsets::{Offset, Partition};
use crate::poll::consumer_config::consumer_config;

/// How often the group is asked how far it is.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// What a question gets though the step's time is nearly over, and one that only explains what was found. Below the
/// silence after which the step is given up.
const ASK_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// How long one look at the consumer's queue takes at most.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// What the broker said of each message, by its place in the run.
type Receipts = Arc<Mutex<Vec<(usize, KafkaResult<(Partition, Offset)>)>>>;

struct Receiving(Receipts);

impl ClientContext for Receiving {
    /// librdkafka repeats that a broker is away; here whoever asks says so, once.
    fn log(&self, _: RDKafkaLogLevel, fac: &str, message: &str) {
        log::debug!(target: "librdkafka", "{fac}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ProducerContext for Receiving {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, idx: usize) {
        let receipt = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().push((idx, receipt));
    }
}

/// The broker, the topic and the group.
pub(super) struct Broker {
    consumer: Inquirer,
    config: Config,
    partition_count: usize,
}

impl Broker {
    /// Finds the topic, and says what there is.
    pub(super) fn reach(config: &Config, timeout: Duration) -> Result<(Self, String), Trouble> {
        let (brokers, topic) = (&config.kafka_brokers, &config.kafka_topic);
        let client = consumer_config(brokers, &config.kafka_group_id, &config.kafka_options);
        let consumer = kafka_problem::inquirer(&client)
            .map_err(|error| Trouble::new(format!("no Kafka client: {error}"), "see KAFKA_OPTIONS"))?;
        // The first question: whether Kafka lets us in is seen here.
        let metadata = kafka_problem::ask(&consumer, timeout, |client, timeout| {
            client.fetch_metadata(Some(topic), timeout)
        });
        let metadata = metadata.map_err(|error| {
            Trouble::new(
                format!("no broker answers at {brokers}: {error}"),
                "check that it runs, KAFKA_BROKERS, the way there, and KAFKA_OPTIONS if it wants TLS or a password",
            )
        })?;
        let partition_count = metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
        if partition_count == 0 {
            return Err(Trouble::new(
                format!("{} broker(s), but no topic {topic}", metadata.brokers().len()),
                "create it (README, Install and run by hand), or correct KAFKA_TOPIC",
            ));
        }
        let found =
            format!("{} broker(s), {topic} has {partition_count} partition(s)", metadata.brokers().len());
        Ok((Self { consumer, config: config.clone(), partition_count }, found))
    }

    /// Sends the run's events; returns when the broker has acknowledged all.
    pub(super) fn send(&self, run: &Run, timeout: Duration) -> Result<Vec<SentEvent>, Trouble> {
        let receipts = Receipts::default();
        self.produce(run, timeout, Arc::clone(&receipts)).map_err(|error| self.unsent(0, &error))?;
        let mut receipts = std::mem::take(&mut *receipts.lock());
        receipts.sort_by_key(|(idx, _)| *idx);
        let sent: Vec<_> = receipts
            .iter()
            .filter_map(|(idx, receipt)| {
                let (partition, offset) = *receipt.as_ref().ok()?;
                Some(SentEvent {
                    request_id: run.request_id(*idx),
                    payload: run.payload(*idx),
                    partition,
                    offset,
                })
            })
            .collect();
        match receipts.into_iter().find_map(|(_, receipt)| receipt.err()) {
            None if sent.len() == EVENT_COUNT => Ok(sent),
            error => Err(self.unsent(sent.len(), &error.unwrap_or(KafkaError::Canceled))),
        }
    }

    fn produce(&self, run: &Run, timeout: Duration, receipts: Receipts) -> KafkaResult<()> {
        let mut client = ClientConfig::new();
        client.extend(self.config.kafka_options.iter().cloned());
        client
            .set("bootstrap.servers", &self.config.kafka_brokers)
            .set("client.id", "usage-processor-smoke")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", timeout.as_millis().to_string());
        let producer: BaseProducer<Receiving> = client.create_with_context(Receiving(receipts))?;
        for idx in 0..EVENT_COUNT {
            let payload = run.payload(idx);
            let record = BaseRecord::with_opaque_to(&self.config.kafka_topic, idx)
                .key(ORGANIZATION)
                .payload(&payload)
                .partition(run.partition(idx, self.partition_count));
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.flush(timeout)
    }

    fn unsent(&self, sent_count: usize, error: &KafkaError) -> Trouble {
        Trouble::new(
            format!("{sent_count} of {EVENT_COUNT} events acknowledged: {error}"),
            format!(
                "look at the topic's in-sync replicas and min.insync.replicas, the brokers' disks, and whether this user may \
                 write to {}",
                self.config.kafka_topic
            ),
        )
    }

    /// Reads the events at the offsets that were acknowledged.
    pub(super) fn read_back(&self, sent: &[SentEvent], timeout: Duration) -> Result<String, Trouble> {
        let deadline = Instant::now() + timeout;
        let failed = |found: String| {
            Trouble::new(
                found,
                "a producer's open transaction, or under-replicated partitions, hide what comes after from every reader: look \
                 at the brokers' logs",
            )
        };
        let seek = || -> KafkaResult<()> {
            let mut list = TopicPartitionList::new();
            // Lowest offset first; of one partition the others lie behind it.
            let mut sent: Vec<_> = sent.iter().collect();
            sent.sort_by_key(|event| (event.partition, event.offset));
            sent.dedup_by_key(|event| event.partition);
            for event in sent {
                let start = KafkaOffset::Offset(event.offset);
                list.add_partition_offset(&self.config.kafka_topic, event.partition, start)?;
            }
            self.consumer.assign(&list)
        };
        seek().map_err(|error| failed(format!("reading back: {error}")))?;
        let mut unseen: Vec<_> = sent.iter().collect();
        let mut last_error = None;
        while !unseen.is_empty() && Instant::now() < deadline {
            match self.consumer.poll(POLL_WAIT) {
                Some(Ok(message)) => unseen.retain(|event| {
                    (event.partition, event.offset) != (message.partition(), message.offset())
                        || message.payload() != Some(event.payload.as_bytes())
                }),
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => last_error = Some(error),
            }
        }
        self.consumer.unassign().map_err(|error| failed(format!("reading back: {error}")))?;
        if unseen.is_empty() {
            return Ok(format!("{EVENT_COUNT} read back at these offsets"));
        }
        let unseen: Vec<_> = unseen.into_iter().cloned().collect();
        let last_error = last_error.map(|error| format!(": {error}")).unwrap_or_default();
        Err(failed(format!(
            "{} of {EVENT_COUNT} read back within {timeout:?}, not those in partition {}{last_error}",
            EVENT_COUNT - unseen.len(),
            places(&unseen)
        )))
    }

    /// Returns when the group has committed offsets beyond all events.
    pub(super) fn await_committed(&self, sent: &[SentEvent], timeout: Duration) -> Result<String, Trouble> {
        let deadline = Instant::now() + timeout;
        let group = &self.config.kafka_group_id;
        loop {
            let time_left = deadline.saturating_duration_since(Instant::now());
            let unpassed = self.unpassed(sent, time_left.max(ASK_TIMEOUT_MIN));
            let has_time = Instant::now() < deadline;
            match unpassed {
                Ok(unpassed) if unpassed.is_empty() => {
                    return Ok(format!(
                        "group {group}{} has committed offsets beyond all of them",
                        self.members()
                    ));
                }
                _ if has_time => thread::sleep(ASK_INTERVAL),
                Ok(unpassed) => return Err(self.not_consumed(&unpassed, timeout)),
                Err(error) => {
                    return Err(Trouble::new(
                        format!("what group {group} has committed is not to be had: {error}"),
                        "check that this user may describe the group, and the brokers' offsets topic",
                    ));
                }
            }
        }
    }

    /// Events that the group has not passed.
    fn unpassed(&self, sent: &[SentEvent], timeout: Duration) -> KafkaResult<Vec<SentEvent>> {
        let topic = &self.config.kafka_topic;
        let mut list = TopicPartitionList::new();
        for event in sent {
            if list.find_partition(topic, event.partition).is_none() {
                list.add_partition(topic, event.partition);
            }
        }
        let committed = self.consumer.committed_offsets(list, timeout)?;
        let passes = |event: &SentEvent| {
            committed.find_partition(topic, event.partition).is_some_and(
                |element| matches!(element.offset(), KafkaOffset::Offset(next) if next > event.offset),
            )
        };
        Ok(sent.iter().filter(|event| !passes(event)).cloned().collect())
    }

    fn not_consumed(&self, unpassed: &[SentEvent], timeout: Duration) -> Trouble {
        let group = &self.config.kafka_group_id;
        let what_to_do = match member_count(&self.consumer, group, ASK_TIMEOUT_MIN) {
            Ok(0) => format!(
                "no processor is in that group: start `usage-processor run` with KAFKA_GROUP_ID={group}, or give the group of \
                 those that run"
            ),
            Ok(count) => format!(
                "the group has {count} member(s): look at their logs for `trying again` (the database), `the pipeline is full`, \
                 or no `assigned` line; with a backlog, wait until the lag is 0 or raise --timeout"
            ),
            Err(error) => {
                format!("look at the processors' logs; the group's members are not to be had: {error}")
            }
        };
        Trouble::new(
            format!(
                "within {timeout:?} group {group} has passed {} of {EVENT_COUNT} events, not those in partition {}",
                EVENT_COUNT - unpassed.len(),
                places(unpassed)
            ),
            what_to_do,
        )
    }

    /// ` (4 members)`, if that is to be had.
    fn members(&self) -> String {
        member_count(&self.consumer, &self.config.kafka_group_id, ASK_TIMEOUT_MIN)
            .map(|count| format!(" ({count} member{})", if count == 1 { "" } else { "s" }))
            .unwrap_or_default()
    }
}
