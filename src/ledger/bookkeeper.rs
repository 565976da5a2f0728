//! Looks after the ledger while the pipeline runs: folds it, so that it stays quick to read whether or not the
//! server runs jobs and whether or not figures can be folded, and then compares it with the watermarks. A
//! database that has lost commits under us (a failed-over standby that was behind) has a ledger that ends
//! below them: the process then stops, and the next start reads again what is missing.
//!
//! A thread beside the pipeline, not a stage of it: no message passes through, nothing waits for it,
//! and a fold that fails or is cut off leaves the ledger as it was. Ends when the poller hangs up.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Ledger, LedgerError};
use crate::error_chain::error_chain;
use crate::offsets::{Offset, Partition};
use crate::poll::start_position::Recorded;
use crate::shutdown::Shutdown;
use crate::stage::BoxedError;

/// How long lost commits may stay unnoticed. At 10,000 messages a second writers enter some 12,000 spans in this time; a
/// fold takes 2 µs each, and in one piece it must not keep a core busy for long.
const INTERVAL: Duration = Duration::from_secs(5);

/// The database does not have what it has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database has lost commits while we ran: partition {partition} was durable up to offset {watermark}, and its \
     ledger ends at {recorded_end} (a standby that was behind took over, or a backup was restored); start again, and \
     what is missing is read again"
)]
pub struct CommitsLost {
    partition: Partition,
    watermark: Offset,
    recorded_end: Offset,
}

/// What the bookkeeper has found so far.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<OnceLock<CommitsLost>>);

impl Findings {
    /// Whether the ledger held what it should at the last look.
    ///
    /// # Errors
    /// When it did not: shutdown is requested then.
    pub fn verdict(&self) -> Result<(), CommitsLost> {
        self.0.get().map_or(Ok(()), |lost| Err(lost.clone()))
    }
}

/// Starts the thread. `watermarks` gives what is durable of each assigned partition; `hang_up` is never
/// sent through.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    ledger: Ledger,
    watermarks: impl Fn() -> Vec<(Partition, Offset)> + Send + 'static,
    shutdown: Shutdown,
    hang_up: Receiver<Infallible>,
) -> io::Result<Findings> {
    let findings = Findings::default();
    let found = findings.clone();
    let run = move || {
        while let Err(RecvTimeoutError::Timeout) = hang_up.recv_timeout(INTERVAL) {
            if let Err(error) = ledger.ask(Ledger::fold) {
                log::warn!(
                    "folding the ledger: {}; trying again in {INTERVAL:?}",
                    error_chain(error.as_ref())
                );
            }
            match ledger.find_lost_commits(watermarks()) {
                Ok(None) => {}
                Ok(Some(lost)) => {
                    log::error!("{lost}");
                    drop(found.0.set(lost));
                    return shutdown.request();
                }
                Err(error) => {
                    log::warn!(
                        "comparing the ledger with what is committed: {}; trying again in {INTERVAL:?}",
                        error_chain(error.as_ref())
                    );
                }
            }
        }
    };
    thread::Builder::new().name("bookkeeper".to_owned()).spawn(run)?;
    Ok(findings)
}

impl Ledger {
    /// Merges rows of the ledger that can be one; gives how many that saved: 0 if another instance is
    /// at it.
    ///
    /// # Errors
    /// When the database is away, or the writer's role may not fold.
    pub fn fold(&self) -> Result<i64, LedgerError> {
        let row = self.connect()?.query_one("SELECT usage_fold_ledger()", &[]).map_err(LedgerError::Fold)?;
        Ok(row.get(0))
    }

    /// Whether the ledger ends below a watermark, which was taken before: it never may, since a
    /// watermark passes only what is committed here.
    ///
    /// # Errors
    /// When the ledger gives no answer.
    pub fn find_lost_commits(
        &self,
        watermarks: Vec<(Partition, Offset)>,
    ) -> Result<Option<CommitsLost>, BoxedError> {
        if watermarks.is_empty() {
            return Ok(None);
        }
        self.ask(move |ledger| {
            let partitions: Vec<_> = watermarks.iter().map(|(partition, _)| *partition).collect();
            Ok(lost_commits(&watermarks, &ledger.recorded(&partitions)?))
        })
    }
}

fn lost_commits(watermarks: &[(Partition, Offset)], recorded: &[Recorded]) -> Option<CommitsLost> {
    watermarks.iter().find_map(|&(partition, watermark)| {
        let recorded = recorded.iter().find(|recorded| recorded.partition == partition);
        let recorded_end = recorded.map_or(0, |recorded| recorded.end);
        (recorded_end < watermark).then_some(CommitsLost { partition, watermark, recorded_end })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_ends_below_a_watermark_has_lost_commits() {
        let recorded = |end| Recorded { partition: 3, epoch: 1, end, first: 0 };
        let lost = |recorded_end| Some(CommitsLost { partition: 3, watermark: 50, recorded_end });
        assert_eq!(lost_commits(&[], &[]), None);
        assert_eq!(lost_commits(&[(3, 0)], &[]), None, "nothing was durable");
        assert_eq!(lost_commits(&[(3, 50)], &[recorded(50)]), None);
        assert_eq!(lost_commits(&[(3, 50)], &[recorded(70)]), None, "the watermark is older");
        assert_eq!(lost_commits(&[(3, 50)], &[recorded(49)]), lost(49));
        assert_eq!(lost_commits(&[(3, 50)], &[]), lost(0), "the whole ledger");
    }
}
