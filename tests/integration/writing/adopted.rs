//! Tables of another program, as they are commonly deployed, with months that only the old aggregates know: taken over,
//! every figure is what it was, and the writer goes on.

use std::thread;

use usage_processor::migrations::{self, AdoptOptions, MigrateError, Profile, ProfileChoice};

use super::{Case, Event, ORGANIZATION, Part, batch, now_ms, sink};
use crate::database::{Database, choice, has_timescaledb, profiles};
use crate::support::{Processor, SERVER_TIMEOUT, eventually};

/// As platforms have it: other lengths, a unique key without the organization, defaults instead of NOT NULL.
const TABLE: &str = "
CREATE TABLE usage_events (
    time timestamptz NOT NULL, request_id varchar(64) NOT NULL, organization_id uuid NOT NULL, api_key_id uuid NOT NULL,
    endpoint text NOT NULL, method varchar(10) NOT NULL, status_code smallint NOT NULL, response_time_ms int NOT NULL,
    billable boolean DEFAULT true, weight int DEFAULT 1, region text, id bigserial, UNIQUE (request_id, time)
)";

const INDEXES: &str = "
CREATE INDEX usage_events_organization_idx ON usage_events (organization_id, time DESC);
CREATE INDEX usage_events_api_key_idx ON usage_events (api_key_id);
CREATE INDEX usage_events_billable_idx ON usage_events (time DESC) WHERE billable;
CREATE INDEX usage_events_region_idx ON usage_events (region, time)";

/// 140 days of two organizations, nine events a day and one an hour today, and one that a gateway may send again.
fn fill(database: &mut Database) {
    database
        .client
        .batch_execute(&format!(
            "INSERT INTO usage_events
             SELECT now() - n * interval '160 minutes', left(organization::text, 1) || n, organization, md5('key' || n % 3)::uuid, '/e' || n % 5, 'GET',
                    (ARRAY[200, 201, 404, 503])[1 + n % 4], n % 300, n % 3 > 0, n % 7
               FROM generate_series(1, 1260) AS n,
                    unnest(ARRAY['{ORGANIZATION}'::uuid, md5('other')::uuid]) AS organization -- 6..., 7...
              WHERE organization = '{ORGANIZATION}' OR n % 2 = 0
                 ON CONFLICT DO NOTHING;
             INSERT INTO usage_events SELECT to_timestamp({} / 1000.0), 'old-0', '{ORGANIZATION}', '{ORGANIZATION}',
                    '/v1/orders', 'GET', 200, 12, true, 1;
             CREATE TABLE truth AS SELECT * FROM usage_events",
            now_ms()
        ))
        .unwrap();
}

fn aggregate(name: &str, unit: &str, is_continuous: bool) -> String {
    let (with, bucket) = if is_continuous {
        (
            "WITH (timescaledb.continuous, timescaledb.materialized_only = true)",
            format!("time_bucket('1 {unit}', time)"),
        )
    } else {
        ("", format!("date_trunc('{unit}', time, 'UTC')"))
    };
    let api_key = if unit == "hour" { "api_key_id, " } else { "" };
    format!(
        "CREATE MATERIALIZED VIEW {name} {with} AS
         SELECT {bucket} AS bucket, organization_id, {api_key}count(*) AS total_requests,
                count(*) FILTER (WHERE billable) AS billable_requests,
                sum(weight) FILTER (WHERE billable) AS billable_units,
                avg(response_time_ms) AS avg_response_time_ms, count(*) FILTER (WHERE status_code >= 500) AS error_count
           FROM usage_events GROUP BY bucket, {api_key}organization_id"
    )
}

