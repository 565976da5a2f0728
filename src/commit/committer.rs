//! The committer stage: one thread, the only one that commits offsets. Progress of poller and
//! writers in; commits to Kafka and the published [`Tally`] out.
//!
//! It waits for no other stage. It ends, after a last synchronous commit, when the poller and all
//! writers have hung up; not when the consumer's channel does, since the consumer that it commits
//! through holds that channel's sender.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select, tick};
use rdkafka::consumer::CommitMode;

use super::confirmations::{Confirmations, PATIENCE};
use super::offset_committer::OffsetCommitter;
use super::tally::{Tally, TallyBoard};
use super::watermarks::{BrokenTiling, Watermarks};
use crate::crash_point::{self, CrashPoint};
use crate::messages::{BrokerOffsets, LetterCount, Progress, Revocation, SpanOutcome};
use crate::observe::activity::Activity;
use crate::observe::instruments::CommitInstruments;
use crate::offsets::{Offset, Partition};
use crate::status::PartitionStatus;

/// How often watermarks are committed: what a crash makes Kafka deliver again.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// For how long it leaves progress alone after it has looked: two reports a batch would wake it as often, and whoever
/// sends them would pay for that, too.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the last commit is repeated, and how often. A rebalance takes a heartbeat interval or
/// two, of 3 s each; DRAIN_TIMEOUT bounds it all the same.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
const LAST_COMMIT_PAUSE: Duration = Duration::from_millis(250);

/// Why the committer stopped the process.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The poller's spans do not tile their partition.
    #[error("refusing to commit over a gap")]
    Tiling(#[from] BrokenTiling),
    /// The last commit failed. What was not committed is delivered again.
    #[error("committing the last offsets {offsets:?}")]
    LastCommit {
        /// Partition and next offset.
        offsets: Vec<(Partition, Offset)>,
        /// What the broker said.
        source: rdkafka::error::KafkaError,
    },
}

/// The committer thread's ends and memory.
#[derive(Debug)]
pub struct Committer<O> {
    /// From the poller and the writers.
    progress: Receiver<Progress>,
    /// From the consumer's callbacks.
    revocations: Receiver<Revocation>,
    /// To Kafka.
    offsets: O,
    /// Where the books are published.
    board: TallyBoard,
    instruments: Arc<CommitInstruments>,
    tally: Tally,
    watermarks: Watermarks,
    /// What the broker said last of the assigned partitions.
    heard: HashMap<Partition, BrokerOffsets>,
    confirmations: Confirmations,
    revocation: Option<Revocation>,
}

impl<O: OffsetCommitter> Committer<O> {
    /// A committer that knows of no partition yet.
    pub fn new(
        progress: Receiver<Progress>,
        revocations: Receiver<Revocation>,
        offsets: O,
        board: TallyBoard,
        instruments: Arc<CommitInstruments>,
    ) -> Self {
        Self {
            progress,
            revocations,
            offsets,
            board,
            instruments,
            tally: Tally::default(),
            watermarks: Watermarks::default(),
            heard: HashMap::new(),
            confirmations: Confirmations::default(),
            revocation: None,
        }
    }

