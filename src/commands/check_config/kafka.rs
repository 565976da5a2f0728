//! What `check-config` finds out about the topic and the group. Asking and judging are apart: the latter is pure.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::finding::Finding;
use crate::config::{Config, format_duration};
use crate::error_chain::error_chain;
use crate::kafka_problem::{self, Inquirer, KafkaProblem};
use crate::ledger::Ledger;
use crate::logging::librdkafka::Asking;
use crate::offsets::{Offset, Partition};
use crate::poll::consumer_config::consumer_config;
use crate::poll::start_position::Recorded;

/// How long Kafka may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Before a question is repeated.
const PAUSE: Duration = Duration::from_millis(250);
/// Events wait in Kafka while the database is away, or nobody looks: a weekend.
const RETENTION_MIN: Duration = Duration::from_secs(3 * 86_400);
/// How far ahead of the broker's clock a message's timestamp may sensibly be.
const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// The topic and the group, as Kafka tells.
#[derive(Debug, Clone, Default)]
struct Facts {
    broker_count: usize,
    /// In Kafka's order; none if there is no such topic.
    partitions: Vec<PartitionFacts>,
    /// By name; `None` if we may not read them.
    settings: Option<BTreeMap<String, String>>,
    /// Of the group; `None` if we may not know.
    member_count: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default)]
struct PartitionFacts {
    partition: Partition,
    replica_count: usize,
    low: Offset,
    high: Offset,
    /// What the group reads next; `None` if it has never read.
    next: Option<Offset>,
}

/// Asks and judges. `has_ledger`: the database can be asked as well, whose word goes before the group's.
pub(super) fn look(config: &Config, has_ledger: bool) -> Vec<Finding> {
    match ask(config, has_ledger) {
        Ok(facts) => judge(config, &facts),
        Err(error) => vec![Finding::problem(
            "kafka",
            format!("no answer from {}: {error}", config.kafka_brokers),
            "nothing can be read",
            "compare KAFKA_BROKERS and KAFKA_OPTIONS with the broker's listeners; the lines of librdkafka in the log name the \
             address that failed",
        )],
    }
}

fn ask(config: &Config, has_ledger: bool) -> Result<Facts, KafkaProblem> {
    let topic = &config.kafka_topic;
    let client = consumer_config(&config.kafka_brokers, &config.kafka_group_id, &config.kafka_options);
    let consumer = kafka_problem::inquirer(&client)?;
    // The first question: whether Kafka lets us in is seen here.
    let metadata = kafka_problem::ask(&consumer, TIMEOUT, |client, timeout| {
        client.fetch_metadata(Some(topic), timeout)
    })?;
    let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let mut partitions: Vec<_> = found
        .map(|found| PartitionFacts {
            partition: found.id(),
            replica_count: found.replicas().len(),
            ..PartitionFacts::default()
        })
        .collect();
    if partitions.is_empty() {
        return Ok(Facts { broker_count: metadata.brokers().len(), ..Facts::default() });
    }
    let mut wanted = TopicPartitionList::new();
    for facts in &partitions {
        wanted.add_partition(topic, facts.partition);
    }
    let committed = committed(&consumer, wanted)?;
    let recorded = if has_ledger { recorded(config, &partitions) } else { Vec::new() };
    for facts in &mut partitions {
        (facts.low, facts.high) = consumer.fetch_watermarks(topic, facts.partition, TIMEOUT)?;
        let committed = committed.find_partition(topic, facts.partition).map(|element| element.offset());
        let recorded = recorded.iter().find(|recorded| recorded.partition == facts.partition);
        facts.next = match (recorded, committed) {
            (Some(recorded), _) => Some(recorded.end),
            (None, Some(KafkaOffset::Offset(offset))) => Some(offset),
            _ => None,
        };
    }
    let groups = consumer.fetch_group_list(Some(&config.kafka_group_id), TIMEOUT);
    Ok(Facts {
        broker_count: metadata.brokers().len(),
        partitions,
        settings: settings(client, topic),
        member_count: groups.ok().map(|all| all.groups().iter().map(|group| group.members().len()).sum()),
    })
}

