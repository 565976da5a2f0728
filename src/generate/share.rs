//! A share of the traffic, such as `1%` or `0.1%`: exact in parts per million, so that no draw
//! depends on floating point and a seed gives the same stream everywhere. Pure.

use std::fmt;
use std::str::FromStr;

/// Parts per million in a whole.
const WHOLE_PPM: u32 = 1_000_000;

/// A share between 0 % and 100 %, in steps of 0.0001 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share {
    parts_per_million: u32,
}

/// Why a text is no [`Share`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a percentage between 0% and 100% with at most four decimals, such as 1% or 0.1%")]
pub struct ParseShareError;

impl Share {
    /// 0 %.
    pub const NONE: Share = Share { parts_per_million: 0 };
    /// 100 %.
    pub const ALL: Share = Share { parts_per_million: WHOLE_PPM };

    /// The share of `parts` in a million, at most all of it.
    pub fn from_parts_per_million(parts: u32) -> Share {
        Share { parts_per_million: parts.min(WHOLE_PPM) }
    }

    /// The share in parts per million, 0 to 1,000,000.
    pub fn parts_per_million(self) -> u32 {
        self.parts_per_million
    }

    /// What remains of the whole without this share.
    pub fn rest(self) -> Share {
        Share { parts_per_million: WHOLE_PPM - self.parts_per_million }
    }

    /// This share as a share of `part` (1 % of everything is 2 % of one half); all of it if it is larger.
    pub fn relative_to(self, part: Share) -> Share {
        let own = u64::from(self.parts_per_million);
        let ratio = (own * u64::from(WHOLE_PPM)).checked_div(u64::from(part.parts_per_million)).unwrap_or(0);
        Share::from_parts_per_million(u32::try_from(ratio).unwrap_or(WHOLE_PPM))
    }
}

impl FromStr for Share {
    type Err = ParseShareError;

    /// Reads `1%`, `0.1%` or `100%`; the percent sign is required, so that nobody means 0.1 and writes 0.1 %.
    fn from_str(text: &str) -> Result<Share, ParseShareError> {
        let number = text.strip_suffix('%').ok_or(ParseShareError)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(whole) || whole.len() > 3 || !is_digits(decimals) || decimals.len() > 4 {
            return Err(ParseShareError);
        }
        let parts: u32 = format!("{whole}{decimals:0<4}").parse().map_err(|_| ParseShareError)?;
        if parts > WHOLE_PPM { Err(ParseShareError) } else { Ok(Share { parts_per_million: parts }) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.parts_per_million / 10_000, self.parts_per_million % 10_000);
        if decimals == 0 {
            return write!(f, "{whole}%");
        }
        write!(f, "{whole}.{}%", format!("{decimals:04}").trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_read_exactly_and_written_back() {
        for (text, parts) in [("0%", 0), ("1%", 10_000), ("0.1%", 1_000), ("0.0001%", 1), ("100%", WHOLE_PPM)]
        {
            let share: Share = text.parse().unwrap();
            assert_eq!(share.parts_per_million(), parts, "{text}");
            assert_eq!(share.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "%", "1", "0.01", "-1%", "101%", "100.1%", "1e2%", ".5%", "1.%", "0.00001%", "one%", "+1%"]
        {
            assert_eq!(text.parse::<Share>(), Err(ParseShareError), "{text}");
        }
    }

    #[test]
    fn a_share_of_a_part_never_exceeds_all_of_it() {
        let tenth = Share::from_parts_per_million(100_000);
        assert_eq!(tenth.relative_to(Share::from_parts_per_million(500_000)).to_string(), "20%");
        assert_eq!(tenth.relative_to(Share::from_parts_per_million(50_000)), Share::ALL);
        assert_eq!(Share::NONE.relative_to(Share::NONE), Share::NONE);
    }
}
