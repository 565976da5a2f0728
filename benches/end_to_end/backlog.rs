//! A topic full of messages, and what it takes to poll and drop them.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};
use rustix::time::{ClockId, clock_gettime};
use usage_processor::generate::{self, GenerateOptions, LATE_UP_TO_MAX, Pace, Share, Traffic};
use usage_processor::kafka_options::KafkaOptions;
use usage_processor::poll::consumer_config::consumer_config;

use crate::Result;
use crate::args::Args;

/// The rate at which a backlog claims to have come in.
const CLAIMED_RATE: u64 = 10_000;
/// A partition that says nothing for this long fails the bench.
const PATIENCE: Duration = Duration::from_secs(30);

/// The topic.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) partitions: u16,
    pub(crate) message_count: u64,
    /// Mean length of a payload.
    pub(crate) message_bytes: f64,
}

/// What polling alone took.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Polled {
    pub(crate) messages_per_second: f64,
    /// Of the whole process, librdkafka's threads included, a million messages.
    pub(crate) cpu_seconds_per_million: f64,
}

/// What is produced: messages as a gateway sends them, none of them malformed or late.
pub(crate) fn traffic(args: &Args, seed: u64, message_count: u64) -> Traffic {
    Traffic {
        seed,
        message_count,
        organization_count: args.organizations,
        duplicates: args.duplicates,
        retimed: Share::NONE,
        malformed: Share::NONE,
        late: Share::NONE,
        late_up_to: LATE_UP_TO_MAX,
        padding_bytes: args.padding,
    }
}

pub(crate) fn generate(
    brokers: &str,
    topic: &str,
    traffic: Traffic,
    pace: Pace,
) -> Result<generate::Generated> {
    let options = GenerateOptions {
        brokers: brokers.to_owned(),
        topic: topic.to_owned(),
        kafka_options: Vec::new(),
        linger: Duration::from_millis(5),
        traffic,
        pace,
        start_time: None,
    };
    Ok(generate::run(&options, &mut |_| ControlFlow::Continue(()))?)
}

impl Backlog {
    pub(crate) fn produce(args: &Args) -> Result<Self> {
        let topic = format!("usage-bench-{}", usage_processor::clock::now_ms());
        generate::create_topic(&args.kafka_brokers, &topic, args.partitions, &[])?;
        let spread = Duration::from_micros(args.count.saturating_mul(1_000_000 / CLAIMED_RATE));
        generate(&args.kafka_brokers, &topic, traffic(args, 1, args.count), Pace::Backlog { spread })?;
        let mut backlog = Self {
            brokers: args.kafka_brokers.clone(),
            topic,
            partitions: args.partitions,
            message_count: args.count,
            message_bytes: 0.0,
        };
        let mut bytes = 0;
        backlog.read(args, |message| bytes += message.payload_len())?;
        #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
        {
            backlog.message_bytes = bytes as f64 / backlog.message_count.max(1) as f64;
        }
        Ok(backlog)
    }

    /// Polls and drops everything, as fast as that goes.
    pub(crate) fn poll_and_drop(&self, args: &Args) -> Result<Polled> {
        let (cpu, started) = (cpu_time(), Instant::now());
        self.read(args, |_| {})?;
        let (cpu, elapsed) = (cpu_time().saturating_sub(cpu), started.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
        let messages = self.message_count as f64;
        Ok(Polled {
            messages_per_second: messages / elapsed.as_secs_f64(),
            cpu_seconds_per_million: cpu.as_secs_f64() / messages * 1e6,
        })
    }

    /// Shows each message, in the order in which a consumer with the processor's settings gets them.
    pub(crate) fn read(&self, args: &Args, mut show: impl FnMut(&BorrowedMessage<'_>)) -> Result<()> {
        let options: KafkaOptions = args.kafka_options.as_deref().unwrap_or_default().parse()?;
        let config = consumer_config(&self.brokers, &self.topic, &options);
        let consumer = BaseConsumer::from_config(&config)?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..i32::from(self.partitions) {
            partitions.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let mut left = self.message_count;
        while left > 0 {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    show(&message);
                    left -= 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err(format!("no message for {PATIENCE:?}, {left} are missing").into()),
            }
        }
        Ok(())
    }
}

/// CPU time of this process, all threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
