//! The consumer's callbacks: assignment, revocation, statistics, logs. They run on
//! the poller's thread, inside `poll`; what they learn waits in `notices` until `poll` returns.
//!
//! On assignment start positions are asked for and assigned explicitly. On revocation the committer
//! is told and waited for, with a deadline: in-flight spans become durable and are committed before
//! the partitions are given back. Kept partitions go on undisturbed (cooperative-sticky).

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
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

use super::error::PollError;
use super::history;
use super::start_position::{Beginning, PartitionState, Recorded, StartLedger, StartPolicy, StartPosition};
use super::statistics::{self, PartitionStatistics};
use crate::clock;
use crate::crash_point::{self, CrashPoint};
use crate::error_chain::error_chain;
use crate::kafka_problem;
use crate::logging::librdkafka;
use crate::messages::Revocation;
use crate::observe::activity::Activity;
use crate::observe::instruments::PollInstruments;
use crate::offsets::{LEDGER_MARK, Offset, Partition};
use crate::shutdown::Shutdown;
use crate::stage::BoxedError;

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

/// What the callbacks need.
#[derive(Debug)]
pub struct GroupOptions {
    /// The consumer group.
    pub group: String,
    /// KAFKA_GROUP_INSTANCE_ID.
    pub instance_id: Option<String>,
    /// The topic that is consumed.
    pub topic: String,
    /// How start positions are chosen.
    pub start_policy: StartPolicy,
    /// The database's word on how far partitions are durable.
    pub ledger: Box<dyn StartLedger>,
    /// How long start positions may be asked for in all, through outages of either server: well
    /// below the poll interval that the group allows.
    pub resolve_timeout: Duration,
    /// Partitions are read from this long before their start.
    pub dedup_window: Duration,
    /// How long a revocation waits at most.
    pub drain_timeout: Duration,
    /// Leads to the committer.
    pub revocations: Sender<Revocation>,
    /// Ends waiting early.
    pub shutdown: Shutdown,
    /// The poller's.
    pub instruments: Arc<PollInstruments>,
}

/// The consumer's context.
#[derive(Debug)]
pub struct GroupContext {
    options: GroupOptions,
    notices: Mutex<Vec<Notice>>,
    /// Partitions that this process was ever assigned.
    once_assigned: Mutex<HashSet<Partition>>,
    callbacks_served: AtomicU64,
    /// Answers of no broker that the log has told of, and `poll` has not.
    strange_answers: AtomicU64,
}

impl GroupContext {
    /// Callbacks for a consumer.
    pub fn new(options: GroupOptions) -> Self {
        Self {
            options,
            notices: Mutex::default(),
            once_assigned: Mutex::default(),
            callbacks_served: AtomicU64::new(0),
            strange_answers: AtomicU64::new(0),
        }
    }

