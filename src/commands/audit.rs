//! `usage-processor audit`: a thin skin over [`crate::ledger::audit`]. Prints a table or JSON to
//! standard output; inconsistencies are an error with an exit code of their own.

use std::io::{self, Write};

use clap::Args;

use super::connect::{SetupError, open};
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
    let report = audit::audit(&mut client, limits.clock_skew_max)?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .map_err(AuditCommandError::Print)?;
    } else {
        out.write_all(table(&report).as_bytes()).map_err(AuditCommandError::Print)?;
    }
    match report.checks.iter().filter(|outcome| outcome.inconsistent_count > 0).count() {
        0 => Ok(()),
        count => Err(AuditCommandError::Inconsistent(count)),
    }
}

fn table(report: &Report) -> String {
    let mut table = String::new();
    for outcome in &report.checks {
        table += &format!("{:<13} {}\n", verdict(outcome), outcome.promise);
        for finding in &outcome.findings {
            let mark = if finding.is_inconsistent { "" } else { "(in progress) " };
            table += &format!("{:<13}   {mark}{}\n", "", finding.text);
        }
        let told = i64::try_from(outcome.findings.len()).unwrap_or(i64::MAX);
        let untold = outcome.inconsistent_count + outcome.in_progress_count - told;
        if untold > 0 {
            table += &format!("{:<13}   and {untold} more\n", "");
        }
    }
    table += &format!("{:<13} {}\n", "folded until", report.folded_until);
    table += if report.is_consistent { "CONSISTENT\n" } else { "INCONSISTENT\n" };
    table
}

fn verdict(outcome: &Outcome) -> &'static str {
    match (outcome.inconsistent_count, outcome.in_progress_count) {
        (0, 0) => "ok",
        (0, _) => "in progress",
        _ => "INCONSISTENT",
    }
}
