//! The few figures of librdkafka's statistics that we use. Pure.
//!
//! Format: librdkafka, STATISTICS.md.

use std::collections::HashMap;

use serde::Deserialize;

use crate::offsets::{Offset, Partition};

/// What librdkafka knows about one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PartitionStatistics {
    /// The partition; -1 stands for "unassigned" and is left out.
    pub partition: Partition,
    /// The last offset for which the end of the partition was reported; negative: none.
    pub eof_offset: Offset,
    /// The broker's end of log; negative: not known.
    pub hi_offset: Offset,
    /// The last offset that was committed successfully; negative: none.
    pub committed_offset: Offset,
}

#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, PartitionStatistics>,
}

/// Reads the partitions of `topic` from librdkafka's JSON.
pub fn read(json: &[u8], topic: &str) -> Result<Vec<PartitionStatistics>, serde_json::Error> {
    let mut statistics: Statistics = serde_json::from_slice(json)?;
    let partitions = statistics.topics.remove(topic).map(|topic| topic.partitions).unwrap_or_default();
    Ok(partitions.into_values().filter(|partition| partition.partition >= 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_partitions_are_read_and_all_else_is_ignored() {
        let json = br#"{"name":"c","topics":{"other":{"partitions":{}},"t":{"age":1,"partitions":{
            "0":{"partition":0,"eof_offset":7,"hi_offset":9,"ls_offset":9,"committed_offset":5},
            "-1":{"partition":-1,"eof_offset":-1001,"hi_offset":-1001,"committed_offset":-1001}}}}}"#;
        let expected = PartitionStatistics { partition: 0, eof_offset: 7, hi_offset: 9, committed_offset: 5 };
        assert_eq!(read(json, "t").unwrap(), [expected]);
        assert_eq!(read(json, "absent").unwrap(), []);
        assert!(read(b"{}", "t").is_err());
    }
}