    /// What the callbacks were made with.
    pub(super) fn options(&self) -> &GroupOptions {
        &self.options
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

    /// Where the poller and its callbacks write what they do.
    pub fn instruments(&self) -> &PollInstruments {
        &self.options.instruments
    }

    /// Whether an error is about a connection that brought no broker's answer. librdkafka gives `poll`
    /// the same error for a damaged batch, which it passes over; but before each of these it logs one
    /// line (`rd_kafka_broker_set_error`). So each line explains one error, and no other.
    pub fn take_strange_answer(&self) -> bool {
        let left = |count: u64| count.checked_sub(1);
        self.strange_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn notify(&self, notice: Notice) {
        self.notices.lock().push(notice);
    }

    fn count_callback(&self) {
        self.callbacks_served.fetch_add(1, Ordering::Relaxed);
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) -> Result<(), PollError> {
        let deadline = Instant::now() + self.options.resolve_timeout;
        let positions = self.resolve(consumer, partitions, deadline)?;
        let first_offsets = self.first_offsets_to_read(consumer, &positions, deadline)?;
        let mut list = TopicPartitionList::with_capacity(positions.len());
        let listed = positions.iter().zip(&first_offsets).try_for_each(|(position, first)| {
            list.add_partition_offset(&self.options.topic, position.partition, KafkaOffset::Offset(*first))
        });
        listed
            .and_then(|()| consumer.incremental_assign(&list))
            .map_err(|source| PollError::Assign { partitions: partitions.to_vec(), source })?;
        if !positions.is_empty() {
            let history: Offset =
                positions.iter().zip(&first_offsets).map(|(p, first)| p.start - first).sum();
            log::info!(
                partitions:?;
                "assigned {}; {history} offsets before them refill the dedup windows",
                describe(&positions)
            );
        }
        self.once_assigned.lock().extend(partitions);
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
            self.patiently(deadline, || {
                let mut times = TopicPartitionList::with_capacity(asked.len());
                for (partition, time_ms) in asked {
                    times.add_partition_offset(
                        &self.options.topic,
                        *partition,
                        KafkaOffset::Offset(*time_ms),
                    )?;
                }
                let found = consumer.offsets_for_times(times, REQUEST_TIMEOUT)?;
                asked
                    .iter()
                    .map(|(partition, _)| offset_of(&found, &self.options.topic, *partition))
                    .collect()
            })
        };
        history::first_offsets_to_read(positions, self.options.dedup_window, clock::now_ms(), ask).map_err(
            |source| PollError::Resolve {
                partitions: positions.iter().map(|position| position.partition).collect(),
                source,
            },
        )
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
        let committed = self
            .patiently(deadline, || {
                let metadata = consumer.fetch_metadata(Some(&self.options.topic), REQUEST_TIMEOUT)?;
                let all = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|p| p.id());
                let mut list = TopicPartitionList::new();
                all.chain(partitions.iter().copied()).for_each(|partition| {
                    if list.find_partition(&self.options.topic, partition).is_none() {
                        list.add_partition(&self.options.topic, partition);
                    }
                });
                let committed = consumer.committed_offsets(list, REQUEST_TIMEOUT)?;
                // A partition whose offset could not be read is not one without an offset.
                committed.elements().iter().try_for_each(|element| element.error())?;
                Ok(committed)
            })
            .map_err(failed)?;
        let all: Vec<_> = committed.elements().iter().map(|element| element.partition()).collect();
        let recorded = self.ask_ledger(&all, deadline, |ledger| ledger.recorded(&all))?;
        // Kafka forgets the offsets of a group that was down for long; the ledger does not.
        let group_has_offsets = !recorded.is_empty()
            || committed.elements().iter().any(|element| matches!(element.offset(), KafkaOffset::Offset(_)));
        let resolved = partitions.iter().map(|&partition| {
            let (low, high): (Offset, Offset) = self
                .patiently(deadline, || {
                    consumer.fetch_watermarks(&self.options.topic, partition, REQUEST_TIMEOUT)
                })
                .map_err(failed)?;
            let is_marked = committed
                .find_partition(&self.options.topic, partition)
                .is_some_and(|element| element.metadata() == LEDGER_MARK);
            let committed = offset_of(&committed, &self.options.topic, partition).map_err(failed)?;
            let recorded = recorded.iter().find(|recorded| recorded.partition == partition).copied();
            let state = PartitionState { partition, recorded, committed, is_marked, low, high };
            Ok(self.start_policy(partition).resolve(state, group_has_offsets)?)
        });
        let (mut positions, beginnings): (Vec<_>, Vec<_>) =
            resolved.collect::<Result<Vec<_>, PollError>>()?.into_iter().unzip();
        self.record(&beginnings.into_iter().flatten().collect::<Vec<_>>(), &mut positions, deadline)?;
        Ok(positions)
    }

    /// A loss is accepted for a partition's first assignment. What is lost once we have read from it is
    /// another loss, of which nobody knew when this one was accepted.
    fn start_policy(&self, partition: Partition) -> StartPolicy {
        let policy = self.options.start_policy;
        let is_first = !self.once_assigned.lock().contains(&partition);
        StartPolicy { accept_loss: policy.accept_loss && is_first, ..policy }
    }

    /// Records new beginnings. Where another instance has recorded one first, its word holds.
    fn record(
        &self,
        beginnings: &[Beginning],
        positions: &mut [StartPosition],
        deadline: Instant,
    ) -> Result<(), PollError> {
        if beginnings.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> = beginnings.iter().map(|beginning| beginning.partition).collect();
        for recorded in self.ask_ledger(&partitions, deadline, |ledger| ledger.begin(beginnings))? {
            for position in positions.iter_mut().filter(|p| p.partition == recorded.partition) {
                position.epoch = recorded.epoch;
                position.start = recorded.end;
                position.history_floor = recorded.first;
            }
        }
        Ok(())
    }

    fn ask_ledger(
        &self,
        partitions: &[Partition],
        deadline: Instant,
        mut question: impl FnMut(&dyn StartLedger) -> Result<Vec<Recorded>, BoxedError>,
    ) -> Result<Vec<Recorded>, PollError> {
        self.patiently(deadline, || question(self.options.ledger.as_ref()).map_err(LedgerSilent))
            .map_err(|LedgerSilent(source)| PollError::AskLedger { partitions: partitions.to_vec(), source })
    }

