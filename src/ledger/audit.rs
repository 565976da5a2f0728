//! The audit: does everything in the database add up? One REPEATABLE READ snapshot, read by one
//! query a check; each query (`audit/*.sql`) gives its findings, and none where all is well.
//!
//! Runs on the caller's thread and connection, beside working processors; writes nothing. It reads
//! every row of `usage_events` several times.

use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, IsolationLevel, Transaction};
use serde::Serialize;

/// Findings told of each check; the others are counted.
const FINDINGS_MAX: i64 = 20;

/// No check takes longer, however many rows there are.
/// Code would be compiled for each chunk again: 18 s for a query of 0.3 s.
/// Rows that are being dropped are waited for: gone for every snapshot, they are counted as dropped only in later ones.
const SETTINGS: &str = "SET LOCAL statement_timeout = '1h'; SET LOCAL timezone = 'UTC'; SET LOCAL jit = off; \
                        LOCK TABLE usage_events IN ACCESS SHARE MODE";

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No snapshot.
    #[error("beginning the audit's snapshot")]
    Begin(#[source] postgres::Error),
    /// A query failed.
    #[error("checking that {promise}")]
    Check {
        /// What was to be checked.
        promise: &'static str,
        /// What the server said.
        source: postgres::Error,
    },
    /// The bounds could not be read.
    #[error("reading how far events are folded into the figures")]
    FoldedUntil(#[source] postgres::Error),
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether no check found an inconsistency.
    pub is_consistent: bool,
    /// Every check, in order.
    pub checks: Vec<Outcome>,
    /// How far events are folded into the figures; what is later is read from the rows.
    pub folded_until: String,
}

/// What one check found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name, for scripts.
    pub check: &'static str,
    /// What should hold.
    pub promise: &'static str,
    /// Findings that nothing will mend by itself.
    pub inconsistent_count: i64,
    /// Findings that work in progress explains.
    pub in_progress_count: i64,
    /// The first of them, inconsistencies first.
    pub findings: Vec<Finding>,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Or in progress.
    pub is_inconsistent: bool,
    /// What was found where.
    pub text: String,
}

/// A query and what it shows.
struct Check {
    name: &'static str,
    promise: &'static str,
    sql: String,
    takes_clock_skew: bool,
}

/// A view and what it has of each bucket.
struct View {
    name: &'static str,
    unit: &'static str,
    /// Columns that are one row a bucket.
    keys: &'static str,
    /// How many distinct values it says there are, and how many the rows have.
    distinct: &'static str,
    distinct_rows: &'static str,
}

const HOURLY: View = View {
    name: "usage_hourly",
    unit: "hour",
    keys: "organization_id, api_key_id",
    distinct: "sum(unique_endpoints)",
    distinct_rows: "count(DISTINCT endpoint)",
};
const ENDPOINT_HOURLY: View = View {
    name: "usage_endpoint_hourly",
    unit: "hour",
    keys: "organization_id, endpoint, method",
    distinct: "1",
    distinct_rows: "1",
};
const DAILY: View = View {
    name: "usage_daily",
    unit: "day",
    keys: "organization_id",
    distinct: "sum(unique_api_keys)",
    distinct_rows: "count(DISTINCT api_key_id)",
};
const MONTHLY: View = View { name: "usage_monthly", unit: "month", ..DAILY };

impl Check {
    fn new(name: &'static str, promise: &'static str, sql: &str) -> Self {
        Self { name, promise, sql: sql.to_owned(), takes_clock_skew: false }
    }

    fn view(promise: &'static str, view: &View) -> Self {
        let sql = include_str!("audit/view.sql")
            .replace("{view}", view.name)
            .replace("{unit}", view.unit)
            .replace("{keys}", view.keys)
            .replace("{distinct_rows}", view.distinct_rows)
            .replace("{distinct}", view.distinct);
        Self { name: view.name, promise, sql, takes_clock_skew: false }
    }

