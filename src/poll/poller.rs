//! The poller stage: one thread, the only one that polls. It never blocks on a full pipeline for
//! longer than a moment, since callbacks and the group's poll interval must be served.
//!
//! A span is announced to the committer before its batch is handed on, so that its completion
//! cannot overtake it; being a decoder channel's only sender, the poller knows that a channel which
//! has room will take the batch. Ends on shutdown, or when all partitions have been read to where
//! they stop; what it has polled and not handed on was never issued and is delivered again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Select, Sender};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use super::error::PollError;
use super::idle::IdleNotice;
use super::intake::{Incoming, Intake};
use super::rebalance::{GroupContext, Notice};
use super::start_position::StartPosition;
use super::statistics::PartitionStatistics;
use crate::crash_point::{self, CrashPoint};
use crate::messages::{BrokerOffsets, PolledBatch, Progress};
use crate::observe::activity::Activity;
use crate::offsets::{Generation, Offset, Partition};
use crate::shutdown::Shutdown;

/// How long `poll` may sleep when there is nothing to do: how soon shutdown is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long a batch is held for a full pipeline before partitions are paused. Pausing throws
/// prefetched messages away and fetches them again, so a moment's wait is cheaper.
const HOLD_MAX: Duration = Duration::from_secs(1);
/// How long a batch that is not full may lie here while another decoder's partitions keep us busy.
const SWEEP_INTERVAL: Duration = Duration::from_millis(10);

/// How long an instance without any partition waits for some before it counts as finished.
const EMPTY_ASSIGNMENT_WAIT: Duration = Duration::from_secs(10);

/// The poller thread's ends and memory.
pub struct Poller {
    consumer: Arc<BaseConsumer<GroupContext>>,
    topic: String,
    /// One a decoder.
    decoders: Vec<Sender<PolledBatch>>,
    progress: Sender<Progress>,
    shutdown: Shutdown,
    /// Stop at the ends of the partitions as they were at assignment.
    stops_at_end: bool,
    intake: Intake,
    generations: HashMap<Partition, Generation>,
    /// Ends of partitions heard of in the statistics, behind which may lie no message.
    gap_ends: Vec<(Partition, Offset)>,
    /// When the group first gave us partitions, or none.
    assigned_at: Option<Instant>,
    idle_notice: IdleNotice,
    is_paused: bool,
}

/// Whether to go on.
enum Flow {
    Continue,
    /// A stage behind us is gone, or we were asked to stop.
    Stop,
}

impl Poller {
    /// A poller that is not subscribed yet. Batches hold at most `message_count_max` messages.
    pub fn new(
        consumer: Arc<BaseConsumer<GroupContext>>,
        topic: &str,
        decoders: Vec<Sender<PolledBatch>>,
        progress: Sender<Progress>,
        shutdown: Shutdown,
        stops_at_end: bool,
        message_count_max: usize,
    ) -> Self {
        let intake = Intake::new(decoders.len(), message_count_max);
        Self {
            consumer,
            topic: topic.to_owned(),
            decoders,
            progress,
            shutdown,
            stops_at_end,
            intake,
            generations: HashMap::new(),
            gap_ends: Vec::new(),
            assigned_at: None,
            idle_notice: IdleNotice::default(),
            is_paused: false,
        }
    }

    /// Polls until shutdown, or until everything has been read to where it stops.
    pub fn run(mut self) -> Result<(), PollError> {
        self.consumer
            .subscribe(&[&self.topic])
            .map_err(|source| PollError::Subscribe { topic: self.topic.clone(), source })?;
        log::info!("Subscribed to {}", self.topic);
        let mut swept_at = Instant::now();
        while !self.shutdown.is_requested() {
            let full = self.fill()?;
            // A full batch leaves alone; when Kafka has nothing more right now, all leave. So they do
            // now and then in a backlog of some partitions, which would hold back all others.
            let due = match full {
                Some(decoder_idx) if swept_at.elapsed() < SWEEP_INTERVAL => decoder_idx..decoder_idx + 1,
                _ => {
                    swept_at = Instant::now();
                    0..self.decoders.len()
                }
            };
            for decoder_idx in due {
                if let Flow::Stop = self.hand_on(decoder_idx)? {
                    return Ok(());
                }
            }
            if self.assigned_at.is_some() {
                self.idle_notice.look(&self.consumer, self.intake.partition_count());
            }
            if self.stops_at_end && self.is_at_end() {
                log::info!("every partition is read to the end it had at the start");
                self.shutdown.request();
            }
        }
        Ok(())
    }

