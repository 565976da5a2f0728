//! `usage-processor rewind`: reads partitions again on purpose. A new epoch in the ledger says from
//! where, and the group's committed offsets follow. The group must be stopped: a member that is
//! at work would go on where it is, and not begin anew.
//!
//! Nothing is billed twice by it: the unique key keeps out the rows that are there.

use std::time::{Duration, SystemTime};

use clap::Args;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::connect::{SetupError, open};
use super::progress_bar::count_bar;
use crate::cli::PipelineArgs;
use crate::config::{Config, core_count};
use crate::kafka_group::member_count;
use crate::kafka_problem::{self, Inquirer, KafkaProblem};
use crate::ledger::{Ledger, LedgerError};
use crate::offsets::{LEDGER_MARK, Offset, Partition};
use crate::poll::consumer_config::consumer_config;
use crate::poll::start_position::{BeginReason, Beginning, Recorded};

/// How long Kafka may take for an answer.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(30);

/// Arguments of `rewind`.
#[derive(Debug, Clone, Args)]
pub struct RewindArgs {
    /// Which group, topic and database.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Read again from the first message with this Kafka timestamp or a later one (RFC 3339).
    #[arg(long, value_parser = humantime::parse_rfc3339, required_unless_present = "to_offset", conflicts_with = "to_offset")]
    pub to_time: Option<SystemTime>,
    /// Read again from this offset.
    #[arg(long)]
    pub to_offset: Option<Offset>,
    /// Only this partition [default: all].
    #[arg(long)]
    pub partition: Option<Partition>,
}

/// Why nothing was rewound, or not all that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// The configuration is wrong, or the database cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The ledger gave no answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Kafka gave no answer.
    #[error("asking Kafka about {0}")]
    Kafka(&'static str, #[source] KafkaProblem),
    /// Somebody is reading.
    #[error("group {group} has {member_count} members: stop all its processors first")]
    GroupActive {
        /// The group.
        group: String,
        /// Its members.
        member_count: usize,
    },
    /// There is nothing to rewind.
    #[error("the ledger knows no partition of {topic} that group {group} has read beyond that")]
    NothingToRewind {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
    },
    /// Those messages are gone.
    #[error("partition {partition}: Kafka has no messages below offset {low}")]
    Deleted {
        /// The partition.
        partition: Partition,
        /// The first offset left.
        low: Offset,
    },
    /// The ledger is rewound, which is what counts; Kafka's word was not changed.
    #[error(
        "the ledger is rewound, but the group's offsets could not be committed; processors start from the ledger"
    )]
    Commit(#[source] KafkaError),
}

/// Rewinds.
pub fn run(args: &RewindArgs) -> Result<(), RewindError> {
    let config = Config::from_args(&args.pipeline, core_count()).map_err(SetupError::from)?;
    open(&config.database)?;
    let client = consumer_config(&config.kafka_brokers, &config.kafka_group_id, &config.kafka_options);
    let consumer = kafka_problem::inquirer(&client).map_err(|error| RewindError::Kafka("itself", error))?;
    refuse_active_group(&consumer, &config)?;

    let ledger = Ledger::new(&config.database, &config.kafka_group_id, &config.kafka_topic);
    let partitions = match args.partition {
        Some(partition) => vec![partition],
        None => partitions(&consumer, &config.kafka_topic)?,
    };
    let mut beginnings = Vec::new();
    let bar = count_bar(partitions.len() as u64, "partitions");
    for recorded in ledger.recorded(&partitions)? {
        bar.inc(1);
        beginnings.extend(beginning(&consumer, &config.kafka_topic, args, recorded)?);
    }
    bar.finish_and_clear();
    if beginnings.is_empty() {
        let (group, topic) = (config.kafka_group_id, config.kafka_topic);
        return Err(RewindError::NothingToRewind { group, topic });
    }
    // The ledger first: it decides, and a commit that fails then changes nothing.
    ledger.begin(&beginnings)?;
    let mut offsets = TopicPartitionList::new();
    for Beginning { partition, start, .. } in &beginnings {
        offsets
            .add_partition_offset(&config.kafka_topic, *partition, KafkaOffset::Offset(*start))
            .map_err(RewindError::Commit)?;
        if let Some(mut element) = offsets.find_partition(&config.kafka_topic, *partition) {
            element.set_metadata(LEDGER_MARK);
        }
        log::info!("partition {partition} will be read again from offset {start}");
    }
    consumer.commit(&offsets, CommitMode::Sync).map_err(RewindError::Commit)
}

fn refuse_active_group(consumer: &Inquirer, config: &Config) -> Result<(), RewindError> {
    // The first question: whether Kafka lets us in is seen here.
    let found = kafka_problem::ask(consumer, KAFKA_TIMEOUT, |consumer, timeout| {
        member_count(consumer, &config.kafka_group_id, timeout)
    });
    match found.map_err(|error| RewindError::Kafka("the group's members", error))? {
        0 => Ok(()),
        member_count => Err(RewindError::GroupActive { group: config.kafka_group_id.clone(), member_count }),
    }
}

fn partitions(consumer: &Inquirer, topic: &str) -> Result<Vec<Partition>, RewindError> {
    let metadata = consumer
        .fetch_metadata(Some(topic), KAFKA_TIMEOUT)
        .map_err(|error| RewindError::Kafka("the topic's partitions", error.into()))?;
    Ok(metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id()).collect())
}

/// Where the partition begins anew; `None` if it has not come as far as that yet. Only backwards: to
/// skip events is no business of this command.
fn beginning(
    consumer: &Inquirer,
    topic: &str,
    args: &RewindArgs,
    recorded: Recorded,
) -> Result<Option<Beginning>, RewindError> {
    let Recorded { partition, epoch, end, .. } = recorded;
    let target = match (args.to_offset, args.to_time) {
        (Some(offset), _) => Some(offset),
        (None, Some(time)) => offset_at(consumer, topic, partition, time)?,
        (None, None) => None, // The command line requires one of the two.
    };
    let Some(start) = target.filter(|start| *start < end) else { return Ok(None) };
    let (low, _) = consumer
        .fetch_watermarks(topic, partition, KAFKA_TIMEOUT)
        .map_err(|error| RewindError::Kafka("the partition's first offset", error.into()))?;
    if start < low {
        return Err(RewindError::Deleted { partition, low });
    }
    let reason = BeginReason::Rewind;
    Ok(Some(Beginning { partition, epoch: epoch + 1, start, reason, lost_offsets: 0 }))
}

/// The first offset at or after a time; `None` if all messages are older.
fn offset_at(
    consumer: &Inquirer,
    topic: &str,
    partition: Partition,
    time: SystemTime,
) -> Result<Option<Offset>, RewindError> {
    let failed = |error: KafkaError| RewindError::Kafka("the offset at that time", error.into());
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time_ms = i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX);
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, partition, KafkaOffset::Offset(time_ms)).map_err(failed)?;
    let found = consumer.offsets_for_times(times, KAFKA_TIMEOUT).map_err(failed)?;
    Ok(found.elements().iter().find_map(|element| match element.offset() {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None,
    }))
}
