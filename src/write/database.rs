//! The real row sink: one PostgreSQL connection, made when needed and dropped on any error.
//!
//! Fast path: one transaction of ledger, COPY, COMMIT; with dead letters: COPY, dead letters, ledger, COMMIT. When the COPY fails for a row's
//! sake, because it exists already or because the table refuses it, the batch takes the careful path
//! (`placement.rs`) in another transaction. Either way a batch is durable as a whole or not at all,
//! with its dead letters and its entries in the ledger.
//!
//! A connection lost during COMMIT leaves it open whether the batch is durable. The retry then
//! finds its own rows and takes the careful path, which adds nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::dead_letter_topic::DeadLetterTopic;
use super::dead_letters;
use super::error::WriteError;
use super::ledger;
use super::placement::{CopyMeans, Placement, copy_rows, take_expired};
use super::refusal_window::RefusalWindow;
use super::row_order;
use super::session::{ServerTimeouts, Session, application_name};
use super::settlement::{Fate, Settlement, day_of};
use super::sqlstate::Remedy;
use super::watchdog::Watch;
use super::writer::{RowSink, Written};
use crate::copy_tuple::CopyStream;
use crate::crash_point::{self, CrashPoint};
use crate::database_target::DatabaseTarget;
use crate::error_chain::error_chain;
use crate::messages::WriteBatch;
use crate::observe::activity::StageActivity;
use crate::observe::instruments::WriteInstruments;

/// Whose messages a writer writes, and how long its server may take.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    /// Where the database is.
    pub target: DatabaseTarget,
    /// The consumer group that spans are entered for.
    pub consumer_group: String,
    /// The topic that spans and dead letters are of.
    pub topic: String,
    /// Limits that the server keeps.
    pub timeouts: ServerTimeouts,
}

/// One writer's connection.
#[derive(Debug)]
pub struct Database {
    options: DatabaseOptions,
    watch: Watch,
    session: Option<Session>,
    stream: CopyStream,
    /// Row indexes in COPY order.
    order: Vec<u32>,
    refusals: RefusalWindow,
    copy_count: u64,
    /// Where dead letters go besides the database.
    dead_letter_topic: Option<DeadLetterTopic>,
    activity: StageActivity,
    /// Sessions opened after the first.
    reconnects: Option<IntCounter>,
    had_session: bool,
}

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged before the connection counts as dead.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

impl Database {
    /// A sink that connects when it is first used. `writer` tells its sessions apart in
    /// `pg_stat_activity`; `watch` is told when it waits for the server.
    pub fn new(mut options: DatabaseOptions, writer: &str, watch: Watch) -> Self {
        options
            .target
            .config
            .application_name(&application_name(writer))
            .notice_callback(|notice| log::debug!("PostgreSQL: {}", notice.message()))
            // The watchdog lets no call go on for much longer than a statement.
            .connect_timeout(CONNECT_TIMEOUT.min(options.timeouts.statement))
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(TCP_USER_TIMEOUT);
        Self {
            options,
            watch,
            session: None,
            stream: CopyStream::default(),
            order: Vec::new(),
            refusals: RefusalWindow::default(),
            copy_count: 0,
            dead_letter_topic: None,
            activity: StageActivity::default(),
            reconnects: None,
            had_session: false,
        }
    }

    /// Counts sessions opened anew there, and gives signs of moving on.
    pub fn with_instruments(self, instruments: &WriteInstruments) -> Self {
        let activity = instruments.activity.clone();
        let watch = self.watch.with_activity(activity.clone());
        Self { watch, activity, reconnects: Some(instruments.counters.reconnects.clone()), ..self }
    }

    /// Dead letters go to this topic too, before they are durable here.
    pub fn with_dead_letter_topic(self, dead_letter_topic: Option<DeadLetterTopic>) -> Self {
        Self { dead_letter_topic, ..self }
    }

    /// COPY statements sent so far: what bad rows cost.
    pub fn copy_count(&self) -> u64 {
        self.copy_count
    }

