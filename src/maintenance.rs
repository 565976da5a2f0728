//! What must be done now and then: folds what is due, makes partitions ahead, applies retention
//! (`usage_maintain`, migration 017), and then builds the indexes that ended days still lack. For `usage-processor maintain`, and for `run` when it is given the owner's
//! MAINTENANCE_DATABASE_URL: then on a thread beside the pipeline, hourly.
//!
//! Each round is a transaction of its own, each index several. Any number of callers may try: the database lets
//! one at a time. The thread waits for nothing and nobody waits for it; what fails is tried again an hour later.
//! Cut off in the middle, a round leaves nothing behind, an index what the next call removes. Ends when the poller hangs up.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use postgres::Client;
use postgres::error::Severity;
use serde::Serialize;

use crate::database_target::{ConnectError, DatabaseTarget};
use crate::error_chain::error_chain;
use crate::secondary_indexes::{self, IndexError};

/// A day's rows become due once a day; folding is the folder's work, so that an hour is soon enough.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// More than a backlog of years takes: each round folds up to a day.
const ROUNDS_MAX: u32 = 10_000;
/// Before the next round when one could do nothing: another session is folding, for seconds.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// Then whoever it is may finish the work.
const IDLE_ROUNDS_MAX: u32 = 20;
/// Proving the figures of a day reads all its rows. Locks that others would queue up behind have limits
/// of their own, in the functions.
const SETTINGS: &str = "SET statement_timeout = '1h'; SET lock_timeout = '30s'; \
                        SET idle_in_transaction_session_timeout = '1min'; \
                        SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC';";
const MAINTAIN: &str = "\
SELECT ledger_rows_saved, events_folded, rows_dropped, partitions_made, is_more_due FROM usage_maintain()";
const BOUNDS: &str = "\
SELECT folded_until::text, folding_until::text, retained_since::text, retention::text,
       extract(epoch FROM retention)::bigint, due_until <= folded_until + INTERVAL '10 seconds'
  FROM usage_bounds";

/// What maintenance has done.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Maintained {
    /// Rows of the ledger that were merged into others.
    pub ledger_rows_saved: i64,
    /// Events added to the figures.
    pub events_folded: i64,
    /// Rows of `usage_events` that retention has dropped.
    pub rows_dropped: i64,
    /// Daily partitions made ahead; none with TimescaleDB.
    pub partitions_made: i64,
    /// Secondary indexes built of ended days.
    pub indexes_built: i64,
    /// The figures hold all earlier events.
    pub folded_until: String,
    /// Rows are retained since then.
    pub retained_since: String,
}

impl Maintained {
    fn is_nothing(&self) -> bool {
        self.ledger_rows_saved
            + self.events_folded
            + self.rows_dropped
            + self.partitions_made
            + self.indexes_built
            == 0
    }
}

impl fmt::Display for Maintained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ledger rows saved: {}, events folded: {}, rows dropped: {}, partitions made: {}, indexes built: {}, \
             folded until: {}, retained since: {}",
            self.ledger_rows_saved,
            self.events_folded,
            self.rows_dropped,
            self.partitions_made,
            self.indexes_built,
            self.folded_until,
            self.retained_since
        )
    }
}

