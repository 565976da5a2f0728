//! What a broker knows of a consumer group: how many members it has. For whoever stands beside the group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;

/// The members of a group, those included that have no partition; 0 if there is no such group.
///
/// # Errors
/// When the group's coordinator does not answer within `timeout`, or does not let us ask (the ACL `Describe` of the group).
pub fn member_count<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    timeout: Duration,
) -> KafkaResult<usize> {
    let found = consumer.fetch_group_list(Some(group), timeout)?;
    Ok(found.groups().iter().map(|group| group.members().len()).sum())
}
