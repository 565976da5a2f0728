//! `usage-processor migrate up|down|status|adopt`: a thin skin over [`crate::migrations`].
//!
//! Takes a connected client, calls one function, and prints what came of it as a table on standard output.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use postgres::Client;
use serde::Serialize;

use super::progress_bar::spinner;
use super::table::{BAD, Column, DOUBTFUL, GOOD, PLAIN, out, print_head, print_row};
use crate::cli::help::MIGRATE;
use crate::migrations::{self, AdoptOptions, MigrateError, ProfileChoice, State, Status};
use crate::secondary_indexes::{self, IndexError, SecondaryIndexes};

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// What to do with the schema
    #[command(subcommand)]
    pub action: MigrateAction,

    /// Which schema a new database gets; a migrated one keeps what it has
    #[arg(long, env = "DATABASE_PROFILE", value_enum, default_value_t, global = true)]
    pub profile: ProfileChoice,
}

/// The four things that can be done with the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum MigrateAction {
    /// Apply every migration that is missing
    #[command(after_long_help = MIGRATE)]
    Up {
        /// When rows get the indexes by api key and by endpoint; without it that stays as it is, at first immediate
        #[arg(long, value_enum, value_name = "WHEN")]
        secondary_indexes: Option<SecondaryIndexes>,
    },
    /// Reverse the newest applied migration; the tables it made go with their rows, if you say so
    #[command(after_long_help = MIGRATE)]
    Down {
        /// Drop what is in them too: events, or figures that customers were billed from. Nothing brings figures back whose
        /// events retention has dropped, or that were adopted
        #[arg(long)]
        drop_rows: bool,
    },
    /// List all migrations and where they stand
    #[command(after_long_help = MIGRATE)]
    Status {
        /// Print them as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take over a usage_events that another program made, with its rows and its history
    ///
    /// Stop whatever writes to it first. What cannot be taken over is named, and nothing is changed then.
    #[command(after_long_help = MIGRATE)]
    Adopt {
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
        /// Where an old aggregate counts more requests than there are rows, believe the rows
        #[arg(long)]
        rows_win: bool,
        /// Do not carry over what only the old aggregates know; they are kept as adopted_usage_...
        #[arg(long)]
        without_history: bool,
    },
}

/// A `migrate` command that failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateCommandError {
    /// The schema could not be read or changed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// Indexes are not as they should be.
    #[error(transparent)]
    Indexes(#[from] IndexError),
    /// Rows would be dropped, and that was not asked for.
    #[error(
        "reverting {migration} drops what is in {tables}, and nothing brings back what is not in Kafka any more: \
         --drop-rows does it"
    )]
    RowsAtStake {
        /// Number and name.
        migration: String,
        /// The tables that are not empty.
        tables: String,
    },
    /// Standard output is closed or full. What was asked for is done all the same.
    #[error("printing what was done")]
    Print {
        /// The error of the write.
        source: io::Error,
    },
}

/// What `migrate status --json` prints.
#[derive(Serialize)]
struct Json<'a> {
    /// Whether every migration is applied as it is embedded here, or by a newer program.
    is_current: bool,
    migrations: Vec<JsonMigration<'a>>,
    /// Absent while migrations are pending.
    secondary_indexes: Option<String>,
    /// Chunks or partitions that still lack indexes.
    parts_without_indexes: Option<usize>,
}

#[derive(Serialize)]
struct JsonMigration<'a> {
    migration: &'a str,
    profile: &'static str,
    /// `pending`, `applied`, `changed` since, or `unknown`: applied by a newer program.
    state: &'static str,
    applied_at: Option<String>,
}

/// Carries out `args` on `client` and prints the outcome.
///
/// # Errors
/// As the functions of [`crate::migrations`], or when standard output cannot be written.
pub fn run(args: &MigrateArgs, client: &mut Client) -> Result<(), MigrateCommandError> {
    let report = match args.action {
        MigrateAction::Up { secondary_indexes } => up(client, args.profile, secondary_indexes)?,
        MigrateAction::Down { drop_rows } => {
            if let Some((migration, tables)) = migrations::rows_at_stake(client)?
                && !tables.is_empty()
                && !drop_rows
            {
                return Err(MigrateCommandError::RowsAtStake { migration, tables: tables.join(", ") });
            }
            let reverted = migrations::down(client)?;
            let lines = reverted.iter().map(|migration| format!("reverted  {}", migration.label()));
            report(lines, "no migration is applied, nothing to revert")
        }
        MigrateAction::Adopt { dry_run, rows_win, without_history } => {
            let options = AdoptOptions {
                is_dry_run: dry_run,
                is_rows_win: rows_win,
                is_without_history: without_history,
            };
            let bar = spinner("taking over usage_events");
            let adopted = migrations::adopt(client, args.profile, options);
            bar.finish_and_clear();
            report(adopted?.lines.into_iter(), "")
        }
        MigrateAction::Status { json } => return status(client, args.profile, json),
    };
    io::stdout().lock().write_all(report.as_bytes()).map_err(print_error)
}

fn print_error(source: io::Error) -> MigrateCommandError {
    MigrateCommandError::Print { source }
}

