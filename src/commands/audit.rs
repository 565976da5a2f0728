//! `usage-processor audit`: a thin skin over [`crate::ledger::audit`]. Prints a table or JSON to
//! standard output; inconsistencies are an error with an exit code of their own.

use std::io::{self, Write};

use anstyle::Style;
use clap::Args;

use super::connect::{SetupError, open};
use super::progress_bar::step_bar;
use super::table::{self, BAD, DOUBTFUL, GOOD};
use crate::cli::{DatabaseArgs, EventArgs};
use crate::config::{event_rules, maintenance_config};
use crate::ledger::audit::{self, AuditError, Outcome, Report};

/// Arguments of `audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Where.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// MAX_CLOCK_SKEW says how far in the future events may lie.
    #[command(flatten)]
    pub events: EventArgs,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why `audit` did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AuditCommandError {
    /// The configuration is wrong, or the database cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The audit failed, and says nothing.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Standard output is closed.
    #[error("printing the audit")]
    Print(#[source] io::Error),
    /// The books do not add up.
    #[error("{0} of the audit's checks found an inconsistency")]
    Inconsistent(usize),
}

/// Audits and prints.
pub fn run(args: &AuditArgs) -> Result<(), AuditCommandError> {
    let (_, limits) = event_rules(&args.events).map_err(SetupError::from)?;
    let config = maintenance_config(&args.database).map_err(SetupError::from)?;
    let (mut client, _) = open(&config)?;
    let bar = step_bar(audit::CHECK_COUNT as u64);
    let mut begun_count = 0;
    let report = audit::audit(&mut client, limits.clock_skew_max, &mut |promise| {
        bar.set_message(promise);
        bar.set_position(begun_count);
        begun_count += 1;
    });
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .map_err(AuditCommandError::Print)?;
    } else {
        print(&report, &mut table::out()).map_err(AuditCommandError::Print)?;
    }
    match report.checks.iter().filter(|outcome| outcome.inconsistent_count > 0).count() {
        0 => Ok(()),
        count => Err(AuditCommandError::Inconsistent(count)),
    }
}

fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for outcome in &report.checks {
        let (style, verdict) = verdict(outcome);
        writeln!(out, "{style}{verdict:<13}{style:#} {}", outcome.promise)?;
        for finding in &outcome.findings {
            let mark = if finding.is_inconsistent { "" } else { "(in progress) " };
            writeln!(out, "{:<13}   {mark}{}", "", finding.text)?;
        }
        let told = i64::try_from(outcome.findings.len()).unwrap_or(i64::MAX);
        let untold = outcome.inconsistent_count + outcome.in_progress_count - told;
        if untold > 0 {
            writeln!(out, "{:<13}   and {untold} more", "")?;
        }
    }
    writeln!(out, "{:<13} {}", "folded until", report.folded_until)?;
    let (style, verdict) = if report.is_consistent { (GOOD, "CONSISTENT") } else { (BAD, "INCONSISTENT") };
    writeln!(out, "{style}{verdict}{style:#}")
}

fn verdict(outcome: &Outcome) -> (Style, &'static str) {
    match (outcome.inconsistent_count, outcome.in_progress_count) {
        (0, 0) => (GOOD, "ok"),
        (0, _) => (DOUBTFUL, "in progress"),
        _ => (BAD, "INCONSISTENT"),
    }
}