/// A hypertable with chunks of a week, some compressed, and policies; what is older than 60 days is dropped.
fn hypertable(unique: &str) -> Database {
    let mut database = Database::create();
    let mut run =
        |sql: &str| database.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run("CREATE EXTENSION timescaledb");
    run("SELECT _timescaledb_functions.stop_background_workers()");
    run(&TABLE.replace(", UNIQUE (request_id, time)", unique));
    run("SELECT create_hypertable('usage_events', 'time', chunk_time_interval => interval '7 days')");
    run(INDEXES);
    for (name, unit) in [("usage_hourly", "hour"), ("usage_daily", "day"), ("usage_monthly", "month")] {
        run(&aggregate(name, unit, true));
        run(&format!(
            "SELECT add_continuous_aggregate_policy('{name}', NULL, interval '1 hour', interval '1 hour')"
        ));
    }
    run(
        "ALTER TABLE usage_events SET (timescaledb.compress, timescaledb.compress_segmentby = 'organization_id')",
    );
    run("SELECT add_compression_policy('usage_events', interval '7 days')");
    run("SELECT add_retention_policy('usage_events', interval '120 days')");
    fill(&mut database);
    for name in ["usage_hourly", "usage_daily", "usage_monthly"] {
        let sql = format!("CALL refresh_continuous_aggregate('{name}', NULL, NULL)");
        database.client.batch_execute(&sql).unwrap();
    }
    database
        .client
        .batch_execute(
            "SELECT drop_chunks('usage_events', older_than => interval '60 days');
             SELECT compress_chunk(c) FROM show_chunks('usage_events', older_than => interval '20 days') AS c",
        )
        .unwrap();
    database
}

/// Partitions of a UTC day by other names, and materialized views; what is older than 60 days is dropped.
fn partitioned() -> Database {
    let mut database = Database::create();
    database
        .client
        .batch_execute(&format!(
            "{TABLE} PARTITION BY RANGE (time); {INDEXES};
             DO $$
             DECLARE day date;
             BEGIN
                 FOR n IN -1 .. 141 LOOP
                     day := (now() AT TIME ZONE 'UTC')::date - n;
                     EXECUTE format('CREATE TABLE events_%s PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
                                    to_char(day, 'YYYY_MM_DD'), day || ' 00:00+00', (day + 1) || ' 00:00+00');
                 END LOOP;
             END
             $$"
        ))
        .unwrap();
    fill(&mut database);
    for (name, unit) in [("usage_hourly", "hour"), ("usage_daily", "day"), ("usage_monthly", "month")] {
        database.client.batch_execute(&aggregate(name, unit, false)).unwrap();
    }
    database
        .client
        .batch_execute(
            "DO $$
             BEGIN
                 FOR n IN 60 .. 141 LOOP
                     EXECUTE format('DROP TABLE events_%s', to_char((now() AT TIME ZONE 'UTC')::date - n, 'YYYY_MM_DD'));
                 END LOOP;
             END
             $$",
        )
        .unwrap();
    database
}

fn common(profile: Profile) -> Database {
    match profile {
        Profile::TimescaleDb => hypertable(", UNIQUE (request_id, time)"),
        Profile::PostgreSql => partitioned(),
    }
}

fn adopt(database: &mut Database, profile: Profile, options: AdoptOptions) -> Result<String, MigrateError> {
    migrations::adopt(&mut database.client, choice(profile), options)
        .map(|adoption| adoption.lines.join("\n"))
}

/// Every bucket of every level is what the rows said before any was dropped.
#[track_caller]
fn assert_all_is_there(database: &mut Database) {
    for (view, unit, api_key) in [
        ("usage_hourly", "hour", "api_key_id"),
        ("usage_daily", "day", "NULL::uuid"),
        ("usage_monthly", "month", "NULL::uuid"),
    ] {
        let key = if unit == "hour" { "api_key_id" } else { "NULL::uuid" };
        let differences = database.text(&format!(
            "WITH before AS (
                 SELECT date_trunc('{unit}', time, 'UTC') AS bucket, organization_id, {api_key} AS api_key, count(*),
                        count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0), sum(response_time_ms),
                        count(*) FILTER (WHERE status_code >= 500)
                   FROM truth GROUP BY 1, 2, 3
             ), now AS (
                 SELECT bucket, organization_id, {key}, total_requests, billable_requests, billable_units,
                        response_time_ms_sum, error_count FROM {view}
             )
             SELECT count(*)::text FROM ((TABLE before EXCEPT TABLE now) UNION ALL (TABLE now EXCEPT TABLE before)) AS d"
        ));
        assert_eq!(differences, "0", "{view}");
    }
}

