//! Folds the ledger now and then, so that it stays small whether or not the server runs jobs.
//!
//! A thread beside the pipeline, not a stage of it: no message passes through, nothing waits for it,
//! and a fold that fails or is cut off leaves the ledger as it was. Ends when the poller hangs up.

use std::convert::Infallible;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Ledger, LedgerError};
use crate::error_chain::error_chain;

/// At full speed writers enter some hundred thousand spans in this time, which fold in seconds.
const FOLD_INTERVAL: Duration = Duration::from_secs(60);

/// Starts the thread. `hang_up` is never sent through.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(ledger: Ledger, hang_up: Receiver<Infallible>) -> io::Result<()> {
    let run = move || {
        while let Err(RecvTimeoutError::Timeout) = hang_up.recv_timeout(FOLD_INTERVAL) {
            match ledger.fold() {
                Ok(saved_count) => log::debug!("folding the ledger saved {saved_count} rows"),
                Err(error) => log::warn!("{}; trying again in {FOLD_INTERVAL:?}", error_chain(&error)),
            }
        }
    };
    thread::Builder::new().name("bookkeeper".to_owned()).spawn(run).map(drop)
}

impl Ledger {
    /// Merges rows of the ledger that can be one; gives how many that saved. None if another
    /// instance is at it.
    ///
    /// # Errors
    /// When the database is away, or the writer's role may not fold.
    pub fn fold(&self) -> Result<i64, LedgerError> {
        let row = self.connect()?.query_one("SELECT usage_fold_ledger()", &[]).map_err(LedgerError::Fold)?;
        Ok(row.get(0))
    }
}
