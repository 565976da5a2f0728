//! The figures' behaviour, written once for all profiles: each file of `tests/cases` is SQL with what it must answer, and is
//! run in a fresh database on every profile that the server can carry, and on TimescaleDB in WebAssembly (`wasm.rs`).
//!
//! A statement ends with `;` at the end of a line. What it must answer follows it, and is all that it answers:
//!
//! ```sql
//! SELECT concat_ws('|', bucket, total_requests) FROM usage_daily;
//! -- = a row, its one column being text; one such line per row, and none for a statement that returns no rows
//! SELECT 1 / 0;
//! -- ! 22012
//! ```
//!
//! `-- only: timescaledb` or `-- only: postgresql` restricts a file to one profile. `helpers.sql` is run before each file.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use postgres::Client;
use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");

pub(crate) struct Case {
    pub(crate) name: String,
    only: Option<String>,
    pub(crate) statements: Vec<Statement>,
}

pub(crate) struct Statement {
    /// Where it begins.
    line: usize,
    pub(crate) sql: String,
    expected: Answer,
}

/// What a statement must answer, or did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Rows(Vec<String>),
    /// The SQLSTATE, and for whoever reads the report what the server said.
    Error(String, String),
}

impl Answer {
    /// Of the rows of a statement, each with its columns; what is no text is an error of the case.
    fn of(result: Result<Vec<postgres::Row>, postgres::Error>) -> Self {
        let text = |row: &postgres::Row| match row.len() {
            1 => row.try_get::<_, Option<String>>(0).ok().map(|text| text.unwrap_or("(null)".to_owned())),
            _ => None,
        };
        match result {
            Ok(rows) => rows
                .iter()
                .map(text)
                .collect::<Option<_>>()
                .map_or_else(|| Self::Error("-".to_owned(), "not one column of text".to_owned()), Self::Rows),
            Err(error) => match error.as_db_error() {
                Some(error) => Self::Error(error.code().code().to_owned(), error.message().to_owned()),
                None => Self::Error("-".to_owned(), error.to_string()),
            },
        }
    }

    fn satisfies(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Error(code, _), Self::Error(expected, _)) => code == expected,
            _ => self == expected,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Rows(rows) if rows.is_empty() => "    no rows\n".to_owned(),
            Self::Rows(rows) => rows.iter().map(|row| format!("    -- = {row}\n")).collect(),
            Self::Error(code, message) => format!("    -- ! {code}  {message}\n"),
        }
    }
}

impl Case {
    fn is_for(&self, profile: Profile) -> bool {
        self.only.as_ref().is_none_or(|only| only == profile.as_str())
    }

    /// What does not hold, with its place; empty if all does.
    pub(crate) fn mismatches(&self, place: &str, answers: &[Answer]) -> String {
        assert_eq!(answers.len(), self.statements.len(), "{}", self.name);
        let mut report = String::new();
        for (statement, answer) in self.statements.iter().zip(answers) {
            if !answer.satisfies(&statement.expected) {
                let (name, line) = (&self.name, statement.line);
                let (expected, found) = (statement.expected.describe(), answer.describe());
                writeln!(report, "{name}:{line} on {place}: expected\n{expected}  found\n{found}").unwrap();
            }
        }
        report
    }

    /// Runs every statement, whatever the ones before it answered.
    fn run(&self, client: &mut Client) -> Vec<Answer> {
        self.statements.iter().map(|statement| Answer::of(client.query(&statement.sql, &[]))).collect()
    }
}