fn up(
    client: &mut Client,
    profile: ProfileChoice,
    secondary_indexes: Option<SecondaryIndexes>,
) -> Result<String, MigrateCommandError> {
    let bar = spinner("migrating");
    let applied = migrations::up_with(client, profile, &mut |migration| {
        bar.set_message(format!("applying {}", migration.label()));
    });
    bar.finish_and_clear();
    let applied = applied?;
    let lines = applied.iter().map(|migration| format!("applied   {}", migration.label()));
    let report = report(lines, "the schema is up to date, nothing to apply");
    let Some(mode) = secondary_indexes else { return Ok(report) };
    let bar = spinner("building secondary indexes");
    let built = secondary_indexes::switch(client, mode);
    bar.finish_and_clear();
    Ok(report + &format!("secondary indexes: {mode}, {} built now\n", built?))
}

fn report(lines: impl Iterator<Item = String>, otherwise: &str) -> String {
    let report: String = lines.map(|line| line + "\n").collect();
    if report.is_empty() { format!("{otherwise}\n") } else { report }
}

fn status(client: &mut Client, profile: ProfileChoice, is_json: bool) -> Result<(), MigrateCommandError> {
    let list = migrations::status(client, profile)?;
    let is_migrated = list.iter().all(|status| status.state != State::Pending);
    let indexes =
        if is_migrated { Some(secondary_indexes::state(client).map_err(IndexError::Read)?) } else { None };
    if is_json {
        let is_changed = list.iter().any(|status| matches!(status.state, State::Changed(_)));
        let json = Json {
            is_current: is_migrated && !is_changed,
            migrations: list.iter().map(JsonMigration::from).collect(),
            secondary_indexes: indexes.as_ref().map(|indexes| indexes.mode.to_string()),
            parts_without_indexes: indexes.as_ref().map(|indexes| indexes.lacking_count),
        };
        let mut out = io::stdout().lock();
        return serde_json::to_writer(&mut out, &json)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
            .map_err(print_error);
    }
    let mut out = out();
    print_table(&mut out, &list)
        .and_then(|()| indexes.map_or(Ok(()), |indexes| writeln!(out, "{indexes}")))
        .map_err(print_error)
}

fn print_table(out: &mut impl Write, list: &[Status]) -> io::Result<()> {
    let width = list.iter().map(|status| status.migration.len()).max().unwrap_or(0);
    let columns = [Column::text("MIGRATION", width), Column::text("PROFILE", 11), Column::text("STATE", 0)];
    print_head(out, &columns)?;
    for status in list {
        let style = match status.state {
            State::Pending | State::Unknown(_) => DOUBTFUL,
            State::Applied(_) => GOOD,
            State::Changed(_) => BAD,
        };
        let cells = [
            (PLAIN, status.migration.clone()),
            (PLAIN, status.profile.as_str().to_owned()),
            (style, describe(status.state)),
        ];
        print_row(out, &columns, &cells)?;
    }
    Ok(())
}

fn describe(state: State) -> String {
    let at = humantime::format_rfc3339_seconds;
    match state {
        State::Pending => "pending".to_owned(),
        State::Applied(time) => format!("applied {}", at(time)),
        State::Changed(time) => format!("applied {}, and its text was CHANGED since", at(time)),
        State::Unknown(time) => format!("applied {} by a newer program", at(time)),
    }
}

impl<'a> From<&'a Status> for JsonMigration<'a> {
    fn from(Status { migration, profile, state }: &'a Status) -> Self {
        let (state, applied_at) = match state {
            State::Pending => ("pending", None),
            State::Applied(at) => ("applied", Some(at)),
            State::Changed(at) => ("changed", Some(at)),
            State::Unknown(at) => ("unknown", Some(at)),
        };
        let applied_at = applied_at.map(|at| humantime::format_rfc3339_seconds(*at).to_string());
        Self { migration, profile: profile.as_str(), state, applied_at }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use clap::Parser;

    use super::*;
    use crate::migrations::Profile;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        migrate: MigrateArgs,
    }

    #[test]
    fn the_profile_may_stand_after_the_action() {
        let cli = Cli::try_parse_from(["migrate", "up", "--profile", "postgresql"]).unwrap();
        assert_eq!(cli.migrate.action, MigrateAction::Up { secondary_indexes: None });
        assert_eq!(cli.migrate.profile, ProfileChoice::PostgreSql);
        let cli = Cli::try_parse_from(["migrate", "status"]).unwrap();
        assert_eq!(cli.migrate.profile, ProfileChoice::Auto);
        Cli::try_parse_from(["migrate", "up", "--profile", "mysql"]).unwrap_err();
    }

    #[test]
    fn the_table_lines_up() {
        let status = |migration: &str, profile, state| Status { migration: migration.into(), profile, state };
        let list = [
            status("004_create_usage_events", Profile::PostgreSql, State::Applied(UNIX_EPOCH)),
            status("005_short", Profile::TimescaleDb, State::Pending),
        ];
        let expected = "\
MIGRATION                PROFILE      STATE
004_create_usage_events  postgresql   applied 1970-01-01T00:00:00Z
005_short                timescaledb  pending
";
        let mut out = anstream::StripStream::new(Vec::new());
        print_table(&mut out, &list).unwrap();
        assert_eq!(String::from_utf8(out.into_inner()).unwrap(), expected);
    }

    #[test]
    fn nothing_to_do_is_said() {
        assert_eq!(report(std::iter::empty(), "nothing"), "nothing\n");
    }
}