    /// Repeats a request until it succeeds, the deadline is near, or we are asked to stop.
    fn patiently<T, E: Display>(
        &self,
        deadline: Instant,
        mut request: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut failure_count = 0_u32;
        loop {
            match request() {
                Err(error)
                    if Instant::now() + REQUEST_PAUSE < deadline && !self.options.shutdown.is_requested() =>
                {
                    // Once in a while, or nobody would know what is being waited for.
                    let level =
                        if failure_count.is_multiple_of(25) { log::Level::Warn } else { log::Level::Debug };
                    log::log!(
                        level,
                        repeats = "asking for start positions";
                        "asking for start positions: {error}; trying again (attempt {})",
                        failure_count + 1
                    );
                    failure_count += 1;
                    std::thread::sleep(REQUEST_PAUSE);
                }
                outcome => {
                    self.instruments().activity.sign();
                    return outcome;
                }
            }
        }
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &[Partition]) {
        if consumer.assignment_lost() {
            self.instruments().set_joined(false); // Until it joins again.
            log::warn!(
                partitions:?;
                "lost partitions {partitions:?}: the group gave them to others; nothing is committed for them"
            );
        } else {
            self.drain(partitions);
            crash_point::reach(CrashPoint::InRevoke);
            log::info!(partitions:?; "revoked partitions {partitions:?}");
        }
        self.notify(Notice::Revoked(partitions.to_vec()));
    }

    /// Waits until the committer has committed what was in flight, or until the deadline.
    fn drain(&self, partitions: &[Partition]) {
        let (done, is_done) = bounded(0);
        let deadline = Instant::now() + self.options.drain_timeout;
        let revocation = Revocation { partitions: partitions.to_vec(), deadline, done };
        // A committer that is gone has committed what it could.
        if self.options.revocations.send(revocation).is_ok() {
            // The committer hangs up when it is done. The margin is for its commit.
            let margin = REQUEST_TIMEOUT;
            if is_done.recv_deadline(deadline + margin).is_err_and(|error| error.is_timeout()) {
                log::warn!(
                    "committing partitions {partitions:?} before giving them back took longer than DRAIN_TIMEOUT ({:?})",
                    self.options.drain_timeout
                );
            }
        }
    }
}

/// An error of the ledger, told with its causes.
struct LedgerSilent(BoxedError);

impl Display for LedgerSilent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&error_chain(self.0.as_ref()))
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

/// `3 partitions: 0 at 17, 4 at 0, 5 at 993`.
fn describe(positions: &[StartPosition]) -> String {
    let each: Vec<_> = positions.iter().map(|p| format!("{} at {}", p.partition, p.start)).collect();
    format!("{} partitions: {}", positions.len(), each.join(", "))
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        self.count_callback();
        if log_message.contains("Receive failed: Invalid response size") {
            self.strange_answers.fetch_add(1, Ordering::Relaxed);
        }
        if fac == "FAIL"
            && let Some(advice) = kafka_problem::advice(log_message)
        {
            log::error!(target: "librdkafka", repeats:% = log_message; "{fac}: {log_message}; {advice}; trying again");
            return;
        }
        match kafka_problem::guess(log_message) {
            Some(guess) => librdkafka::log(level, fac, &format!("{log_message}; if this goes on: {guess}")),
            None => librdkafka::log(level, fac, log_message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.count_callback();
        // `poll` returns the same error, and the poller says what it means; so does the log.
        librdkafka::log_error(&error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.count_callback();
        match statistics::read(json, &self.options.topic) {
            Ok((partitions, figures)) => {
                self.instruments().set_kafka(figures);
                self.notify(Notice::Statistics(partitions));
            }
            Err(error) => log::warn!("reading librdkafka's statistics: {error}"),
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.count_callback();
        self.instruments().activity.enter(Activity::Working);
        self.instruments().rebalanced();
        let partitions: Vec<_> = list.elements().iter().map(|element| element.partition()).collect();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if let Err(error) = self.assign(consumer, &partitions) {
                if self.options.shutdown.is_requested() {
                    log::info!("stopped before start positions were known: {error}");
                    return; // Nothing was begun, so nothing has failed.
                }
                self.notify(Notice::Failed(error));
            } else {
                self.instruments().set_joined(true);
            }
            return;
        }
        self.revoke(consumer, &partitions);
        if let Err(source) = consumer.incremental_unassign(list) {
            self.notify(Notice::Failed(PollError::Unassign { partitions, source }));
        }
    }
}
