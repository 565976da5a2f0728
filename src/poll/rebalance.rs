//! The consumer's callbacks: assignment, revocation, statistics, logs. They run on
//! the poller's thread, inside `poll`; what they learn waits in `notices` until `poll` returns.
//!
//! On assignment start positions are asked for and assigned explicitly. On revocation the committer
//! is told and waited for, with a deadline: in-flight spans become durable and are committed before
//! the partitions are given back. Kept partitions go on undisturbed (cooperative-sticky).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::history;
use super::poller::PollError;
use super::start_position::{PartitionState, StartPolicy, StartPosition};
use super::statistics::{self, PartitionStatistics};
use crate::clock;
use crate::messages::Revocation;
use crate::offsets::{Offset, Partition};

/// How long start positions may be asked for: well below the poll interval that the group allows.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a failed request is repeated.
const REQUEST_PAUSE: Duration = Duration::from_millis(200);

/// Something that happened inside `poll`.
#[derive(Debug)]
pub enum Notice {
    /// Partitions were assigned and are being fetched from their start.
    Assigned(Vec<StartPosition>),
    /// Partitions were taken away; their durable offsets are committed.
    Revoked(Vec<Partition>),
    /// librdkafka's figures, once a second.
    Statistics(Vec<PartitionStatistics>),
    /// The poller cannot go on.
    Failed(PollError),
}

/// The consumer's context.
#[derive(Debug)]
pub struct GroupContext {
    topic: String,
    start_policy: StartPolicy,
    dedup_window: Duration,
    drain_timeout: Duration,
    revocations: Sender<Revocation>,
    notices: Mutex<Vec<Notice>>,
    callbacks_served: AtomicU64,
}

impl GroupContext {
    /// Callbacks for a consumer of `topic`. Partitions are read from `dedup_window` before their
    /// start; a revocation waits `drain_timeout` at most.
    pub fn new(
        topic: &str,
        start_policy: StartPolicy,
        dedup_window: Duration,
        drain_timeout: Duration,
        revocations: Sender<Revocation>,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            start_policy,
            dedup_window,
            drain_timeout,
            revocations,
            notices: Mutex::default(),
            callbacks_served: AtomicU64::new(0),
        }
    }

    /// What happened since the last call, in order. At most a second's statistics and the events
    /// of one `poll` are ever kept here.
    pub fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut self.notices.lock())
    }

    /// How many callbacks were ever served. `poll` returns nothing after it has served one, even
    /// if messages are waiting.
    pub fn callbacks_served(&self) -> u64 {
        self.callbacks_served.load(Ordering::Relaxed)
    }

    fn notify(&self, notice: Notice) {
        self.notices.lock().push(notice);
    }

    fn count_callback(&self) {
        self.callbacks_served.fetch_add(1, Ordering::Relaxed);
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) -> Result<(), PollError> {
        let deadline = Instant::now() + RESOLVE_TIMEOUT;
        let positions = self.resolve(consumer, partitions, deadline)?;
        let first_offsets = self.first_offsets_to_read(consumer, &positions, deadline)?;
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let listed = positions.iter().zip(&first_offsets).try_for_each(|(position, first)| {
            list.add_partition_offset(&self.topic, position.partition, KafkaOffset::Offset(*first))
        });
        listed
            .and_then(|()| consumer.incremental_assign(&list))
            .map_err(|source| PollError::Assign { partitions: partitions.to_vec(), source })?;
        if !positions.is_empty() {
            let history: Offset =
                positions.iter().zip(&first_offsets).map(|(p, first)| p.start - first).sum();
            log::info!(
                "assigned {}; {history} offsets before them refill the dedup windows",
                describe(&positions)
            );
        }
        self.notify(Notice::Assigned(positions));
        Ok(())
    }

    /// Asks Kafka how far before the starts the dedup windows reach.
    fn first_offsets_to_read(
        &self,
        consumer: &BaseConsumer<Self>,
        positions: &[StartPosition],
        deadline: Instant,
    ) -> Result<Vec<Offset>, PollError> {
        let ask = |asked: &[(Partition, i64)]| {
            patiently(deadline, || {
                let mut times = TopicPartitionList::with_capacity(asked.len());
                for (partition, time_ms) in asked {
                    times.add_partition_offset(&self.topic, *partition, KafkaOffset::Offset(*time_ms))?;
                }
                let found = consumer.offsets_for_times(times, REQUEST_TIMEOUT)?;
                asked.iter().map(|(partition, _)| offset_of(&found, &self.topic, *partition)).collect()
            })
        };
        history::first_offsets_to_read(positions, self.dedup_window, clock::now_ms(), ask).map_err(|source| {
            PollError::Resolve {
                partitions: positions.iter().map(|position| position.partition).collect(),
                source,
            }
        })
    }

    /// Asks Kafka where the partitions stand and applies the policy.
    fn resolve(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[Partition],
        deadline: Instant,
    ) -> Result<Vec<StartPosition>, PollError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |source| PollError::Resolve { partitions: partitions.to_vec(), source };
        // The group's offsets in all partitions: `latest` depends on whether it has any.
        let committed = patiently(deadline, || {
            let metadata = consumer.fetch_metadata(Some(&self.topic), REQUEST_TIMEOUT)?;
            let all = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id());
            let mut list = TopicPartitionList::new();
            all.chain(partitions.iter().copied()).for_each(|partition| {
                if list.find_partition(&self.topic, partition).is_none() {
                    list.add_partition(&self.topic, partition);
                }
            });
            let committed = consumer.committed_offsets(list, REQUEST_TIMEOUT)?;
            // A partition whose offset could not be read is not one without an offset.
            committed.elements().iter().try_for_each(|element| element.error())?;
            Ok(committed)
        })
        .map_err(failed)?;
        let group_has_offsets =
            committed.elements().iter().any(|element| matches!(element.offset(), KafkaOffset::Offset(_)));
        partitions
            .iter()
            .map(|&partition| {
                let (low, high): (Offset, Offset) = patiently(deadline, || {
                    consumer.fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT)
                })
                .map_err(failed)?;
                let committed = offset_of(&committed, &self.topic, partition).map_err(failed)?;
                let state = PartitionState { partition, committed, low, high };
                Ok(self.start_policy.resolve(state, group_has_offsets)?)
            })
            .collect()
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) {
        if consumer.assignment_lost() {
            log::warn!("lost {partitions:?}: the group gave them to others; nothing is committed for them");
        } else {
            self.drain(partitions);
            log::info!("revoked {partitions:?}");
        }
        self.notify(Notice::Revoked(partitions.to_vec()));
    }

    /// Waits until the committer has committed what was in flight, or until the deadline.
    fn drain(&self, partitions: &[Partition]) {
        let (done, is_done) = bounded(0);
        let deadline = Instant::now() + self.drain_timeout;
        let revocation = Revocation { partitions: partitions.to_vec(), deadline, done };
        // A committer that is gone has committed what it could.
        if self.revocations.send(revocation).is_ok() {
            // The committer hangs up when it is done. The margin is for its commit.
            let margin = REQUEST_TIMEOUT;
            if is_done.recv_deadline(deadline + margin).is_err_and(|error| error.is_timeout()) {
                log::warn!("committing {partitions:?} before giving them back took too long");
            }
        }
    }
}

