//! The ledger's reading side: how far each partition is durable according to the database, and the
//! deliberate beginnings of reading it. Writers enter the spans (`write/ledger.rs`).
//!
//! Used by the poller's thread at assignment, through [`crate::poll::start_position::StartLedger`], and
//! by `rewind` and `audit`. Every question opens a connection of its own and ends it: assignments
//! are rare, and a connection kept for days would be found dead when it is needed.

pub mod audit;
pub mod bookkeeper;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use postgres::config::TargetSessionAttrs;
use postgres::error::Severity;
use postgres::{Client, GenericClient};

use crate::database_target::{ConnectError, DatabaseTarget};
use crate::offsets::{Offset, Partition};
use crate::poll::start_position::{Beginning, Recorded, StartLedger};
use crate::stage::BoxedError;

/// How long an attempt to connect may take. Short: the rebalance callback waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent data may stay unacknowledged before the connection counts as dead.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the poller waits for an answer. It asks inside a rebalance callback, and a server that
/// accepts everything and says nothing would hold it there for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions that may be without an answer at a time, each with its thread and connection: those of a server that accepts
/// everything and says nothing are left behind. Poller and bookkeeper have a ledger each, and ask one question at a time.
const UNANSWERED_MAX: usize = 8;
/// A folded ledger answers in a millisecond; 128,000 unfolded spans took 0.06 s.
const SETTINGS: &str = "SET statement_timeout = '25s'; SET lock_timeout = '5s'; SET timezone = 'UTC';";

