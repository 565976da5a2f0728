//! Numbers as people read them, the same on the page and in the terminal. Pure.

use std::time::{Duration, UNIX_EPOCH};

use indicatif::{DecimalBytes, HumanCount};

/// Stands for a number that is not known.
pub(super) const UNKNOWN: &str = "\u{2013}";

/// `1,234,567`.
pub(super) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// `1,234,567`; offsets are never negative, except those of a broken server.
pub(super) fn offset(n: i64) -> String {
    u64::try_from(n).map_or_else(|_| n.to_string(), count)
}

/// `12,340`, and below ten `2.5`: a trickle is not nothing.
pub(super) fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        return format!("{:.1}", per_second.max(0.1));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    count(per_second.round() as u64)
}

/// `42 %` for 0.42; what is there is at least `<1 %`.
pub(super) fn percent(part: f64) -> String {
    match 100.0 * part {
        percent if percent > 0.0 && percent < 0.5 => "<1 %".to_owned(),
        percent if percent < 100.0 && percent > 99.5 => ">99 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

/// A part of a whole, 0 of nothing.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// `12.3 GB`.
pub(super) fn bytes(n: u64) -> String {
    DecimalBytes(n).to_string()
}

/// `0.4 ms`, `18.2 ms`, `235 ms`, `1.25 s`, and from two minutes on as [`span`].
pub(super) fn latency(micros: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
    let millis = micros as f64 / 1_000.0;
    match millis {
        _ if millis < 99.95 => format!("{millis:.1} ms"),
        _ if millis < 999.5 => format!("{millis:.0} ms"),
        _ if millis < 10_000.0 => format!("{:.2} s", millis / 1_000.0),
        _ if millis < 120_000.0 => format!("{:.1} s", millis / 1_000.0),
        _ => span(micros / 1_000_000),
    }
}

/// The two largest units of a time in seconds: `42 s`, `3 min 5 s`, `2 h 10 min`, `5 d 4 h`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// How long before `now_ms` something was, as [`span`]; what seems to lie ahead is now.
pub(super) fn span_since(now_ms: i64, then_ms: i64) -> String {
    span(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0) / 1_000)
}

/// `2026-11-24T07:15:02Z`; what RFC 3339 has no words for is the number.
pub(super) fn rfc3339(at_ms: i64) -> String {
    utc(at_ms).unwrap_or_else(|| format!("{at_ms} ms"))
}

fn utc(at_ms: i64) -> Option<String> {
    // Year 9999, where the format ends.
    const LAST_MS: u64 = 253_402_300_799_999;
    let millis = u64::try_from(at_ms).ok().filter(|millis| *millis <= LAST_MS)?;
    Some(humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis)).to_string())
}

/// `07:15:02`, UTC.
pub(super) fn time_of_day(at_ms: i64) -> String {
    utc(at_ms).map_or_else(|| rfc3339(at_ms), |text| text[11..19].to_owned())
}

/// `2026-11-24 07:15:02`, UTC.
pub(super) fn date_time(at_ms: i64) -> String {
    utc(at_ms).map_or_else(|| rfc3339(at_ms), |text| text[..19].replace('T', " "))
}

/// `1 thread`, `2 threads`.
pub(super) fn plural(n: u64, word: &str) -> String {
    format!("{} {word}{}", count(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_say_something() {
        assert_eq!([0.0, 0.04, 2.54, 9.96, 12_340.4].map(rate), ["0", "0.1", "2.5", "10", "12,340"]);
        assert_eq!([0.0, 0.001, 0.42, 0.999, 1.0].map(percent), ["0 %", "<1 %", "42 %", ">99 %", "100 %"]);
        assert_eq!(
            [400, 18_240, 234_500, 999_700, 12_340_000, 185_000_000].map(latency),
            ["0.4 ms", "18.2 ms", "234 ms", "1.00 s", "12.3 s", "3 min 5 s"]
        );
        assert_eq!([42, 185, 7_800, 446_400].map(span), ["42 s", "3 min 5 s", "2 h 10 min", "5 d 4 h"]);
        assert_eq!([offset(-1), offset(1_234)], ["-1", "1,234"]);
    }

    #[test]
    fn times_that_are_none_are_shown_all_the_same() {
        assert_eq!(date_time(1_795_504_502_000), "2026-11-24 07:15:02");
        assert_eq!(time_of_day(1_795_504_502_999), "07:15:02");
        assert_eq!([i64::MIN, -1].map(time_of_day), [format!("{} ms", i64::MIN), "-1 ms".to_owned()]);
        date_time(i64::MAX);
        assert_eq!(span_since(5_000, 9_000), "0 s");
    }
}
