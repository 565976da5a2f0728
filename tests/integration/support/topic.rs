//! A topic of a test's own: filling it, and reading how far the broker says it is.

use super::{SERVER_TIMEOUT, eventually, server_address, unique_name};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// For a broker on a machine with much else to do: one process, its own controller, whose sessions are short.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

/// One message to produce. Without a partition, the key's hash decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    key: &'a str,
    payload: Option<&'a [u8]>,
    timestamp_ms: Option<i64>,
    partition: Option<i32>,
    headers: Option<&'a OwnedHeaders>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(key: &'a str, payload: &'a [u8]) -> Self {
        Self { payload: Some(payload), ..Self::tombstone(key) }
    }

    /// A message without a value.
    pub(crate) fn tombstone(key: &'a str) -> Self {
        Self { key, payload: None, timestamp_ms: None, partition: None, headers: None }
    }

    /// With this Kafka timestamp instead of now.
    pub(crate) fn at(self, timestamp_ms: i64) -> Self {
        Self { timestamp_ms: Some(timestamp_ms), ..self }
    }

    /// Into this partition.
    pub(crate) fn to(self, partition: i32) -> Self {
        Self { partition: Some(partition), ..self }
    }

    /// With these headers.
    pub(crate) fn with(self, headers: &'a OwnedHeaders) -> Self {
        Self { headers: Some(headers), ..self }
    }
}

/// Created empty, deleted at the end.
#[derive(Debug)]
pub(crate) struct TestTopic {
    name: String,
    brokers: String,
    partition_count: AtomicI32,
    is_shared: bool,
}

impl TestTopic {
    /// On the broker of `make test`.
    #[track_caller]
    pub(crate) fn create(partitions: i32) -> Self {
        Self::create_with(partitions, &[])
    }

    /// The same with settings of the topic's own.
    #[track_caller]
    pub(crate) fn create_with(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let brokers = server_address("TEST_KAFKA_BROKERS");
        let mut topic = Self::create_at_with(&brokers, partitions, settings);
        topic.is_shared = true;
        topic
    }

    /// On another broker, whose end is the topic's end too.
    #[track_caller]
    pub(crate) fn create_at(brokers: &str, partitions: i32) -> Self {
        Self::create_at_with(brokers, partitions, &[])
    }