    /// The open session, or a new one.
    fn open_session(&mut self) -> Result<&mut Session, WriteError> {
        let session = self.take_session()?;
        Ok(self.session.insert(session))
    }

    fn take_session(&mut self) -> Result<Session, WriteError> {
        match self.session.take().filter(|session| !session.client.is_closed()) {
            Some(session) => Ok(session),
            None => {
                let session = Session::open(&self.options.target, self.options.timeouts, &self.watch)?;
                if std::mem::replace(&mut self.had_session, true) {
                    self.reconnects.as_ref().inspect(|reconnects| reconnects.inc());
                }
                Ok(session)
            }
        }
    }

    /// Fast path, and the careful one if a row is in the way: in the same session, since another may know of another
    /// limit, and what the server said of a row is about the rows of the first.
    fn attempt(&mut self, batch: &WriteBatch) -> Result<Written, WriteError> {
        let mut session = self.take_session()?;
        let is_careful =
            |error: &WriteError| matches!(error.remedy(), Remedy::SkipExistingRows | Remedy::RefuseRow);
        let outcome = match self.store(&mut session, batch, None) {
            Err(error) if is_careful(&error) && self.roll_back(&mut session) => {
                log::debug!("{}: placing the rows with care", error_chain(&error));
                self.store(&mut session, batch, Some(error))
            }
            outcome => outcome,
        };
        if outcome.is_ok() || self.roll_back(&mut session) {
            self.session = Some(session);
        }
        outcome
    }

    /// Whether the session can be used for another transaction.
    fn roll_back(&self, session: &mut Session) -> bool {
        self.watch.renew();
        session.client.batch_execute("ROLLBACK").is_ok()
    }

    /// Everything about a batch in one transaction, which is left open if it fails. `copy_error` says how the fast path
    /// failed.
    fn store(
        &mut self,
        session: &mut Session,
        batch: &WriteBatch,
        copy_error: Option<WriteError>,
    ) -> Result<Written, WriteError> {
        let Self { options, watch, .. } = self;
        let Session { client, statements, retained_since_micros } = session;
        let row_count = batch.rows.len();
        row_order::sort(&batch.rows, &mut self.order);
        let expired = take_expired(batch, &mut self.order, *retained_since_micros);
        let settle = |mut fates: Vec<Fate>| {
            expired.iter().for_each(|&idx| fates[idx as usize] = Fate::Expired);
            Settlement::new(batch, &fates)
        };
        let letter_count = |settlement: &Settlement| batch.dead_letters.len() + settlement.refused.len();
        let entry =
            |settlement: &Settlement| ledger::entry(&options.consumer_group, &options.topic, settlement);
        let failed_to_enter = |source| WriteError::EnterLedger { span_count: batch.outcomes.len(), source };

        // As it will be if the table takes every row; if it does not, this entry is rolled back with them.
        let mut settlement = settle(vec![Fate::Written; row_count]);
        let is_entered = copy_error.is_none() && letter_count(&settlement) == 0;
        watch.renew();
        if is_entered {
            client.batch_execute(&format!("BEGIN; {}", entry(&settlement))).map_err(failed_to_enter)?;
        } else {
            client.batch_execute("BEGIN").map_err(WriteError::Begin)?;
        }
        let mut means =
            CopyMeans { statements, stream: &mut self.stream, watch, copy_count: &mut self.copy_count };
        match copy_error {
            None if self.order.is_empty() => {}
            None => copy_rows(client, &mut means, batch, &self.order)?,
            Some(error) => {
                let refused_max = self.refusals.refused_max(row_count);
                let placement = Placement::new(client, means, batch, &mut self.order, refused_max);
                settlement = settle(placement.run(error)?);
            }
        }
        let letter_count = letter_count(&settlement);
        if letter_count > 0 {
            watch.renew();
            let (statement, letters) = (&statements.insert_dead_letters, settlement.letters(batch));
            let inserted = dead_letters::insert(client, statement, &options.topic, batch, letters)
                .map_err(|source| WriteError::StoreDeadLetters { letter_count, source })?;
            settlement.discount_stored(batch, inserted);
        }
        if !is_entered {
            watch.renew();
            client.batch_execute(&entry(&settlement)).map_err(failed_to_enter)?;
        }
        if let Some(topic) = self.dead_letter_topic.as_mut().filter(|_| letter_count > 0) {
            watch.rest(); // For Kafka, not for the database, which ends the transaction if it takes long.
            topic.publish(batch, &settlement.refused, &self.activity);
        }
        crash_point::reach(CrashPoint::AfterCopy);
        watch.renew();
        let committing_since = Instant::now();
        client.batch_execute("COMMIT").map_err(|source| WriteError::Commit { row_count, source })?;
        let commit_time = committing_since.elapsed();
        self.refusals.record(row_count, settlement.refused_by_database());
        let Settlement { outcomes, letter_counts, last_letters, .. } = settlement;
        Ok(Written { outcomes, letters: letter_counts, last_letters, commit_time })
    }