/// Why maintenance did not end well. What it had done before stays.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// No connection.
    #[error("connecting to PostgreSQL to maintain it")]
    Connect(#[from] ConnectError),
    /// A round failed, and was rolled back.
    #[error("maintaining the database")]
    Round(#[from] postgres::Error),
    /// The rounds are done, and an index was not built.
    #[error(transparent)]
    Indexes(#[from] IndexError),
}

/// The row of `usage_bounds`, for people: times as the session shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// The figures hold all earlier events.
    pub folded_until: String,
    folding_until: String,
    /// Earlier events are refused.
    pub retained_since: String,
    /// How long rows are kept.
    pub retention: String,
    /// The same, in seconds.
    pub retention_s: i64,
    /// Whether all but the latest seconds is folded.
    is_folded: bool,
}

impl Bounds {
    /// Reads them; a writer's role may.
    ///
    /// # Errors
    /// When the database gives no answer, or is not as it must be.
    pub fn read(client: &mut Client) -> Result<Self, postgres::Error> {
        let row = client.query_one(BOUNDS, &[])?;
        Ok(Self {
            folded_until: row.try_get(0)?,
            folding_until: row.try_get(1)?,
            retained_since: row.try_get(2)?,
            retention: row.try_get(3)?,
            retention_s: row.try_get(4)?,
            is_folded: row.try_get(5)?,
        })
    }
}

/// Warnings of the server, such as of days whose figures could not be proven, each logged once. Give a
/// new one to each session, or they stay unsaid the next time.
pub fn log_warnings(config: &mut postgres::Config) {
    let said = Arc::new(Mutex::new(BTreeSet::new()));
    config.notice_callback(move |notice| {
        let hint = notice.hint().map(|hint| format!(" ({hint})"));
        let text = format!("{}{}", notice.message(), hint.unwrap_or_default());
        if notice.parsed_severity() != Some(Severity::Warning) {
            log::debug!("PostgreSQL: {text}");
        } else if said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
            log::warn!("{text}");
        }
    });
}

/// Does what is due, round after round, and then index after index. `pause` waits and says whether to go on.
///
/// # Errors
/// When a round fails, which then leaves nothing behind, or an index; those before it stay.
pub fn maintain(
    client: &mut Client,
    mut pause: impl FnMut(Duration) -> bool,
) -> Result<Maintained, MaintenanceError> {
    client.batch_execute(SETTINGS)?;
    let mut before = Bounds::read(client)?;
    let mut done = Maintained::default();
    let mut idle_count = 0;
    for _ in 0..ROUNDS_MAX {
        let row = client.query_one(MAINTAIN, &[])?;
        let has_folded = row.try_get::<_, i64>(1)? > 0;
        done.ledger_rows_saved += row.try_get::<_, i64>(0)?;
        done.events_folded += row.try_get::<_, i64>(1)?;
        done.rows_dropped += row.try_get::<_, i64>(2)?;
        done.partitions_made += row.try_get::<_, i64>(3)?;
        let bounds = Bounds::read(client)?;
        let is_idle = !has_folded && bounds == before;
        // While events arrive, a little more is due after every round: that is the next call's.
        let is_caught_up = bounds.is_folded && bounds.retained_since == before.retained_since;
        before = bounds;
        idle_count += u32::from(is_idle);
        if !row.try_get::<_, bool>(4)?
            || is_caught_up
            || idle_count > IDLE_ROUNDS_MAX
            || !pause(if is_idle { IDLE_PAUSE } else { Duration::ZERO })
        {
            break;
        }
    }
    done.indexes_built = secondary_indexes::complete(client, || pause(Duration::ZERO))?;
    Ok(Maintained { folded_until: before.folded_until, retained_since: before.retained_since, ..done })
}

/// Starts the thread. `target` is the owner's, otherwise as for any session beside the writers; `hang_up`
/// is never sent through.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(target: DatabaseTarget, hang_up: Receiver<Infallible>) -> io::Result<()> {
    let goes_on = move |pause| matches!(hang_up.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
    let run = move || {
        while goes_on(Duration::ZERO) {
            match maintain_once(&target, &goes_on) {
                Ok(done) if done.is_nothing() => log::debug!("maintenance: nothing was due; {done}"),
                Ok(done) => log::info!("maintenance: {done}"),
                Err(error) => {
                    log::warn!("maintenance: {}; trying again in {INTERVAL:?}", error_chain(&error));
                }
            }
            if !goes_on(INTERVAL) {
                break;
            }
        }
    };
    thread::Builder::new().name("maintenance".to_owned()).spawn(run)?;
    Ok(())
}

/// In a session of its own: one that idles for an hour is of no use.
fn maintain_once(
    target: &DatabaseTarget,
    goes_on: impl Fn(Duration) -> bool,
) -> Result<Maintained, MaintenanceError> {
    let mut target = target.clone();
    log_warnings(&mut target.config);
    maintain(&mut target.connect()?, goes_on)
}