    #[track_caller]
    pub(crate) fn create_at_with(brokers: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let topic = Self {
            name: unique_name("topic"),
            brokers: brokers.to_owned(),
            partition_count: AtomicI32::new(partitions),
            is_shared: false,
        };
        let mut new_topic = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(1));
        new_topic.config.extend_from_slice(settings);
        // A lonely broker whose session has ended has nowhere to put it, for a moment.
        let admin = topic.admin();
        eventually("the test's topic", SERVER_TIMEOUT, || {
            let asked = admin.create_topics([&new_topic], &admin_options(SERVER_TIMEOUT));
            match pollster::block_on(asked).expect("ask the broker for a topic").remove(0) {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
                Err(refused) => Err(refused),
            }
        });
        topic
    }

    /// The same topic, for another thread; this one deletes it.
    pub(crate) fn share(&self) -> Self {
        Self {
            name: self.name.clone(),
            brokers: self.brokers.clone(),
            partition_count: AtomicI32::new(self.partition_count()),
            is_shared: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    fn partition_count(&self) -> i32 {
        self.partition_count.load(Ordering::SeqCst)
    }

    /// Returns when every partition has a leader: a broker that was started again answers before.
    #[track_caller]
    pub(crate) fn await_leaders(&self) {
        let consumer: BaseConsumer = self.client_config().create().expect("create a consumer");
        eventually("every partition has a leader", LEADER_PATIENCE, || {
            let metadata = consumer.fetch_metadata(Some(&self.name), SERVER_TIMEOUT)?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            match partitions.filter(|partition| partition.leader() >= 0).count() {
                count if i32::try_from(count) == Ok(self.partition_count()) => Ok(()),
                _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)),
            }
        });
    }

    /// Adds a partition; from then on keys are spread differently.
    #[track_caller]
    pub(crate) fn add_partition(&self) {
        let count = self.partition_count() + 1;
        let partitions = NewPartitions::new(&self.name, usize::try_from(count).unwrap());
        let results =
            pollster::block_on(self.admin().create_partitions([&partitions], &admin_options(SERVER_TIMEOUT)))
                .expect("ask the broker for a partition");
        results.into_iter().for_each(|result| drop(result.expect("add a partition")));
        self.partition_count.store(count, Ordering::SeqCst);
    }

    /// Returns when the broker has all of them; order within a partition is kept.
    #[track_caller]
    pub(crate) fn produce(&self, records: &[Record<'_>]) {
        self.produce_with(records, &[]);
    }

    /// The same by a producer with further settings. How large a message may be is up to the topic.
    #[track_caller]
    pub(crate) fn produce_with(&self, records: &[Record<'_>], settings: &[(&str, &str)]) {
        let mut config = self.client_config();
        for (name, value) in [("message.max.bytes", "1000000000")].iter().chain(settings) {
            config.set(*name, *value);
        }
        let producer: BaseProducer<DeliveryFailures> = config
            .set("enable.idempotence", "true")
            .create_with_context(DeliveryFailures::default())
            .expect("create a producer");
        for record in records {
            self.send(&producer, record);
        }
        producer.flush(SERVER_TIMEOUT).expect("flush the producer");
        let failures = producer.context().0.lock().unwrap();
        assert!(failures.is_empty(), "not delivered: {failures:?}");
    }

    fn send(&self, producer: &BaseProducer<DeliveryFailures>, record: &Record<'_>) {
        let mut unsent = BaseRecord::to(&self.name).key(record.key);
        unsent.payload = record.payload;
        unsent.timestamp = record.timestamp_ms;
        unsent.partition = record.partition;
        unsent.headers = record.headers.cloned();
        // A full queue empties, or its messages time out and are failures.
        while let Err((error, returned)) = producer.send(unsent) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(100));
            unsent = returned;
        }
    }

    /// Deletes a partition's messages below this offset, as retention does.
    pub(crate) fn delete_before(&self, partition: i32, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(&self.name, partition, Offset::Offset(offset))
            .expect("name a partition");
        let admin = self.admin(); // An answer comes only as long as it is there.
        let deletion = admin.delete_records(&offsets, &admin_options(SERVER_TIMEOUT));
        pollster::block_on(deletion).expect("delete messages");
    }

    /// By partition, the offset that its next message will have.
    #[track_caller]
    pub(crate) fn end_offsets(&self) -> Vec<i64> {
        let consumer: BaseConsumer = self.client_config().create().expect("create a consumer");
        (0..self.partition_count())
            .map(|partition| {
                let (_, end) = consumer
                    .fetch_watermarks(&self.name, partition, SERVER_TIMEOUT)
                    .expect("ask for a partition's end");
                end
            })
            .collect()
    }

    /// By partition, what this consumer group has committed.
    #[track_caller]
    pub(crate) fn committed_offsets(&self, group: &str) -> Vec<Option<i64>> {
        let consumer: BaseConsumer =
            self.client_config().set("group.id", group).create().expect("create a consumer");
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(&self.name, 0, self.partition_count() - 1);
        // A new broker has no coordinator until its offsets topic exists, and says so.
        let committed = eventually("the group's offsets", SERVER_TIMEOUT, || {
            consumer.committed_offsets(wanted.clone(), SERVER_TIMEOUT)
        });
        let mut offsets = vec![None; usize::try_from(self.partition_count()).unwrap()];
        for element in committed.elements() {
            if let Offset::Offset(offset) = element.offset() {
                offsets[usize::try_from(element.partition()).unwrap()] = Some(offset);
            }
        }
        offsets
    }

    /// The messages of its first partition, to the end that it has now.
    pub(crate) fn messages(&self) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = self
            .client_config()
            .set("group.id", "looks")
            .set("enable.partition.eof", "true")
            .create()
            .expect("create a consumer");
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.name, 0, Offset::Beginning).expect("name a partition");
        consumer.assign(&assignment).expect("read a partition");
        let deadline = Instant::now() + SERVER_TIMEOUT;
        let mut messages = Vec::new();
        loop {
            match consumer.poll(SERVER_TIMEOUT).expect("a message, or the end") {
                Ok(message) => messages.push(message.detach()),
                Err(KafkaError::PartitionEOF(_)) => return messages,
                // librdkafka tries again by itself.
                Err(error) => assert!(Instant::now() < deadline, "reading {}: {error}", self.name),
            }
        }
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().expect("create an admin client")
    }
}

impl Drop for TestTopic {
    fn drop(&mut self) {
        if self.is_shared {
            let options = admin_options(Duration::from_secs(5));
            let deletion = pollster::block_on(self.admin().delete_topics(&[&self.name], &options));
            if let Err(error) = deletion {
                eprintln!("the topic {} stays: {error}", self.name);
            }
        }
    }
}

fn admin_options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

/// Collects what the broker did not take.
#[derive(Default)]
struct DeliveryFailures(Mutex<Vec<KafkaError>>);

impl ClientContext for DeliveryFailures {}

impl ProducerContext for DeliveryFailures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap().push(error.clone());
        }
    }
}
