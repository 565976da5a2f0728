//! `usage-processor dead-letters list|show|export|replay|purge`: a thin skin over
//! [`crate::dead_letters`]. Output goes to standard output; what hostile bytes could do to a
//! terminal is escaped, except in an export.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::connect::{SetupError, open};
use crate::cli::{DatabaseArgs, EventArgs};
use crate::config::{database_config, event_rules, maintenance_config};
use crate::dead_letters::filter::{Filter, OffsetRange};
use crate::dead_letters::letter::{self, Bytes, Letter, Order};
use crate::dead_letters::purge::purge;
use crate::dead_letters::replay::{ReplayError, ReplayRules, Replayed, replay};
use crate::migrations::Profile;
use crate::write::replay::ReplaySession;

/// Arguments of `dead-letters`.
#[derive(Debug, Clone, Args)]
pub struct DeadLettersArgs {
    /// Where.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What.
    #[command(subcommand)]
    pub action: DeadLettersAction,
}

/// What can be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersAction {
    /// List letters as a table, the newest first.
    List {
        /// Which.
        #[command(flatten)]
        filter: Filter,
    },
    /// Show a letter whole, payload included.
    Show {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// Its topic [default: any].
        #[arg(long)]
        topic: Option<String>,
    },
    /// Write letters as JSON Lines, by topic, partition and offset.
    ///
    /// Fields: topic, partition, offset, timestamp_ms, reason, detail, received_at, replayed_at,
    /// replay_outcome; key and payload as text, or as key_base64 and payload_base64 where they are
    /// not UTF-8, or absent where the message had none.
    Export {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// A new file to write to [default: standard output].
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Judge letters again and write those that are valid events now.
    ///
    /// The rules are those of `run`, against each letter's own Kafka timestamp: letters that were
    /// too_old need a raised MAX_EVENT_AGE. A letter whose request is in the table within
    /// DEDUP_WINDOW of its time is a duplicate. Replaying twice adds nothing.
    Replay {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// The rules.
        #[command(flatten)]
        events: EventArgs,
        /// Replay `conflict` letters too. Each says that its request was billed already, by an event
        /// with other contents; it is added unless one with the same time exists.
        #[arg(long)]
        include_conflicts: bool,
        /// Only say what would happen. Each hundred letters are judged as if those before had not
        /// been replayed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete letters for good. Their counts are kept in usage_dead_letter_purges.
    Purge {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Really delete them.
        #[arg(long)]
        yes: bool,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// The configuration is wrong, or the database cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Letters could not be read or deleted.
    #[error("reading or deleting dead letters")]
    Query(#[from] postgres::Error),
    /// The replay stopped.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// There is no such letter.
    #[error("there is no dead letter of partition {partition} at offset {offset}")]
    NoLetter {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// A purge was not confirmed.
    #[error("{letter_count} dead letters would be deleted for good: add --yes to do it")]
    Unconfirmed {
        /// How many.
        letter_count: i64,
    },
    /// The file could not be made.
    #[error("creating {}", path.display())]
    Create {
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The output is closed or full.
    #[error("writing the output")]
    Print(#[from] io::Error),
}

/// Carries out the command.
pub fn run(args: &DeadLettersArgs) -> Result<(), DeadLettersError> {
    let mut out = BufWriter::new(io::stdout().lock());
    match &args.action {
        DeadLettersAction::List { filter } => list(&args.database, filter, &mut out)?,
        DeadLettersAction::Show { partition, offset, topic } => {
            show(&args.database, *partition, *offset, topic.as_deref(), &mut out)?;
        }
        DeadLettersAction::Export { filter, output: None } => export(&args.database, filter, &mut out)?,
        DeadLettersAction::Export { filter, output: Some(path) } => {
            let mut file = BufWriter::new(create(path)?);
            export(&args.database, filter, &mut file)?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        }
        DeadLettersAction::Replay { filter, events, include_conflicts, dry_run } => {
            let (dedup_window, time_limits) = event_rules(events).map_err(SetupError::from)?;
            let config = maintenance_config(&args.database).map_err(SetupError::from)?;
            let (_, server) = open(&config)?;
            let rules = ReplayRules {
                time_limits,
                dedup_window,
                includes_conflicts: *include_conflicts,
                is_dry_run: *dry_run,
                profile: server.migrated_as.unwrap_or(Profile::PostgreSql),
            };
            let mut session = ReplaySession::open(&config).map_err(ReplayError::from)?;
            print_replayed(&replay(&mut session, filter, rules)?, *dry_run, &mut out)?;
        }
        DeadLettersAction::Purge { filter, yes } => {
            let (mut client, _) = open(&maintenance_config(&args.database).map_err(SetupError::from)?)?;
            if !yes {
                let letter_count = letter::count(&mut client, filter)?;
                return Err(DeadLettersError::Unconfirmed { letter_count });
            }
            let purged = purge(&mut client, filter)?;
            writeln!(out, "deleted {} dead letters", purged.letters)?;
            writeln!(out, "of these, {} had been written as rows by a replay", purged.replayed_written)?;
        }
    }
    Ok(out.flush()?)
}

fn open_to_read(database: &DatabaseArgs) -> Result<postgres::Client, SetupError> {
    Ok(open(&database_config(database)?)?.0)
}

/// How many letters a list shows unless told otherwise.
const LIST_LETTERS: u32 = 50;
/// How much of a detail fits a line.
const DETAIL_CHARS_MAX: usize = 80;

fn list(database: &DatabaseArgs, filter: &Filter, out: &mut impl Write) -> Result<(), DeadLettersError> {
    let filter = Filter { limit: filter.limit.or(Some(LIST_LETTERS)), ..filter.clone() };
    let head = ["RECEIVED", "TOPIC", "PARTITION", "OFFSET", "REASON", "REPLAY"];
    let [received, topic, partition, offset, reason, replay] = head;
    writeln!(
        out,
        "{received:<24}  {topic:<20}  {partition:>9}  {offset:>12}  {reason:<17}  {replay:<9}  DETAIL"
    )?;
    letter::for_each(&mut open_to_read(database)?, &filter, Order::Newest, |letter| {
        let Letter { received_at, topic, partition, offset, reason, .. } = letter;
        let replay = letter.replay_outcome.as_deref().unwrap_or("-");
        let detail: String = escaped(&letter.detail).chars().take(DETAIL_CHARS_MAX).collect();
        writeln!(
            out,
            "{received_at:<24}  {topic:<20}  {partition:>9}  {offset:>12}  {reason:<17}  {replay:<9}  {detail}"
        )?;
        Ok::<_, DeadLettersError>(())
    })
}

fn show(
    database: &DatabaseArgs,
    partition: i32,
    offset: i64,
    topic: Option<&str>,
    out: &mut impl Write,
) -> Result<(), DeadLettersError> {
    let filter = Filter {
        topic: topic.map(str::to_owned),
        partition: Some(partition),
        offsets: Some(OffsetRange { start: Some(offset), end: offset.checked_add(1) }),
        ..Filter::default()
    };
    let mut shown_count = 0_u32;
    letter::for_each(&mut open_to_read(database)?, &filter, Order::Newest, |letter| {
        shown_count += 1;
        let replay = match (&letter.replayed_at, &letter.replay_outcome) {
            (Some(at), Some(outcome)) => format!("{outcome} at {at}"),
            _ => "never replayed".to_owned(),
        };
        for (name, value) in [
            ("topic", letter.topic.clone()),
            ("partition", letter.partition.to_string()),
            ("offset", letter.offset.to_string()),
            ("timestamp_ms", letter.timestamp_ms.to_string()),
            ("reason", letter.reason.clone()),
            ("detail", escaped(&letter.detail)),
            ("received", letter.received_at.clone()),
            ("replay", replay),
            ("key", readable(letter.key.as_ref())),
            ("payload", readable(letter.payload.as_ref())),
        ] {
            writeln!(out, "{name:<12}  {value}")?;
        }
        Ok::<_, DeadLettersError>(())
    })?;
    if shown_count == 0 { Err(DeadLettersError::NoLetter { partition, offset }) } else { Ok(()) }
}

fn readable(bytes: Option<&Bytes>) -> String {
    match bytes {
        None => "(none)".to_owned(),
        Some(Bytes::Text(text)) => escaped(text),
        Some(Bytes::Base64(text)) => format!("(base64) {text}"),
    }
}

/// Without anything that a terminal would obey.
fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A file that was not there: an export overwrites nothing.
fn create(path: &Path) -> Result<File, DeadLettersError> {
    File::create_new(path).map_err(|source| DeadLettersError::Create { path: path.to_owned(), source })
}

fn export(database: &DatabaseArgs, filter: &Filter, out: &mut impl Write) -> Result<(), DeadLettersError> {
    letter::for_each(&mut open_to_read(database)?, filter, Order::Offset, |letter| {
        serde_json::to_writer(&mut *out, letter).map_err(io::Error::from)?;
        Ok::<_, DeadLettersError>(out.write_all(b"\n")?)
    })
}

fn print_replayed(replayed: &Replayed, is_dry_run: bool, out: &mut impl Write) -> io::Result<()> {
    if is_dry_run {
        writeln!(out, "dry run: nothing was changed")?;
    }
    writeln!(out, "written              {}", replayed.written)?;
    writeln!(out, "duplicates           {}", replayed.duplicates)?;
    writeln!(out, "rejected             {}", replayed.rejected.values().sum::<u64>())?;
    for (reason, count) in &replayed.rejected {
        writeln!(out, "  {reason:<19}{count}")?;
    }
    if replayed.skipped_conflicts > 0 {
        writeln!(out, "conflicts left       {} (see --include-conflicts)", replayed.skipped_conflicts)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_obeyed() {
        assert_eq!(escaped("a\u{1b}[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
    }
}
