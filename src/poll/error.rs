//! Why the poller stops the process. Made on its thread, by the loop and by the callbacks.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::rebalance::GroupContext;
use super::start_position::EventsLost;
use crate::offsets::Partition;
use crate::stage::BoxedError;

/// Why the poller stopped the process.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The subscription was refused.
    #[error("subscribing to {topic}")]
    Subscribe {
        /// The topic.
        topic: String,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// Kafka did not say where the partitions stand.
    #[error("asking Kafka for the start positions of partitions {partitions:?}")]
    Resolve {
        /// The partitions.
        partitions: Vec<Partition>,
        /// What the broker said.
        source: KafkaError,
    },
    /// The database did not say how far the partitions are durable.
    #[error("asking the ledger for the start positions of partitions {partitions:?}")]
    AskLedger {
        /// The partitions.
        partitions: Vec<Partition>,
        /// What went wrong.
        source: BoxedError,
    },
    /// Events are gone that were never read.
    #[error("events were lost before they were read")]
    EventsLost(#[from] EventsLost),
    /// librdkafka refused an assignment.
    #[error("starting to fetch partitions {partitions:?}")]
    Assign {
        /// The partitions.
        partitions: Vec<Partition>,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// librdkafka refused to give partitions back.
    #[error("giving back partitions {partitions:?}")]
    Unassign {
        /// The partitions.
        partitions: Vec<Partition>,
        /// What librdkafka said.
        source: KafkaError,
    },
    /// Partitions could not be paused or resumed.
    #[error("pausing or resuming the assigned partitions")]
    Pause(#[source] KafkaError),
    /// The next offset was deleted while we were reading.
    #[error(
        "the next offset to read was deleted by Kafka's retention or the log was truncated; start again to see \
         which partition and how many events"
    )]
    OffsetGone(#[source] KafkaError),
    /// The client skips a batch that it cannot read, or asks for it for ever: we do neither.
    #[error(
        "the next batch of a partition of {topic} is damaged, or cannot be unpacked; nothing was passed over. If it is \
         only too large: KAFKA_OPTIONS=receive.message.max.bytes=1000000000. If it is lost: delete the records up to \
         its end and start with --accept-loss"
    )]
    Unreadable {
        /// The topic.
        topic: String,
        /// What the client said.
        source: KafkaError,
    },
    /// Kafka does not let us in.
    #[error(
        "consuming {topic}: Kafka refuses us; check the credentials in KAFKA_OPTIONS and the topic's and group's ACLs"
    )]
    Refused {
        /// The topic.
        topic: String,
        /// What Kafka said.
        source: KafkaError,
    },
    /// There is nothing whose end could be reached.
    #[error("topic {topic} does not exist")]
    NoTopic {
        /// The topic.
        topic: String,
    },
    /// Somebody else is us.
    #[error(
        "another process has joined group {group} as {instance_id}, which is this one's KAFKA_GROUP_INSTANCE_ID: each instance \
         needs its own; nothing is lost"
    )]
    Fenced {
        /// The group.
        group: String,
        /// KAFKA_GROUP_INSTANCE_ID.
        instance_id: String,
    },
    /// librdkafka cannot go on.
    #[error("consuming {topic}")]
    Consume {
        /// The topic.
        topic: String,
        /// What Kafka said.
        source: KafkaError,
    },
}

impl PollError {
    /// An error that the client does not come back from; it knows more about it than the error says.
    pub(super) fn fatal(consumer: &BaseConsumer<GroupContext>, source: KafkaError) -> Self {
        let options = consumer.context().options();
        match consumer.client().fatal_error() {
            Some((RDKafkaErrorCode::FencedInstanceId, _)) => Self::Fenced {
                group: options.group.clone(),
                instance_id: options.instance_id.clone().unwrap_or_default(),
            },
            _ => Self::Consume { topic: options.topic.clone(), source },
        }
    }
}
