//! What only the database knows of itself: how large, how far folded, how far behind with compression. Asked every
//! fifteen seconds, in a session of its own, by cheap questions to the catalogue, on a thread that nobody waits for.
//!
//! A writer's role may ask all of it. What some other role may not, is left out, and said once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use postgres::error::SqlState;
use postgres::{Client, Row};

use super::instruments::Instruments;
use crate::clock;
use crate::database_target::DatabaseTarget;
use crate::error_chain::error_chain;
use crate::stage::BoxedError;
use crate::write::sqlstate::is_unreachable;

/// Alerts look at these figures by the minute.
const INTERVAL: Duration = Duration::from_secs(15);
/// While the database is away: how soon it is known to be back when no writer has anything to write.
const INTERVAL_AWAY: Duration = Duration::from_secs(1);
/// The questions take milliseconds each; one that waits for a lock waits for whoever changes the table.
const SETTINGS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET timezone = 'UTC'; \
                        SET idle_in_transaction_session_timeout = '10s';";
/// A server that has not answered for so long does not answer: twice what it has for a statement.
pub const SILENT_AFTER: Duration = Duration::from_secs(10);

const BOUNDS: &str = "\
SELECT nullif(folded_until, '-infinity')::text, extract(epoch FROM nullif(folded_until, '-infinity'))::float8,
       extract(epoch FROM nullif(retained_since, '-infinity'))::float8
  FROM usage_bounds";
/// The policy has a day for a chunk that is due.
const CHUNKS: &str = "\
SELECT count(*), count(*) FILTER (WHERE NOT is_compressed
                                    AND range_end < (SELECT usage_compressed_soon()) - INTERVAL '2 days')
  FROM usage_parts()";
const HAS_JOBS: &str = "SELECT to_regclass('timescaledb_information.job_stats') IS NOT NULL";
const JOBS: &str = "\
SELECT coalesce(sum(total_failures), 0)::bigint
  FROM timescaledb_information.job_stats JOIN timescaledb_information.jobs USING (job_id)
 WHERE proc_name = 'usage_maintain_job'
    OR (jobs.hypertable_schema, jobs.hypertable_name)
       = (SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
           WHERE pg_class.oid = 'usage_events'::regclass)";
const IS_HYPERTABLE: &str = "SELECT relkind = 'r' FROM pg_class WHERE oid = 'usage_events'::regclass";
const HYPERTABLE_SIZE: &str = "SELECT hypertable_size('usage_events')";
const PARTITIONS_SIZE: &str = "\
SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree('usage_events')";

/// The answers; none where it is not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatabaseFigures {
    /// When all of it was asked and answered last, in milliseconds since 1970.
    pub asked_at_ms: Option<i64>,
    /// Since when an answer is waited for.
    pub waiting_since: Option<Instant>,
    /// Bytes of the table with its indexes.
    pub table_bytes: Option<i64>,
    /// Chunks, or partitions.
    pub chunks: Option<i64>,
    /// Chunks that should have been compressed a day ago.
    pub uncompressed_past_due: Option<i64>,
    /// Failures of jobs, ever.
    pub job_failures: Option<i64>,
    /// Seconds since 1970.
    pub folded_until: Option<f64>,
    /// Seconds since 1970; 0 when nothing waits.
    pub oldest_unfolded: Option<f64>,
    /// Seconds since 1970.
    pub retained_since: Option<f64>,
}

/// Starts the thread; it ends when the pipeline hangs up. `target` is as for any session beside the writers.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    target: DatabaseTarget,
    instruments: Arc<Instruments>,
    hang_up: Receiver<Infallible>,
) -> io::Result<()> {
    let mut asker = Asker {
        target,
        shown: Arc::clone(&instruments.database),
        client: None,
        said: Vec::new(),
        is_incomplete: false,
    };
    let run = move || loop {
        let interval = match asker.ask_all(&instruments) {
            Ok(()) => {
                instruments.reach.succeeded();
                INTERVAL
            }
            Err(error) => {
                instruments.reach.failed(format!("asking for its figures: {}", error_chain(error.as_ref())));
                asker.client = None;
                INTERVAL_AWAY
            }
        };
        instruments.database.lock().waiting_since = None;
        if hang_up.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    };
    thread::Builder::new().name("observer-db".to_owned()).spawn(run)?;
    Ok(())
}

