//! `usage-processor maintain`: a thin skin over [`crate::maintenance`], for a timer or by hand. Prints one
//! line, or JSON, to standard output; what the server warns of goes to standard error.

use std::io::{self, Write};
use std::thread;

use clap::Args;
use postgres::error::SqlState;

use super::connect::{SetupError, open_with};
use super::progress_bar::spinner;
use crate::cli::DatabaseArgs;
use crate::config::maintenance_config;
use crate::maintenance::{MaintenanceError, log_warnings, maintain};

/// Arguments of `maintain`.
#[derive(Debug, Clone, Args)]
pub struct MaintainArgs {
    /// Where.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Print what was done as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why `maintain` did not end well. What it had done before stays.
#[derive(Debug, thiserror::Error)]
pub enum MaintainError {
    /// The configuration is wrong, or the database cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The role is not the owner's.
    #[error("only the role that owns the tables may maintain them: MAINTENANCE_DATABASE_URL must be its URL")]
    Refused(#[source] postgres::Error),
    /// Something else failed.
    #[error(transparent)]
    Failed(MaintenanceError),
    /// Standard output is closed.
    #[error("printing what was done")]
    Print(#[source] io::Error),
}

/// Does what is due and prints it.
pub fn run(args: &MaintainArgs) -> Result<(), MaintainError> {
    let config = maintenance_config(&args.database).map_err(SetupError::from)?;
    let (mut client, _) = open_with(&config, log_warnings)?;
    let pause = |pause| {
        thread::sleep(pause);
        true
    };
    let bar = spinner("maintaining");
    let done = maintain(&mut client, pause);
    bar.finish_and_clear();
    let done = done.map_err(|error| match error {
        MaintenanceError::Round(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            MaintainError::Refused(error)
        }
        error => MaintainError::Failed(error),
    })?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &done)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .map_err(MaintainError::Print)
    } else {
        writeln!(out, "{done}").map_err(MaintainError::Print)
    }
}