/// Reads one file. A file that could not fail is refused.
fn parse(name: &str, text: &str) -> Result<Case, String> {
    let mut case = Case { name: name.to_owned(), only: None, statements: Vec::new() };
    let (mut sql, mut start, mut quote) = (String::new(), 0, None);
    let mut is_checked = false;
    if !text.starts_with("-- ") {
        return Err(format!("{name}:1: the first line says what the case shows"));
    }
    for (idx, line) in text.lines().enumerate() {
        let here = format!("{name}:{}", idx + 1);
        if quote.is_none() && line.starts_with("--") {
            let expectation = line.strip_prefix("-- =").or(line.strip_prefix("-- !")).map(str::trim);
            if let Some(only) = line.strip_prefix("-- only: ") {
                case.only = Some(only.trim().to_owned());
            } else if let Some(value) = expectation {
                let statement = case.statements.last_mut().filter(|_| sql.is_empty());
                let statement = statement.ok_or_else(|| format!("{here}: no statement ends before this"))?;
                is_checked = true;
                match &mut statement.expected {
                    Answer::Rows(rows) if line.starts_with("-- =") => rows.push(value.to_owned()),
                    Answer::Rows(rows) if rows.is_empty() => {
                        statement.expected = Answer::Error(value.to_owned(), String::new());
                    }
                    _ => return Err(format!("{here}: rows, or one error")),
                }
            }
            continue;
        }
        if sql.is_empty() {
            if line.trim().is_empty() {
                continue;
            }
            start = idx + 1;
        }
        sql += line;
        sql.push('\n');
        quote = quote_after(line, quote);
        if quote.is_none() && line.trim_end().ends_with(';') {
            let sql = std::mem::take(&mut sql);
            case.statements.push(Statement { line: start, sql, expected: Answer::Rows(Vec::new()) });
        }
    }
    if !sql.is_empty() {
        return Err(format!("{name}:{start}: the statement does not end with `;` at the end of a line"));
    }
    if name != "helpers.sql" && !is_checked {
        return Err(format!("{name}: nothing is expected"));
    }
    Ok(case)
}

/// The `$tag$` that is open at the end of a line.
fn quote_after(line: &str, open: Option<String>) -> Option<String> {
    let (mut rest, mut open) = (line, open);
    loop {
        if let Some(tag) = open {
            match rest.split_once(&tag) {
                Some((_, after)) => rest = after,
                None => return Some(tag),
            }
        }
        let (_, after) = rest.split_once('$')?;
        let (tag, is_tag) = match after.split_once('$') {
            Some((tag, _)) => (tag, tag.chars().all(|c| c.is_ascii_alphabetic() || c == '_')),
            None => return None,
        };
        open = is_tag.then(|| format!("${tag}$"));
        rest = if is_tag { &after[tag.len() + 1..] } else { after };
    }
}

fn read(name: &str) -> Case {
    let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
    parse(name, &text).unwrap_or_else(|error| panic!("{error}"))
}

/// What is run before each case.
pub(crate) fn helpers() -> Case {
    read("helpers.sql")
}

/// The cases for a profile, by name.
pub(crate) fn cases(profile: Profile) -> Vec<Case> {
    let names = fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".sql") && name != "helpers.sql").collect();
    names.sort();
    assert!(!names.is_empty());
    names.iter().map(|name| read(name)).filter(|case| case.is_for(profile)).collect()
}

/// Runs a case in a fresh database; gives what it leaves there, and what does not hold.
fn run_one_on_server(profile: Profile, case: &Case) -> (Database, String) {
    let mut database = Database::migrated(profile);
    let run = |case: &Case| case.mismatches(&profile.to_string(), &case.run(&mut database.client));
    let report = [&helpers(), case].map(run).concat();
    (database, report)
}

