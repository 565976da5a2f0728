//! How a foreign `usage_events` is cut by time: the chunks of a hypertable, or the partitions of a plain table, and what
//! makes that ours. Retention drops whole UTC days, so both must begin and end at UTC midnights.

use postgres::GenericClient;

use super::{Plan, Step, quoted, texts};
use crate::migrations::Profile;

/// Why a plain table is no TimescaleDB profile.
pub(super) const NO_HYPERTABLE: &str = "it is a table and no hypertable: copy its rows into a new one, or choose \
                                        --profile postgresql if it is partitioned by UTC day";

/// Reads it, and writes the temporary table `usage_adopted_spans`: from when to when each chunk or partition reaches.
pub(super) fn read(
    client: &mut impl GenericClient,
    profile: Profile,
    plan: &mut Plan,
) -> Result<(), postgres::Error> {
    match profile {
        Profile::TimescaleDb => read_hypertable(client, plan),
        Profile::PostgreSql => read_partitions(client, plan),
    }
}

fn read_hypertable(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let found = client.query_opt(
        "SELECT compression_enabled FROM timescaledb_information.hypertables
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events'",
        &[],
    )?;
    let Some(found) = found else {
        plan.obstacle(NO_HYPERTABLE.to_owned());
        return Ok(());
    };
    client.batch_execute(
        "CREATE TEMPORARY TABLE usage_adopted_spans ON COMMIT DROP AS
         SELECT DISTINCT range_start, range_end FROM timescaledb_information.chunks
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events'",
    )?;
    let is_in_one_dimension = refuse_other_dimensions(client, plan)?;
    refuse_uneven(client, plan)?;
    end_policies(client, plan)?;
    if found.try_get(0)? {
        plan.step(
            "forget how it was compressed".to_owned(),
            "ALTER TABLE usage_events SET (timescaledb.compress = false)".to_owned(),
        );
    }
    let mut later = |what: &str, sql: &str| {
        plan.layout_steps.push(Step { what: what.to_owned(), sql: sql.to_owned() });
    };
    later("let new chunks be of one day", "SELECT set_chunk_time_interval('usage_events', INTERVAL '1 day')");
    if is_in_one_dimension {
        later(
            "let new chunks be of 16 parts, by organization",
            "SELECT add_dimension('usage_events', 'organization_id', number_partitions => 16)",
        );
    }
    Ok(())
}

/// Whether time is all that it is cut by. The only other dimension that our key can bear is the organization.
fn refuse_other_dimensions(
    client: &mut impl GenericClient,
    plan: &mut Plan,
) -> Result<bool, postgres::Error> {
    for name in texts(
        client,
        "SELECT view_name::text FROM timescaledb_information.continuous_aggregates
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events'
            AND view_name NOT IN ('usage_hourly', 'usage_daily', 'usage_monthly')",
    )? {
        plan.obstacle(format!(
            "the continuous aggregate {name} is made of it: keep what it holds in a table, and drop it"
        ));
    }
    let dimensions = texts(
        client,
        "SELECT column_name || coalesce(' by ' || time_interval, '') FROM timescaledb_information.dimensions
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events' ORDER BY dimension_number",
    )?;
    let (time, spaces) = dimensions.split_at(1.min(dimensions.len()));
    if !time.iter().all(|dimension| dimension.starts_with("time by ")) {
        plan.obstacle(format!("its first dimension is {}, and must be time", time.join("")));
    }
    if let Some(other) = spaces.iter().find(|column| *column != "organization_id") {
        plan.obstacle(format!(
            "it is partitioned by {other}, which a key of organization, time and request does not hold"
        ));
    }
    Ok(spaces.is_empty())
}

fn end_policies(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let retention = texts(
        client,
        "SELECT config ->> 'drop_after' FROM timescaledb_information.jobs
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events' AND proc_name = 'policy_retention'",
    )?;
    plan.retention = retention.into_iter().next();
    let policies = texts(
        client,
        "SELECT format('%s %s', proc_name, config - 'hypertable_id') FROM timescaledb_information.jobs
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events' ORDER BY job_id",
    )?;
    if !policies.is_empty() {
        plan.step(
            format!("end its policies: {}", policies.join(", ")),
            "SELECT delete_job(job_id) FROM timescaledb_information.jobs
              WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events'"
                .to_owned(),
        );
    }
    Ok(())
}

