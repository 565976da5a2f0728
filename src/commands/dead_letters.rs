//! `usage-processor dead-letters list|show|export|replay|purge`: a thin skin over
//! [`crate::dead_letters`]. Output goes to standard output; what hostile bytes could do to a
//! terminal is escaped, except in an export.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;

use super::connect::{SetupError, open};
use super::progress_bar::{count_bar, spinner};
use super::table::{self, Column, DOUBTFUL, GOOD, HEAD, PLAIN, print_head, print_row};
use crate::cli::help::DEAD_LETTERS;
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
    /// Print JSON: letters one a line, with the fields of an export; what was replayed or purged as one object.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What can be done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersAction {
    /// List letters as a table, the newest first.
    #[command(after_long_help = DEAD_LETTERS)]
    List {
        /// Which.
        #[command(flatten)]
        filter: Filter,
    },
    /// Show a letter whole, payload included.
    #[command(after_long_help = DEAD_LETTERS)]
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
    #[command(after_long_help = DEAD_LETTERS)]
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
    #[command(after_long_help = DEAD_LETTERS)]
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
    #[command(after_long_help = DEAD_LETTERS)]
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
        DeadLettersAction::List { filter } => {
            // Nobody reads them all on a screen.
            let filter = Filter { limit: filter.limit.or(Some(LIST_LETTERS)), ..filter.clone() };
            if args.json {
                print_json(&mut open_to_read(&args.database)?, &filter, Order::Newest, &mut out)?;
            } else {
                list(&args.database, &filter, &mut BufWriter::new(table::out()))?;
            }
        }
        DeadLettersAction::Show { partition, offset, topic } => {
            let place = (*partition, *offset, topic.as_deref());
            show(&args.database, place, args.json, &mut out)?;
        }
        DeadLettersAction::Export { filter, output: None } => {
            print_json(&mut open_to_read(&args.database)?, filter, Order::Offset, &mut out)?;
        }
        DeadLettersAction::Export { filter, output: Some(path) } => {
            export_to(path, &mut open_to_read(&args.database)?, filter)?;
        }
        DeadLettersAction::Replay { filter, events, include_conflicts, dry_run } => {
            let (dedup_window, time_limits) = event_rules(events).map_err(SetupError::from)?;
            let config = maintenance_config(&args.database).map_err(SetupError::from)?;
            let (mut client, server) = open(&config)?;
            let bar = letter_bar(&mut client, filter)?;
            let rules = ReplayRules {
                time_limits,
                dedup_window,
                includes_conflicts: *include_conflicts,
                is_dry_run: *dry_run,
                profile: server.migrated_as.unwrap_or(Profile::PostgreSql),
            };
            let mut session = ReplaySession::open(&config).map_err(ReplayError::from)?;
            let replayed = replay(&mut session, filter, rules, &mut |letter_count| bar.inc(letter_count))?;
            bar.finish_and_clear();
            print_replayed(&replayed, *dry_run, args.json, &mut out)?;
        }
        DeadLettersAction::Purge { filter, yes } => {
            let (mut client, _) = open(&maintenance_config(&args.database).map_err(SetupError::from)?)?;
            if !yes {
                let letter_count = letter::count(&mut client, filter)?;
                return Err(DeadLettersError::Unconfirmed { letter_count });
            }
            let bar = spinner("deleting dead letters");
            let purged = purge(&mut client, filter)?;
            bar.finish_and_clear();
            if args.json {
                write_json(&purged, &mut out)?;
            } else {
                writeln!(out, "deleted {} dead letters", purged.letters)?;
                writeln!(out, "of these, {} had been written as rows by a replay", purged.replayed_written)?;
            }
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

const COLUMNS: [Column; 7] = [
    Column::text("RECEIVED", 24),
    Column::text("TOPIC", 20),
    Column::number("PARTITION", 9),
    Column::number("OFFSET", 12),
    Column::text("REASON", 17),
    Column::text("REPLAY", 9),
    Column::text("DETAIL", 0),
];

fn list(database: &DatabaseArgs, filter: &Filter, out: &mut impl Write) -> Result<(), DeadLettersError> {
    print_head(out, &COLUMNS)?;
    letter::for_each(&mut open_to_read(database)?, filter, Order::Newest, |letter| {
        let replay = match letter.replay_outcome.as_deref() {
            None => (PLAIN, "-"),
            Some("rejected") => (DOUBTFUL, "rejected"),
            Some(outcome) => (GOOD, outcome),
        };
        let cells = [
            (PLAIN, letter.received_at.clone()),
            (PLAIN, letter.topic.clone()),
            (PLAIN, letter.partition.to_string()),
            (PLAIN, letter.offset.to_string()),
            (HEAD, letter.reason.clone()),
            (replay.0, replay.1.to_owned()),
            (PLAIN, escaped(&letter.detail).chars().take(DETAIL_CHARS_MAX).collect()),
        ];
        Ok::<_, DeadLettersError>(print_row(out, &COLUMNS, &cells)?)
    })?;
    Ok(out.flush()?)
}

fn show(
    database: &DatabaseArgs,
    (partition, offset, topic): (i32, i64, Option<&str>),
    is_json: bool,
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
        let shown = if is_json { write_json(letter, out) } else { show_letter(letter, out) };
        Ok::<_, DeadLettersError>(shown?)
    })?;
    if shown_count == 0 { Err(DeadLettersError::NoLetter { partition, offset }) } else { Ok(()) }
}