#[test]
fn a_common_table_is_taken_over_with_its_history_and_written_on() {
    for profile in profiles() {
        let mut database = common(profile);
        let error = migrations::up(&mut database.client, choice(profile)).unwrap_err();
        assert!(matches!(error, MigrateError::ForeignTable), "{error:?}");
        let dry_run = AdoptOptions { is_dry_run: true, ..AdoptOptions::default() };
        let plan = adopt(&mut database, profile, dry_run).unwrap();
        assert!(plan.contains("DROP MATERIALIZED VIEW usage_hourly"), "{plan}");
        assert_eq!(database.text("SELECT (to_regclass('usage_bounds') IS NULL)::text"), "true");

        let lines = adopt(&mut database, profile, AdoptOptions::default()).unwrap();
        assert!(lines.contains("whose rows are gone"), "{lines}");
        assert_all_is_there(&mut database);
        let old = database.text("SELECT sum(total_requests)::text FROM adopted_usage_monthly");
        assert_eq!(old, database.text("SELECT count(*)::text FROM truth"), "{profile}: kept to compare");
        let retention = database.text("SELECT retention::text FROM usage_bounds");
        assert_eq!(retention, if profile == Profile::TimescaleDb { "120 days" } else { "100 years" });
        // Again does nothing.
        assert_eq!(
            adopt(&mut database, profile, AdoptOptions::default()).unwrap(),
            "folded 0 events into the figures"
        );

        let sink = sink(&database.test.url());
        let mut case = Case { database, sink };
        let mut late = Event::new("late");
        late.time_ms -= 30 * 86_400_000;
        let events = [Event::new("old-0"), Event::new("new-0"), late];
        assert_eq!(case.write_all(&batch(&[Part::new(0, 0, &events)])), [3, 2, 0, 1, 0], "{profile}");
        let billed = "SELECT sum(total_requests)::text FROM usage_monthly";
        assert_eq!(case.database.text(billed), case.database.text("SELECT (count(*) + 2)::text FROM truth"));
        // Of a day whose rows are gone no event is taken: it is a dead letter.
        let mut expired = Event::new("expired");
        expired.time_ms -= 80 * 86_400_000;
        assert_eq!(case.write_all(&batch(&[Part::new(0, 3, &[expired])])), [1, 0, 0, 0, 1], "{profile}");
        case.execute("SELECT usage_maintain(); SELECT usage_maintain()");
        case.execute("INSERT INTO usage_ledger_starts VALUES ('billing', 'usage-events', 0, 0, 0, 'a test')");
        let mut audit = Processor::command("audit").database(&case.database.test).spawn();
        let code = audit.wait_exit(SERVER_TIMEOUT).code();
        assert_eq!(code, Some(0), "{profile}: {}", audit.lines().join("\n"));
    }
}

#[test]
fn what_only_the_monthly_figures_know_is_carried_over() {
    for profile in profiles() {
        let mut database = common(profile);
        database.client.batch_execute("DROP MATERIALIZED VIEW usage_daily").unwrap();
        database.client.batch_execute("DROP MATERIALIZED VIEW usage_hourly").unwrap();
        adopt(&mut database, profile, AdoptOptions::default()).unwrap();
        let months = "SELECT string_agg(concat_ws(' ', bucket, organization_id, total_requests, billable_requests,
                             billable_units, response_time_ms_sum, error_count), ',' ORDER BY bucket, organization_id)
                        FROM usage_monthly";
        let truth = "SELECT string_agg(concat_ws(' ', bucket, organization_id, requests, billable, units, ms, failed), ','
                                       ORDER BY bucket, organization_id)
                       FROM (SELECT date_trunc('month', time, 'UTC') AS bucket, organization_id, count(*) AS requests,
                                    count(*) FILTER (WHERE billable) AS billable,
                                    sum(weight) FILTER (WHERE billable) AS units, sum(response_time_ms) AS ms,
                                    count(*) FILTER (WHERE status_code >= 500) AS failed
                               FROM truth GROUP BY 1, 2) AS months";
        assert_eq!(database.text(months), database.text(truth), "{profile}");
    }
}

