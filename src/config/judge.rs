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

    /// By the broker's rules; none if it is empty.
    pub(super) fn group_instance_id(&mut self, value: Option<&str>) -> Option<String> {
        const LENGTH_MAX: usize = 249;
        let id = value.map(str::trim).filter(|id| !id.is_empty())?;
        let is_name = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !is_name || id.len() > LENGTH_MAX || id == "." || id == ".." {
            self.mistake(
                "KAFKA_GROUP_INSTANCE_ID",
                id,
                format!(
                    "wanted is a name of up to {LENGTH_MAX} letters, digits, dots, dashes and underscores"
                ),
            );
        }
        Some(id.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instances_id_is_one_that_the_broker_takes() {
        let judge = |id: &str| {
            let mut judge = Judge::default();
            (judge.group_instance_id(Some(id)), judge.mistakes.len())
        };
        assert_eq!(judge(" host-1.usage_7"), (Some("host-1.usage_7".to_owned()), 0));
        assert_eq!(judge(""), (None, 0));
        for wrong in ["a b", "..", "%i/1", &"x".repeat(250)] {
            assert_eq!(judge(wrong).1, 1, "{wrong}");
        }
    }
}
