//! How far the processor's consumer group is, asked of the broker from outside: a client with the
//! group's name that never joins it.

use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::Offset;

use super::target::Route;
use crate::logging::librdkafka::Asking;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The broker did not answer.
#[derive(Debug, thiserror::Error)]
#[error("asking Kafka for the {what} of {topic}")]
pub struct OffsetsError {
    what: &'static str,
    topic: String,
    source: KafkaError,
}

/// A partition's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// The partition.
    pub partition: i32,
    /// One past the last message.
    pub end: i64,
    /// The next message that the group would read; 0 if it has committed nothing.
    pub committed: i64,
}

/// The onlooker.
pub struct GroupOffsets {
    consumer: BaseConsumer<Asking>,
    topic: String,
    partition_count: u16,
}

impl std::fmt::Debug for GroupOffsets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupOffsets").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl GroupOffsets {
    /// Looks at the group of the topic's name; the topic has that many partitions.
    pub fn new(route: &Route, partition_count: u16) -> Result<Self, OffsetsError> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &route.brokers)
            .set("group.id", &route.topic)
            .create_with_context(Asking);
        let topic = route.topic.clone();
        match consumer {
            Ok(consumer) => Ok(Self { consumer, topic, partition_count }),
            Err(source) => Err(OffsetsError { what: "consumer group", topic, source }),
        }
    }

    /// Every partition, in order.
    pub fn partitions(&self) -> Result<Vec<PartitionOffsets>, OffsetsError> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(&self.topic, 0, i32::from(self.partition_count) - 1);
        let committed = self
            .consumer
            .committed_offsets(wanted, TIMEOUT)
            .map_err(|source| self.error("committed offsets", source))?;
        let partitions = committed.elements().into_iter().map(|element| {
            let (_, end) = self
                .consumer
                .fetch_watermarks(&self.topic, element.partition(), TIMEOUT)
                .map_err(|source| self.error("ends", source))?;
            let committed = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
            Ok(PartitionOffsets { partition: element.partition(), end, committed })
        });
        partitions.collect()
    }

    /// Whether the group has a member, and every member its partitions. A mock cluster cannot tell.
    pub fn is_stable(&self) -> Result<bool, OffsetsError> {
        let list = self
            .consumer
            .client()
            .fetch_group_list(Some(&self.topic), TIMEOUT)
            .map_err(|source| self.error("consumer group", source))?;
        Ok(list.groups().iter().any(|group| group.state() == "Stable" && !group.members().is_empty()))
    }

    fn error(&self, what: &'static str, source: KafkaError) -> OffsetsError {
        OffsetsError { what, topic: self.topic.clone(), source }
    }
}
