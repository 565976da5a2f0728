//! A writer's session: one connection with its settings and prepared statements, and the way to end
//! other writers' sessions that hold locks for ever. Made when needed, dropped after any failed batch.

use std::time::Duration;

use postgres::{Client, Statement};

use super::error::WriteError;
use super::watchdog::Watch;
use super::{dead_letters, ledger};
use crate::copy_tuple::COLUMNS;
use crate::database_target::DatabaseTarget;

/// A connection and the statements that were prepared on it.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) statements: Statements,
    /// Events before this, in microseconds since 1970, are refused. It may have moved on since.
    pub(super) retained_since_micros: i64,
}

/// What a batch may need.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) copy_rows: Statement,
    pub(super) copy_staging: Statement,
    pub(super) insert_staged: Statement,
    pub(super) insert_dead_letters: Statement,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// How long the server may take.
#[derive(Debug, Clone, Copy)]
pub struct ServerTimeouts {
    /// For one statement (`STATEMENT_TIMEOUT`).
    pub statement: Duration,
    /// For a lock that another session holds (`LOCK_TIMEOUT`).
    pub lock: Duration,
}

impl ServerTimeouts {
    /// What every writer's session is set to, whatever the server's or the role's defaults say.
    /// - `synchronous_commit`: a COMMIT that is acknowledged before it is flushed would let offsets
    ///   pass rows that a crash takes away.
    /// - read committed: the conflict path must see the rows that it waited for.
    /// - `lock_timeout`: a lock that is held for ever must become an error, to be acted on.
    /// - `statement_timeout`: no statement of a writer takes minutes unless the server is stuck. Nor
    ///   does a writer pause within a transaction, unless it is frozen.
    /// - no exclusion of chunks at run time: it excludes none of a comparison's chunks, and asks
    ///   again for every row (100 µs a row with it, 12 µs without).
    /// - decompression without limit: a redelivery into compressed chunks would otherwise fail with
    ///   53400 beyond 100,000 tuples, and be retried for ever. Plain PostgreSQL takes both as
    ///   placeholders.
    fn session_settings(self) -> String {
        let (statement_ms, lock_ms) = (self.statement.as_millis(), self.lock.as_millis());
        format!(
            "SET synchronous_commit = on;
             SET default_transaction_isolation = 'read committed';
             SET lock_timeout = {lock_ms};
             SET statement_timeout = {statement_ms};
             SET idle_in_transaction_session_timeout = {statement_ms};
             SET timezone = 'UTC';
             SET timescaledb.enable_runtime_exclusion = off;
             SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0;
             CREATE TEMPORARY TABLE usage_events_staging
                 (LIKE usage_events INCLUDING DEFAULTS, row_idx int NOT NULL) ON COMMIT DELETE ROWS;"
        )
    }
}

/// The limit of what is retained, in microseconds since 1970; NULL for none.
const RETAINED_SINCE: &str = "\
SELECT (extract(epoch FROM nullif(retained_since, '-infinity')) * 1000000)::bigint FROM usage_bounds";

/// Inserts what is staged, and gives the `row_idx` of the rows that went in. Of two staged copies the
/// earlier is kept. In the key's order, so that two writers with the same keys cannot deadlock. The
/// conflict's columns are named: another unique key that a row meets is an error and no redelivery.
const INSERT_STAGED: &str = "\
WITH inserted AS (
    INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                              status_code, response_time_ms, billable, weight)
    SELECT time, request_id, organization_id, api_key_id, endpoint, method,
           status_code, response_time_ms, billable, weight
      FROM usage_events_staging
     ORDER BY organization_id, time, request_id, row_idx
        ON CONFLICT (organization_id, time, request_id) DO NOTHING
 RETURNING organization_id, time, request_id
)
SELECT min(row_idx) AS row_idx
  FROM usage_events_staging JOIN inserted USING (organization_id, time, request_id)
 GROUP BY organization_id, time, request_id";

/// Holds staged rows against the existing ones that kept them out: gives `row_idx` and whether the
/// two say the same of what is billed. Parameters: a UTC day, in seconds since 1970, and the rows of
/// it, by `row_idx`. LIMIT keeps the planner from joining by a scan of the whole day, and the day's
/// bounds keep all other days' chunks, and a lock on each, out of the plan.
/// Not prepared with the session: few batches need it, and it must be planned with its values.
pub(super) const COMPARE_STAGED: &str = "\
SELECT staged.row_idx, existing.is_same
  FROM usage_events_staging AS staged
 CROSS JOIN LATERAL (
       SELECT (event.api_key_id, event.endpoint, event.method, event.billable, event.weight)
            = (staged.api_key_id, staged.endpoint, staged.method, staged.billable, staged.weight) AS is_same
         FROM usage_events AS event
        WHERE event.organization_id = staged.organization_id
          AND event.time = staged.time
          AND event.request_id = staged.request_id
          AND event.time >= to_timestamp($1::bigint) AND event.time < to_timestamp($1::bigint + 86400)
        LIMIT 1
       ) AS existing
 WHERE staged.row_idx = ANY ($2)";

