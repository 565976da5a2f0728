//! The log: lines on standard error as text for people, as JSON for programs, or as journald reads them from
//! a unit. Set up once, by `main`; written by every thread, librdkafka's too.
//!
//! A line is written whole, with one call. What repeats is bounded by `repeats`. A standard error that is closed is no
//! reason to stop: what cannot be written is lost. No line shows a password; payloads are shown at `debug` and below only.

mod format;
pub mod librdkafka;
mod repeats;

use std::backtrace::Backtrace;
use std::panic;
use std::str::FromStr;
use std::time::Instant;

use env_logger::WriteStyle;
use indicatif::{ProgressBar, WeakProgressBar};
use log::{Log, Metadata, Record};
use parking_lot::Mutex;

use crate::config::{ConfigError, Mistake};
use repeats::{Repeats, Suppressed};

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// `[2026-01-31T12:00:00.000Z INFO  usage_processor::poll] ...`, coloured on a terminal.
    #[default]
    Text,
    /// An object a line: `timestamp` (RFC 3339, milliseconds, UTC), `level`, `target`, `thread` (where it has a name),
    /// `message`.
    Json,
    /// `<6>usage_processor::poll: ...`: journald takes the number for the priority, and has the time itself. Each line of a
    /// message has its own.
    Journal,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "journal" => Ok(Self::Journal),
            _ => Err("wanted is text, json or journal"),
        }
    }
}

/// Starts the log, with LOG_LEVEL and LOG_FORMAT as they were given.
///
/// # Errors
/// When one of them is no value: both are told, and the log is as if the wrong ones had not been given, so that it can say so.
pub fn start(level: &str, format: &str) -> Result<(), ConfigError> {
    let (level, format, mistakes) = read(level, format);
    install(level, format);
    if mistakes.is_empty() { Ok(()) } else { Err(ConfigError { mistakes }) }
}

fn read<'a>(level: &'a str, format: &str) -> (&'a str, Format, Vec<Mistake>) {
    let mut mistakes = Vec::new();
    let mut mistake = |variable, value: &str, allowed: &str| {
        mistakes.push(Mistake { variable, value: Some(value.to_owned()), allowed: allowed.to_owned() });
    };
    let format = format.parse().unwrap_or_else(|allowed| {
        mistake("LOG_FORMAT", format, allowed);
        Format::default()
    });
    if env_filter::Builder::new().try_parse(level).is_ok() {
        return (level, format, mistakes);
    }
    const ALLOWED: &str =
        "wanted is error, warn, info, debug, trace, or a filter such as info,librdkafka=debug";
    mistake("LOG_LEVEL", level, ALLOWED);
    ("info", format, mistakes)
}

/// Says what is still to be said, at the end of the program.
pub fn finish() {
    log::logger().flush();
}

fn install(level: &str, format: Format) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(level);
    match format {
        Format::Text => builder.format_timestamp_millis(),
        Format::Json => builder.write_style(WriteStyle::Never).format(format::json),
        Format::Journal => builder.write_style(WriteStyle::Never).format(format::journal),
    };
    let lines = builder.build();
    let level_max = lines.filter();
    let logger = Logger { lines, repeats: Mutex::new(Repeats::default()) };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level_max);
    }
    // What the standard library prints of a panic would be no line of this format.
    if format != Format::Text {
        panic::set_hook(Box::new(|info| log::error!(target: "panic", "{info}\n{}", Backtrace::capture())));
    }
}

/// Lines that go on while this bar is drawn are written above it.
pub fn stay_above(bar: &ProgressBar) {
    *BAR.lock() = Some(bar.downgrade());
}

/// The bar that is drawn now, if any.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

struct Logger {
    lines: env_logger::Logger,
    repeats: Mutex<Repeats>,
}

impl Logger {
    fn write(&self, record: &Record<'_>) {
        let bar = BAR.lock().as_ref().and_then(WeakProgressBar::upgrade);
        match bar {
            Some(bar) => bar.suspend(|| self.lines.log(record)),
            None => self.lines.log(record),
        }
    }

    fn say(&self, suppressed: &Suppressed) {
        self.write(
            &Record::builder()
                .level(suppressed.level)
                .target(&suppressed.target)
                .args(format_args!("{suppressed}"))
                .build(),
        );
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.lines.matches(record) {
            return;
        }
        let kind = repeats::kind_of(record);
        let (is_new, over) = self.repeats.lock().admit(kind, Instant::now());
        over.iter().for_each(|suppressed| self.say(suppressed));
        if is_new {
            self.write(record);
        }
    }

    fn flush(&self) {
        let pending = self.repeats.lock().take_all();
        pending.iter().for_each(|suppressed| self.say(suppressed));
        self.lines.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mistakes_are_told() {
        let (level, format, mistakes) = read("usage_processor=loud", "xml");
        assert_eq!((level, format), ("info", Format::Text));
        let error = ConfigError { mistakes }.to_string();
        assert!(error.contains("LOG_FORMAT=\"xml\": wanted is text, json or journal"), "{error}");
        assert!(error.contains("LOG_LEVEL=\"usage_processor=loud\": wanted is error, warn"), "{error}");
        let level = "info,librdkafka=debug";
        assert_eq!(read(level, "json"), (level, Format::Json, Vec::new()));
    }

    /// In a process of its own, this test again: the hook is the process's.
    #[test]
    fn a_panic_is_a_line_too() {
        const FORMAT: &str = "LOG_FORMAT_OF_PANIC";
        if let Ok(format) = std::env::var(FORMAT) {
            install("info", format.parse().unwrap());
            panic!("on\npurpose");
        }
        let said = |format: &str| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "logging::tests::a_panic_is_a_line_too"]).env(FORMAT, format);
            let said = child.output().unwrap().stderr;
            String::from_utf8(said).unwrap()
        };
        let json = said("json");
        let line: serde_json::Value =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let is_there = line["message"].as_str().is_some_and(|message| message.contains("on\npurpose"));
        assert!(is_there && line["target"] == "panic" && line["level"] == "ERROR", "{json}");
        let journal = said("journal");
        assert!(journal.contains("<3>panic: purpose\n"), "{journal}");
        assert!(journal.lines().all(|line| line.starts_with("<3>panic: ")), "{journal}");
    }

    #[test]
    fn formats_are_read_with_white_space_around_them() {
        assert_eq!(" journal\n".parse(), Ok(Format::Journal));
        assert_eq!("json".parse(), Ok(Format::Json));
        assert_eq!("text".parse(), Ok(Format::Text));
        assert!("JSON".parse::<Format>().is_err());
    }
}
