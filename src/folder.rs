//! Folds events into the figures that bills and dashboards read (`usage_fold`, migration 008), every two to
//! ten seconds, so that what a view must read as single events stays short.
//!
//! A thread beside the pipeline, not a stage of it: the figures are right without it, only slower to
//! read. All instances try, and the database lets one at a time. Ends when the poller hangs up.

use std::convert::Infallible;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use postgres::Client;

use crate::database_target::DatabaseTarget;
use crate::error_chain::error_chain;
use crate::stage::BoxedError;

/// A view reads about this many events one by one, or twice as many: at 0.8 µs each, a dashboard of who sends an eighth of
/// them waits 2 to 4 ms for that. Folding 10,000 at a time costs the server half as much again, 100,000 a quarter less.
const FOLDED_EVENTS: u64 = 20_000;
/// Each fold makes all writers wait for each other once.
const FOLD_INTERVAL_MIN: Duration = Duration::from_secs(2);
const FOLD_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Folds are cut so that each takes seconds (`fold_step` of `usage_bounds`).
const SETTINGS: &str = "SET statement_timeout = '10min'; SET idle_in_transaction_session_timeout = '1min'; \
                        SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC';";

/// Starts the thread. `target` is as for any session beside the writers; `hang_up` is never sent through.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(target: DatabaseTarget, hang_up: Receiver<Infallible>) -> io::Result<()> {
    let run = move || {
        let mut session = None;
        let mut interval = FOLD_INTERVAL_MAX;
        while let Err(RecvTimeoutError::Timeout) = hang_up.recv_timeout(interval) {
            match fold_all(&target, &mut session, &hang_up) {
                Ok(event_count) => {
                    log::debug!("folded {event_count} events into the figures");
                    interval = interval_after(interval, event_count);
                }
                Err(error) => {
                    session = None;
                    interval = FOLD_INTERVAL_MAX;
                    let said = error_chain(error.as_ref());
                    log::warn!(
                        repeats:% = said;
                        "folding events into the figures: {said}; trying again in {interval:?}"
                    );
                }
            }
        }
    };
    thread::Builder::new().name("folder".to_owned()).spawn(run)?;
    Ok(())
}

/// How long to wait so that the next fold has about [`FOLDED_EVENTS`], when the last one came after `interval`. Where other
/// instances fold too, each finds fewer and waits longer.
fn interval_after(interval: Duration, event_count: u64) -> Duration {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(interval_ms.saturating_mul(FOLDED_EVENTS) / event_count.max(1))
        .clamp(FOLD_INTERVAL_MIN, FOLD_INTERVAL_MAX)
}

/// Folds everything that is due, step by step; gives how many events that were.
fn fold_all(
    target: &DatabaseTarget,
    session: &mut Option<Client>,
    hang_up: &Receiver<Infallible>,
) -> Result<u64, BoxedError> {
    let client = match session {
        Some(client) => client,
        None => {
            let mut client = target.connect()?;
            client.batch_execute(SETTINGS)?;
            session.insert(client)
        }
    };
    let mut event_count = 0;
    loop {
        let is_more_due: bool = client.query_one("SELECT usage_begin_fold()", &[])?.try_get(0)?;
        let folded: i64 = client.query_one("SELECT usage_fold()", &[])?.try_get(0)?;
        event_count += u64::try_from(folded).unwrap_or(0);
        let is_over = !matches!(hang_up.try_recv(), Err(crossbeam_channel::TryRecvError::Empty));
        if !is_more_due || is_over {
            return Ok(event_count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_come_as_often_as_events_do() {
        let after = |secs, event_count| interval_after(Duration::from_secs(secs), event_count).as_millis();
        assert_eq!(after(10, 0), 10_000);
        assert_eq!(after(10, 50_000), 4_000); // 5,000 a second.
        assert_eq!(after(4, 20_000), 4_000);
        assert_eq!(after(10, 10_000_000), 2_000);
        assert_eq!(after(2, 100), 10_000);
    }
}
