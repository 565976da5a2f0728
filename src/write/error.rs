//! Why a batch is not durable, and what that asks for. Pure; made and judged on the writer threads.
//!
//! The variant says which statement failed. Only the statements that put rows into `usage_events`
//! can fail by a row's fault; a violated CHECK on the ledger, say, is a bug and never diverts a row.

use postgres::error::{DbError, SqlState};

use super::sqlstate::{self, Remedy};
use crate::database_target::ConnectError;

/// Why a batch is not durable.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No connection.
    #[error("connecting to PostgreSQL")]
    Connect(#[source] ConnectError),
    /// The connection was made, but not as a writer needs it.
    #[error("preparing a writer's session")]
    Prepare(#[source] postgres::Error),
    /// No transaction, or no savepoint in it.
    #[error("beginning a transaction")]
    Begin(#[source] postgres::Error),
    /// Rows could not be copied into the table.
    #[error("copying {row_count} rows")]
    Copy {
        /// Rows in the COPY.
        row_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// Rows could not be staged, or not be inserted from there.
    #[error("inserting {row_count} rows next to existing ones")]
    Insert {
        /// Rows staged.
        row_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// Rows that exist already could not be read.
    #[error("comparing {row_count} rows with existing ones")]
    Compare {
        /// Rows that were not inserted.
        row_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// Rows were not inserted next to existing ones, which were gone when they were looked at.
    #[error("{row_count} rows that stood in the way were deleted meanwhile")]
    Vanished {
        /// How many.
        row_count: usize,
    },
    /// So many rows were refused that the table is at fault, not they.
    #[error(
        "refusing to divert more than {refused_max} of {row_count} rows as dead letters: \
         when most rows are refused, the table is at fault"
    )]
    MostRowsRefused {
        /// How many of the batch could have been diverted.
        refused_max: usize,
        /// Rows in the batch.
        row_count: usize,
        /// What the server said about the last of them.
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
    /// Dead letters could not be stored.
    #[error("storing {letter_count} dead letters")]
    StoreDeadLetters {
        /// How many.
        letter_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// The spans could not be entered into the ledger, or no transaction be begun for that.
    #[error("beginning a transaction and entering {span_count} spans into the ledger")]
    EnterLedger {
        /// How many.
        span_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
    /// The COMMIT failed, or its answer was lost: the batch may be durable all the same.
    #[error("committing {row_count} rows")]
    Commit {
        /// Rows in the batch.
        row_count: usize,
        /// What the server said.
        source: postgres::Error,
    },
}

impl WriteError {
    /// What the server or the connection said.
    fn cause(&self) -> Option<&postgres::Error> {
        match self {
            Self::Connect(source) => source.server_error(),
            Self::Prepare(source)
            | Self::Begin(source)
            | Self::CreatePartitions(source)
            | Self::Copy { source, .. }
            | Self::Insert { source, .. }
            | Self::Compare { source, .. }
            | Self::MostRowsRefused { source, .. }
            | Self::StoreDeadLetters { source, .. }
            | Self::EnterLedger { source, .. }
            | Self::Commit { source, .. } => Some(source),
            Self::Send { .. } | Self::Vanished { .. } => None,
        }
    }

    /// What the server said, if it was the server that failed the statement.
    pub(super) fn server(&self) -> Option<&DbError> {
        self.cause().and_then(postgres::Error::as_db_error)
    }

    /// Whether a lock was not to be had in time.
    pub(super) fn is_lock_timeout(&self) -> bool {
        self.server().is_some_and(|server| *server.code() == SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Whether there is no server to be had.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Send { .. } => true,
            _ => self.cause().is_some_and(sqlstate::is_unreachable),
        }
    }

    /// What the error asks for.
    pub(super) fn remedy(&self) -> Remedy {
        if let Self::Connect(error) = self
            && error.is_misconfigured()
        {
            return Remedy::RetryAndAlarm;
        }
        let Some(cause) = self.cause() else { return Remedy::Retry };
        let remedy = sqlstate::remedy(cause);
        match self {
            Self::MostRowsRefused { .. } => Remedy::RetryAndAlarm,
            Self::Copy { .. } => remedy,
            // The insert leaves existing rows out by the identity; another unique key is not ours.
            Self::Insert { .. } if remedy != Remedy::SkipExistingRows => remedy,
            _ if remedy == Remedy::Retry => remedy,
            _ => Remedy::RetryAndAlarm,
        }
    }
}
