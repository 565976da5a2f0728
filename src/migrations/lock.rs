//! One migration at a time: a session advisory lock of the database, waited for with a bound.
//!
//! A session lock and not a transaction's, because each migration is a transaction of its own; should the process
//! die, the server releases it with the connection.

use std::time::Duration;

use postgres::{Client, error::SqlState};

use super::MigrateError;

/// The advisory lock's key: the bytes of "usagemig", so that it can be recognized in `pg_locks`.
pub const LOCK_KEY: i64 = i64::from_be_bytes(*b"usagemig");

/// How long a process waits for another one that migrates. Longer than any migration of an empty database takes
/// (seconds), and `run --migrate` asks again.
pub const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Runs `work` while holding the migration lock, having waited at most `wait` for it.
///
/// # Errors
/// [`MigrateError::LockBusy`] after `wait`, or whatever `work` returns.
pub fn with_lock<T>(
    client: &mut Client,
    wait: Duration,
    work: impl FnOnce(&mut Client) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    acquire(client, wait).map_err(|source| match source.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => MigrateError::LockBusy { waited: wait },
        _ => MigrateError::Lock { source },
    })?;
    let outcome = work(client);
    let released = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK_KEY]);
    // When both fail, the work's error is the cause: most likely the connection is gone, and the lock with it.
    let value = outcome?;
    released.map_err(|source| MigrateError::Lock { source })?;
    Ok(value)
}

/// The timeout is set for this transaction only, the lock outlives it.
fn acquire(client: &mut Client, wait: Duration) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    let timeout = format!("{}ms", wait.as_millis());
    transaction.execute("SELECT set_config('lock_timeout', $1, true)", &[&timeout])?;
    transaction.execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY])?;
    transaction.commit()
}