/// One row that came late, when its week had been dropped, hides what the old figures know of all the weeks after it.
#[test]
fn a_stray_row_before_a_gap_is_named_and_not_believed() {
    for profile in profiles() {
        let mut database = common(profile);
        let table = if profile == Profile::TimescaleDb { "usage_events" } else { "events_stray" };
        if profile == Profile::PostgreSql {
            database
                .client
                .batch_execute(
                    "DO $$ BEGIN EXECUTE format('CREATE TABLE events_stray PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
                         (now() AT TIME ZONE 'UTC')::date - 100 || ' 00:00+00', (now() AT TIME ZONE 'UTC')::date - 99 || ' 00:00+00');
                     END $$",
                )
                .unwrap();
        }
        database
            .client
            .batch_execute(&format!(
                "INSERT INTO usage_events SELECT date_trunc('day', now(), 'UTC') - interval '100 days', 'stray', '{ORGANIZATION}',
                        '{ORGANIZATION}', '/', 'GET', 200, 1, true, 1"
            ))
            .unwrap();
        let error = adopt(&mut database, profile, AdoptOptions::default()).unwrap_err().to_string();
        assert!(error.contains("usage_daily counts more requests than are found in"), "{profile}: {error}");
        database.client.batch_execute(&format!("DELETE FROM {table} WHERE request_id = 'stray'")).unwrap();
        adopt(&mut database, profile, AdoptOptions::default()).unwrap();
        assert_all_is_there(&mut database);
    }
}

#[test]
fn without_history_figures_begin_with_the_oldest_row() {
    for profile in profiles() {
        let mut database = common(profile);
        let options = AdoptOptions { is_without_history: true, ..AdoptOptions::default() };
        adopt(&mut database, profile, options).unwrap();
        let billed = database.text("SELECT sum(total_requests)::text FROM usage_monthly");
        assert_eq!(billed, database.text("SELECT count(*)::text FROM usage_events"), "{profile}");
    }
}

