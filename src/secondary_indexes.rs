//! The secondary indexes of `usage_events`, by api key and by endpoint: whether rows get them as they are written, or once
//! the day is over. Owned by whoever migrates or maintains; on their thread, on a connection of theirs.
//!
//! The table itself says which: what `usage_events` has, every new chunk or partition (a part) gets. When deferred it
//! has none, and a part gets its own when all before its end is folded into figures. Parts that TimescaleDB has
//! compressed, or will within a day, have no use for them. Of what is built the definition counts, not the name: the
//! unique key and the index of times are not touched.
//!
//! Promises: one process builds at a time (an advisory lock of the session), one index at a time, CONCURRENTLY, beside
//! writers; what a crash has left INVALID is dropped and built again; the table itself is locked for less than a second at a
//! time. No transaction waits here for the advisory lock: whoever builds would wait for that transaction in turn.

use std::fmt;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use postgres::Client;
use postgres::error::SqlState;

/// Names and definitions, as migration 004 gives and `pg_get_indexdef` writes them.
const INDEXES: [(&str, &str); 2] = [
    ("usage_events_api_key_idx", r#"btree (api_key_id, "time" DESC)"#),
    ("usage_events_endpoint_idx", r#"btree (endpoint, "time" DESC)"#),
];
/// What `CREATE INDEX CONCURRENTLY` waits for holds up no writer; a part of a billion rows takes a quarter of an hour.
const BUILD_SETTINGS: &str = "SET lock_timeout = '10min'; SET statement_timeout = '6h'";
/// Writers wait for the table itself, and behind whoever waits for it.
const CHANGE_SETTINGS: &str = "SET lock_timeout = '500ms'; SET statement_timeout = '900ms'";
/// With a pause after each: a minute of transactions that do not end.
const CHANGE_ATTEMPTS_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// How long another process that builds is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(60);

const LOCK_KEYS: &str = "(hashtext('usage_secondary_indexes'), 'usage_bounds'::regclass::oid::integer)";
const OF_TABLE: &str = "\
SELECT indexrelid::regclass::text, substring(pg_get_indexdef(indexrelid) FROM ' USING (.*)$')
  FROM pg_index WHERE indrelid = 'usage_events'::regclass
   AND substring(pg_get_indexdef(indexrelid) FROM ' USING (.*)$') = ANY ($1::text[])";
/// Those that are attached to one of the table, and cannot be dropped alone, come last. Names are composed, since a `regclass`
/// that was dropped meanwhile is written as a number: of a name the server says that it is gone. Whoever compresses a chunk would wait for a
/// build, and late events behind that.
const OF_PARTS: &str = "\
SELECT format('%I.%I', nspname, relname), definition, range_end <= folded_until, valid, invalid
  FROM usage_parts() JOIN pg_class ON pg_class.oid = part JOIN pg_namespace ON pg_namespace.oid = relnamespace
 CROSS JOIN usage_bounds CROSS JOIN unnest($1::text[]) AS definition
 CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(name ORDER BY is_attached, name) FILTER (WHERE indisvalid), '{}') AS valid,
           coalesce(array_agg(name) FILTER (WHERE NOT indisvalid), '{}') AS invalid
      FROM (SELECT format('%I.%I', nspname, pg_class.relname) AS name, indisvalid,
                   EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid) AS is_attached
              FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
             WHERE indrelid = part AND substring(pg_get_indexdef(indexrelid) FROM ' USING (.*)$') = definition) AS found
  ) AS indexes
 WHERE NOT is_compressed AND range_end > usage_compressed_soon()
 ORDER BY range_end, part, definition";

/// When rows get their secondary indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SecondaryIndexes {
    /// As they are written
    Immediate,
    /// Once their day is over, from whoever maintains
    Deferred,
}

impl fmt::Display for SecondaryIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Immediate => "immediate",
            Self::Deferred => "deferred",
        })
    }
}

/// Why indexes are not as they should be. What was built before stays.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The catalogue could not be read, or the session not be set up.
    #[error("reading which indexes usage_events has")]
    Read(#[source] postgres::Error),
    /// Another process builds.
    #[error(
        "another process has been building indexes of this database for more than {LOCK_WAIT:?}: try again when it is done"
    )]
    Busy,
    /// An index of a part was not built or not dropped.
    #[error("{statement} failed; what is built stays, and `usage-processor maintain` goes on with the rest")]
    Build {
        /// What was tried.
        statement: String,
        /// The server's or the client's error.
        source: postgres::Error,
    },
    /// The table itself was not to be had.
    #[error(
        "{statement} failed; if it waited for a transaction that does not end, pg_stat_activity shows that one: try again"
    )]
    Change {
        /// What was tried.
        statement: String,
        /// The last attempt's error.
        source: postgres::Error,
    },
}