    fn run(&self, transaction: &mut Transaction<'_>, clock_skew: f64) -> Result<Outcome, postgres::Error> {
        let sql = format!(
            "WITH found (is_inconsistent, finding) AS ({})
             SELECT is_inconsistent, finding, count(*) FILTER (WHERE is_inconsistent) OVER (),
                    count(*) FILTER (WHERE NOT is_inconsistent) OVER ()
               FROM found ORDER BY is_inconsistent DESC, finding LIMIT {FINDINGS_MAX}",
            self.sql
        );
        let parameters: &[&(dyn ToSql + Sync)] = if self.takes_clock_skew { &[&clock_skew] } else { &[] };
        let rows = transaction.query(&sql, parameters)?;
        let count = |column| rows.first().map_or(Ok(0), |row| row.try_get(column));
        let findings = rows
            .iter()
            .map(|row| Ok(Finding { is_inconsistent: row.try_get(0)?, text: row.try_get(1)? }))
            .collect::<Result<_, postgres::Error>>()?;
        Ok(Outcome {
            check: self.name,
            promise: self.promise,
            inconsistent_count: count(2)?,
            in_progress_count: count(3)?,
            findings,
        })
    }
}

fn checks() -> [Check; CHECK_COUNT] {
    [
        Check::new(
            "spans_tile",
            "spans tile every partition from its start without a hole",
            include_str!("audit/spans_tile.sql"),
        ),
        Check::new(
            "spans_balance",
            "every message of every span is accounted for, once",
            include_str!("audit/spans_balance.sql"),
        ),
        Check::new(
            "days_sum",
            "rows written are the same by span and by day",
            include_str!("audit/days_sum.sql"),
        ),
        Check::new(
            "rows_by_day",
            "rows of each day are those written and not dropped by retention",
            include_str!("audit/rows_by_day.sql"),
        ),
        Check::new(
            "dead_letters",
            "dead letters are kept, or purged and counted",
            include_str!("audit/dead_letters.sql"),
        ),
        Check::new(
            "billed_twice",
            "no request of an organization is there twice",
            include_str!("audit/billed_twice.sql"),
        ),
        Check {
            takes_clock_skew: true,
            ..Check::new("future", "no event lies in the future", include_str!("audit/future.sql"))
        },
        Check::view("hours agree with the rows", &HOURLY),
        Check::view("hours by endpoint agree with the rows", &ENDPOINT_HOURLY),
        Check::view("days agree with the rows", &DAILY),
        Check::view("months agree with the rows", &MONTHLY),
        Check::new(
            "levels",
            "days are the sums of their hours, and hours of their endpoints",
            include_str!("audit/levels.sql"),
        ),
        Check::new(
            "dropped_days",
            "days without rows have the requests that were dropped",
            include_str!("audit/dropped_days.sql"),
        ),
        Check::new(
            "closed_months",
            "closed months are as they were frozen, but for their adjustments",
            include_str!("audit/closed_months.sql"),
        ),
    ]
}

/// How many checks there are.
pub const CHECK_COUNT: usize = 14;

/// Runs every check. Events may lie `clock_skew_max` in the future. `on_begin` hears what is checked next.
///
/// # Errors
/// When a query fails; what was found until then is not told.
pub fn audit(
    client: &mut Client,
    clock_skew_max: Duration,
    on_begin: &mut dyn FnMut(&'static str),
) -> Result<Report, AuditError> {
    let mut transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .map_err(AuditError::Begin)?;
    transaction.batch_execute(SETTINGS).map_err(AuditError::Begin)?;
    let mut outcomes = Vec::new();
    for check in checks() {
        on_begin(check.promise);
        let outcome = check
            .run(&mut transaction, clock_skew_max.as_secs_f64())
            .map_err(|source| AuditError::Check { promise: check.promise, source })?;
        outcomes.push(outcome);
    }
    let folded_until = transaction
        .query_one("SELECT folded_until::text FROM usage_bounds", &[])
        .and_then(|row| row.try_get(0))
        .map_err(AuditError::FoldedUntil)?;
    Ok(Report {
        is_consistent: outcomes.iter().all(|outcome| outcome.inconsistent_count == 0),
        checks: outcomes,
        folded_until,
    })
}
