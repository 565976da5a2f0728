//! The real row sink: one PostgreSQL connection, made when needed and dropped on any error.
//!
//! Fast path: one transaction of COPY, dead letters, COMMIT. When a row exists already, the whole
//! batch is copied into a temporary table instead and inserted from there with ON CONFLICT DO
//! NOTHING. Either way a batch is durable as a whole or not at all.
//!
//! A connection lost during COMMIT leaves it open whether the batch is durable. The retry then
//! finds its own rows and takes the conflict path, which adds nothing.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use postgres::{Client, NoTls, Statement};

use super::dead_letters;
use super::sqlstate::{self, Remedy};
use super::writer::RowSink;
use crate::copy_tuple::{COLUMNS, CopyStream};
use crate::messages::{SpanOutcome, WriteBatch};

/// Why a batch is not durable.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No connection.
    #[error("connecting to PostgreSQL")]
    Connect(#[source] postgres::Error),
    /// The connection was made, but not as a writer needs it.
    #[error("preparing a writer's session")]
    Prepare(#[source] postgres::Error),
    /// The fast path failed.
    #[error("copying {row_count} rows and {dead_letter_count} dead letters")]
    Copy {
        /// Rows in the batch.
        row_count: usize,
        /// Dead letters in the batch.
        dead_letter_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// The conflict path failed.
    #[error("inserting {row_count} rows next to existing ones")]
    Insert {
        /// Rows in the batch.
        row_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// The COPY stream broke before the server could answer.
    #[error("sending {byte_count} bytes of COPY")]
    Send {
        /// Bytes of the stream.
        byte_count: usize,
        /// What the socket said.
        source: std::io::Error,
    },
    /// No partition for some row's day, and none could be made.
    #[error("creating the missing daily partitions with usage_ensure_partitions")]
    CreatePartitions(#[source] postgres::Error),
}

impl WriteError {
    /// What the server or the connection said.
    fn cause(&self) -> Option<&postgres::Error> {
        match self {
            Self::Connect(source)
            | Self::Prepare(source)
            | Self::CreatePartitions(source)
            | Self::Copy { source, .. }
            | Self::Insert { source, .. } => Some(source),
            Self::Send { .. } => None,
        }
    }
}

/// One writer's connection.
#[derive(Debug)]
pub struct Database {
    config: postgres::Config,
    topic: String,
    session: Option<Session>,
    stream: CopyStream,
    /// Row indexes in COPY order.
    order: Vec<u32>,
}

/// A connection and the statements that were prepared on it.
struct Session {
    client: Client,
    copy_rows: Statement,
    copy_staging: Statement,
    insert_staged: Statement,
    insert_dead_letters: Statement,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// What every writer's session is set to, whatever the server's or the role's defaults say.
/// - `synchronous_commit`: a COMMIT that is acknowledged before it is flushed would let offsets
///   pass rows that a crash takes away.
/// - `lock_timeout`: a lock that is held for ever must become an error that is logged and retried.
/// - `statement_timeout`: no statement of a writer takes minutes unless the server is stuck.
/// - decompression without limit: a redelivery into compressed chunks would otherwise fail with
///   53400 beyond 100,000 tuples, and be retried for ever. Plain PostgreSQL takes it as a
///   placeholder.
const SESSION_SETTINGS: &str = "\
SET synchronous_commit = on;
SET lock_timeout = '10s';
SET statement_timeout = '5min';
SET idle_in_transaction_session_timeout = '5min';
SET timezone = 'UTC';
SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0;
CREATE TEMPORARY TABLE usage_events_staging (LIKE usage_events INCLUDING DEFAULTS, row_idx int NOT NULL)
    ON COMMIT DELETE ROWS;";

/// Inserts what is staged, in arrival order so that of two copies the earlier is kept, and gives
/// the `row_idx` of the rows that went in.
const INSERT_STAGED: &str = "\
WITH inserted AS (
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                              status_code, response_time_ms, billable, weight)
    SELECT time, request_id, organization_id, api_key_id, endpoint, method,
           status_code, response_time_ms, billable, weight
      FROM usage_events_staging
     ORDER BY row_idx
        ON CONFLICT DO NOTHING
 RETURNING organization_id, time, request_id
)
SELECT min(row_idx) AS row_idx
  FROM usage_events_staging JOIN inserted USING (organization_id, time, request_id)
 GROUP BY organization_id, time, request_id";

/// The length of a partition of the portable profile.
const DAY_MICROS: i64 = 86_400_000_000;

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged before the connection counts as dead.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

impl Session {
    fn open(config: &postgres::Config) -> Result<Self, WriteError> {
        let mut client = config.connect(NoTls).map_err(WriteError::Connect)?;
        Self::prepare_statements(&mut client)
            .map(|[copy_rows, copy_staging, insert_staged, insert_dead_letters]| Self {
                client,
                copy_rows,
                copy_staging,
                insert_staged,
                insert_dead_letters,
            })
            .map_err(WriteError::Prepare)
    }

    fn prepare_statements(client: &mut Client) -> Result<[Statement; 4], postgres::Error> {
        client.batch_execute(SESSION_SETTINGS)?;
        Ok([
            client.prepare(&format!("COPY usage_events ({COLUMNS}) FROM STDIN (FORMAT binary)"))?,
            client.prepare(&format!(
                "COPY usage_events_staging ({COLUMNS}, row_idx) FROM STDIN (FORMAT binary)"
            ))?,
            client.prepare(INSERT_STAGED)?,
            client.prepare(dead_letters::INSERT)?,
        ])
    }
}

impl Database {
    /// A sink that connects with `config` when it is first used. `name` tells its sessions apart
    /// in `pg_stat_activity`; `topic` is stored with dead letters.
    pub fn new(mut config: postgres::Config, name: &str, topic: &str) -> Self {
        config
            .application_name(name)
            .notice_callback(|notice| log::debug!("PostgreSQL: {}", notice.message()))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(TCP_USER_TIMEOUT);
        Self {
            config,
            topic: topic.to_owned(),
            session: None,
            stream: CopyStream::default(),
            order: Vec::new(),
        }
    }

    /// The open session, or a new one.
    fn session(&mut self) -> Result<(&mut Session, &mut CopyStream, &[u32]), WriteError> {
        let session = match self.session.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => Session::open(&self.config)?,
        };
        Ok((self.session.insert(session), &mut self.stream, &self.order))
    }

    /// Rows by (organization, time): the order of the unique key, which PostgreSQL takes 5 to 20 %
    /// faster, and in which two writers with the same keys cannot deadlock.
    fn sort(&mut self, batch: &WriteBatch) {
        self.order.clear();
        self.order.extend(0..u32::try_from(batch.rows.len()).unwrap_or(u32::MAX));
        self.order.sort_unstable_by_key(|&idx| {
            let row = &batch.rows[idx as usize];
            (row.organization_id, row.time_micros, idx)
        });
    }

    fn copy(&mut self, batch: &WriteBatch) -> Result<Vec<SpanOutcome>, WriteError> {
        let topic = self.topic.clone();
        let (session, stream, order) = self.session()?;
        let failed = |source| WriteError::Copy {
            row_count: batch.rows.len(),
            dead_letter_count: batch.dead_letters.len(),
            source,
        };
        let mut transaction = session.client.transaction().map_err(failed)?;
        if !batch.rows.is_empty() {
            stream.start();
            for &idx in order {
                stream.push(tuple(batch, idx));
            }
            send_copy(&mut transaction, &session.copy_rows, stream, failed)?;
        }
        if !batch.dead_letters.is_empty() {
            dead_letters::insert(&mut transaction, &session.insert_dead_letters, &topic, batch)
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(batch.outcomes.clone())
    }

    fn insert_missing(&mut self, batch: &WriteBatch) -> Result<Vec<SpanOutcome>, WriteError> {
        let topic = self.topic.clone();
        let (session, stream, order) = self.session()?;
        let failed = |source| WriteError::Insert { row_count: batch.rows.len(), source };
        let mut transaction = session.client.transaction().map_err(failed)?;
        stream.start();
        for &idx in order {
            stream.push_numbered(tuple(batch, idx), idx);
        }
        send_copy(&mut transaction, &session.copy_staging, stream, failed)?;
        let inserted = transaction.query(&session.insert_staged, &[]).map_err(failed)?;
        if !batch.dead_letters.is_empty() {
            dead_letters::insert(&mut transaction, &session.insert_dead_letters, &topic, batch)
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;

        let mut outcomes = batch.outcomes.clone();
        for row in &batch.rows {
            let outcome = &mut outcomes[row.outcome_idx as usize];
            outcome.written -= 1;
            outcome.database_duplicates += 1;
        }
        for row in inserted {
            // row_idx was given by us and is one of the batch's.
            let idx = usize::try_from(row.get::<_, i32>(0)).unwrap_or_default();
            let outcome = &mut outcomes[batch.rows[idx].outcome_idx as usize];
            outcome.written += 1;
            outcome.database_duplicates -= 1;
        }
        Ok(outcomes)
    }

    /// Each day by itself: of a producer whose clock says 1970, the days in between are nobody's.
    fn create_partitions(&mut self, batch: &WriteBatch) -> Result<(), WriteError> {
        let days: BTreeSet<i64> =
            batch.rows.iter().map(|row| row.time_micros.div_euclid(DAY_MICROS)).collect();
        let (session, ..) = self.session()?;
        for day in days {
            session
                .client
                .execute(
                    "SELECT usage_ensure_partitions(day, day)
                       FROM (SELECT DATE '1970-01-01' + $1::bigint::int AS day) AS utc",
                    &[&day],
                )
                .map_err(WriteError::CreatePartitions)?;
        }
        Ok(())
    }
}

fn tuple(batch: &WriteBatch, row_idx: u32) -> &[u8] {
    let row = &batch.rows[row_idx as usize];
    &batch.tuples[row.start as usize..row.end as usize]
}

/// Sends the stream as one slice: fed row by row, the client would block once per 4 KiB.
fn send_copy(
    transaction: &mut postgres::Transaction<'_>,
    statement: &Statement,
    stream: &mut CopyStream,
    failed: impl Fn(postgres::Error) -> WriteError,
) -> Result<(), WriteError> {
    let bytes = stream.finish();
    let mut writer = transaction.copy_in(statement).map_err(&failed)?;
    writer.write_all(bytes).map_err(|source| WriteError::Send { byte_count: bytes.len(), source })?;
    writer.finish().map_err(failed)?;
    Ok(())
}

impl RowSink for Database {
    type Error = WriteError;

    fn write(&mut self, batch: &WriteBatch) -> Result<Vec<SpanOutcome>, WriteError> {
        if batch.rows.is_empty() && batch.dead_letters.is_empty() {
            return Ok(batch.outcomes.clone());
        }
        self.sort(batch);
        let mut outcome = self.copy(batch);
        if let Err(error) = &outcome
            && Self::remedy(error) == Remedy::CreatePartitions
        {
            outcome = self.create_partitions(batch).and_then(|()| self.copy(batch));
        }
        if let Err(error) = &outcome
            && Self::remedy(error) == Remedy::SkipExistingRows
        {
            outcome = self.insert_missing(batch);
        }
        if outcome.is_err() {
            // Whatever state the session is in, the next attempt starts with a fresh one.
            self.session = None;
        }
        outcome
    }

    fn remedy(error: &WriteError) -> Remedy {
        match error.cause() {
            Some(cause) => match sqlstate::remedy(cause) {
                _ if matches!(error, WriteError::Connect(_)) && sqlstate::is_misconfigured(cause) => {
                    Remedy::RetryAndAlarm
                }
                remedy => remedy,
            },
            None => Remedy::Retry,
        }
    }
}
