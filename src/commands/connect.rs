//! Reaching a database whose schema is ours, for every command. `run` waits through an outage, even
//! one that begins between two questions; a refusal, which only a person can mend, ends it at once.

use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{RecvTimeoutError, bounded};
use postgres::Client;
use postgres::error::SqlState;

use crate::config::{ConfigError, Mistake};
use crate::database_target::{self, DatabaseTarget};
use crate::error_chain::error_chain;
use crate::migrations::{self, MigrateError, ServerInfo};
use crate::shutdown::Shutdown;
use crate::write::sqlstate::{self, Remedy};
use crate::write::writer::pauses;

/// How long an attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a server may keep silent.
const SILENCES_MAX: u32 = 5;
/// How soon a request for shutdown is seen.
const SHUTDOWN_CHECK: Duration = Duration::from_millis(100);

/// Why a command cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database is not as it must be.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The server took the connection and did not say more.
    #[error("asking {target} about its schema: no answer within {waited:?}")]
    Silent {
        /// Which database.
        target: String,
        /// For how long.
        waited: Duration,
    },
    /// A thread could not be started.
    #[error("starting a thread to ask the database")]
    Thread(#[source] io::Error),
}

impl From<Mistake> for SetupError {
    fn from(mistake: Mistake) -> Self {
        Self::Config(mistake.into())
    }
}

impl SetupError {
    /// What the server said, if it was the server.
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect(error) => error.code(),
            Self::Migrate(error) => error.server_error()?.code(),
            Self::Config(_) | Self::Silent { .. } | Self::Thread(_) => None,
        }
    }

    /// Whether it may be over the next time.
    fn is_transient(&self) -> bool {
        match self {
            Self::Config(_) | Self::Thread(_) => false,
            Self::Silent { .. } | Self::Migrate(MigrateError::LockBusy { .. }) => true,
            Self::Connect(error) => !error.source.is_misconfigured(),
            // A standby that is about to be promoted is read-only.
            Self::Migrate(error) => error.server_error().is_some_and(|error| {
                sqlstate::remedy(error) == Remedy::Retry
                    || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
            }),
        }
    }
}

/// The server was reached and does not let us in, or was not waited for.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {target}")]
pub struct ConnectError {
    target: String,
    source: database_target::ConnectError,
}

impl ConnectError {
    /// What the server said, if it was the server.
    pub fn code(&self) -> Option<&SqlState> {
        self.source.server_error().and_then(postgres::Error::code)
    }
}

/// Connects once. Notices, such as TimescaleDB's opinion on varchar, ask nothing of whoever reads the log.
pub fn connect(target: &DatabaseTarget) -> Result<Client, ConnectError> {
    connect_with(target, |config| {
        config.notice_callback(|notice| log::debug!("{}: {}", notice.severity(), notice.message()));
    })
}

fn connect_with(
    target: &DatabaseTarget,
    set_up: impl FnOnce(&mut postgres::Config),
) -> Result<Client, ConnectError> {
    let mut target = target.clone();
    if target.config.get_connect_timeout().is_none() {
        target.config.connect_timeout(CONNECT_TIMEOUT);
    }
    target.config.application_name("usage-processor");
    set_up(&mut target.config);
    target.connect().map_err(|source| ConnectError { target: target.describe(), source })
}

/// Connects once, and makes sure that the schema is ours.
pub fn open(target: &DatabaseTarget) -> Result<(Client, ServerInfo), SetupError> {
    let mut client = connect(target)?;
    let server = migrations::ensure_current(&mut client)?;
    Ok((client, server))
}

/// The same with further settings, such as what to do with notices.
pub fn open_with(
    target: &DatabaseTarget,
    set_up: impl FnOnce(&mut postgres::Config),
) -> Result<(Client, ServerInfo), SetupError> {
    let mut client = connect_with(target, set_up)?;
    let server = migrations::ensure_current(&mut client)?;
    Ok((client, server))
}

/// Connects and prepares, waiting for a server that is away, or goes away meanwhile, until `shutdown`
/// is requested (which gives `None`). What only a person can mend (password, role, database, a schema
/// that is missing) is an error at once. An answer may take `patience`; a server that keeps silent for
/// so long several times is an error too, since each time leaves a thread and a connection behind. `waits_since` is
/// told why it waits.
pub fn prepare_patiently<T: Send + 'static>(
    target: &DatabaseTarget,
    shutdown: &Shutdown,
    patience: Duration,
    prepare: fn(&mut Client) -> Result<T, MigrateError>,
    waits_since: impl Fn(&str),
) -> Result<Option<T>, SetupError> {
    let host_count = u32::try_from(target.host_count()).unwrap_or(u32::MAX);
    let patience = patience.saturating_add(CONNECT_TIMEOUT.saturating_mul(host_count));
    let mut silence_count = 0;
    for (attempt, pause) in (1_u32..).zip(pauses()) {
        let outcome = ask_once(target, shutdown, patience, move |target| {
            prepare(&mut connect(target)?).map_err(SetupError::from)
        });
        let is_silent = matches!(outcome, Err(SetupError::Silent { .. }));
        silence_count += u32::from(is_silent);
        match outcome {
            Err(error) if error.is_transient() && !(is_silent && silence_count >= SILENCES_MAX) => {
                let chain = error_chain(&error);
                let sqlstate = error.code().map(SqlState::code);
                log::warn!(repeats:% = chain, sqlstate, attempt; "{chain}; trying again in {pause:?} (attempt {attempt})");
                waits_since(&chain);
            }
            done => return done,
        }
        thread::sleep(pause);
        if shutdown.is_requested() {
            break;
        }
    }
    Ok(None)
}

/// On a thread of its own, which is left behind with its connection when the server says nothing.
fn ask_once<T: Send + 'static>(
    target: &DatabaseTarget,
    shutdown: &Shutdown,
    patience: Duration,
    ask: impl FnOnce(&DatabaseTarget) -> Result<T, SetupError> + Send + 'static,
) -> Result<Option<T>, SetupError> {
    let (sender, answer) = bounded(1);
    let asked = target.clone();
    thread::Builder::new()
        .name("setup".to_owned())
        .spawn(move || drop(sender.send(ask(&asked))))
        .map_err(SetupError::Thread)?;
    let started = Instant::now();
    loop {
        match answer.recv_timeout(SHUTDOWN_CHECK) {
            Ok(answer) => return answer.map(Some),
            Err(RecvTimeoutError::Timeout) if shutdown.is_requested() => return Ok(None),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < patience => {}
            Err(_) => return Err(SetupError::Silent { target: target.describe(), waited: patience }),
        }
    }
}
