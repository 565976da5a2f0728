//! What only the old aggregates know: usage whose rows are gone. It is entered as increments of the hours that they name,
//! which one fold adds to the figures of every level.
//!
//! From the oldest chunk or partition with rows on, rows win; an old aggregate counts for what lies before. Coarser levels add
//! what the finer ones before them do not have.

use postgres::{GenericClient, Transaction};

use super::{Plan, texts};

/// The old aggregates that are known by name, finest first, with the unit of their buckets.
const LEVELS: [(&str, &str); 3] =
    [("usage_hourly", "hour"), ("usage_daily", "day"), ("usage_monthly", "month")];

/// Stands for the endpoint of usage of which it is not known; its method is empty.
const ENDPOINT: &str = "(adopted)";
/// Stands for an api key that is not known.
const NO_API_KEY: &str = "'00000000-0000-0000-0000-000000000000'::uuid";

/// One old aggregate that can be read.
#[derive(Debug)]
pub(super) struct Level {
    name: &'static str,
    unit: &'static str,
    /// Its columns as ours: bucket, organization_id, api_key_id and seven sums.
    columns: String,
}

/// Sums of rows by UTC day and organization, as the figures have them.
const ROWS: &str = "\
CREATE TEMPORARY TABLE usage_adopted_rows ON COMMIT DROP AS
SELECT date_trunc('day', time, 'UTC') AS bucket, organization_id, count(*) AS total_requests,
       count(*) FILTER (WHERE {billable}) AS billable_requests,
       coalesce(sum({weight}) FILTER (WHERE {billable}), 0)::bigint AS billable_units,
       sum(response_time_ms)::bigint AS response_time_ms_sum,
       count(*) FILTER (WHERE status_code BETWEEN 200 AND 299) AS success_count,
       count(*) FILTER (WHERE status_code BETWEEN 400 AND 499) AS client_error_count,
       count(*) FILTER (WHERE status_code BETWEEN 500 AND 599) AS error_count
  FROM usage_events GROUP BY 1, 2;
DELETE FROM usage_adopted_spans
 WHERE NOT EXISTS (SELECT FROM usage_adopted_rows WHERE bucket >= range_start AND bucket < range_end)";

const SUMS: [&str; 7] = [
    "total_requests",
    "billable_requests",
    "billable_units",
    "response_time_ms_sum",
    "success_count",
    "client_error_count",
    "error_count",
];

/// Reads what the old aggregates are, and whether they contradict the rows; the rows have been judged fit.
pub(super) fn read(
    client: &mut impl GenericClient,
    plan: &mut Plan,
    is_carried: bool,
) -> Result<(), postgres::Error> {
    let columns = columns_of(client, "usage_events")?;
    let or = |name: &str, otherwise: &str| {
        if columns.iter().any(|(column, _)| column == name) { name.to_owned() } else { otherwise.to_owned() }
    };
    client.batch_execute(
        &ROWS.replace("{billable}", &or("billable", "true")).replace("{weight}", &or("weight", "1")),
    )?;
    for (name, unit) in LEVELS {
        let columns = columns_of(client, name)?;
        if columns.is_empty() {
            continue;
        }
        keep_as_table(client, plan, name)?;
        if is_carried {
            read_level(client, plan, name, unit, &columns)?;
        }
    }
    // Those of a level may be made of those below.
    let is_drop = |sql: &str| sql.starts_with("DROP ");
    let (drops, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut plan.history_steps).into_iter().partition(|step| is_drop(&step.sql));
    plan.steps.splice(0..0, others.into_iter().chain(drops.into_iter().rev()));
    Ok(())
}

/// Its columns and their types.
fn columns_of(client: &mut impl GenericClient, name: &str) -> Result<Vec<(String, String)>, postgres::Error> {
    let rows = client.query(
        "SELECT attname::text, atttypid::regtype::text FROM pg_attribute
          WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.' || $1) AND attnum > 0 AND NOT attisdropped
          ORDER BY attnum",
        &[&name],
    )?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A copy and not a renamed aggregate: nothing can refresh it, and no trigger of it slows the writer.
fn keep_as_table(
    client: &mut impl GenericClient,
    plan: &mut Plan,
    name: &str,
) -> Result<(), postgres::Error> {
    let kind = client.query_one(
        "SELECT CASE WHEN relkind IN ('r', 'p') THEN 'TABLE' WHEN relkind = 'm' THEN 'MATERIALIZED VIEW'
                     WHEN to_regclass('timescaledb_information.continuous_aggregates') IS NULL THEN 'VIEW'
                     ELSE 'unknown' END
           FROM pg_class WHERE oid = to_regclass(quote_ident(current_schema()) || '.' || $1)",
        &[&name],
    )?;
    let mut kind: String = kind.try_get(0)?;
    if kind == "unknown" {
        let row = client.query_one(
            "SELECT EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
                             WHERE view_schema = current_schema() AND view_name = $1)",
            &[&name],
        )?;
        kind = if row.try_get(0)? { "MATERIALIZED VIEW" } else { "VIEW" }.to_owned();
    }
    let mut step = |what: String, sql: String| plan.history_steps.push(super::Step { what, sql });
    if kind == "TABLE" {
        step(format!("call {name} adopted_{name}"), format!("ALTER TABLE {name} RENAME TO adopted_{name}"));
    } else {
        step(
            format!("keep what {name} holds in the table adopted_{name}"),
            format!("CREATE TABLE adopted_{name} AS SELECT * FROM {name}"),
        );
        step(format!("drop {name}, and its policy"), format!("DROP {kind} {name}"));
    }
    Ok(())
}