/// One index that a part has or lacks.
struct PartIndex {
    part: String,
    definition: String,
    /// All events before its end are folded.
    is_over: bool,
    valid: Vec<String>,
    /// Left by a crash.
    invalid: Vec<String>,
}

/// What `usage_events` has now: `Immediate` only if new parts get all of them.
///
/// # Errors
/// When the database gives no answer.
pub fn mode(client: &mut Client) -> Result<SecondaryIndexes, postgres::Error> {
    let found = of_table(client)?;
    let is_there = |definition: &str| found.iter().any(|(_, other)| other == definition);
    let is_immediate = INDEXES.iter().all(|(_, definition)| is_there(definition));
    Ok(if is_immediate { SecondaryIndexes::Immediate } else { SecondaryIndexes::Deferred })
}

/// The mode, and what is left to do. Displays as a line of `migrate status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexState {
    /// When rows get them.
    pub mode: SecondaryIndexes,
    /// How many chunks or partitions lack one that they should have.
    pub lacking_count: usize,
}

impl fmt::Display for IndexState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secondary indexes: {}", self.mode)?;
        match self.lacking_count {
            0 => Ok(()),
            count => write!(
                f,
                ", and {count} chunks or partitions still lack them: `usage-processor maintain` builds them"
            ),
        }
    }
}

/// The mode, and how many parts lack an index that they should have.
///
/// # Errors
/// When the database gives no answer, or has no schema.
pub fn state(client: &mut Client) -> Result<IndexState, postgres::Error> {
    let mode = mode(client)?;
    let mut lacking: Vec<String> = of_parts(client)?
        .into_iter()
        .filter(|index| wanted(mode, index) > index.valid.len())
        .map(|index| index.part)
        .collect();
    lacking.dedup();
    Ok(IndexState { mode, lacking_count: lacking.len() })
}

/// Builds what parts lack, one after the other, as long as `goes_on` says so; returns how many indexes that were. Does
/// nothing while another process builds.
///
/// # Errors
/// When a statement fails, such as for somebody's transaction that lasts longer than ten minutes.
pub fn complete(client: &mut Client, goes_on: impl FnMut() -> bool) -> Result<i64, IndexError> {
    if !try_lock(client)? {
        return Ok(0);
    }
    let outcome = mode(client)
        .map_err(IndexError::Read)
        .and_then(|mode| build(client, |index| wanted(mode, index), goes_on));
    unlock(client, outcome)
}

/// Makes `to` the mode, and builds what parts then lack; returns how many indexes were built.
///
/// To `Immediate`, every part gets its indexes first and the table last. To `Deferred`, parts whose day is over first get
/// indexes of their own, since those of the table go with it. Interrupted, it is gone on with by the next call.
///
/// # Errors
/// When another process builds for longer than a minute, or a statement fails.
pub fn switch(client: &mut Client, to: SecondaryIndexes) -> Result<i64, IndexError> {
    let mut waited = Duration::ZERO;
    while !try_lock(client)? {
        if waited >= LOCK_WAIT {
            return Err(IndexError::Busy);
        }
        thread::sleep(PAUSE);
        waited += PAUSE;
    }
    let outcome = switch_locked(client, to);
    unlock(client, outcome)
}

fn switch_locked(client: &mut Client, to: SecondaryIndexes) -> Result<i64, IndexError> {
    let found = of_table(client).map_err(IndexError::Read)?;
    let mut built_count = 0;
    let statements: Vec<String> = match to {
        SecondaryIndexes::Immediate => {
            built_count += build(client, |_| 1, || true)?;
            // Partitions' own indexes become part of the table's. TimescaleDB would build each chunk's again, but for ONLY.
            let is_hypertable = "SELECT relkind = 'r' FROM pg_class WHERE oid = 'usage_events'::regclass";
            let is_hypertable = client.query_one(is_hypertable, &[]).and_then(|row| row.try_get(0));
            let only = if is_hypertable.map_err(IndexError::Read)? { "ONLY " } else { "" };
            INDEXES
                .iter()
                .filter(|(_, definition)| found.iter().all(|(_, other)| other != definition))
                .map(|(name, definition)| {
                    format!("CREATE INDEX {name} ON {only}usage_events USING {definition}")
                })
                .collect()
        }
        SecondaryIndexes::Deferred => {
            if !found.is_empty() {
                built_count += build(client, |index| if index.is_over { 2 } else { 1 }, || true)?;
            }
            found.iter().map(|(name, _)| format!("DROP INDEX {name}")).collect()
        }
    };
    for statement in &statements {
        change(client, statement)?;
    }
    // Parts that were made or have ended meanwhile.
    Ok(built_count + build(client, |index| wanted(to, index), || true)?)
}

