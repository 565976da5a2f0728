//! The writers' careful path lent to a replay of dead letters: a session of its own, and in each of
//! its transactions rows are placed as a writer would place them. Runs on the command's thread.
//!
//! It promises what `placement.rs` does: a row that exists is not added again, and one that the table
//! refuses is found without failing the others.

use std::time::Duration;

use postgres::Transaction;

use super::error::WriteError;
use super::placement::{CopyMeans, Placement, take_expired};
use super::session::{ServerTimeouts, Session, Statements};
use super::settlement::Fate;
use super::watchdog::{Watch, Watchdog};
use crate::copy_tuple::CopyStream;
use crate::database_target::DatabaseTarget;
use crate::messages::WriteBatch;

/// As the writers' own defaults. A person waits here, so no watchdog runs: the server's limits do.
const TIMEOUTS: ServerTimeouts =
    ServerTimeouts { statement: Duration::from_secs(300), lock: Duration::from_secs(10) };
/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that writes as a writer does.
#[derive(Debug)]
pub struct ReplaySession {
    session: Session,
    watch: Watch,
    stream: CopyStream,
    copy_count: u64,
}

/// A transaction in it; rolled back when dropped.
pub struct ReplayTransaction<'a> {
    /// For what else belongs into the same transaction.
    pub transaction: Transaction<'a>,
    statements: &'a Statements,
    retained_since_micros: i64,
    watch: &'a Watch,
    stream: &'a mut CopyStream,
    copy_count: &'a mut u64,
}

impl std::fmt::Debug for ReplayTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayTransaction").finish_non_exhaustive()
    }
}

impl ReplaySession {
    /// Connects once.
    pub fn open(target: &DatabaseTarget) -> Result<Self, WriteError> {
        let mut target = target.clone();
        target
            .config
            .application_name("usage-processor dead-letters")
            .notice_callback(|notice| log::debug!("PostgreSQL: {}", notice.message()))
            .connect_timeout(CONNECT_TIMEOUT);
        let watch = Watchdog::new(TIMEOUTS.statement).watch("replay");
        let session = Session::open(&target, TIMEOUTS, &watch)?;
        Ok(Self { session, watch, stream: CopyStream::default(), copy_count: 0 })
    }

    /// Begins a transaction.
    pub fn begin(&mut self) -> Result<ReplayTransaction<'_>, WriteError> {
        // A replay may take hours. Should it move between this and the rows, the replay ends with an error.
        self.session.renew_limit().map_err(WriteError::Begin)?;
        let Session { client, statements, retained_since_micros } = &mut self.session;
        Ok(ReplayTransaction {
            transaction: client.transaction().map_err(WriteError::Begin)?,
            statements,
            retained_since_micros: *retained_since_micros,
            watch: &self.watch,
            stream: &mut self.stream,
            copy_count: &mut self.copy_count,
        })
    }
}

impl ReplayTransaction<'_> {
    /// Whether an event of this time, in microseconds since 1970, may still be written.
    pub fn is_retained(&self, time_micros: i64) -> bool {
        time_micros >= self.retained_since_micros
    }

    /// Puts the batch's rows beside those that exist; gives what became of each.
    pub fn place(&mut self, batch: &WriteBatch) -> Result<Vec<Fate>, WriteError> {
        if batch.rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut order: Vec<u32> = (0..u32::try_from(batch.rows.len()).unwrap_or(u32::MAX)).collect();
        let expired = take_expired(batch, &mut order, self.retained_since_micros);
        let means = CopyMeans {
            statements: self.statements,
            stream: self.stream,
            watch: self.watch,
            copy_count: self.copy_count,
        };
        // A refused letter stays where it is, so all of them may be.
        let mut fates =
            Placement::new(&mut self.transaction, means, batch, &mut order, usize::MAX).run_staged()?;
        expired.iter().for_each(|&idx| fates[idx as usize] = Fate::Expired);
        Ok(fates)
    }
}