fn read_level(
    client: &mut impl GenericClient,
    plan: &mut Plan,
    name: &'static str,
    unit: &'static str,
    columns: &[(String, String)],
) -> Result<(), postgres::Error> {
    let has = |name: &str| columns.iter().any(|(column, _)| column == name);
    let bucket = columns.iter().find(|(_, type_name)| type_name == "timestamp with time zone");
    let Some((bucket, _)) = bucket.filter(|_| has("organization_id") && has("total_requests")) else {
        plan.obstacle(format!(
            "{name} has not all of a bucket (timestamptz), organization_id and total_requests, so that its history cannot \
             be carried over: --without-history leaves it in adopted_{name}"
        ));
        return Ok(());
    };
    let bucket = super::quoted(bucket);
    let row = client.query_one(
        &format!("SELECT count(*) FROM {name} WHERE {bucket} <> date_trunc('{unit}', {bucket}, 'UTC')"),
        &[],
    )?;
    if row.try_get::<_, i64>(0)? > 0 {
        plan.obstacle(format!(
            "the buckets of {name} are no UTC {unit}s: --without-history leaves its history in adopted_{name}"
        ));
        return Ok(());
    }
    let sums = sums_of(plan, name, &has);
    let api_key = if has("api_key_id") { "api_key_id" } else { NO_API_KEY };
    let level = Level {
        name,
        unit,
        columns: format!("{bucket} AS bucket, organization_id, {api_key} AS api_key_id, {sums}"),
    };
    let row = client.query_one(
        &format!(
            "SELECT count(DISTINCT bucket), coalesce(sum(total_requests), 0)::bigint FROM (SELECT {} FROM {name} GROUP BY 1, 2, 3) AS old
              WHERE {}",
            level.columns,
            level.is_history(plan.is_rows_win),
        ),
        &[],
    )?;
    let (buckets, requests): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    plan.note(format!("{name} has {requests} requests in {buckets} {unit}s whose rows are gone"));
    if unit != "month" {
        let sql = level.differences(name, "usage_adopted_rows", &format!("bucket >= {ROWS_BEGIN}"));
        refuse_differences(client, plan, &level, &sql)?;
    }
    plan.levels.push(level);
    Ok(())
}

/// Its sums by our names; what it lacks is 0, and noted.
fn sums_of(plan: &mut Plan, name: &str, has: &dyn Fn(&str) -> bool) -> String {
    let mut unknown = Vec::new();
    let mut sums = Vec::new();
    for column in SUMS {
        let sum = if has(column) {
            format!("sum({column})")
        } else if column == "response_time_ms_sum" && has("avg_response_time_ms") {
            "round(sum(avg_response_time_ms::numeric * total_requests))".to_owned()
        } else {
            unknown.push(column);
            "0".to_owned()
        };
        sums.push(format!("coalesce({sum}, 0)::bigint AS {column}"));
    }
    if !unknown.is_empty() {
        plan.note(format!(
            "{name} has no {}: these are 0 in what is carried over from it",
            unknown.join(", ")
        ));
    }
    sums.join(", ")
}

/// When the oldest chunk or partition begins that holds rows; what is older has lost them.
const ROWS_BEGIN: &str = "(SELECT coalesce(min(range_start), 'infinity') FROM usage_adopted_spans)";

impl Level {
    /// Whether a bucket has lost its rows: also a month that has lost some, and then what neither rows nor finer levels have of
    /// it. Where rows are believed against the aggregates, they are there too.
    fn is_history(&self, is_rows_win: bool) -> String {
        if self.unit == "month" && is_rows_win {
            format!("bucket + INTERVAL '1 month' <= {ROWS_BEGIN}")
        } else {
            format!("bucket < {ROWS_BEGIN}")
        }
    }

