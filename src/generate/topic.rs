//! Topics: waiting for one to be there, and creating one. Blocks the calling thread, for a bounded time.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use super::GenerateError;

/// How long a broker may take to answer, or to have a leader for every partition of a new topic.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before asking again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Logs as all clients here do.
struct AdminContext;

impl ClientContext for AdminContext {
    fn error(&self, error: KafkaError, reason: &str) {
        log_client_error(&error, reason);
    }
}

/// Says nothing at the usual levels: librdkafka logs the cause by itself and suppresses repetitions, while
/// its events of an unreachable broker come thirty times a second. What stops a run is returned as an error.
pub(super) fn log_client_error(error: &KafkaError, reason: &str) {
    log::debug!("Kafka client: {error}: {reason}");
}

/// Creates a topic unless it exists; true if it was created. Its partitions have leaders on return.
///
/// One replica: for tests and demonstrations. `kafka_options` are librdkafka properties (TLS, SASL).
pub fn create_topic(
    brokers: &str,
    topic: &str,
    partitions: u16,
    kafka_options: &[(String, String)],
) -> Result<bool, GenerateError> {
    let admin: AdminClient<AdminContext> = client_config(brokers, kafka_options)
        .create_with_context(AdminContext)
        .map_err(|source| GenerateError::Configure { source })?;
    let new_topic = NewTopic::new(topic, partitions.into(), TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let results = pollster::block_on(admin.create_topics([&new_topic], &options));
    let was_created = was_created(results)
        .map_err(|source| GenerateError::CreateTopic { topic_at: format!("{topic} at {brokers}"), source })?;
    await_topic(admin.inner(), brokers, topic)?;
    Ok(was_created)
}

fn was_created(results: KafkaResult<Vec<rdkafka::admin::TopicResult>>) -> KafkaResult<bool> {
    for result in results? {
        match result {
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(false),
            Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            Ok(_) => (),
        }
    }
    Ok(true)
}

/// Waits until every partition of the topic has a leader. Asking makes a broker create a missing
/// topic if it is configured to.
pub(super) fn await_topic<C: ClientContext>(
    client: &Client<C>,
    brokers: &str,
    topic: &str,
) -> Result<(), GenerateError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metadata = client
            .fetch_metadata(Some(topic), PATIENCE)
            .map_err(|source| GenerateError::Connect { brokers: brokers.to_owned(), source })?;
        let is_ready = metadata.topics().iter().any(|found| {
            found.error().is_none()
                && !found.partitions().is_empty()
                && found.partitions().iter().all(|partition| partition.leader() >= 0)
        });
        if is_ready {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(GenerateError::NoTopic { brokers: brokers.to_owned(), topic: topic.to_owned() });
        }
        thread::sleep(RETRY_PAUSE);
    }
}

pub(super) fn client_config(brokers: &str, kafka_options: &[(String, String)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(kafka_options.iter().cloned());
    config.set("bootstrap.servers", brokers).set("client.id", "usage-processor-generate");
    config
}