/// Ends writers' sessions, this or another process's, that have held a transaction open for longer
/// than the lock timeout while waiting for a client that is frozen or gone: in mid-COPY (`active`,
/// waiting for `ClientRead`) or between two statements. A healthy writer keeps no server waiting for
/// half that time. Parameter: the lock timeout in milliseconds. Only sessions of our own role, by
/// the application name that writers have.
const TERMINATE_STALLED_WRITERS: &str = "\
SELECT pid, application_name, coalesce(host(client_addr), 'local'), state,
       (extract(epoch FROM clock_timestamp() - xact_start))::bigint, pg_terminate_backend(pid)
  FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
   AND starts_with(application_name, 'usage-processor writer-')
   AND (wait_event = 'ClientRead' OR state LIKE 'idle in transaction%')
   AND xact_start < clock_timestamp() - $1::bigint * interval '1 millisecond'
   AND state_change < clock_timestamp() - $1::bigint * interval '1 millisecond' / 2";

/// The prefix of every writer's application name, which [`TERMINATE_STALLED_WRITERS`] looks for.
const APPLICATION: &str = "usage-processor";
/// PostgreSQL cuts names after this many bytes (NAMEDATALEN).
const APPLICATION_NAME_BYTES_MAX: usize = 63;

/// `usage-processor writer-0@host`, as sessions are called in `pg_stat_activity`.
pub(super) fn application_name(writer: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name = format!("{APPLICATION} {writer}@{}", host.trim());
    // PostgreSQL replaces what is not ASCII.
    name.retain(|c| c.is_ascii_graphic() || c == ' ');
    name.truncate(APPLICATION_NAME_BYTES_MAX);
    name
}

impl Session {
    pub(super) fn open(
        target: &DatabaseTarget,
        timeouts: ServerTimeouts,
        watch: &Watch,
    ) -> Result<Self, WriteError> {
        let mut client = target.connect_watched(|| watch.renew()).map_err(WriteError::Connect)?;
        watch.connected(target.canceller(&client));
        client.batch_execute(&timeouts.session_settings()).map_err(WriteError::Prepare)?;
        watch.renew();
        client.batch_execute(ledger::PREPARE).map_err(WriteError::Prepare)?;
        let statements = Statements::prepare(&mut client, watch).map_err(WriteError::Prepare)?;
        let mut session = Self { client, statements, retained_since_micros: i64::MIN };
        session.renew_limit().map_err(WriteError::Prepare)?;
        Ok(session)
    }

    /// Asks anew since when events are retained.
    pub(super) fn renew_limit(&mut self) -> Result<(), postgres::Error> {
        let retained_since_micros: Option<i64> = self.client.query_one(RETAINED_SINCE, &[])?.try_get(0)?;
        self.retained_since_micros = retained_since_micros.unwrap_or(i64::MIN);
        Ok(())
    }

    /// Ends the sessions of writers that hold locks without working, and logs which.
    pub(super) fn terminate_stalled_writers(
        &mut self,
        lock_timeout: Duration,
    ) -> Result<(), postgres::Error> {
        let lock_timeout_ms = i64::try_from(lock_timeout.as_millis()).unwrap_or(i64::MAX);
        for row in self.client.query(TERMINATE_STALLED_WRITERS, &[&lock_timeout_ms])? {
            let (pid, application, address): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
            let (state, seconds, is_ended): (String, i64, bool) = (row.get(3), row.get(4), row.get(5));
            log::warn!(
                "{application} ({address}, backend {pid}) has held a transaction open for {seconds} s, {state}, \
                 waiting for its client: {}",
                if is_ended { "terminated" } else { "it ended by itself" }
            );
        }
        Ok(())
    }
}

impl Statements {
    fn prepare(client: &mut Client, watch: &Watch) -> Result<Self, postgres::Error> {
        let mut prepare = |sql: &str| {
            watch.renew();
            client.prepare(sql)
        };
        Ok(Self {
            copy_rows: prepare(&format!("COPY usage_events ({COLUMNS}) FROM STDIN (FORMAT binary)"))?,
            copy_staging: prepare(&format!(
                "COPY usage_events_staging ({COLUMNS}, row_idx) FROM STDIN (FORMAT binary)"
            ))?,
            insert_staged: prepare(INSERT_STAGED)?,
            insert_dead_letters: prepare(dead_letters::INSERT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_called_by_its_writer_and_host() {
        let name = application_name("writer-12");
        assert!(name.starts_with("usage-processor writer-12@") && name.len() <= 63, "{name}");
        assert!(TERMINATE_STALLED_WRITERS.contains(&format!("'{APPLICATION} writer-'")));
    }
}