    /// Commits until poller and writers have hung up.
    pub fn run(mut self) -> Result<(), CommitError> {
        let commit_due = tick(COMMIT_INTERVAL);
        let instruments = Arc::clone(&self.instruments);
        loop {
            instruments.activity.enter(Activity::Starved);
            let revocation_due = self.revocation.as_ref().map_or_else(never, |revocation| {
                after(revocation.deadline.saturating_duration_since(Instant::now()))
            });
            let (mut is_commit_due, mut is_overdue) = (false, false);
            select! {
                recv(self.progress) -> progress => match progress {
                    Ok(progress) => {
                        instruments.activity.enter(Activity::Working);
                        self.advance(progress)?;
                    }
                    Err(_) => return self.commit_last(),
                },
                recv(self.revocations) -> revocation => match revocation {
                    Ok(revocation) => self.revocation = Some(revocation),
                    Err(_) => self.revocations = never(),
                },
                recv(commit_due) -> _ => is_commit_due = true,
                recv(revocation_due) -> _ => is_overdue = true,
            }
            instruments.activity.enter(Activity::Working);
            instruments.progress.look(self.progress.len(), self.progress.capacity());
            // What has come meanwhile counts first, as does what the poller issued before a revocation; no more
            // than that, so that a second does not pass without a commit.
            for _ in 0..self.progress.len() {
                if let Ok(progress) = self.progress.try_recv() {
                    self.advance(progress)?;
                }
            }
            if is_commit_due {
                self.commit_async();
            }
            let is_drained = |revocation: &Revocation| self.watermarks.are_drained(&revocation.partitions);
            if is_overdue || self.revocation.as_ref().is_some_and(is_drained) {
                self.finish_revocation();
            }
            self.publish();
            instruments.activity.enter(Activity::Starved);
            thread::sleep(PAUSE);
        }
    }

    fn advance(&mut self, progress: Progress) -> Result<(), CommitError> {
        match progress {
            Progress::Assigned { partition, generation, start } => {
                self.tally.returned += self.watermarks.forget(partition);
                self.watermarks.assign(partition, generation, start);
                self.heard.remove(&partition);
            }
            Progress::Issued(spans) => {
                for issued in spans {
                    if self.watermarks.issue(issued)? {
                        self.tally.messages += issued.messages;
                    }
                }
            }
            Progress::Revoked(partitions) => self.forget(&partitions),
            Progress::Durable { outcomes, letters } => self.complete_all(&outcomes, &letters),
            Progress::Heard(heard) => {
                for offsets in
                    heard.into_iter().filter(|heard| self.watermarks.watermark(heard.partition).is_some())
                {
                    self.heard.insert(offsets.partition, offsets);
                }
            }
        }
        Ok(())
    }

    fn complete_all(&mut self, outcomes: &[SpanOutcome], letters: &[LetterCount]) {
        for (idx, outcome) in outcomes.iter().enumerate() {
            if outcome.span.is_empty() {
                continue; // Of history only.
            }
            if self.watermarks.complete(outcome) {
                self.tally.complete(outcome);
                let its = letters.iter().filter(|letters| letters.outcome_idx as usize == idx);
                its.for_each(|letters| self.tally.count_letters(letters));
            } else {
                log::debug!("span {} completed after its partition was taken away", outcome.span);
                self.tally.late_spans += 1;
            }
        }
    }

    /// Commits what has become durable of the revoked partitions, and lets the poller go on. It
    /// then says in the other channel that they are gone: if we were too late for it, they may have
    /// been assigned again already, and must not be forgotten here.
    fn finish_revocation(&mut self) {
        let Some(Revocation { partitions, done, .. }) = self.revocation.take() else { return };
        if !self.watermarks.are_drained(&partitions) {
            log::warn!(
                partitions:?;
                "partitions {partitions:?} are given back with spans in flight: the next owner reads those again"
            );
        }
        let watermarks = self.watermarks_of(|partition| partitions.contains(&partition));
        if let Err(error) = self.commit(&watermarks, CommitMode::Sync) {
            log::warn!(
                "committing {watermarks:?} (partition, offset) before giving the partitions back: {error}; the next owner \
                 reads from the last commit"
            );
        }
        drop(done);
    }

