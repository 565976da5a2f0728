//! Text as gateways write it, straight into a byte buffer: decimal numbers, UUIDs, RFC 3339 times.
//! Pure. Nothing here is shared with the pipeline's parsers: the two must agree by the standards,
//! not by a common mistake.

use std::fmt;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// A UUID; ordered as its text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(u128);

impl Uuid {
    /// A version 4 UUID from 128 even bits, six of which give way to version and variant.
    pub(super) fn from_random_bits(bits: u128) -> Uuid {
        const VERSION_AND_VARIANT: u128 = 0xf << 76 | 0b11 << 62;
        Uuid(bits & !VERSION_AND_VARIANT | 4 << 76 | 0b10 << 62)
    }

    /// The 36 characters, in lower case.
    pub(super) fn text(self) -> [u8; 36] {
        let (mut text, mut at) = ([b'-'; 36], 0);
        for nibble_idx in (0..32).rev() {
            if matches!(at, 8 | 13 | 18 | 23) {
                at += 1;
            }
            text[at] = b"0123456789abcdef"[(self.0 >> (4 * nibble_idx) & 0xf) as usize];
            at += 1;
        }
        text
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().iter().try_for_each(|&byte| fmt::Write::write_char(f, char::from(byte)))
    }
}

/// How a gateway writes a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeFormat {
    /// `2026-01-31T12:00:00.123456Z`.
    Micros,
    /// `2026-01-31T12:00:00.123Z`.
    Millis,
    /// Local time with its distance from UTC: `2026-01-31T17:30:00.123+05:30`.
    Offset {
        /// Minutes ahead of UTC.
        minutes: i16,
    },
    /// Integer milliseconds since 1970, as a JSON number.
    EpochMillis,
}

impl TimeFormat {
    /// What is left of a time once it has been written this way.
    pub(super) fn truncate(self, time_micros: i64) -> i64 {
        match self {
            TimeFormat::Micros => time_micros,
            _ => time_micros - time_micros.rem_euclid(1_000),
        }
    }

    /// Appends the time as a JSON value. Years 0 to 9999.
    pub(super) fn write_json(self, time_micros: i64, out: &mut Vec<u8>) {
        if self == TimeFormat::EpochMillis {
            push_decimal(out, time_micros.div_euclid(1_000).unsigned_abs());
            return;
        }
        let minutes = if let TimeFormat::Offset { minutes } = self { i64::from(minutes) } else { 0 };
        let local_micros = time_micros + minutes * 60 * MICROS_PER_SECOND;
        out.push(b'"');
        push_date_and_time(out, local_micros.div_euclid(MICROS_PER_SECOND));
        out.push(b'.');
        let fraction = local_micros.rem_euclid(MICROS_PER_SECOND).unsigned_abs();
        match self {
            TimeFormat::Micros => push_padded(out, fraction, 6),
            _ => push_padded(out, fraction / 1_000, 3),
        }
        if let TimeFormat::Offset { .. } = self {
            out.push(if minutes < 0 { b'-' } else { b'+' });
            push_padded(out, minutes.unsigned_abs() / 60, 2);
            out.push(b':');
            push_padded(out, minutes.unsigned_abs() % 60, 2);
        } else {
            out.push(b'Z');
        }
        out.push(b'"');
    }
}

/// `2026-01-31T12:00:00Z`.
pub(super) fn rfc3339_seconds(epoch_seconds: i64) -> String {
    let mut text = Vec::with_capacity(20);
    push_date_and_time(&mut text, epoch_seconds);
    text.push(b'Z');
    text.into_iter().map(char::from).collect()
}

/// Appends a number in decimal.
pub(super) fn push_decimal(out: &mut Vec<u8>, number: u64) {
    push_padded(out, number, number.checked_ilog10().map_or(1, |log| log as usize + 1));
}

/// Appends the last `width` (at most 20) decimal digits of a number, with leading zeros.
fn push_padded(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let unused = digits.len() - width;
    for digit in digits[unused..].iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[unused..]);
}

/// Appends `2026-01-31T12:00:00`.
fn push_date_and_time(out: &mut Vec<u8>, epoch_seconds: i64) {
    let (year, month, day) = civil_date(epoch_seconds.div_euclid(SECONDS_PER_DAY));
    let second_of_day = epoch_seconds.rem_euclid(SECONDS_PER_DAY).unsigned_abs();
    push_padded(out, year, 4);
    for (before, number) in [
        (b'-', month),
        (b'-', day),
        (b'T', second_of_day / 3_600),
        (b':', second_of_day / 60 % 60),
        (b':', second_of_day % 60),
    ] {
        out.push(before);
        push_padded(out, number, 2);
    }
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar: Howard Hinnant's
/// `civil_from_days`, which counts years from March so that the leap day comes last.
fn civil_date(days: i64) -> (u64, u64, u64) {
    const DAYS_FROM_YEAR_0: i64 = 719_468; // 0000-03-01 to 1970-01-01.
    const DAYS_PER_ERA: i64 = 146_097; // 400 years.
    let shifted = days + DAYS_FROM_YEAR_0;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year.unsigned_abs(), month.unsigned_abs(), day.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: TimeFormat, time_micros: i64) -> String {
        let mut out = Vec::new();
        format.write_json(time_micros, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_written_as_other_tools_read_them() {
        // The expected texts come from GNU date: `date -u -d @1709210096`.
        let leap_day = 1_709_210_096_123_456;
        assert_eq!(written(TimeFormat::Micros, leap_day), "\"2024-02-29T12:34:56.123456Z\"");
        assert_eq!(written(TimeFormat::Millis, leap_day), "\"2024-02-29T12:34:56.123Z\"");
        assert_eq!(
            written(TimeFormat::Offset { minutes: 330 }, leap_day),
            "\"2024-02-29T18:04:56.123+05:30\""
        );
        assert_eq!(
            written(TimeFormat::Offset { minutes: -810 }, leap_day),
            "\"2024-02-28T23:04:56.123-13:30\""
        );
        assert_eq!(written(TimeFormat::EpochMillis, leap_day), "1709210096123");
        assert_eq!(TimeFormat::EpochMillis.truncate(leap_day), 1_709_210_096_123_000);
    }

    #[test]
    fn dates_agree_with_an_independent_calendar() {
        for days in (-100_000_i64..300_000).step_by(17) {
            let seconds = days * SECONDS_PER_DAY + 3_661;
            let Ok(since_epoch) = u64::try_from(seconds) else { continue };
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(since_epoch);
            assert_eq!(rfc3339_seconds(seconds), humantime::format_rfc3339_seconds(time).to_string());
        }
        assert_eq!(rfc3339_seconds(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn numbers_and_uuids_have_their_usual_text() {
        for number in [0, 7, 10, 99, 100, 2_147_483_647, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        assert_eq!(Uuid::from_random_bits(0).to_string(), "00000000-0000-4000-8000-000000000000");
        assert_eq!(Uuid::from_random_bits(u128::MAX).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