/// The partition's offset in an answer, if it is one; its error, if it has one.
fn offset_of(answer: &TopicPartitionList, topic: &str, partition: Partition) -> KafkaResult<Option<Offset>> {
    let Some(element) = answer.find_partition(topic, partition) else { return Ok(None) };
    element.error()?;
    Ok(match element.offset() {
        KafkaOffset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// Repeats a request until it succeeds or the deadline is near.
fn patiently<T>(deadline: Instant, mut request: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    loop {
        match request() {
            Err(error) if Instant::now() + REQUEST_PAUSE < deadline => {
                log::debug!("asking for start positions: {error}; trying again");
                std::thread::sleep(REQUEST_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// `3 partitions: 0 at 17, 4 at 0, 5 at 993`.
fn describe(positions: &[StartPosition]) -> String {
    let each: Vec<_> = positions.iter().map(|p| format!("{} at {}", p.partition, p.start)).collect();
    format!("{} partitions: {}", positions.len(), each.join(", "))
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        self.count_callback();
        let level = match level {
            // The committer repeats commits until they are confirmed; a rebalance refuses a few.
            _ if fac.starts_with("COMMITFAIL") => log::Level::Debug,
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => log::Level::Error,
            RDKafkaLogLevel::Warning => log::Level::Warn,
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => log::Level::Info,
            RDKafkaLogLevel::Debug => log::Level::Debug,
        };
        log::log!(target: "librdkafka", level, "{fac}: {log_message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.count_callback();
        // `poll` returns the same error, and the poller says what it means; so does the log.
        log::debug!(target: "librdkafka", "{error}: {reason}");
    }

    fn stats_raw(&self, json: &[u8]) {
        self.count_callback();
        match statistics::read(json, &self.topic) {
            Ok(partitions) => self.notify(Notice::Statistics(partitions)),
            Err(error) => log::warn!("reading librdkafka's statistics: {error}"),
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.count_callback();
        let partitions: Vec<_> = list.elements().iter().map(|element| element.partition()).collect();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if let Err(error) = self.assign(consumer, &partitions) {
                self.notify(Notice::Failed(error));
            }
            return;
        }
        self.revoke(consumer, &partitions);
        if let Err(source) = consumer.incremental_unassign(list) {
            self.notify(Notice::Failed(PollError::Unassign { partitions, source }));
        }
    }
}