    fn forget(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.tally.returned += self.watermarks.forget(*partition);
            self.heard.remove(partition);
        }
    }

    /// Commits what the broker has not confirmed yet. Whether an asynchronous commit succeeds is
    /// not told to us (librdkafka reports it only to a callback that rdkafka cannot set), so it is
    /// repeated until the statistics show it.
    fn commit_async(&mut self) {
        let watermarks = self.unconfirmed();
        let unconfirmed = watermarks.iter().map(|(partition, _)| (*partition, self.confirmed(*partition)));
        let unconfirmed: Vec<_> = unconfirmed.collect();
        let overdue = self.confirmations.overdue(Instant::now(), unconfirmed);
        if !overdue.is_empty() {
            log::warn!(
                repeats = "unconfirmed", partitions:? = overdue;
                "partitions {overdue:?}: Kafka has confirmed no commit for {PATIENCE:?} or more. Nothing is lost, since the \
                 ledger in the database decides where reading starts; but the group's lag stands still for Kafka's tools. \
                 Is a broker away, are replicas of __consumer_offsets missing, has this user lost a right? With \
                 LOG_LEVEL=info,librdkafka=debug, COMMITFAIL lines tell what is refused"
            );
        }
        if let Err(error) = self.commit(&watermarks, CommitMode::Async) {
            log::warn!(
                repeats:% = error;
                "sending a commit of {watermarks:?} (partition, offset): {error}; trying again in {COMMIT_INTERVAL:?}"
            );
        }
    }

    /// Watermarks that the broker has not confirmed.
    fn unconfirmed(&self) -> Vec<(Partition, Offset)> {
        self.watermarks_of(|partition| self.confirmed(partition) != self.watermarks.watermark(partition))
    }

    fn confirmed(&self, partition: Partition) -> Option<Offset> {
        self.heard.get(&partition).and_then(|heard| heard.committed)
    }

    /// Repeated for a while, since the group takes no commits in the middle of a rebalance.
    fn commit_last(&mut self) -> Result<(), CommitError> {
        self.instruments.activity.enter(Activity::Working);
        crash_point::reach(CrashPoint::InDrain);
        self.publish();
        let offsets = self.unconfirmed();
        let deadline = Instant::now() + LAST_COMMIT_TIMEOUT;
        loop {
            match self.commit(&offsets, CommitMode::Sync) {
                Ok(()) => break,
                Err(source) if Instant::now() > deadline => {
                    return Err(CommitError::LastCommit { offsets, source });
                }
                Err(error) => log::warn!(
                    repeats:% = error;
                    "committing the last offsets, {offsets:?} (partition, offset): {error}; trying again in \
                     {LAST_COMMIT_PAUSE:?}"
                ),
            }
            thread::sleep(LAST_COMMIT_PAUSE);
        }
        self.publish();
        Ok(())
    }

    fn commit(
        &self,
        offsets: &[(Partition, Offset)],
        mode: CommitMode,
    ) -> Result<(), rdkafka::error::KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        crash_point::reach(CrashPoint::BeforeOffsetCommit);
        let outcome = self.offsets.commit(offsets, mode);
        crash_point::reach(CrashPoint::AfterOffsetCommit);
        outcome
    }

    fn watermarks_of(&self, is_wanted: impl Fn(Partition) -> bool) -> Vec<(Partition, Offset)> {
        let mut watermarks: Vec<_> =
            self.watermarks.iter().filter(|(partition, _)| is_wanted(*partition)).collect();
        watermarks.sort_unstable();
        watermarks
    }

    fn publish(&mut self) {
        let statuses = self.watermarks.iter().map(|(partition, watermark)| {
            let heard = self.heard.get(&partition);
            let high_water_mark = heard.and_then(|heard| heard.high_water_mark);
            let status = PartitionStatus {
                partition,
                watermark,
                committed: heard.and_then(|heard| heard.committed),
                high_water_mark,
                low_water_mark: heard.and_then(|heard| heard.low_water_mark),
                lag: u64::try_from(high_water_mark.unwrap_or(watermark) - watermark).unwrap_or(0),
            };
            (status, !self.watermarks.are_drained(&[partition]))
        });
        self.tally.lag = statuses.clone().map(|(status, _)| status.lag).sum();
        self.board.publish(self.tally, statuses);
    }
}

#[cfg(test)]
mod tests;
