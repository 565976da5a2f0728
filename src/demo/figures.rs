//! Figures by name, what they must be by the generator's truth, and every difference. Pure.

use std::collections::BTreeMap;
use std::fmt;

use super::target::PARTITION_COUNT;
use crate::generate::{Truth, Usage};

/// A relation with usage, and how much of `2026-01-31T12:00:00Z` tells its buckets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation {
    /// The table or view.
    pub name: &'static str,
    /// Characters of the time.
    bucket_len: usize,
}

/// The raw events by hour, and the four views.
pub const RELATIONS: [Relation; 5] = [
    Relation { name: "usage_events", bucket_len: "2026-01-31T12".len() },
    Relation { name: "usage_hourly", bucket_len: "2026-01-31T12".len() },
    Relation { name: "usage_endpoint_hourly", bucket_len: "2026-01-31T12".len() },
    Relation { name: "usage_daily", bucket_len: "2026-01-31".len() },
    Relation { name: "usage_monthly", bucket_len: "2026-01".len() },
];

/// Names and values. What must be 0 may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    values: BTreeMap<String, i64>,
}

/// A figure that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The figure's name.
    pub figure: String,
    /// By the truth.
    pub expected: i64,
    /// By the database or the broker.
    pub found: i64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.figure, self.expected, self.found)
    }
}

impl Figures {
    /// What a correct pipeline ends up with.
    pub fn expected(truth: &Truth) -> Self {
        let mut figures = Self::default();
        figures.add("messages in the topic", truth.messages);
        figures.add("rows in usage_events", truth.requests);
        figures.add("distinct requests in usage_events", truth.requests);
        figures.add("messages that became neither a row nor a dead letter", truth.duplicate_count());
        figures.add("dead letters", truth.malformed_count());
        for (reason, count) in &truth.dead_letters {
            figures.add(dead_letters_by_reason(reason), *count);
        }
        figures.add("processor: messages", truth.messages);
        figures.add("processor: written", truth.requests);
        figures.add("processor: duplicates", truth.duplicate_count());
        figures.add("processor: dead letters", truth.malformed_count());
        for partition in 0..i32::from(PARTITION_COUNT) {
            figures.add(lag(partition), 0);
        }
        for relation in RELATIONS {
            for (organization, hours) in &truth.usage {
                for (hour, usage) in hours {
                    figures.add_usage(relation, organization, hour, usage);
                }
            }
        }
        figures
    }

    /// Adds to a figure.
    pub fn add(&mut self, figure: impl Into<String>, count: u64) {
        let sum = self.values.entry(figure.into()).or_default();
        *sum = sum.saturating_add_unsigned(count);
    }

    /// Sets a figure that may be negative when something is wrong.
    pub fn set(&mut self, figure: impl Into<String>, value: i64) {
        self.values.insert(figure.into(), value);
    }

    /// Adds an organization's usage to the bucket that `time` falls into.
    pub fn add_usage(&mut self, relation: Relation, organization: &str, time: &str, usage: &Usage) {
        let bucket = time.get(..relation.bucket_len).unwrap_or(time);
        for (what, count) in [
            ("requests", usage.requests),
            ("billable requests", usage.billable_requests),
            ("billable units", usage.billable_units),
            ("successes", usage.successes),
            ("client errors", usage.client_errors),
            ("server errors", usage.server_errors),
            ("milliseconds of response time", usage.response_time_ms),
        ] {
            self.add(format!("{}, organization {organization}, {bucket}: {what}", relation.name), count);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Every figure of either that is not the same in both.
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        let names =
            self.values.keys().chain(found.values.keys().filter(|name| !self.values.contains_key(*name)));
        names
            .map(|figure| Difference {
                figure: figure.clone(),
                expected: self.value(figure),
                found: found.value(figure),
            })
            .filter(|difference| difference.expected != difference.found)
            .collect()
    }

    /// A figure, or 0.
    pub fn value(&self, figure: &str) -> i64 {
        self.values.get(figure).copied().unwrap_or(0)
    }
}

/// The name of a reason's count.
pub fn dead_letters_by_reason(reason: &str) -> String {
    format!("dead letters, {reason}")
}

/// The name of a partition's lag.
pub fn lag(partition: i32) -> String {
    format!("partition {partition}: end of the topic minus committed offset")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        let usage = Usage { requests: 3, billable_requests: 2, billable_units: 5, ..Usage::default() };
        let hours = ["2026-01-31T22:00:00Z", "2026-01-31T23:00:00Z", "2026-02-01T00:00:00Z"];
        let hours = hours.map(|hour| (hour.to_owned(), usage)).into();
        Truth { messages: 9, requests: 9, usage: [("acme".to_owned(), hours)].into(), ..Truth::default() }
    }

    #[test]
    fn hours_add_up_to_days_and_months() {
        let expected = Figures::expected(&truth());
        for (figure, value) in [
            ("usage_events, organization acme, 2026-01-31T22: billable units", 5),
            ("usage_hourly, organization acme, 2026-01-31T22: billable units", 5),
            ("usage_daily, organization acme, 2026-01-31: billable units", 10),
            ("usage_daily, organization acme, 2026-02-01: billable units", 5),
            ("usage_monthly, organization acme, 2026-01: requests", 6),
        ] {
            assert_eq!(expected.values.get(figure), Some(&value), "{figure}");
        }
    }

    #[test]
    fn what_is_off_what_is_missing_and_what_is_too_much_are_differences() {
        let expected = Figures::expected(&truth());
        assert_eq!(expected.differences(&expected), []);
        let mut found = expected.clone();
        found.add("rows in usage_events", 1);
        found.values.remove("messages in the topic");
        found.add("dead letters, surprise", 2);
        let differences: Vec<_> = expected.differences(&found).iter().map(Difference::to_string).collect();
        assert_eq!(
            differences,
            [
                "messages in the topic: expected 9, found 0",
                "rows in usage_events: expected 9, found 10",
                "dead letters, surprise: expected 0, found 2",
            ]
        );
    }
}
