//! What the database and the broker hold, read by plain SQL and by offsets: the other side of
//! [`Figures::expected`], with no code of the pipeline between.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use postgres::{Client, Row};

use super::figures::{Figures, RELATIONS, Relation, dead_letters_by_reason, lag};
use super::offsets::PartitionOffsets;
use super::processor::Finished;
use crate::generate::Usage;

/// The database did not answer.
#[derive(Debug, thiserror::Error)]
#[error("reading the {what} from the database")]
pub struct MeasureError {
    what: &'static str,
    source: postgres::Error,
}

/// Columns: organization, time, and the seven sums of [`Usage`] in its order.
const EVENTS_BY_HOUR: &str = "
SELECT organization_id::text,
       to_char(date_trunc('hour', time, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24'),
       count(*),
       count(*) FILTER (WHERE billable),
       coalesce(sum(weight) FILTER (WHERE billable), 0)::bigint,
       count(*) FILTER (WHERE status_code BETWEEN 200 AND 299),
       count(*) FILTER (WHERE status_code BETWEEN 400 AND 499),
       count(*) FILTER (WHERE status_code BETWEEN 500 AND 599),
       sum(response_time_ms)::bigint
FROM usage_events
GROUP BY 1, 2";

fn usage_query(relation: Relation) -> String {
    if relation.name == "usage_events" { EVENTS_BY_HOUR.to_owned() } else { aggregate_query(relation.name) }
}

/// The same columns of an aggregate.
fn aggregate_query(view: &str) -> String {
    format!(
        "SELECT organization_id::text,
                to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24'),
                sum(total_requests)::bigint,
                sum(billable_requests)::bigint,
                sum(billable_units)::bigint,
                sum(success_count)::bigint,
                sum(client_error_count)::bigint,
                sum(error_count)::bigint,
                sum(response_time_ms_sum)::bigint
         FROM {view}
         GROUP BY 1, 2"
    )
}

/// What the database and the broker hold.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// To be compared.
    pub figures: Figures,
    /// Dead letters by reason.
    pub dead_letters: Vec<(String, u64)>,
    /// Organizations with usage.
    pub organization_count: usize,
    /// The busiest of them and their usage, by the monthly figures that a bill is made of.
    pub busiest: Vec<(String, Usage)>,
}

/// Organizations that are named.
const BUSIEST_COUNT: usize = 10;

/// Reads every figure; `runs` are all the runs of the processor.
pub fn measure(
    client: &mut Client,
    partitions: &[PartitionOffsets],
    runs: &[Finished],
) -> Result<Measured, MeasureError> {
    let mut figures = Figures::default();
    let (rows, requests) = count_rows(client)?;
    figures.set("rows in usage_events", rows);
    figures.set("distinct requests in usage_events", requests);
    let dead_letters = count_dead_letters(client)?;
    for (reason, count) in &dead_letters {
        figures.add(dead_letters_by_reason(reason), *count);
        figures.add("dead letters", *count);
    }
    let messages: i64 = partitions.iter().map(|partition| partition.end).sum();
    figures.set("messages in the topic", messages);
    let remainder = messages - rows - figures.value("dead letters");
    figures.set("messages that became neither a row nor a dead letter", remainder);
    for PartitionOffsets { partition, end, committed } in partitions {
        figures.set(lag(*partition), end - committed);
    }
    for Finished { summary, .. } in runs {
        figures.add("processor: messages", summary.messages);
        figures.add("processor: written", summary.written);
        figures.add("processor: duplicates", summary.duplicates + summary.database_duplicates);
        figures.add("processor: dead letters", summary.dead_letters);
    }
    for relation in RELATIONS {
        for bucket in query_all(client, relation.name, &usage_query(relation), BucketUsage::read)? {
            figures.add_usage(relation, &bucket.organization, &bucket.time, &bucket.usage);
        }
    }
    let mut busiest = usage_by_organization(client)?;
    let organization_count = busiest.len();
    busiest.truncate(BUSIEST_COUNT);
    Ok(Measured { figures, dead_letters, organization_count, busiest })
}

/// A row of [`usage_query`].
struct BucketUsage {
    organization: String,
    time: String,
    usage: Usage,
}

impl BucketUsage {
    fn read(row: &Row) -> Result<Self, postgres::Error> {
        let usage = Usage {
            requests: count(row, 2)?,
            billable_requests: count(row, 3)?,
            billable_units: count(row, 4)?,
            successes: count(row, 5)?,
            client_errors: count(row, 6)?,
            server_errors: count(row, 7)?,
            response_time_ms: count(row, 8)?,
        };
        Ok(Self { organization: row.try_get(0)?, time: row.try_get(1)?, usage })
    }
}

/// A column that is never negative; if it is after all, it becomes a difference that nobody overlooks.
fn count(row: &Row, column: usize) -> Result<u64, postgres::Error> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u64::MAX))
}

/// Rows, and distinct requests among them.
fn count_rows(client: &mut Client) -> Result<(i64, i64), MeasureError> {
    let query = "
        SELECT coalesce(sum(copies), 0)::bigint, count(*)
        FROM (SELECT count(*) AS copies FROM usage_events GROUP BY organization_id, request_id) AS requests";
    let rows = query_all(client, "requests", query, |row| Ok((row.try_get(0)?, row.try_get(1)?)))?;
    Ok(rows.first().copied().unwrap_or_default())
}

fn count_dead_letters(client: &mut Client) -> Result<Vec<(String, u64)>, MeasureError> {
    let query = "SELECT reason, count(*) FROM usage_dead_letters GROUP BY 1 ORDER BY 1";
    query_all(client, "dead letters", query, |row| Ok((row.try_get(0)?, count(row, 1)?)))
}

/// All organizations, the busiest first.
fn usage_by_organization(client: &mut Client) -> Result<Vec<(String, Usage)>, MeasureError> {
    let mut totals: BTreeMap<String, Usage> = BTreeMap::new();
    let query = aggregate_query("usage_monthly");
    for month in query_all(client, "usage_monthly", &query, BucketUsage::read)? {
        totals.entry(month.organization).or_default().add(&month.usage);
    }
    let mut organizations: Vec<_> = totals.into_iter().collect();
    organizations.sort_by_key(|(_, usage)| Reverse(usage.requests));
    Ok(organizations)
}

/// From the start of the first to the start of the last transaction that wrote rows, by the
/// database's clock.
pub fn writing_time(client: &mut Client) -> Result<Duration, MeasureError> {
    let query = "
        SELECT coalesce(extract(epoch FROM max(created_at) - min(created_at)), 0)::float8 FROM usage_events";
    let rows = query_all(client, "times of the rows", query, |row| row.try_get::<_, f64>(0))?;
    let seconds = rows.first().copied().unwrap_or_default();
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The rows of a query, each read by `read`.
fn query_all<T>(
    client: &mut Client,
    what: &'static str,
    query: &str,
    read: impl Fn(&Row) -> Result<T, postgres::Error>,
) -> Result<Vec<T>, MeasureError> {
    let rows = client.query(query, &[]).map_err(|source| MeasureError { what, source })?;
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|source| MeasureError { what, source })
}