    /// Days, or months, of which it counts more requests than `known` does.
    fn differences(&self, relation: &str, known: &str, filter: &str) -> String {
        let unit = if self.unit == "month" { "month" } else { "day" };
        format!(
            "SELECT to_char(bucket AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, sum(old)::text AS old, sum(known)::text AS known
               FROM (SELECT date_trunc('{unit}', bucket, 'UTC') AS bucket, organization_id,
                            sum(total_requests) AS old, 0::numeric AS known
                       FROM (SELECT {} FROM {relation} GROUP BY 1, 2, 3) AS level GROUP BY 1, 2
                     UNION ALL
                     SELECT date_trunc('{unit}', bucket, 'UTC'), organization_id, 0, sum(total_requests)
                       FROM {known} AS known GROUP BY 1, 2) AS both_sides
              WHERE {filter} GROUP BY bucket, organization_id HAVING sum(old) > sum(known) ORDER BY 1",
            self.columns
        )
    }
}

fn refuse_differences(
    client: &mut impl GenericClient,
    plan: &mut Plan,
    level: &Level,
    sql: &str,
) -> Result<(), postgres::Error> {
    let rows = client.query(sql, &[])?;
    if let Some(first) = rows.first() {
        let (day, old, known): (String, String, String) =
            (first.try_get(0)?, first.try_get(1)?, first.try_get(2)?);
        let line = format!(
            "{} counts more requests than are found in {} {}s of an organization, such as {old} instead of {known} on {day}",
            level.name,
            rows.len(),
            if level.unit == "month" { "month" } else { "day" }
        );
        if plan.is_rows_win {
            plan.note(line);
        } else {
            plan.obstacle(line + ": --rows-win takes what is found");
        }
    }
    Ok(())
}

/// Carries over what the plan's levels have, in the transaction of the migrations, when nothing is folded yet.
pub(super) fn carry_over(transaction: &mut Transaction<'_>, plan: &mut Plan) -> Result<(), postgres::Error> {
    let known = format!(
        "(SELECT bucket, organization_id, {sums} FROM usage_adopted_rows
          UNION ALL SELECT bucket, organization_id, {sums} FROM usage_daily_figures)",
        sums = SUMS.join(", ")
    );
    let levels = std::mem::take(&mut plan.levels);
    for level in &levels {
        let rest: Vec<_> = SUMS
            .iter()
            .map(|column| format!("greatest(old.{column} - coalesce(known.{column}, 0), 0)"))
            .collect();
        let sums: Vec<_> = SUMS.iter().map(|column| format!("sum({column}) AS {column}")).collect();
        transaction.batch_execute(&format!(
            "INSERT INTO usage_late_figures
             SELECT '-infinity', bucket, organization_id, api_key_id, '{ENDPOINT}', '', {rest}
               FROM (SELECT {columns} FROM adopted_{name} GROUP BY 1, 2, 3) AS old
               LEFT JOIN (SELECT date_trunc('{unit}', bucket, 'UTC') AS bucket, organization_id, {sums}
                            FROM {known} AS known GROUP BY 1, 2) AS known USING (bucket, organization_id)
              WHERE {is_history} AND old.total_requests > coalesce(known.total_requests, 0);
             SELECT usage_fold()",
            rest = rest.join(", "),
            columns = level.columns,
            name = level.name,
            unit = level.unit,
            sums = sums.join(", "),
            is_history = level.is_history(plan.is_rows_win),
        ))?;
    }
    for level in &levels {
        let sql = level.differences(&format!("adopted_{}", level.name), &known, "true");
        refuse_differences(transaction, plan, level, &sql)?;
    }
    let carried = texts(
        transaction,
        "SELECT format('%s requests of %s days before %s', sum(total_requests), count(DISTINCT bucket),
                       (SELECT (max(bucket) AT TIME ZONE 'UTC')::date + 1 FROM usage_daily_figures))
           FROM usage_daily_figures HAVING count(*) > 0",
    )?;
    plan.carried = carried.into_iter().next();
    // The books of `audit`: rows that came before it, and those among them that retention dropped before it.
    // Of a day whose rows are gone no event is taken and no figure rebuilt.
    transaction.batch_execute(
        "INSERT INTO usage_retention_drops (event_day, rows_dropped)
         SELECT (bucket AT TIME ZONE 'UTC')::date, sum(total_requests) FROM usage_daily_figures GROUP BY 1;
         INSERT INTO usage_ledger_days (event_day, source, written)
         SELECT (bucket AT TIME ZONE 'UTC')::date, 'adopted', sum(total_requests)
           FROM (SELECT bucket, total_requests FROM usage_daily_figures
                 UNION ALL SELECT bucket, total_requests FROM usage_adopted_rows) AS days GROUP BY 1;
         UPDATE usage_bounds SET retained_since = coalesce(
             (SELECT min(range_start) FROM usage_adopted_spans),
             (SELECT least(max(bucket) + INTERVAL '24 hours', date_trunc('day', now(), 'UTC')) FROM usage_daily_figures))
          WHERE EXISTS (SELECT FROM usage_daily_figures)",
    )
}