    /// Each day by itself: of a producer whose clock says 1970, the days in between are nobody's. None
    /// that is no longer retained: it may be missing because it was dropped.
    fn create_partitions(&mut self, batch: &WriteBatch) -> Result<(), WriteError> {
        self.watch.renew();
        let session = self.open_session()?;
        session.renew_limit().map_err(WriteError::CreatePartitions)?;
        let retained_since_micros = session.retained_since_micros;
        let times = batch.rows.iter().map(|row| row.time_micros);
        let days: BTreeSet<i32> = times.filter(|time| *time >= retained_since_micros).map(day_of).collect();
        for day in days {
            self.watch.renew();
            let session = self.open_session()?;
            session
                .client
                .execute(
                    "SELECT usage_ensure_partitions(day, day) FROM (SELECT DATE '1970-01-01' + $1::int AS day) AS utc",
                    &[&day],
                )
                .map_err(WriteError::CreatePartitions)?;
        }
        Ok(())
    }

    /// Whoever held the lock for that long may be a writer that is frozen.
    fn terminate_stalled_writers(&mut self) {
        let lock_timeout = self.options.timeouts.lock;
        self.watch.renew();
        let Ok(session) = self.open_session() else { return }; // The next attempt reports it.
        if let Err(error) = session.terminate_stalled_writers(lock_timeout) {
            log::warn!("looking for stalled writers: {}", error_chain(&error));
        }
    }
}

impl RowSink for Database {
    type Error = WriteError;

    fn write(&mut self, batch: &WriteBatch) -> Result<Written, WriteError> {
        let has_spans = batch.outcomes.iter().any(|outcome| !outcome.span.is_empty());
        if !has_spans && batch.rows.is_empty() && batch.dead_letters.is_empty() {
            return Ok(Written { outcomes: batch.outcomes.clone(), ..Written::default() });
        }
        let mut outcome = self.attempt(batch);
        if let Err(error) = &outcome
            && error.remedy() == Remedy::CreatePartitions
        {
            outcome = self.create_partitions(batch).and_then(|()| self.attempt(batch));
        }
        if let Err(error) = &outcome
            && error.remedy() == Remedy::LeaveOutExpired
        {
            self.session = None; // A new one knows the limit.
            outcome = self.attempt(batch);
        }
        if let Err(error) = &outcome {
            if error.is_lock_timeout() {
                self.terminate_stalled_writers();
            }
            // Whatever state the session is in, the next attempt starts with a fresh one.
            self.session = None;
        }
        self.watch.rest();
        outcome
    }

    fn remedy(error: &WriteError) -> Remedy {
        error.remedy()
    }

    fn sqlstate(error: &WriteError) -> Option<&str> {
        error.server().map(|server| server.code().code())
    }

    fn is_unreachable(error: &WriteError) -> bool {
        error.is_unreachable()
    }
}