/// How many a part should have.
fn wanted(mode: SecondaryIndexes, index: &PartIndex) -> usize {
    usize::from(mode == SecondaryIndexes::Immediate || index.is_over)
}

/// Drops leftovers, builds up to so many, and drops what an interrupted switch has left beyond that.
fn build(
    client: &mut Client,
    wanted: impl Fn(&PartIndex) -> usize,
    mut goes_on: impl FnMut() -> bool,
) -> Result<i64, IndexError> {
    client.batch_execute(BUILD_SETTINGS).map_err(IndexError::Read)?;
    let mut built_count = 0;
    for index in of_parts(client).map_err(IndexError::Read)? {
        let wanted_count = wanted(&index);
        let surplus_count = index.valid.len().saturating_sub(wanted_count.max(1));
        for name in index.invalid.iter().chain(index.valid.iter().take(surplus_count)) {
            run(client, &format!("DROP INDEX CONCURRENTLY IF EXISTS {name}"))?;
        }
        for _ in index.valid.len()..wanted_count {
            if !goes_on() {
                return Ok(built_count);
            }
            let PartIndex { part, definition, .. } = &index;
            built_count +=
                i64::from(run(client, &format!("CREATE INDEX CONCURRENTLY ON {part} USING {definition}"))?);
        }
    }
    Ok(built_count)
}

/// Returns whether it was done: a part may have been dropped since it was listed.
fn run(client: &mut Client, statement: &str) -> Result<bool, IndexError> {
    match client.batch_execute(statement) {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
        Err(source) => Err(IndexError::Build { statement: statement.to_owned(), source }),
    }
}

/// Changes the table itself, which waits for all who use it, and makes all others wait: never for long.
fn change(client: &mut Client, statement: &str) -> Result<(), IndexError> {
    client.batch_execute(CHANGE_SETTINGS).map_err(IndexError::Read)?;
    let mut attempts_left = CHANGE_ATTEMPTS_MAX;
    while let Err(source) = client.batch_execute(statement) {
        attempts_left -= 1;
        let is_for_want_of_locks =
            [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED]
                .iter()
                .any(|code| source.code() == Some(code));
        if !is_for_want_of_locks || attempts_left == 0 {
            return Err(IndexError::Change { statement: statement.to_owned(), source });
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn try_lock(client: &mut Client) -> Result<bool, IndexError> {
    let sql = format!("SELECT pg_try_advisory_lock{LOCK_KEYS}");
    client.query_one(&sql, &[]).and_then(|row| row.try_get(0)).map_err(IndexError::Read)
}

/// When both fail, the work's error is the cause: most likely the connection is gone, and the lock with it.
fn unlock<T>(client: &mut Client, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
    let released = client.execute(&format!("SELECT pg_advisory_unlock{LOCK_KEYS}"), &[]);
    let value = outcome?;
    released.map_err(IndexError::Read)?;
    Ok(value)
}

fn definitions() -> Vec<&'static str> {
    INDEXES.iter().map(|(_, definition)| *definition).collect()
}

/// Names and definitions.
fn of_table(client: &mut Client) -> Result<Vec<(String, String)>, postgres::Error> {
    let rows = client.query(OF_TABLE, &[&definitions()])?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn of_parts(client: &mut Client) -> Result<Vec<PartIndex>, postgres::Error> {
    let rows = client.query(OF_PARTS, &[&definitions()])?;
    rows.iter()
        .map(|row| {
            Ok(PartIndex {
                part: row.try_get(0)?,
                definition: row.try_get(1)?,
                is_over: row.try_get(2)?,
                valid: row.try_get(3)?,
                invalid: row.try_get(4)?,
            })
        })
        .collect()
}
