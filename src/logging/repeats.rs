//! What repeats is said once in [`INTERVAL`], and how often it was said in between is told after it. Pure: the caller
//! has the clock and the lock.
//!
//! Which lines are alike ([`kind_of`]): warnings and errors of the same place with the same text; lines that carry the
//! value `repeats`, of the same place with the same value but for its digits; librdkafka's, with the same text but
//! for digits, from the same of its threads (which is a broker's). All others are said each time.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use log::kv::Key;
use log::{Level, Record};

use super::librdkafka;

/// Short enough for whoever watches an outage, long enough that a day of it is three thousand lines.
const INTERVAL: Duration = Duration::from_secs(30);
/// Kinds that are remembered: far more than there are places that repeat. Beyond it the oldest is forgotten, so that new
/// ones are always said.
const KINDS_MAX: usize = 256;
/// How much of a text tells kinds apart, and is said again.
const TEXT_CHARS_MAX: usize = 400;

/// What tells lines apart that are not the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    level: Level,
    file: Option<&'static str>,
    line: Option<u32>,
    text: String,
}

/// A line that may have to be suppressed.
#[derive(Debug)]
pub(super) struct Candidate {
    kind: Kind,
    target: String,
    said: String,
}

/// Lines that were not said, all like the one that was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) level: Level,
    pub(super) target: String,
    said: String,
    count: u64,
    elapsed_s: u64,
}

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { said, count, elapsed_s, .. } = self;
        write!(f, "said {count} more times within {elapsed_s} s: {said}")
    }
}

/// The kind of a line that must not flood the log; `None` for one that is always said.
pub(super) fn kind_of(record: &Record<'_>) -> Option<Candidate> {
    let repeats = record.key_values().get(Key::from("repeats")).map(|value| value.to_string());
    let is_librdkafka = record.target() == librdkafka::TARGET;
    if record.level() > Level::Info || (repeats.is_none() && !is_librdkafka && record.level() > Level::Warn) {
        return None;
    }
    let said: String = record.args().to_string().chars().take(TEXT_CHARS_MAX).collect();
    let text = match repeats {
        Some(repeats) => without_digits(&repeats),
        None if is_librdkafka => match said.split_once("]: ") {
            Some((thread, rest)) => format!("{thread} {}", without_digits(rest)),
            None => without_digits(&said),
        },
        None => said.clone(),
    };
    let kind = Kind { level: record.level(), file: record.file_static(), line: record.line(), text };
    Some(Candidate { kind, target: record.target().to_owned(), said })
}

/// Each number as one `#`.
fn without_digits(text: &str) -> String {
    let mut kind = String::with_capacity(text.len());
    for c in text.chars().take(TEXT_CHARS_MAX) {
        match c.is_ascii_digit() {
            true if kind.ends_with('#') => {}
            true => kind.push('#'),
            false => kind.push(c),
        }
    }
    kind
}

#[derive(Debug)]
struct Window {
    since: Instant,
    suppressed: Suppressed,
}

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    windows: HashMap<Kind, Window>,
}

impl Repeats {
    /// Whether the line is to be said, and what is to be said before it: counts of kinds whose interval is over.
    pub(super) fn admit(&mut self, candidate: Option<Candidate>, now: Instant) -> (bool, Vec<Suppressed>) {
        let mut over = self.take(now, |elapsed| elapsed >= INTERVAL);
        let Some(Candidate { kind, target, said }) = candidate else { return (true, over) };
        if let Some(window) = self.windows.get_mut(&kind) {
            window.suppressed.count += 1;
            return (false, over);
        }
        if self.windows.len() >= KINDS_MAX
            && let Some(oldest) = self.windows.values().map(|window| window.since).min()
        {
            let age = now.saturating_duration_since(oldest);
            over.extend(self.take(now, |elapsed| elapsed >= age));
        }
        let suppressed = Suppressed { level: kind.level, target, said, count: 0, elapsed_s: 0 };
        self.windows.insert(kind, Window { since: now, suppressed });
        (true, over)
    }

    /// All that is not told yet.
    pub(super) fn take_all(&mut self) -> Vec<Suppressed> {
        self.take(Instant::now(), |_| true)
    }

