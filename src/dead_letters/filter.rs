//! Which letters are meant: options of the command line, and the same as a condition in SQL. Pure.
//!
//! The condition is a constant; what the user gives travels as parameters only.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use clap::Args;
use postgres::types::ToSql;

/// The condition. Its parameters are `$1` to `$8`, as [`FilterValues::parameters`] gives them.
pub const CONDITION: &str = "\
($1::text[] IS NULL OR reason = ANY ($1)) \
AND ($2::text IS NULL OR kafka_topic = $2) \
AND ($3::int IS NULL OR kafka_partition = $3) \
AND ($4::bigint IS NULL OR kafka_offset >= $4) \
AND ($5::bigint IS NULL OR kafka_offset < $5) \
AND ($6::timestamptz IS NULL OR received_at >= $6) \
AND ($7::timestamptz IS NULL OR received_at < $7)";

/// How many at most: the last parameter, where no limit is NULL.
pub const LIMIT: &str = "LIMIT $8::bigint";

/// Letters that meet all of it. Without any option: all letters.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// Only letters with this reason, such as `too_old`; may be given more than once
    #[arg(long = "reason", value_name = "REASON")]
    pub reasons: Vec<String>,
    /// Only letters of this Kafka topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Only letters of this partition
    #[arg(long)]
    pub partition: Option<i32>,
    /// Only offsets from A up to, and without, B: `A..B`, `A..` or `..B`
    #[arg(long, value_name = "A..B", value_parser = parse_offsets)]
    pub offsets: Option<OffsetRange>,
    /// Only letters received at or after this time: RFC 3339, or an age such as `2h`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<SystemTime>,
    /// Only letters received before this time: RFC 3339, or an age such as `30m`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<SystemTime>,
    /// At most this many
    #[arg(long)]
    pub limit: Option<u32>,
}

/// Offsets, half-open, either side of which may be open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    /// The first that is meant.
    pub start: Option<i64>,
    /// The first that is no longer meant.
    pub end: Option<i64>,
}

/// What the parameters borrow from.
#[derive(Debug)]
pub struct FilterValues<'a> {
    filter: &'a Filter,
    reasons: Option<&'a [String]>,
    start: Option<i64>,
    end: Option<i64>,
    limit: Option<i64>,
}

impl Filter {
    /// The values behind the parameters.
    pub fn values(&self) -> FilterValues<'_> {
        FilterValues {
            filter: self,
            reasons: (!self.reasons.is_empty()).then_some(&self.reasons),
            start: self.offsets.as_ref().and_then(|offsets| offsets.start),
            end: self.offsets.as_ref().and_then(|offsets| offsets.end),
            limit: self.limit.map(i64::from),
        }
    }
}

impl FilterValues<'_> {
    /// In the order of [`CONDITION`] and [`LIMIT`].
    pub fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        let Self { filter, reasons, start, end, limit } = self;
        [reasons, &filter.topic, &filter.partition, start, end, &filter.since, &filter.until, limit]
    }
}

fn parse_offsets(text: &str) -> Result<OffsetRange, String> {
    const WANTED: &str = "wanted are offsets such as 100..200, 100.. or ..200";
    let (start, end) = text.split_once("..").ok_or(WANTED)?;
    let bound = |text: &str| -> Result<Option<i64>, String> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| WANTED.to_owned()) }
    };
    let range = OffsetRange { start: bound(start)?, end: bound(end)? };
    match range {
        OffsetRange { start: None, end: None } => Err(WANTED.to_owned()),
        OffsetRange { start: Some(start), end: Some(end) } if Range { start, end }.is_empty() => {
            Err("there is no offset in it".to_owned())
        }
        range => Ok(range),
    }
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    let age = |age: Duration| SystemTime::now().checked_sub(age);
    humantime::parse_rfc3339_weak(text)
        .ok()
        .or_else(|| humantime::parse_duration(text).ok().and_then(age))
        .ok_or_else(|| "wanted is a time such as 2026-01-31T12:00:00Z, or an age such as 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_half_open_and_may_be_open() {
        let range = |start, end| Ok(OffsetRange { start, end });
        assert_eq!(parse_offsets("5..9"), range(Some(5), Some(9)));
        assert_eq!(parse_offsets("5.."), range(Some(5), None));
        assert_eq!(parse_offsets("..9"), range(None, Some(9)));
        for text in ["5", "..", "9..5", "5..5", "a..b", "1...2"] {
            assert!(parse_offsets(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_moments_or_ages() {
        let two_hours = Duration::from_secs(7_200);
        let before = SystemTime::now() - two_hours;
        let parsed = parse_time("2h").unwrap();
        assert!(before <= parsed && parsed <= SystemTime::now() - two_hours);
        assert_eq!(parse_time("1970-01-01T00:00:10Z"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(10)));
        assert!(parse_time("yesterday").is_err());
    }
}
