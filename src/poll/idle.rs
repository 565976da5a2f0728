//! Says so, once, when this instance has no partition because the group has more members than the topic has partitions. On the
//! poller's thread, which has nothing else to do then; a member does not know how many there are, so the broker is asked.
//!
//! A newcomer has no partition at first, until others have given theirs back: that is no news.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::rebalance::GroupContext;
use crate::kafka_group::member_count;

/// How long an instance is without partitions before the broker is asked why, and then between two questions.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// How long the broker may take for each of two answers: shutdown waits for them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What was said since the last partition was given away.
#[derive(Debug, Default)]
pub(super) struct IdleNotice {
    asked_at: Option<Instant>,
    is_said: bool,
}

impl IdleNotice {
    /// To be called now and then by a member of the group that has `partition_count` partitions.
    pub(super) fn look(&mut self, consumer: &BaseConsumer<GroupContext>, partition_count: usize) {
        if partition_count > 0 {
            *self = Self::default();
            return;
        }
        let asked_at = self.asked_at.get_or_insert_with(Instant::now);
        if self.is_said || asked_at.elapsed() < ASK_INTERVAL {
            return;
        }
        if let Some(reason) = reason(consumer) {
            log::warn!("no partition for this instance: {reason}; it stands by until one of them leaves");
            self.is_said = true;
        }
        self.asked_at = Some(Instant::now());
    }
}

/// Why, if that explains it; otherwise it may still get some.
fn reason(consumer: &BaseConsumer<GroupContext>) -> Option<String> {
    let options = consumer.context().options();
    let (topic, group) = (&options.topic, &options.group);
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT).ok()?;
    let partition_count: usize = metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
    match member_count(consumer, group, ANSWER_TIMEOUT) {
        Ok(member_count) if member_count > partition_count => {
            Some(format!("{topic} has {partition_count} and group {group} has {member_count} members"))
        }
        Ok(_) => None,
        Err(error) => {
            log::debug!("asking for the members of group {group}: {error}");
            None
        }
    }
}