fn show_letter(letter: &Letter, out: &mut impl Write) -> io::Result<()> {
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
    Ok(())
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

fn export_to(path: &Path, client: &mut postgres::Client, filter: &Filter) -> Result<(), DeadLettersError> {
    let mut file = BufWriter::new(create(path)?);
    let bar = letter_bar(client, filter)?;
    letter::for_each(client, filter, Order::Offset, |letter| {
        bar.inc(1);
        Ok::<_, DeadLettersError>(write_json(letter, &mut file)?)
    })?;
    bar.finish_and_clear();
    Ok(file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?)
}

/// A file that was not there: an export overwrites nothing.
fn create(path: &Path) -> Result<File, DeadLettersError> {
    File::create_new(path).map_err(|source| DeadLettersError::Create { path: path.to_owned(), source })
}

/// Letters one a line, which is what an export is.
fn print_json(
    client: &mut postgres::Client,
    filter: &Filter,
    order: Order,
    out: &mut impl Write,
) -> Result<(), DeadLettersError> {
    letter::for_each(client, filter, order, |letter| Ok(write_json(letter, out)?))
}

fn write_json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Counting takes a while too, so it is done only for somebody who watches.
fn letter_bar(client: &mut postgres::Client, filter: &Filter) -> Result<ProgressBar, DeadLettersError> {
    if !io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let letter_count = letter::count(client, filter)?;
    Ok(count_bar(u64::try_from(letter_count).unwrap_or(0), "letters"))
}

/// What `replay --json` prints.
#[derive(Serialize)]
struct JsonReplayed<'a> {
    is_dry_run: bool,
    written: u64,
    duplicates: u64,
    /// By today's reason.
    rejected: &'a BTreeMap<&'static str, u64>,
    /// Left alone without `--include-conflicts`.
    skipped_conflicts: u64,
}

fn print_replayed(
    replayed: &Replayed,
    is_dry_run: bool,
    is_json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let Replayed { written, duplicates, rejected, skipped_conflicts } = replayed;
    if is_json {
        let (written, duplicates, skipped_conflicts) = (*written, *duplicates, *skipped_conflicts);
        return write_json(
            &JsonReplayed { is_dry_run, written, duplicates, rejected, skipped_conflicts },
            out,
        );
    }
    if is_dry_run {
        writeln!(out, "dry run: nothing was changed")?;
    }
    writeln!(out, "written              {written}")?;
    writeln!(out, "duplicates           {duplicates}")?;
    writeln!(out, "rejected             {}", rejected.values().sum::<u64>())?;
    for (reason, count) in rejected {
        writeln!(out, "  {reason:<19}{count}")?;
    }
    if *skipped_conflicts > 0 {
        writeln!(out, "conflicts left       {skipped_conflicts} (see --include-conflicts)")?;
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
