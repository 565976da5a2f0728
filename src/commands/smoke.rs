//! `usage-processor smoke`: a thin skin over [`crate::smoke`]. A line a step on standard output, or one JSON object at the end.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::connect::SetupError;
use super::progress_bar::spinner;
use crate::cli::PipelineArgs;
use crate::config::{Config, core_count};
use crate::smoke::{self, ORGANIZATION, STEPS, SmokeError, SmokeOptions, StepDone};

/// Arguments of `smoke`.
#[derive(Debug, Clone, Args)]
pub struct SmokeArgs {
    /// Which servers, topic and group: those of the processors that are running.
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Leave the events in the table: nobody is billed for them. Then it takes no rights but reading.
    #[arg(long)]
    pub keep: bool,
    /// How long each step may take. Behind a backlog, give as long as that takes.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why the smoke test is not passed.
#[derive(Debug, thiserror::Error)]
pub enum SmokeCommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It could not begin.
    #[error(transparent)]
    Smoke(#[from] SmokeError),
    /// Standard output is closed.
    #[error("printing the steps")]
    Print(#[source] io::Error),
    /// A step failed; what was found and what to do is printed.
    #[error("the smoke test failed at step {step} of {}, {name}: {found}", STEPS.len())]
    Failed {
        /// Its number, from 1.
        step: usize,
        /// Its name.
        name: &'static str,
        /// What was found.
        found: String,
    },
}

/// Makes the seven steps and prints them.
pub fn run(args: &SmokeArgs) -> Result<(), SmokeCommandError> {
    let config = Config::from_args(&args.pipeline, core_count()).map_err(SetupError::from)?;
    let mut out = io::stdout().lock();
    let mut printed = Ok(());
    let mut steps = Vec::new();
    let bar = spinner("");
    let options = SmokeOptions { config, keeps: args.keep, timeout: args.timeout };
    smoke::run(
        options,
        |name| bar.set_message(name),
        |step| {
            if !args.json && printed.is_ok() {
                printed = bar.suspend(|| out.write_all(line(step).as_bytes()).and_then(|()| out.flush()));
            }
            bar.inc(1);
            steps.push(step.clone());
        },
    )?;
    bar.finish_and_clear();
    printed.map_err(SmokeCommandError::Print)?;
    let failed = steps.iter().find(|step| !step.is_ok).cloned();
    let end = if args.json {
        json!({ "is_ok": failed.is_none(), "organization_id": ORGANIZATION, "steps": steps }).to_string()
    } else if failed.is_none() {
        "PASSED".to_owned()
    } else {
        "FAILED".to_owned()
    };
    writeln!(out, "{end}").map_err(SmokeCommandError::Print)?;
    match failed {
        None => Ok(()),
        Some(StepDone { step, name, found, .. }) => Err(SmokeCommandError::Failed { step, name, found }),
    }
}

fn line(step: &StepDone) -> String {
    let StepDone { step: number, name, is_ok, elapsed_ms, found, what_to_do } = step;
    let mark = if *is_ok { '✓' } else { '✗' };
    let mut line = format!("{mark} {number} {name:<17} {elapsed_ms:>7} ms  {found}\n");
    if let Some(what_to_do) = what_to_do {
        line += &format!("{:33}what to do: {what_to_do}\n", "");
    }
    line
}