/// All that stands in the way is said at once, and nothing is changed.
#[test]
fn what_would_be_lost_or_billed_twice_is_refused_by_name() {
    if !has_timescaledb() {
        return; // Said loudly.
    }
    let mut database = hypertable("");
    database
        .client
        .batch_execute(
            "UPDATE usage_events SET weight = NULL WHERE request_id = '64';
             UPDATE usage_events SET method = 'x', endpoint = repeat('e', 300) WHERE request_id = '65';
             DELETE FROM usage_events WHERE request_id = '69';
             INSERT INTO usage_events SELECT * FROM usage_events WHERE request_id IN ('66', '68');
             CREATE TABLE usage_bounds ()",
        )
        .unwrap();
    let error = adopt(&mut database, Profile::TimescaleDb, AdoptOptions::default()).unwrap_err().to_string();
    for expected in [
        "\n  - usage_bounds is there already",
        "\n  - 1 rows have none in the column weight: SELECT * FROM usage_events WHERE weight IS NULL",
        "1 rows are longer than 255 characters in the column endpoint",
        "rows have the organization_id, time and request_id of another row",
        "HAVING count(*) > 1",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let compressed = "SELECT count(*)::text FROM timescaledb_information.chunks WHERE is_compressed";
    assert_ne!(database.text(compressed), "0", "nothing was changed");

    // Once these are settled the old figures count a request that is no longer there.
    database
        .client
        .batch_execute(
            "DROP TABLE usage_bounds; UPDATE usage_events SET weight = 4 WHERE weight IS NULL;
             UPDATE usage_events SET endpoint = '/e0' WHERE length(endpoint) > 255;
             DELETE FROM usage_events WHERE request_id IN ('66', '68')",
        )
        .unwrap();
    let error = adopt(&mut database, Profile::TimescaleDb, AdoptOptions::default()).unwrap_err().to_string();
    assert!(error.contains("usage_hourly counts more requests than are found in"), "{error}");
    let options = AdoptOptions { is_rows_win: true, ..AdoptOptions::default() };
    adopt(&mut database, Profile::TimescaleDb, options).unwrap();
    let rows = database.text("SELECT count(*)::text FROM usage_events");
    let recent = "SELECT sum(total_requests)::text FROM usage_daily
                   WHERE bucket >= (SELECT date_trunc('day', min(time), 'UTC') FROM usage_events)";
    assert_eq!(database.text(recent), rows);
}

#[test]
fn a_layout_that_cannot_be_ours_is_refused() {
    let refused = |mut database: Database, choice: ProfileChoice| {
        migrations::adopt(&mut database.client, choice, AdoptOptions::default()).unwrap_err().to_string()
    };
    let error = refused(Database::create(), ProfileChoice::PostgreSql);
    assert!(error.starts_with("there is no table usage_events"), "{error}");

    let mut plain = Database::create();
    plain.client.batch_execute(&TABLE.replace("organization_id uuid", "organization_id text")).unwrap();
    let error = refused(plain, ProfileChoice::PostgreSql);
    assert!(error.contains("\n  - it is not partitioned by ranges of time"), "{error}");
    assert!(error.contains("\n  - the column organization_id is text and must be uuid"), "{error}");

    let mut weekly = Database::create();
    weekly
        .client
        .batch_execute(&format!(
            "{TABLE} PARTITION BY RANGE (time);
             CREATE TABLE w PARTITION OF usage_events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-08 00:00+00');
             CREATE TABLE d PARTITION OF usage_events DEFAULT"
        ))
        .unwrap();
    let error = refused(weekly, ProfileChoice::PostgreSql);
    assert!(error.contains("its partition w does not hold one UTC day"), "{error}");
    assert!(error.contains("its partition d does not hold one UTC day"), "{error}");

    if has_timescaledb() {
        let mut hours = Database::create();
        hours
            .client
            .batch_execute(&format!(
                "CREATE EXTENSION timescaledb; {};
                 SELECT create_hypertable('usage_events', 'time', chunk_time_interval => interval '6 hours',
                                          partitioning_column => 'api_key_id', number_partitions => 2);
                 INSERT INTO usage_events SELECT now(), 'r', gen_random_uuid(), gen_random_uuid(), '/', 'GET', 200, 1",
                TABLE.replace(", UNIQUE (request_id, time)", "")
            ))
            .unwrap();
        let error = refused(hours, ProfileChoice::TimescaleDb);
        assert!(error.contains("do not begin and end at a UTC midnight"), "{error}");
        assert!(error.contains("it is partitioned by api_key_id"), "{error}");
    }
}

#[test]
fn an_adoption_that_was_interrupted_is_run_again() {
    for profile in profiles() {
        let mut database = common(profile);
        let mut reader = database.connect();
        // The adoption comes as far as dropping this one.
        reader.batch_execute("BEGIN; SELECT FROM usage_daily LIMIT 1").unwrap();
        let mut client = database.connect();
        let adopting = thread::Builder::new()
            .spawn(move || {
                migrations::adopt(&mut client, choice(profile), AdoptOptions::default()).map(|_| ())
            })
            .unwrap();
        eventually("the adoption waits and is killed", 2 * SERVER_TIMEOUT, || {
            let killed = database.text(
                "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'",
            );
            if killed == "1" { Ok(()) } else { Err(killed) }
        });
        let error = adopting.join().unwrap().unwrap_err();
        assert!(matches!(error, MigrateError::Adopt { .. }), "{error:?}");
        reader.batch_execute("COMMIT").unwrap();
        assert_eq!(database.text("SELECT (to_regclass('usage_schema_migrations') IS NULL)::text"), "true");

        adopt(&mut database, profile, AdoptOptions::default()).unwrap();
        assert_all_is_there(&mut database);
    }
}
