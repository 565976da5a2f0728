//! The Kafka client's settings: ours, the user's (`KAFKA_OPTIONS`), and those that a user cannot
//! have because a promise hangs on them. Pure.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// Settings with their values, and why. A user may override any of them by `KAFKA_OPTIONS`.
pub const DEFAULTS: &[(&str, &str)] = &[
    // How long a dead instance keeps its partitions, and how long a slow one may take.
    ("session.timeout.ms", "30000"),
    ("max.poll.interval.ms", "300000"),
    // A member hears of a rebalance with its next heartbeat, and a partition that moves is not read
    // meanwhile: a third of the usual interval.
    ("heartbeat.interval.ms", "1000"),
    // The broker answers once it has 100 kB, or after 5 ms. Answering every few messages costs three
    // times the CPU, which is then missed in the tail; 10 ms cost a third less CPU at 10,000 messages/s
    // than 5 ms, and add 5 ms to the median (tuning/README.md).
    ("fetch.min.bytes", "100000"),
    ("fetch.wait.max.ms", "5"),
    // librdkafka stops fetching for this long whenever its queue is full, which under load is
    // always. With its default of a second, half of the time passes idle.
    ("fetch.queue.backoff.ms", "2"),
    // The queue of fetched messages, over all partitions, in KiB: 8 MiB feed as fast as 16, also into a
    // bare heap and with 4 KB messages, in 25 to 40 MB less (tuning/pages/fetch-settings.md).
    ("queued.max.messages.kbytes", "8192"),
    // A byte that turned over on its way or on the broker's disk would be billed. The client leaves
    // this off; then it would not notice.
    ("check.crcs", "true"),
    // How soon added partitions are seen.
    ("topic.metadata.refresh.interval.ms", "60000"),
    ("client.id", "usage-processor"),
];

/// Settings that are not to be had, and why.
pub const REFUSED: &[(&str, &str)] = &[
    ("enable.auto.commit", "offsets are committed only when their events are durable"),
    ("auto.commit.enable", "offsets are committed only when their events are durable"),
    ("enable.auto.offset.store", "offsets are committed only when their events are durable"),
    ("auto.offset.reset", "start positions are resolved by KAFKA_AUTO_OFFSET_RESET"),
    ("enable.partition.eof", "the end of a partition must be known to close trailing gaps"),
    ("statistics.interval.ms", "the lag and trailing gaps are taken from the statistics"),
    ("partition.assignment.strategy", "kept partitions go on undisturbed only with cooperative-sticky"),
    ("group.protocol", "rebalances are handled by the classic protocol's callbacks"),
    ("isolation.level", "aborted messages must not be billed, and offsets must mean the same to all"),
    ("bootstrap.servers", "use KAFKA_BROKERS"),
    ("metadata.broker.list", "use KAFKA_BROKERS"),
    ("group.id", "use KAFKA_GROUP_ID"),
    ("group.instance.id", "use KAFKA_GROUP_INSTANCE_ID"),
];

/// Ours, whatever the user says.
const ENFORCED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("statistics.interval.ms", "1000"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("isolation.level", "read_committed"),
];

/// Why a setting is refused, if it is.
pub fn refusal(name: &str) -> Option<&'static str> {
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, reason)| *reason)
}

/// The consumer's configuration; later settings win.
pub fn consumer_config(brokers: &str, group_id: &str, options: &[(String, String)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in DEFAULTS {
        config.set(*name, *value);
    }
    for (name, value) in options {
        config.set(name, value);
    }
    for (name, value) in ENFORCED {
        config.set(*name, *value);
    }
    config.set("bootstrap.servers", brokers);
    config.set("group.id", group_id);
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

/// A duration setting of the client as it will be in effect, if it is a number of milliseconds.
pub fn effective_duration(name: &str, options: &[(String, String)]) -> Option<Duration> {
    let defaults = DEFAULTS.iter().copied();
    let chosen = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let (_, value) = defaults.chain(chosen).rfind(|(setting, _)| *setting == name)?;
    value.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_knows_every_setting_and_promises_win() {
        let options = [
            ("enable.auto.commit".to_owned(), "true".to_owned()),
            ("fetch.min.bytes".to_owned(), "7".to_owned()),
        ];
        let config = consumer_config("localhost:9092", "group", &options);
        assert!(config.create_native_config().is_ok());
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get("fetch.min.bytes"), Some("7"));
        for (name, _) in ENFORCED {
            assert!(refusal(name).is_some(), "{name} is enforced, so a user must be told");
        }
    }

    #[test]
    fn durations_are_the_effective_ones() {
        let options = [("session.timeout.ms".to_owned(), "6000".to_owned())];
        assert_eq!(effective_duration("session.timeout.ms", &options), Some(Duration::from_secs(6)));
        assert_eq!(effective_duration("max.poll.interval.ms", &options), Some(Duration::from_secs(300)));
    }
}