/// Where the gapless prefix of each partition's latest epoch ends. Parameters: consumer group,
/// topic, partitions. Gives partition, epoch, end, and the lowest offset that anything was written from.
/// Spans may overlap: what was read again. A partition at a time, in the order of its index: joined as one,
/// a table of which the server has no statistics yet was read once more for each partition.
const PREFIXES: &str = "\
SELECT latest.kafka_partition, latest.epoch, coalesce(ends.hole, greatest(latest.start_offset, ends.reached)),
       latest.first_offset
  FROM (
    SELECT DISTINCT ON (kafka_partition) kafka_partition, epoch, start_offset,
           min(CASE reason WHEN 'adopted committed offset' THEN 0 ELSE start_offset END)
               OVER (PARTITION BY kafka_partition) AS first_offset
      FROM usage_ledger_starts
     WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = ANY ($3)
     ORDER BY kafka_partition, epoch DESC
  ) AS latest
 CROSS JOIN LATERAL (
    SELECT min(reached) FILTER (WHERE start_offset > reached) AS hole, max(end_offset) AS reached
      FROM (
        SELECT span.start_offset, span.end_offset,
               greatest(latest.start_offset, max(span.end_offset) OVER (
                   ORDER BY span.start_offset, span.end_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) AS reached
          FROM usage_ledger AS span
         WHERE span.consumer_group = $1 AND span.kafka_topic = $2
           AND span.kafka_partition = latest.kafka_partition AND span.epoch = latest.epoch
      ) AS spans
 ) AS ends";

/// Records a beginning unless another instance has recorded the same epoch already.
const BEGIN: &str = "\
INSERT INTO usage_ledger_starts (consumer_group, kafka_topic, kafka_partition, epoch, start_offset, reason, lost_offsets)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

/// Why the ledger gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No connection.
    #[error("connecting to PostgreSQL to ask the ledger")]
    Connect(#[source] ConnectError),
    /// The connection was made, but not as it is needed.
    #[error("preparing a session to ask the ledger")]
    Prepare(#[source] postgres::Error),
    /// The spans could not be read.
    #[error("reading from the ledger how far partitions {partitions:?} are durable")]
    Read {
        /// The partitions.
        partitions: Vec<Partition>,
        /// What the server said.
        source: postgres::Error,
    },
    /// The beginning could not be recorded.
    #[error("recording in the ledger that reading begins")]
    Begin(#[source] postgres::Error),
    /// Nothing came back.
    #[error("asking the ledger: no answer within {ANSWER_TIMEOUT:?}")]
    Silent,
    /// Nothing came back to those before.
    #[error("not asking the ledger: {UNANSWERED_MAX} questions before are without an answer")]
    StillSilent,
    /// Its rows could not be merged.
    #[error("folding the ledger")]
    Fold(#[source] postgres::Error),
}

/// The ledger of one consumer group and topic.
#[derive(Debug, Clone)]
pub struct Ledger {
    target: DatabaseTarget,
    consumer_group: String,
    topic: String,
    /// Held by this ledger and, through the clone that asks, by every question without an answer.
    unanswered: Arc<()>,
}

impl Ledger {
    /// The ledger in this database; nothing is connected yet.
    pub fn new(target: &DatabaseTarget, consumer_group: &str, topic: &str) -> Self {
        let target = session_target(target, "usage-processor ledger");
        let unanswered = Arc::default();
        Self { target, consumer_group: consumer_group.to_owned(), topic: topic.to_owned(), unanswered }
    }

    /// How far partitions are durable; those that were never begun are left out.
    ///
    /// # Errors
    /// When the database is away, or is not as it must be.
    pub fn recorded(&self, partitions: &[Partition]) -> Result<Vec<Recorded>, LedgerError> {
        self.read(&mut self.connect()?, partitions)
    }

    /// Records beginnings, all or none, and gives what the ledger says afterwards: where another
    /// instance was first, its word holds.
    ///
    /// # Errors
    /// As [`Self::recorded`]. Whether the beginnings are recorded is then open, and asking again safe.
    pub fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<Recorded>, LedgerError> {
        let mut client = self.connect()?;
        let mut transaction = client.transaction().map_err(LedgerError::Begin)?;
        for Beginning { partition, epoch, start, reason, lost_offsets } in beginnings {
            transaction
                .execute(
                    BEGIN,
                    &[
                        &self.consumer_group,
                        &self.topic,
                        partition,
                        epoch,
                        start,
                        &reason.as_str(),
                        lost_offsets,
                    ],
                )
                .map_err(LedgerError::Begin)?;
        }
        transaction.commit().map_err(LedgerError::Begin)?;
        let partitions: Vec<_> = beginnings.iter().map(|beginning| beginning.partition).collect();
        self.read(&mut client, &partitions)
    }

    fn connect(&self) -> Result<Client, LedgerError> {
        let mut client = self.target.connect().map_err(LedgerError::Connect)?;
        client.batch_execute(SETTINGS).map_err(LedgerError::Prepare)?;
        Ok(client)
    }

    fn read(
        &self,
        client: &mut impl GenericClient,
        partitions: &[Partition],
    ) -> Result<Vec<Recorded>, LedgerError> {
        client
            .query(PREFIXES, &[&self.consumer_group, &self.topic, &partitions])
            .and_then(|rows| {
                let recorded = rows.iter().map(|row| {
                    let (partition, epoch) = (row.try_get(0)?, row.try_get(1)?);
                    let (end, first): (Offset, Offset) = (row.try_get(2)?, row.try_get(3)?);
                    Ok(Recorded { partition, epoch, end, first })
                });
                recorded.collect()
            })
            .map_err(|source| LedgerError::Read { partitions: partitions.to_vec(), source })
    }
}

/// For a session beside the writers'.
pub fn session_target(target: &DatabaseTarget, application_name: &str) -> DatabaseTarget {
    let mut target = target.clone();
    target
        .config
        .application_name(application_name)
        // Of several hosts not a standby, which may be behind.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .notice_callback(|notice| {
            let is_warning = notice.parsed_severity() == Some(Severity::Warning);
            let level = if is_warning { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "PostgreSQL: {}", notice.message());
        })
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .keepalives(true)
        .keepalives_idle(TCP_USER_TIMEOUT);
    target
}

impl Ledger {
    /// Asks on a thread of its own, which is left behind when no answer comes.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, BoxedError> {
        if Arc::strong_count(&self.unanswered) > UNANSWERED_MAX {
            return Err(LedgerError::StillSilent.into());
        }
        let ledger = self.clone();
        let (sender, answer) = bounded(1);
        let run = move || drop(sender.send(question(&ledger)));
        thread::Builder::new().name("ledger".to_owned()).spawn(run)?;
        Ok(answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| LedgerError::Silent)??)
    }
}

impl StartLedger for Ledger {
    fn recorded(&self, partitions: &[Partition]) -> Result<Vec<Recorded>, BoxedError> {
        let partitions = partitions.to_vec();
        self.ask(move |ledger| ledger.recorded(&partitions))
    }

    fn begin(&self, beginnings: &[Beginning]) -> Result<Vec<Recorded>, BoxedError> {
        let beginnings = beginnings.to_vec();
        self.ask(move |ledger| ledger.begin(&beginnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_never_answers_is_not_asked_without_end() {
        let ledger = Ledger::new(&"postgresql://nobody@localhost/nothing".parse().unwrap(), "group", "topic");
        let (hang_up, silence) = bounded::<()>(0);
        thread::scope(|scope| {
            for _ in 0..UNANSWERED_MAX {
                let silence = silence.clone();
                let question = move |_: &Ledger| {
                    _ = silence.recv();
                    Ok(())
                };
                scope.spawn(|| ledger.ask(question));
            }
            while Arc::strong_count(&ledger.unanswered) <= UNANSWERED_MAX {
                thread::yield_now();
            }
            let refused = ledger.ask(|_| Ok(())).unwrap_err();
            assert!(refused.to_string().starts_with("not asking the ledger: 8 questions"), "{refused}");
            drop(hang_up);
        });
        while Arc::strong_count(&ledger.unanswered) > UNANSWERED_MAX {
            thread::yield_now();
        }
        ledger.ask(|_| Ok(())).unwrap();
    }
}