    /// Polls until a decoder's batch is full, which is returned, or nothing more is there.
    fn fill(&mut self) -> Result<Option<usize>, PollError> {
        // A clone, so that messages do not borrow from self.
        let consumer = Arc::clone(&self.consumer);
        let activity = &consumer.context().instruments().activity;
        let mut wait = POLL_WAIT;
        activity.enter(if self.is_paused { Activity::Blocked } else { Activity::Starved });
        loop {
            let callbacks_before = consumer.context().callbacks_served();
            let polled = consumer.poll(wait);
            let callbacks = consumer.context().callbacks_served() != callbacks_before;
            if callbacks {
                self.heed_notices()?;
            }
            if !wait.is_zero() && polled.is_some() {
                activity.enter(Activity::Working);
            }
            wait = Duration::ZERO;
            match polled {
                Some(Ok(message)) => {
                    let full = self.intake.accept(Incoming {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp_ms: message
                            .timestamp()
                            .to_millis()
                            .filter(|timestamp_ms| *timestamp_ms >= 0),
                        key: message.key(),
                        payload: message.payload(),
                    });
                    if full.is_some() {
                        return Ok(full);
                    }
                }
                Some(Err(error)) => self.heed_error(error)?,
                // Only a callback was served: there may be more.
                None if callbacks => {}
                None => {
                    self.close_gaps();
                    return Ok(None);
                }
            }
        }
    }

