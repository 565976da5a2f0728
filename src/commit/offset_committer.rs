//! The edge to Kafka: committing offsets of the group. A test puts a double here.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use crate::offsets::{LEDGER_MARK, Offset, Partition};

/// Commits offsets for the consumer group.
pub trait OffsetCommitter {
    /// Commits each partition's next offset. `Sync` waits for the broker and gives its answer; with
    /// `Async` the outcome shows in the client's statistics only.
    fn commit(&self, offsets: &[(Partition, Offset)], mode: CommitMode) -> Result<(), KafkaError>;
}

/// Commits through the group's consumer.
pub struct KafkaOffsets<C: ConsumerContext> {
    consumer: Arc<BaseConsumer<C>>,
    topic: String,
}

impl<C: ConsumerContext> KafkaOffsets<C> {
    /// Commits offsets of `topic`.
    pub fn new(consumer: Arc<BaseConsumer<C>>, topic: &str) -> Self {
        Self { consumer, topic: topic.to_owned() }
    }
}

impl<C: ConsumerContext> std::fmt::Debug for KafkaOffsets<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaOffsets").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl<C: ConsumerContext> OffsetCommitter for KafkaOffsets<C> {
    fn commit(&self, offsets: &[(Partition, Offset)], mode: CommitMode) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            list.add_partition_offset(&self.topic, partition, KafkaOffset::Offset(offset))?;
            if let Some(mut element) = list.find_partition(&self.topic, partition) {
                element.set_metadata(LEDGER_MARK);
            }
        }
        self.consumer.commit(&list, mode)
    }
}