struct Asker {
    target: DatabaseTarget,
    shown: Arc<Mutex<DatabaseFigures>>,
    client: Option<Client>,
    /// Questions that were refused, each said once.
    said: Vec<&'static str>,
    /// Whether a question of this round was not answered in time.
    is_incomplete: bool,
}

impl Asker {
    /// Fails only when the server cannot be reached; a question that it refuses has no answer.
    fn ask_all(&mut self, instruments: &Instruments) -> Result<(), BoxedError> {
        instruments.database.lock().waiting_since = Some(Instant::now());
        if self.client.as_ref().is_none_or(Client::is_closed) {
            let mut client =
                self.target.connect_watched(|| self.shown.lock().waiting_since = Some(Instant::now()))?;
            client.batch_execute(SETTINGS)?;
            self.client = Some(client);
        }
        // What is not answered this time stays as it was.
        let mut figures = instruments.database.lock().clone();
        self.is_incomplete = false;
        let mut folded_until = None;
        if let Some(row) = self.ask("how far events are folded", BOUNDS)? {
            folded_until = row.try_get::<_, Option<String>>(0)?;
            (figures.folded_until, figures.retained_since) = (row.try_get(1)?, row.try_get(2)?);
        }
        let unfolded = self.oldest_unfolded(folded_until.as_deref(), figures.folded_until)?;
        figures.oldest_unfolded = unfolded.or(figures.oldest_unfolded);
        if let Some(row) = self.ask("its chunks", CHUNKS)? {
            (figures.chunks, figures.uncompressed_past_due) = (row.try_get(0)?, row.try_get(1)?);
        }
        if self.is_true("whether it has jobs", HAS_JOBS)? {
            figures.job_failures = self.number("its jobs' failures", JOBS)?.or(figures.job_failures);
        }
        let is_hypertable = self.is_true("what the table is", IS_HYPERTABLE)?;
        let size = if is_hypertable { HYPERTABLE_SIZE } else { PARTITIONS_SIZE };
        figures.table_bytes = self.number("the table's size", size)?.or(figures.table_bytes);
        if !self.is_incomplete {
            figures.asked_at_ms = Some(clock::now_ms());
        }
        *instruments.database.lock() = figures;
        Ok(())
    }

    /// The bound is a literal, so that no older chunk is planned for.
    fn oldest_unfolded(
        &mut self,
        folded_until: Option<&str>,
        seconds: Option<f64>,
    ) -> Result<Option<f64>, postgres::Error> {
        const QUESTION: &str = "which events are not folded";
        let Some((folded_until, seconds)) = folded_until.zip(seconds) else {
            // Nothing was ever folded: the table is new.
            let first = "SELECT coalesce(extract(epoch FROM min(time)), 0)::float8 FROM usage_events";
            return self.ask(QUESTION, first)?.map(|row| row.try_get(0)).transpose();
        };
        let exists = format!("SELECT EXISTS (SELECT FROM usage_events WHERE time > '{folded_until}')");
        let row = self.ask(QUESTION, &exists)?;
        let is_waiting = row.map(|row| row.try_get::<_, bool>(0)).transpose()?;
        Ok(is_waiting.map(|is_waiting| if is_waiting { seconds } else { 0.0 }))
    }

    fn number(&mut self, question: &'static str, sql: &str) -> Result<Option<i64>, postgres::Error> {
        self.ask(question, sql)?.map_or(Ok(None), |row| row.try_get(0))
    }

    fn is_true(&mut self, question: &'static str, sql: &str) -> Result<bool, postgres::Error> {
        self.ask(question, sql)?.map_or(Ok(false), |row| row.try_get(0))
    }

    fn ask(&mut self, question: &'static str, sql: &str) -> Result<Option<Row>, postgres::Error> {
        let Some(client) = &mut self.client else { return Ok(None) };
        self.shown.lock().waiting_since = Some(Instant::now());
        match client.query_opt(sql, &[]) {
            Err(error) if !is_unreachable(&error) => {
                let level = match error.code() {
                    // Whoever changes the table holds it, or the server has much to do: the next time, then.
                    Some(code) if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code) => {
                        self.is_incomplete = true;
                        log::Level::Debug
                    }
                    Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => log::Level::Info,
                    _ => {
                        self.is_incomplete = true;
                        log::Level::Warn
                    }
                };
                if !self.said.contains(&question) {
                    self.said.push(question);
                    let error = error_chain(&error);
                    log::log!(
                        level,
                        "asking the database for its figures, {question}: {error}; going on without"
                    );
                }
                Ok(None)
            }
            outcome => outcome,
        }
    }
}