    fn take(&mut self, now: Instant, is_over: impl Fn(Duration) -> bool) -> Vec<Suppressed> {
        let elapsed = |window: &Window| now.saturating_duration_since(window.since);
        self.windows
            .extract_if(|_, window| is_over(elapsed(window)))
            .map(|(_, window)| Suppressed { elapsed_s: elapsed(&window).as_secs(), ..window.suppressed })
            .filter(|suppressed| suppressed.count > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn candidate(
        level: Level,
        target: &str,
        line: u32,
        repeats: Option<&str>,
        text: &str,
    ) -> Option<Candidate> {
        let repeats = repeats.map(|value| [("repeats", value)]);
        let mut builder = Record::builder();
        builder.level(level).target(target).file_static(Some("a.rs")).line(Some(line));
        if let Some(repeats) = &repeats {
            builder.key_values(repeats);
        }
        kind_of(&builder.args(format_args!("{text}")).build())
    }

    /// Whether the second of two lines is suppressed.
    #[track_caller]
    fn check(first: Option<Candidate>, second: Option<Candidate>, is_suppressed: bool) {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        assert!(repeats.admit(first, now).0, "the first is always said");
        assert_eq!(repeats.admit(second, now + SECOND).0, !is_suppressed);
    }

    #[test]
    fn lines_are_alike_by_place_and_text() {
        use Level::{Debug, Error, Info, Warn};
        let plain = |level, line, text| candidate(level, "a", line, None, text);
        check(plain(Warn, 1, "x 1"), plain(Warn, 1, "x 1"), true);
        check(plain(Warn, 1, "x 1"), plain(Warn, 1, "x 2"), false);
        check(plain(Warn, 1, "x 1"), plain(Warn, 2, "x 1"), false);
        check(plain(Warn, 1, "x 1"), plain(Error, 1, "x 1"), false);
        check(plain(Info, 1, "x 1"), plain(Info, 1, "x 1"), false);
        let marked = |level, repeats, text| candidate(level, "a", 1, Some(repeats), text);
        check(marked(Info, "full", "pausing 1"), marked(Info, "full", "pausing 2"), true);
        check(
            marked(Warn, "reset after 5 s", "attempt 1"),
            marked(Warn, "reset after 70 s", "attempt 2"),
            true,
        );
        check(marked(Warn, "reset", "attempt 1"), marked(Warn, "refused", "attempt 2"), false);
        check(marked(Debug, "full", "a"), marked(Debug, "full", "a"), false);
        let kafka = |text: &str| candidate(Info, "librdkafka", 1, None, text);
        let fail = |broker: &str, ms| format!("FAIL: [thrd:{broker}]: {broker}: refused (after {ms}ms)");
        check(kafka(&fail("b1:9092", 0)), kafka(&fail("b1:9092", 17)), true);
        check(kafka(&fail("b1:9092", 0)), kafka(&fail("b2:9092", 0)), false);
    }

    #[test]
    fn what_was_not_said_is_counted_and_told() {
        let line = |text: &str| candidate(Level::Warn, "a", 1, Some("x"), text);
        let start = Instant::now();
        let mut repeats = Repeats::default();
        for second in 0..90 {
            let (is_said, over) = repeats.admit(line(&format!("at {second}")), start + SECOND * second);
            let told: Vec<_> = over.iter().map(ToString::to_string).collect();
            match second {
                0 => assert!(is_said && told.is_empty()),
                30 | 60 => {
                    assert!(is_said);
                    assert_eq!(told, [format!("said 29 more times within 30 s: at {}", second - 30)]);
                }
                _ => assert!(!is_said && told.is_empty(), "{second}"),
            }
        }
        assert_eq!(repeats.take_all()[0].count, 29);
        assert_eq!(repeats.take_all(), []);
    }

    #[test]
    fn any_later_line_tells_what_was_not_said() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        for _ in 0..3 {
            repeats.admit(candidate(Level::Error, "a", 1, None, "x"), start);
        }
        let (is_said, over) = repeats.admit(None, start + INTERVAL);
        assert!(is_said && over.len() == 1 && over[0].count == 2, "{over:?}");
    }

    #[test]
    fn kinds_are_bounded_and_new_ones_are_said() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        for n in 0..10 * u32::try_from(KINDS_MAX).unwrap() {
            let at = start + Duration::from_micros(n.into());
            assert!(repeats.admit(candidate(Level::Error, "a", 1, None, &format!("x {n}")), at).0);
            assert!(repeats.windows.len() <= KINDS_MAX);
        }
    }
}
