//! The few figures of librdkafka's statistics that we use. Pure.
//!
//! Format: librdkafka, STATISTICS.md.

use std::collections::HashMap;

use serde::Deserialize;

use crate::observe::instruments::KafkaFigures;
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
    /// The oldest offset that the broker has; negative: not known.
    pub lo_offset: Offset,
    /// The last offset that was committed successfully; negative: none.
    pub committed_offset: Offset,
    /// Messages fetched and not polled yet.
    pub fetchq_cnt: u64,
    /// Their bytes.
    pub fetchq_size: u64,
}

#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
    #[serde(default)]
    brokers: HashMap<String, BrokerStatistics>,
    #[serde(default)]
    rx_bytes: u64,
    #[serde(default)]
    rxmsgs: u64,
    #[serde(default)]
    cgrp: GroupStatistics,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    /// `host:port`.
    nodename: String,
    /// Negative for an address that only leads to the brokers.
    nodeid: i64,
    /// `logical`: another connection to one of the brokers.
    source: String,
    state: String,
    rtt: WindowStatistics,
}

#[derive(Deserialize)]
struct WindowStatistics {
    /// Microseconds.
    avg: i64,
    cnt: i64,
}

#[derive(Deserialize, Default)]
struct GroupStatistics {
    #[serde(default)]
    join_state: String,
}

/// Reads the partitions of `topic`, and what is known of brokers and group, from librdkafka's JSON.
pub fn read(json: &[u8], topic: &str) -> Result<(Vec<PartitionStatistics>, KafkaFigures), serde_json::Error> {
    let mut statistics: Statistics = serde_json::from_slice(json)?;
    let partitions = statistics.topics.remove(topic).map(|topic| topic.partitions).unwrap_or_default();
    let partitions: Vec<_> = partitions.into_values().filter(|partition| partition.partition >= 0).collect();
    let figures = figures(&statistics, &partitions);
    Ok((partitions, figures))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of one round trip")]
fn figures(statistics: &Statistics, partitions: &[PartitionStatistics]) -> KafkaFigures {
    let is_broker = |broker: &&BrokerStatistics| broker.nodeid >= 0 && broker.source != "logical";
    let brokers = || statistics.brokers.values().filter(is_broker);
    let mut round_trips: Vec<_> = brokers()
        .filter(|broker| broker.rtt.cnt > 0)
        .map(|broker| (broker.nodename.clone(), broker.rtt.avg as f64 / 1e6))
        .collect();
    round_trips.sort_by(|(one, _), (other, _)| one.cmp(other));
    round_trips.dedup_by(|(one, _), (other, _)| one == other);
    KafkaFigures {
        brokers_up: brokers().filter(|broker| broker.state == "UP").count() as u64,
        brokers_known: brokers().count() as u64,
        fetch_queue_messages: partitions.iter().map(|partition| partition.fetchq_cnt).sum(),
        fetch_queue_bytes: partitions.iter().map(|partition| partition.fetchq_size).sum(),
        round_trips,
        received_bytes: statistics.rx_bytes,
        received_messages: statistics.rxmsgs,
        is_rebalancing: !["", "init", "steady"].contains(&statistics.cgrp.join_state.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_partitions_and_the_brokers_are_read_and_all_else_is_ignored() {
        let json = br#"{"name":"c","rx_bytes":77,"rxmsgs":5,"cgrp":{"join_state":"wait-sync"},"topics":{
            "other":{"partitions":{}},"t":{"age":1,"partitions":{
            "0":{"partition":0,"eof_offset":7,"hi_offset":9,"lo_offset":2,"ls_offset":9,"committed_offset":5,
                 "fetchq_cnt":3,"fetchq_size":900},
            "-1":{"partition":-1,"eof_offset":-1001,"hi_offset":-1001,"lo_offset":-1001,"committed_offset":-1001,
                 "fetchq_cnt":0,"fetchq_size":0}}}},"brokers":{
            "b/1":{"nodename":"b","nodeid":1,"source":"learned","state":"UP","txerrs":1,
                   "rtt":{"avg":1500,"cnt":4}},
            "c/2":{"nodename":"c","nodeid":2,"source":"learned","state":"CONNECT",
                   "rtt":{"avg":0,"cnt":0}},
            "b/bootstrap":{"nodename":"b","nodeid":-1,"source":"configured","state":"UP",
                   "rtt":{"avg":0,"cnt":0}},
            "GroupCoordinator":{"nodename":"b","nodeid":1,"source":"logical","state":"UP",
                   "rtt":{"avg":9,"cnt":1}}}}"#;
        let expected = PartitionStatistics {
            partition: 0,
            eof_offset: 7,
            hi_offset: 9,
            lo_offset: 2,
            committed_offset: 5,
            fetchq_cnt: 3,
            fetchq_size: 900,
        };
        let (partitions, figures) = read(json, "t").unwrap();
        assert_eq!(partitions, [expected]);
        let expected = KafkaFigures {
            brokers_up: 1,
            brokers_known: 2,
            fetch_queue_messages: 3,
            fetch_queue_bytes: 900,
            round_trips: vec![("b".to_owned(), 0.0015)],
            received_bytes: 77,
            received_messages: 5,
            is_rebalancing: true,
        };
        assert_eq!(figures, expected);
        assert_eq!(read(json, "absent").unwrap().0, []);
        assert!(read(b"{}", "t").is_err());
    }
}