    fn heed_notices(&mut self) -> Result<(), PollError> {
        for notice in self.consumer.context().take_notices() {
            match notice {
                Notice::Assigned(positions) => {
                    self.intake.forget_ends();
                    self.assigned(&positions)?;
                }
                Notice::Revoked(partitions) => {
                    self.intake.forget_ends();
                    self.intake.revoke(&partitions);
                    self.tell_committer(Progress::Revoked(partitions));
                }
                Notice::Statistics(partitions) => self.heed_statistics(&partitions),
                Notice::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn assigned(&mut self, positions: &[StartPosition]) -> Result<(), PollError> {
        self.assigned_at.get_or_insert_with(Instant::now);
        for &position in positions {
            let StartPosition { partition, start, .. } = position;
            let generation = self.generations.entry(partition).or_default();
            generation.0 += 1;
            self.intake.assign(position, *generation, self.stops_at_end);
            self.gap_ends.retain(|(gap, _)| *gap != partition);
            let assigned = Progress::Assigned { partition, generation: *generation, start };
            self.tell_committer(assigned);
        }
        let heard = positions.iter().map(|position| BrokerOffsets {
            partition: position.partition,
            high_water_mark: Some(position.high),
            low_water_mark: None,
            committed: None,
        });
        self.tell_committer(Progress::Heard(heard.collect()));
        // A partition that was paused when it was taken away has stayed so, and would never be read.
        if self.is_paused { self.pause() } else { self.resume() }
    }

    fn heed_statistics(&mut self, partitions: &[PartitionStatistics]) {
        let known = |offset: Offset| (offset >= 0).then_some(offset);
        self.gap_ends = partitions.iter().filter_map(|p| Some((p.partition, known(p.eof_offset)?))).collect();
        let heard = partitions.iter().map(|p| BrokerOffsets {
            partition: p.partition,
            high_water_mark: known(p.hi_offset),
            low_water_mark: known(p.lo_offset),
            committed: known(p.committed_offset),
        });
        self.tell_committer(Progress::Heard(heard.collect()));
    }

    /// Everything fetched before the statistics were made has been polled by now, since `poll` has
    /// found nothing; or it was thrown away by a pause, whose word then comes before the next ones.
    fn close_gaps(&mut self) {
        for (partition, end) in std::mem::take(&mut self.gap_ends) {
            self.intake.close_gap(partition, end);
        }
    }

    fn heed_error(&mut self, error: KafkaError) -> Result<(), PollError> {
        use RDKafkaErrorCode as Code;
        if !matches!(error, KafkaError::PartitionEOF(_)) {
            self.consumer.context().instruments().kafka_failed();
        }
        match &error {
            KafkaError::PartitionEOF(partition) => self.intake.reached_end(*partition),
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                return Err(PollError::OffsetGone(error));
            }
            KafkaError::MessageConsumption(
                Code::Authentication
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed,
            ) => {
                return Err(PollError::Refused { topic: self.topic.clone(), source: error });
            }
            KafkaError::MessageConsumption(Code::BadMessage)
                if self.consumer.context().take_strange_answer() =>
            {
                log::error!(
                    "consuming {}: something that is no broker's answer, or larger than \
                     receive.message.max.bytes, came from the address that librdkafka names above; going on",
                    self.topic
                );
            }
            KafkaError::MessageConsumption(
                Code::BadMessage | Code::BadCompression | Code::NotImplemented | Code::MessageSizeTooLarge,
            ) => {
                return Err(PollError::Unreadable { topic: self.topic.clone(), source: error });
            }
            KafkaError::MessageConsumptionFatal(_) => return Err(PollError::fatal(&self.consumer, error)),
            KafkaError::MessageConsumption(
                Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition,
            ) => {
                if self.stops_at_end {
                    return Err(PollError::NoTopic { topic: self.topic.clone() });
                }
                self.consumer.context().instruments().found_no_topic();
                log::warn!("topic {} does not exist (yet); waiting for it", self.topic);
            }
            KafkaError::MessageConsumption(Code::InvalidMessage | Code::CriticalSystemResource) => {
                log::error!("consuming {}: {error}; asking again", self.topic);
            }
            // Brokers that are away come back; librdkafka reconnects for as long as it takes, and
            // logs it at a bearable rate, which this is not.
            _ => log::debug!("consuming {}: {error}", self.topic),
        }
        Ok(())
    }

    /// Announces the decoder's batch and hands it on, once there is room.
    fn hand_on(&mut self, decoder_idx: usize) -> Result<Flow, PollError> {
        let decoder = &self.decoders[decoder_idx];
        let instruments = self.consumer.context().instruments();
        instruments.decoder_queues[decoder_idx].look(decoder.len(), decoder.capacity());
        if !self.intake.has_batch(decoder_idx) {
            return Ok(Flow::Continue);
        }
        if let Flow::Stop = self.wait_for_room(decoder_idx)? {
            return Ok(Flow::Stop);
        }
        // Waiting may have served a revocation: take only now what is still ours.
        let (issued, batch) = self.intake.take(decoder_idx);
        if !issued.is_empty() {
            self.tell_committer(Progress::Issued(issued));
            crash_point::reach(CrashPoint::AfterIssue);
        }
        match self.decoders[decoder_idx].send(batch.handed_on()) {
            Ok(()) => Ok(Flow::Continue),
            Err(_) => Ok(Flow::Stop), // The decoder is gone; whoever failed has reported it.
        }
    }

    /// Waits a moment for room; beyond it, pauses the partitions and goes on polling for callbacks
    /// until there is some.
    fn wait_for_room(&mut self, decoder_idx: usize) -> Result<Flow, PollError> {
        let consumer = Arc::clone(&self.consumer);
        let instruments = consumer.context().instruments();
        if self.has_room(decoder_idx, Duration::ZERO) {
            return Ok(Flow::Continue);
        }
        instruments.activity.enter(Activity::Blocked);
        if self.has_room(decoder_idx, HOLD_MAX) {
            instruments.activity.enter(Activity::Working);
            return Ok(Flow::Continue);
        }
        log::info!(repeats = "full"; "the pipeline is full: pausing {} partitions", self.intake.partition_count());
        let paused_at = Instant::now();
        self.is_paused = true;
        instruments.paused(self.intake.partition_count());
        self.pause()?;
        while !self.has_room(decoder_idx, Duration::ZERO) {
            if self.shutdown.is_requested() {
                return Ok(Flow::Stop);
            }
            // Paused partitions give no messages; one that was already on its way is taken in.
            self.fill()?;
        }
        self.is_paused = false;
        instruments.resumed();
        instruments.activity.enter(Activity::Working);
        self.resume()?;
        log::info!(repeats = "room"; "the pipeline has room again after {:?}: resuming", paused_at.elapsed());
        Ok(Flow::Continue)
    }

    /// Whether the decoder's channel takes a batch, now or within `timeout` (or is gone).
    fn has_room(&self, decoder_idx: usize, timeout: Duration) -> bool {
        let mut select = Select::new();
        select.send(&self.decoders[decoder_idx]);
        select.ready_timeout(timeout).is_ok()
    }

    /// What was fetched and not polled is thrown away by this, and fetched again.
    fn pause(&mut self) -> Result<(), PollError> {
        self.intake.forget_ends();
        self.consumer.assignment().and_then(|all| self.consumer.pause(&all)).map_err(PollError::Pause)
    }

    fn resume(&self) -> Result<(), PollError> {
        self.consumer.assignment().and_then(|all| self.consumer.resume(&all)).map_err(PollError::Pause)
    }

    /// Whether all partitions have been read to where they stop, and all of it is handed on. An
    /// instance without partitions may be about to get some: a group gives them in two rounds.
    fn is_at_end(&self) -> bool {
        let waited = self.assigned_at.is_some_and(|at| at.elapsed() >= EMPTY_ASSIGNMENT_WAIT);
        (self.intake.partition_count() > 0 || waited)
            && self.intake.finished().count() == self.intake.partition_count()
            && (0..self.decoders.len()).all(|decoder_idx| !self.intake.has_batch(decoder_idx))
    }

    fn tell_committer(&self, progress: Progress) {
        if self.progress.send(progress).is_err() {
            // It failed and reports why; without it nothing more can be committed.
            self.shutdown.request();
        }
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller")
            .field("topic", &self.topic)
            .field("intake", &self.intake)
            .finish_non_exhaustive()
    }
}
