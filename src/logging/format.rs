//! A record as a line of JSON, or as lines for journald. Pure, but for the clock and the thread's name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::thread;
use std::time::SystemTime;

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, Record};
use serde::Serialize;

/// journald cuts a line at 48 KiB (`LineMax=`), and what follows would have no priority and be no JSON. A control
/// character takes six bytes in JSON.
const MESSAGE_BYTES_MAX: usize = 7 * 1_024;
/// Of one field beside the message.
const FACT_BYTES_MAX: usize = 512;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<&'a str>,
    message: &'a str,
    #[serde(flatten)]
    facts: Facts,
}

/// What a line says in fields of its own beside its message: `attempt`, `rows`, `partitions`, `sqlstate`.
#[derive(Default, Serialize)]
struct Facts(BTreeMap<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Facts {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        // That is for `repeats.rs` only, and a line has the others already.
        if ["repeats", "timestamp", "level", "target", "thread", "message"].contains(&key.as_str()) {
            return Ok(());
        }
        let mut fact = Fact(serde_json::Value::Null);
        value.visit(&mut fact)?;
        if !fact.0.is_null() {
            self.0.insert(key.as_str().to_owned(), fact.0);
        }
        Ok(())
    }
}

struct Fact(serde_json::Value);

impl VisitValue<'_> for Fact {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.0 = cut(value.to_string(), FACT_BYTES_MAX).into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

/// One object and a newline.
pub(super) fn json<W: Write>(out: &mut W, record: &Record<'_>) -> io::Result<()> {
    json_at(out, record, SystemTime::now())
}

fn json_at(out: &mut impl Write, record: &Record<'_>, now: SystemTime) -> io::Result<()> {
    let thread = thread::current();
    let mut facts = Facts::default();
    record.key_values().visit(&mut facts).map_err(io::Error::other)?;
    let line = Line {
        timestamp: &humantime::format_rfc3339_millis(now).to_string(),
        level: record.level().as_str(),
        target: record.target(),
        thread: thread.name(),
        message: &message(record),
        facts,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// Lines with sd-daemon's prefixes, such as `<4>usage_processor::poll: ...`.
pub(super) fn journal<W: Write>(out: &mut W, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    for line in message(record).lines() {
        writeln!(out, "<{priority}>{}: {}", record.target(), printable(line))?;
    }
    Ok(())
}

/// The record's text, or as much of it as fits.
fn message(record: &Record<'_>) -> String {
    cut(record.args().to_string(), MESSAGE_BYTES_MAX)
}

fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
    text
}

/// journald ends a line at NUL too, and what reads it may be a terminal.
fn printable(line: &str) -> Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() || c == '\t';
    if line.chars().all(is_plain) {
        return Cow::Borrowed(line);
    }
    let escape = |c: char| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() };
    Cow::Owned(line.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use log::kv::ToValue as _;
    use proptest::prelude::*;

    use super::*;

    fn written(
        format: impl Fn(&mut Vec<u8>, &Record<'_>) -> io::Result<()>,
        level: Level,
        text: &str,
    ) -> String {
        let mut out = Vec::new();
        let arguments = format_args!("{text}");
        format(&mut out, &Record::builder().level(level).target("a::b").args(arguments).build()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn check_journal(level: Level, text: &str, expected: &str) {
        assert_eq!(written(journal, level, text), expected);
    }

    /// On a thread with a name, at a known time.
    #[track_caller]
    fn check_json(level: Level, text: &str, expected: &str) {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        let text = text.to_owned();
        let write = move || written(|out, record| json_at(out, record, at), level, &text);
        let line = thread::Builder::new().name("writer-0".to_owned()).spawn(write).unwrap().join().unwrap();
        assert_eq!(line, expected);
    }

    #[test]
    fn journald_gets_a_priority_for_every_line() {
        check_journal(Level::Error, "a: b", "<3>a::b: a: b\n");
        check_journal(Level::Warn, "a", "<4>a::b: a\n");
        check_journal(Level::Info, "a", "<6>a::b: a\n");
        check_journal(Level::Debug, "a", "<7>a::b: a\n");
        check_journal(Level::Trace, "a", "<7>a::b: a\n");
        check_journal(
            Level::Error,
            "2 mistakes:\n  one\n  two",
            "<3>a::b: 2 mistakes:\n<3>a::b:   one\n<3>a::b:   two\n",
        );
        check_journal(Level::Warn, "\u{1b}[2Jü\0\r<0>\t", "<4>a::b: \\u{1b}[2Jü\\u{0}\\r<0>\t\n");
    }

    #[test]
    fn json_is_one_object_a_line() {
        check_json(
            Level::Warn,
            "copying 5 rows: \"x\"\nis\\gone \u{1b}",
            concat!(
                r#"{"timestamp":"1970-01-01T00:00:01.500Z","level":"WARN","target":"a::b","thread":"writer-0","#,
                r#""message":"copying 5 rows: \"x\"\nis\\gone \u001b"}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn facts_are_fields_in_json() {
        let (sqlstate, class): (_, Option<&str>) = (Some("57P01"), None);
        let facts: &[(&str, Value<'_>)] = &[
            ("attempt", Value::from(3_u32)),
            ("repeats", Value::from("again")),
            ("message", Value::from("another")),
            ("partitions", Value::from_debug(&[0, 7])),
            ("sqlstate", sqlstate.to_value()),
            ("class", class.to_value()),
        ];
        let mut out = Vec::new();
        json(&mut out, &Record::builder().args(format_args!("a")).key_values(&facts).build()).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(
            line.ends_with(
                "\"message\":\"a\",\"attempt\":3,\"partitions\":\"[0, 7]\",\"sqlstate\":\"57P01\"}\n"
            ),
            "{line}"
        );
    }

    #[test]
    fn no_line_is_longer_than_journald_takes() {
        for text in ["ü".repeat(100_000), "\u{1}".repeat(100_000)] {
            for format in [journal as fn(&mut Vec<u8>, &Record<'_>) -> io::Result<()>, json] {
                let line = written(format, Level::Debug, &text);
                assert!(line.len() < 48 * 1_024 && line.lines().count() == 1, "{}", line.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_message_is_a_line_of_json_that_says_it(text in any::<String>()) {
            let line = written(json, Level::Info, &text);
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["message"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn every_line_for_journald_has_a_priority(text in any::<String>()) {
            let lines = written(journal, Level::Error, &text);
            prop_assert!(lines.split_terminator('\n').all(|line| line.starts_with("<3>a::b: ")));
            let is_obeyed = lines.contains(['\0', '\r', '\u{1b}']);
            prop_assert!(!is_obeyed);
        }
    }
}