/// The group's word. A coordinator that has just started says for a moment that it is none.
fn committed(consumer: &Inquirer, wanted: TopicPartitionList) -> Result<TopicPartitionList, KafkaError> {
    use RDKafkaErrorCode as Code;
    let mut attempts_left = 20_u32;
    loop {
        match consumer.committed_offsets(wanted.clone(), TIMEOUT) {
            Err(error)
                if attempts_left > 0
                    && matches!(
                        error.rdkafka_error_code(),
                        Some(
                            Code::NotCoordinator
                                | Code::CoordinatorNotAvailable
                                | Code::CoordinatorLoadInProgress
                        )
                    ) =>
            {
                attempts_left -= 1;
                thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// The ledger's word.
fn recorded(config: &Config, partitions: &[PartitionFacts]) -> Vec<Recorded> {
    let partitions: Vec<_> = partitions.iter().map(|facts| facts.partition).collect();
    let ledger = Ledger::new(&config.database, &config.kafka_group_id, &config.kafka_topic);
    ledger.recorded(&partitions).unwrap_or_else(|error| {
        log::warn!("{}; the group's committed offsets are looked at instead", error_chain(&error));
        Vec::new()
    })
}

/// The topic's settings, the broker's defaults included.
fn settings(mut client: ClientConfig, topic: &str) -> Option<BTreeMap<String, String>> {
    // An admin client is a producer to librdkafka, which warns of every setting of a consumer.
    client.set_log_level(RDKafkaLogLevel::Error);
    let admin: AdminClient<Asking> = client.create_with_context(Asking).ok()?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let resource = [ResourceSpecifier::Topic(topic)];
    let described = pollster::block_on(admin.describe_configs(&resource, &options)).ok()?;
    let entries = described.into_iter().next()?.ok()?.entries;
    Some(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn judge(config: &Config, facts: &Facts) -> Vec<Finding> {
    let topic = &config.kafka_topic;
    let brokers = format!("{} broker(s) at {}", facts.broker_count, config.kafka_brokers);
    if facts.partitions.is_empty() {
        return vec![Finding::problem(
            "topic",
            format!("{brokers}, but no topic {topic}"),
            "`run` waits for it, and `run --stop-at-end` refuses to start",
            format!(
                "kafka-topics.sh --create --topic {topic} --partitions 16 --replication-factor 3, or correct KAFKA_TOPIC"
            ),
        )];
    }
    let mut findings = vec![Finding::ok("kafka", brokers)];
    findings.push(partitions(config, facts));
    findings.push(replicas(topic, facts));
    findings.extend(match &facts.settings {
        Some(settings) => kept(config, settings),
        None => vec![Finding::warning(
            "topic_settings",
            format!("the settings of {topic} may not be read"),
            "whether events are kept long enough is not known",
            format!(
                "allow this user DescribeConfigs on the topic {topic}, or look by kafka-configs.sh --describe"
            ),
        )],
    });
    findings.push(positions(config, facts));
    findings
}

fn partitions(config: &Config, facts: &Facts) -> Finding {
    const CHECK: &str = "partitions";
    let (topic, count) = (&config.kafka_topic, facts.partitions.len());
    let members = facts.member_count.unwrap_or(0);
    let found =
        format!("{topic} has {count} partitions, the group {} has {members} members", config.kafka_group_id);
    if members > count {
        return Finding::warning(
            CHECK,
            found,
            format!("{} of the group's instances have nothing to read", members - count),
            "stop them, or add partitions while no retries are under way (a retry may then be in another partition than its \
             first copy)",
        );
    }
    if config.decoder_count > count {
        return Finding::warning(
            CHECK,
            format!("{found}, and DECODER_THREADS is {}", config.decoder_count),
            "a partition is decoded by one thread, so that some have nothing to do",
            format!("DECODER_THREADS={count} or less"),
        );
    }
    Finding::ok(CHECK, found)
}

fn replicas(topic: &str, facts: &Facts) -> Finding {
    const CHECK: &str = "replicas";
    match facts.partitions.iter().map(|partition| partition.replica_count).min() {
        Some(count) if count > 1 => Finding::ok(CHECK, format!("{count} replicas of every partition")),
        _ => Finding::warning(
            CHECK,
            format!("partitions of {topic} have one replica"),
            "a broker that is down holds up its partitions, and a lost disk takes events with it that nobody has read",
            "on a cluster of three brokers: kafka-reassign-partitions.sh with three replicas a partition, and \
             min.insync.replicas=2",
        ),
    }
}

/// For how long events are kept, and whether some are not.
fn kept(config: &Config, settings: &BTreeMap<String, String>) -> Vec<Finding> {
    let topic = &config.kafka_topic;
    let setting = |name: &str| settings.get(name).map_or("", String::as_str);
    let mut findings = Vec::new();
    if setting("cleanup.policy").contains("compact") {
        findings.push(Finding::problem(
            "cleanup_policy",
            format!("{topic} is compacted"),
            "of all events with the same key, an organization's, only the last is kept",
            format!("kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=delete"),
        ));
    }
    let retention = setting("retention.ms").parse().ok().map(Duration::from_millis); // -1: for ever.
    let raise = |least: Duration| {
        format!("kafka-configs.sh --alter --topic {topic} --add-config retention.ms={}", least.as_millis())
    };
    let found = |kept: Duration| format!("{topic} keeps events for {} (retention.ms)", format_duration(kept));
    findings.push(match retention {
        Some(kept) if kept <= config.dedup_window => Finding::problem(
            "kafka_retention",
            format!("{}, DEDUP_WINDOW is {}", found(kept), format_duration(config.dedup_window)),
            "after a restart the window cannot be read again, so that retries may be billed twice",
            raise(RETENTION_MIN.max(config.dedup_window * 2)),
        ),
        Some(kept) if kept < RETENTION_MIN => Finding::warning(
            "kafka_retention",
            found(kept),
            "what is not read by then is lost: a database that is away over a weekend is enough",
            raise(RETENTION_MIN),
        ),
        Some(kept) => Finding::ok("kafka_retention", found(kept)),
        None => Finding::ok("kafka_retention", format!("{topic} keeps events for ever (retention.ms)")),
    });
    if let Ok(bytes @ 1..) = setting("retention.bytes").parse::<i64>() {
        findings.push(Finding::warning(
            "retention_bytes",
            format!("{topic} keeps {bytes} bytes a partition at most (retention.bytes)"),
            "a burst of traffic deletes events before their time, read or not",
            format!("kafka-configs.sh --alter --topic {topic} --add-config retention.bytes=-1"),
        ));
    }
    findings.push(timestamps(topic, setting));
    findings
}

fn timestamps<'a>(topic: &str, setting: impl Fn(&str) -> &'a str) -> Finding {
    const CHECK: &str = "timestamps";
    let kind = setting("message.timestamp.type");
    let ahead = setting("message.timestamp.after.max.ms").parse().ok().map(Duration::from_millis);
    match ahead.filter(|ahead| kind == "CreateTime" && *ahead > TIMESTAMP_AHEAD_MAX) {
        Some(_) => Finding::warning(
            CHECK,
            format!(
                "producers give the Kafka timestamps (message.timestamp.type={kind}), however far ahead of the broker's clock"
            ),
            "an event's time is judged by its Kafka timestamp: a producer's wrong clock makes rows of the future",
            format!(
                "kafka-configs.sh --alter --topic {topic} --add-config message.timestamp.after.max.ms=3600000"
            ),
        ),
        None => Finding::ok(CHECK, format!("message.timestamp.type={kind}")),
    }
}

/// How near to what Kafka deletes the group reads.
fn positions(config: &Config, facts: &Facts) -> Finding {
    const CHECK: &str = "unread_events";
    let known: Vec<_> =
        facts.partitions.iter().filter_map(|facts| facts.next.map(|next| (facts, next))).collect();
    if known.is_empty() {
        return Finding::ok(CHECK, format!("the group {} has not read anything yet", config.kafka_group_id));
    }
    let places = |is_meant: &dyn Fn(&PartitionFacts, Offset) -> bool| {
        let meant = known.iter().filter(|(facts, next)| is_meant(facts, *next));
        let each = meant
            .map(|(facts, next)| format!("{} at {next} of {} to {}", facts.partition, facts.low, facts.high));
        each.collect::<Vec<_>>()
    };
    let lost = places(&|facts, next| next < facts.low);
    // Nothing was ever deleted of a partition that begins at 0. A tenth of the log is the oldest segment or so.
    let near = places(&|facts, next| {
        facts.low > 0 && next < facts.high && next - facts.low < (facts.high - facts.low) / 10
    });
    if !lost.is_empty() {
        return Finding::problem(
            CHECK,
            format!("Kafka has deleted events that the group has not read: partition {}", lost.join(", ")),
            "`run` stops with exit code 5 rather than pass over them",
            "make sure that they are lost (a mirror of the topic, a backup), then `run --accept-loss` (ACCEPT_LOSS=true) once",
        );
    }
    if !near.is_empty() {
        return Finding::warning(
            CHECK,
            format!("the group is about to be overtaken by Kafka's retention: partition {}", near.join(", ")),
            "events that are deleted before they are read cannot be billed",
            format!("raise retention.ms of {} now, then let the group catch up", config.kafka_topic),
        );
    }
    let lag: i64 = known.iter().map(|(facts, next)| (facts.high - next).max(0)).sum();
    Finding::ok(CHECK, format!("{lag} in {} partitions, none about to be deleted", known.len()))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::tests::config;
    use super::*;

    /// A topic of which nothing is to be said.
    fn sound() -> Facts {
        let partition =
            |partition| PartitionFacts { partition, replica_count: 3, low: 0, high: 100, next: Some(90) };
        let settings = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "-1"),
            ("message.timestamp.type", "CreateTime"),
            ("message.timestamp.after.max.ms", "3600000"),
        ];
        Facts {
            broker_count: 3,
            partitions: (0..4).map(partition).collect(),
            settings: Some(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            member_count: Some(2),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Facts), expected: &[(&str, Grade)]) {
        let mut facts = sound();
        change(&mut facts);
        let findings = judge(&config(&[]), &facts);
        let told = findings.iter().filter(|finding| finding.grade != Grade::Ok);
        let told: Vec<_> = told.map(|finding| (finding.check, finding.grade)).collect();
        assert_eq!(told, expected, "{findings:?}");
    }

    fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Facts) {
        move |facts| drop(facts.settings.as_mut().unwrap().insert(name.to_owned(), value.to_owned()))
    }

    #[test]
    fn each_fault_of_a_topic_is_found() {
        use Grade::{Problem, Warning};
        check(|_| {}, &[]);
        check(|facts| facts.partitions.clear(), &[("topic", Problem)]);
        check(|facts| facts.partitions[2].replica_count = 1, &[("replicas", Warning)]);
        check(|facts| facts.member_count = Some(5), &[("partitions", Warning)]);
        check(|facts| facts.settings = None, &[("topic_settings", Warning)]);
        check(set("cleanup.policy", "compact,delete"), &[("cleanup_policy", Problem)]);
        check(set("retention.ms", "60000"), &[("kafka_retention", Problem)]);
        check(set("retention.ms", "3600000"), &[("kafka_retention", Warning)]);
        check(set("retention.ms", "-1"), &[]);
        check(set("retention.bytes", "1000000"), &[("retention_bytes", Warning)]);
        check(set("message.timestamp.after.max.ms", "9223372036854775807"), &[("timestamps", Warning)]);
    }

    #[test]
    fn a_group_that_retention_overtakes_is_found() {
        use Grade::{Problem, Warning};
        let at = |low, next| {
            move |facts: &mut Facts| (facts.partitions[1].low, facts.partitions[1].next) = (low, next)
        };
        check(at(50, Some(90)), &[]);
        check(at(50, None), &[]);
        check(at(0, Some(0)), &[]);
        check(at(100, Some(100)), &[]);
        check(at(50, Some(54)), &[("unread_events", Warning)]);
        check(at(50, Some(49)), &[("unread_events", Problem)]);
    }
}