fn read_partitions(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let row = client.query_one(
        "SELECT relkind = 'p' AND pg_get_partkeydef(oid) IN ('RANGE (\"time\")', 'RANGE (time)')
           FROM pg_class WHERE oid = 'usage_events'::regclass",
        &[],
    )?;
    if !row.try_get::<_, bool>(0)? {
        plan.obstacle("it is not partitioned by ranges of time: copy its rows into a new table".to_owned());
        return Ok(());
    }
    // The session is at UTC, so a UTC midnight is written as one. What is no day gives NULL.
    client.batch_execute(
        r"CREATE TEMPORARY TABLE usage_adopted_spans ON COMMIT DROP AS
          SELECT relname::text AS relname, relkind = 'r' AS is_plain,
                 (regexp_match(bound, '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$'))[1]::timestamptz AS range_start,
                 (regexp_match(bound, '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$'))[2]::timestamptz AS range_end
            FROM (SELECT relname, relkind, pg_get_expr(relpartbound, pg_class.oid) AS bound
                    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                   WHERE inhparent = 'usage_events'::regclass) AS partitions",
    )?;
    for name in texts(
        client,
        "SELECT relname FROM usage_adopted_spans
          WHERE (range_end - range_start = INTERVAL '1 day' AND range_start = date_trunc('day', range_start, 'UTC')
                 AND is_plain) IS NOT TRUE",
    )? {
        plan.obstacle(format!(
            "its partition {name} does not hold one UTC day: copy its rows into a new table"
        ));
    }
    for name in texts(
        client,
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_inherits AS partition ON partition.inhrelid = indrelid
          WHERE partition.inhparent = 'usage_events'::regclass AND indisunique
            AND NOT EXISTS (SELECT FROM pg_inherits AS child WHERE child.inhrelid = indexrelid)",
    )? {
        plan.obstacle(format!("{name} is a unique key of a single partition, at which the writer would stop"));
    }
    if plan.obstacles.is_empty() {
        for row in client.query(
            "SELECT relname, 'usage_events_' || to_char(range_start AT TIME ZONE 'UTC', 'YYYYMMDD')
               FROM usage_adopted_spans ORDER BY range_start",
            &[],
        )? {
            let (name, day_name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            if name != day_name {
                plan.step(
                    format!("call the partition {name} {day_name}"),
                    format!("ALTER TABLE {} RENAME TO {day_name}", quoted(&name)),
                );
            }
        }
    }
    Ok(())
}

fn refuse_uneven(client: &mut impl GenericClient, plan: &mut Plan) -> Result<(), postgres::Error> {
    let uneven = texts(
        client,
        "SELECT range_start || ' to ' || range_end FROM usage_adopted_spans
          WHERE range_start <> date_trunc('day', range_start, 'UTC') OR range_end <> date_trunc('day', range_end, 'UTC')
          ORDER BY range_start LIMIT 1",
    )?;
    for span in uneven {
        plan.obstacle(format!(
            "it has chunks that do not begin and end at a UTC midnight, such as {span}: copy its rows into a new table"
        ));
    }
    Ok(())
}

/// Compressed chunks of the hypertable, oldest first.
pub(super) fn compressed_chunks(client: &mut impl GenericClient) -> Result<Vec<String>, postgres::Error> {
    texts(
        client,
        "SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events' AND is_compressed
          ORDER BY range_start",
    )
}

/// Lets no policy compress again what is being decompressed. Its job is deleted in the end.
pub(super) fn pause_compression(client: &mut impl GenericClient) -> Result<(), postgres::Error> {
    client.batch_execute(
        "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs
          WHERE hypertable_schema = current_schema() AND hypertable_name = 'usage_events'
            AND proc_name IN ('policy_compression', 'policy_columnstore')",
    )
}
