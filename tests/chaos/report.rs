//! What a run has gone through, as a small text: printed, and kept in `tuning/chaos/`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use usage_processor::generate::Truth;

use super::faults::{Fault, World};
use super::{Case, Step, variable};

/// Counts while the run goes on.
pub(super) struct Report {
    seed: u64,
    faults: BTreeMap<Fault, u32>,
    /// Steps in which two faults happened at the same time.
    overlaps: u32,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        eprintln!("chaos: seed {seed}; again by: make chaos SEED={seed}");
        Self { seed, faults: BTreeMap::new(), overlaps: 0 }
    }

    /// A fault begins, or two at the same time.
    pub(super) fn begin(&mut self, step: &Step, at: Duration) {
        for (fault, _) in step {
            eprintln!("chaos: {:7.1} s: {}", at.as_secs_f64(), fault.describe());
            *self.faults.entry(*fault).or_default() += 1;
        }
        self.overlaps += u32::from(step.len() > 1);
    }

    /// Prints the report, and writes it to the file that `CHAOS_REPORT` names.
    pub(super) fn finish(&self, world: &World, case: &mut Case, truth: &Truth, longest_pause_ms: u64) {
        case.database.reconnect();
        let mut sum = |expression: &str| {
            case.database.text(&format!("SELECT coalesce({expression}, 0)::text FROM usage_ledger"))
        };
        let mut text = format!("seed {}\n\nfaults\n", self.seed);
        for (fault, count) in &self.faults {
            writeln!(text, "{count:>9}  {}", fault.describe()).unwrap();
        }
        if !world.has_small_disk() {
            writeln!(text, "           (no disk of its own: a trigger said that it was full)").unwrap();
        }
        writeln!(text, "{:>9}  times two of them at once", self.overlaps).unwrap();
        writeln!(text, "\nmessages\n{:>9}  sent", truth.messages).unwrap();
        for (expression, meaning) in [
            ("sum(messages)", "judged, redeliveries included"),
            ("sum(written)", "written as rows"),
            ("sum(dead_letters)", "dead letters"),
            ("sum(duplicates)", "duplicates stopped in memory, redeliveries included"),
            ("sum(redelivered)", "stopped by the database: redeliveries and duplicates"),
        ] {
            writeln!(text, "{:>9}  {meaning}", sum(expression)).unwrap();
        }
        let present = "SELECT count(DISTINCT (organization_id, request_id)) FROM usage_events";
        let lost = i64::try_from(truth.requests).unwrap() - case.database.test.count(present);
        let doubled = case.rows() - case.database.test.count(present);
        let at_end = if case.is_at_end().is_ok() { "at" } else { "NOT AT" };
        writeln!(text, "{lost:>9}  lost\n{doubled:>9}  doubled").unwrap();
        writeln!(text, "{:>9}  partitions committed {at_end} their ends", case.topic.end_offsets().len())
            .unwrap();
        writeln!(text, "\n{longest_pause_ms:>9}  ms at most without progress\n\nprocesses' ends").unwrap();
        for (status, count) in &world.fleet.lock().unwrap().exits {
            writeln!(text, "{count:>9}  {status}").unwrap();
        }
        eprintln!("{text}");
        if let Some(path) = variable("CHAOS_REPORT") {
            std::fs::write(path, text).unwrap();
        }
    }
}