/// Runs each case; gives what does not hold.
fn run_on_server(profile: Profile, cases: &[Case]) -> String {
    let next = AtomicUsize::new(0);
    let run_cases = || {
        let mut report = String::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            report += &run_one_on_server(profile, case).1;
        }
        report
    };
    thread::scope(|scope| {
        let runs = [scope.spawn(run_cases), scope.spawn(run_cases)];
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// By far the longest case.
const FOURTEEN_MONTHS: &str = "fourteen_months.sql";

/// What fourteen simulated months leave behind, everything in them as expected.
#[track_caller]
pub(crate) fn after_fourteen_months(profile: Profile) -> Database {
    let (database, report) = run_one_on_server(profile, &read(FOURTEEN_MONTHS));
    assert!(report.is_empty(), "\n{report}");
    database
}

/// But for the longest, which `audit.rs` lives through.
#[test]
fn every_case_holds_on_every_profile_of_the_server() {
    for profile in profiles() {
        let cases: Vec<_> = cases(profile).into_iter().filter(|case| case.name != FOURTEEN_MONTHS).collect();
        let report = run_on_server(profile, &cases);
        assert!(report.is_empty(), "\n{report}");
    }
}

/// One statement a kind of wrong expectation, and what the report must say of it.
pub(crate) const WRONG: [(&str, &str); 7] = [
    ("SELECT 'a';\n-- = b", "expected\n    -- = b\n  found\n    -- = a\n"),
    ("SELECT 'a';", "expected\n    no rows\n  found\n    -- = a\n"),
    ("SELECT 'a' WHERE false;\n-- = a", "expected\n    -- = a\n  found\n    no rows\n"),
    ("SELECT unnest(ARRAY['a', 'b']);\n-- = a", "found\n    -- = a\n    -- = b\n"),
    ("SELECT 'a';\n-- ! 22012", "expected\n    -- ! 22012  \n  found\n    -- = a\n"),
    ("SELECT (1 / 0)::text;\n-- ! 22003", "found\n    -- ! 22012  division by zero\n"),
    ("SELECT 1;\n-- = 1", "found\n    -- ! -  not one column of text\n"),
];

/// All of them in one case: no statement hides the next.
pub(crate) fn wrong_case() -> Case {
    let statements: Vec<_> = WRONG.iter().map(|(statement, _)| *statement).collect();
    parse("wrong.sql", &format!("-- Wrong.\n{}\n", statements.join("\n"))).unwrap()
}

pub(crate) fn assert_all_reported(report: &str) {
    let mut line = 2;
    for (statement, said) in WRONG {
        let place = format!("wrong.sql:{line} on ");
        let reported = report.split("wrong.sql:").map(|part| format!("wrong.sql:{part}"));
        let mut reported = reported.filter(|part| part.starts_with(&place));
        assert!(
            reported.next().is_some_and(|part| part.contains(said)),
            "{place}{said}\nis not in\n{report}"
        );
        line += statement.lines().count();
    }
}

#[test]
fn a_wrong_expectation_is_reported_with_its_line() {
    let report = run_on_server(Profile::PostgreSql, &[wrong_case()]);
    assert_all_reported(&report);
}

#[test]
fn a_file_that_is_not_understood_is_refused_with_its_line() {
    let refuse = |text: &str| parse("x.sql", text).err().unwrap_or_default();
    assert_eq!(refuse("SELECT 'a';\n-- = a"), "x.sql:1: the first line says what the case shows");
    assert_eq!(refuse("-- x\n-- = a"), "x.sql:2: no statement ends before this");
    assert_eq!(refuse("-- x\nSELECT\n-- = a"), "x.sql:3: no statement ends before this");
    assert_eq!(refuse("-- x\nSELECT 'a';\n-- = a\n-- ! 22012"), "x.sql:4: rows, or one error");
    assert_eq!(refuse("-- x\nDO 'x';"), "x.sql: nothing is expected");
    let open = "x.sql:2: the statement does not end with `;` at the end of a line";
    assert_eq!(refuse("-- x\nSELECT 'a'"), open);
    assert_eq!(refuse("-- x\nDO $$\nBEGIN\n    NULL;\nEND;\n"), open);
}

#[test]
fn statements_end_outside_of_dollar_quotes() {
    let text = "-- x\nDO $$\nBEGIN\n    NULL;\n-- = inside\nEND\n$$;\n\
                DO $a$ BEGIN EXECUTE $$ x;\n$$; END $a$;\nSELECT '$1';\n-- = $1\n";
    let case = parse("x.sql", text).unwrap();
    let lines: Vec<_> = case.statements.iter().map(|statement| statement.line).collect();
    assert_eq!(lines, [2, 8, 10]);
    assert_eq!(case.statements[2].expected, Answer::Rows(vec!["$1".to_owned()]));
}
