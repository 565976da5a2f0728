//! Reads values and collects mistakes on the way, so that all can be reported at once. Pure.
//!
//! A value that is wrong is noted and stands in as something harmless, which nobody uses: with a
//! mistake there is no configuration.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{Mistake, format_duration};

/// Collects mistakes while values are read.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) mistakes: Vec<Mistake>,
}

impl Judge {
    pub(super) fn mistake(&mut self, variable: &'static str, value: &str, allowed: impl Into<String>) {
        self.mistakes.push(Mistake { variable, value: Some(value.to_owned()), allowed: allowed.into() });
    }

    pub(super) fn secret_mistake(&mut self, variable: &'static str, allowed: impl Into<String>) {
        self.mistakes.push(Mistake { variable, value: None, allowed: allowed.into() });
    }

    pub(super) fn text(&mut self, variable: &'static str, value: &str) -> String {
        if value.trim().is_empty() {
            self.mistake(variable, value, "must not be empty");
        }
        value.trim().to_owned()
    }

    /// A number in a range; the range's start stands in for a mistake.
    pub(super) fn number<T>(&mut self, variable: &'static str, value: &str, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Copy + fmt::Display,
    {
        let number = value.trim().parse().ok().filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            self.mistake(
                variable,
                value,
                format!("wanted is a whole number from {} to {}", range.start(), range.end()),
            );
            *range.start()
        })
    }

    /// A ratio above 0, up to 1.
    pub(super) fn ratio(&mut self, variable: &'static str, value: &str) -> f64 {
        let ratio = value.trim().parse().ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
        ratio.unwrap_or_else(|| {
            self.mistake(variable, value, "wanted is a ratio above 0, up to 1");
            1.0
        })
    }

    pub(super) fn duration(
        &mut self,
        variable: &'static str,
        value: &str,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let duration =
            humantime::parse_duration(value.trim()).ok().filter(|duration| range.contains(duration));
        duration.unwrap_or_else(|| {
            let [start, end] = [range.start(), range.end()].map(|bound| format_duration(*bound));
            self.mistake(
                variable,
                value,
                format!("wanted is a duration such as 500ms, 5s or 5m, from {start} to {end}"),
            );
            *range.start()
        })
    }
}
