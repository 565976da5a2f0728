//! Folds events into the figures that bills and dashboards read (`usage_fold`, migration 008), every ten
//! seconds, so that what a view must read as single events stays short.
//!
//! A thread beside the pipeline, not a stage of it: the figures are right without it, only slower to
//! read. All instances try, and the database lets one at a time. Ends when the poller hangs up.

use std::convert::Infallible;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use postgres::{Client, NoTls};

use crate::error_chain::error_chain;

/// How much of the newest usage a view reads event by event: about two of these.
const FOLD_INTERVAL: Duration = Duration::from_secs(10);
/// Folds are cut so that each takes seconds (`fold_step` of `usage_bounds`).
const SETTINGS: &str = "SET statement_timeout = '10min'; SET idle_in_transaction_session_timeout = '1min'; \
                        SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC';";

/// Starts the thread. `config` is as for any session beside the writers; `hang_up` is never sent through.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(config: postgres::Config, hang_up: Receiver<Infallible>) -> io::Result<()> {
    let run = move || {
        let mut session = None;
        let mut last_error = String::new();
        while let Err(RecvTimeoutError::Timeout) = hang_up.recv_timeout(FOLD_INTERVAL) {
            match fold_all(&config, &mut session, &hang_up) {
                Ok(event_count) => {
                    log::debug!("folded {event_count} events into the figures");
                    last_error.clear();
                }
                Err(error) => {
                    session = None;
                    let said = error_chain(&error);
                    if said != last_error {
                        log::warn!(
                            "folding events into the figures: {said}; trying again every {FOLD_INTERVAL:?}"
                        );
                        last_error = said;
                    }
                }
            }
        }
    };
    thread::Builder::new().name("folder".to_owned()).spawn(run)?;
    Ok(())
}

/// Folds everything that is due, step by step; gives how many events that were.
fn fold_all(
    config: &postgres::Config,
    session: &mut Option<Client>,
    hang_up: &Receiver<Infallible>,
) -> Result<i64, postgres::Error> {
    let client = match session {
        Some(client) => client,
        None => {
            let mut client = config.connect(NoTls)?;
            client.batch_execute(SETTINGS)?;
            session.insert(client)
        }
    };
    let mut event_count = 0;
    loop {
        let is_more_due: bool = client.query_one("SELECT usage_begin_fold()", &[])?.try_get(0)?;
        event_count += client.query_one("SELECT usage_fold()", &[])?.try_get::<_, i64>(0)?;
        let is_over = !matches!(hang_up.try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        if !is_more_due || is_over {
            return Ok(event_count);
        }
    }
}
