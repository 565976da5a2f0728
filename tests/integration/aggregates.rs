//! The figures that bills and dashboards read, against figures computed by hand, and what retention may not touch.

use postgres::error::SqlState;
use usage_processor::migrations::Profile;

use crate::database::{Database, has_timescaledb, profiles};

const A: &str = "00000000-0000-0000-0000-00000000000a";
const B: &str = "00000000-0000-0000-0000-00000000000b";
const K1: &str = "00000000-0000-0000-0000-000000000001";
const K2: &str = "00000000-0000-0000-0000-000000000002";

/// One event: time in SQL, organization, api key, endpoint, status, milliseconds, billable, weight.
type Event = (&'static str, &'static str, &'static str, &'static str, i32, i32, bool, i32);

/// Three days ago in UTC, plus a time of day; and the present, which may lie in another month.
const EVENTS: [Event; 7] = [
    ("day + interval '10:00:00'", A, K1, "/a", 200, 10, true, 1),
    ("day + interval '10:30:00'", A, K1, "/b", 404, 20, true, 3),
    ("day + interval '10:59:59.999999'", A, K1, "/a", 500, 31, false, 7),
    ("day + interval '23:59:59.999999'", A, K2, "/a", 302, 40, true, 2),
    ("day + interval '10:00:00'", B, K2, "/a", 201, 5, false, 1),
    ("present", A, K1, "/c", 200, 100, true, 5),
    ("present", A, K1, "/c", 503, 201, false, 9),
];

fn insert(database: &mut Database, present: &str, events: &[Event]) {
    for (time, organization, api_key, endpoint, status, milliseconds, billable, weight) in events {
        let sql = format!(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                       status_code, response_time_ms, billable, weight)
             SELECT {time}, gen_random_uuid()::text, '{organization}', '{api_key}', '{endpoint}', 'GET',
                    {status}, {milliseconds}, {billable}, {weight}
             FROM (SELECT '{present}'::timestamptz AS present,
                          date_trunc('day', '{present}'::timestamptz - interval '3 days', 'UTC') AS day) AS t"
        );
        database.client.batch_execute(&sql).unwrap();
    }
}

/// Rows of `usage_hourly`, `usage_daily` and the sums over `usage_monthly`, each as one line.
fn figures(database: &mut Database) -> [Vec<String>; 3] {
    let read = |database: &mut Database, view: &str, columns: &str| {
        database.texts(&format!(
            "SELECT concat_ws(' ', {columns}, total_requests, billable_requests, billable_units,
                              response_time_ms_sum, round(avg_response_time_ms, 3), success_count,
                              client_error_count, error_count)
             FROM {view} ORDER BY bucket, 1"
        ))
    };
    let at = |format: &str| {
        format!("to_char(bucket AT TIME ZONE 'UTC', '{format}'), right(organization_id::text, 1)")
    };
    [
        read(database, "usage_hourly", &(at("HH24") + ", right(api_key_id::text, 1), unique_endpoints")),
        read(database, "usage_daily", &(at("HH24") + ", unique_api_keys")),
        read(
            database,
            "(SELECT min(bucket) AS bucket, organization_id, sum(total_requests) AS total_requests,
                     sum(billable_requests) AS billable_requests, sum(billable_units) AS billable_units,
                     sum(response_time_ms_sum) AS response_time_ms_sum,
                     sum(response_time_ms_sum) / sum(total_requests) AS avg_response_time_ms,
                     sum(success_count) AS success_count, sum(client_error_count) AS client_error_count,
                     sum(error_count) AS error_count
              FROM usage_monthly GROUP BY organization_id) AS months",
            &at("DD HH24"),
        ),
    ]
}

#[test]
fn aggregates_equal_figures_computed_by_hand_before_and_after_refresh() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        // Half an hour off: whoever buckets by the session's zone is caught.
        database.client.batch_execute("SET TimeZone = 'Asia/Kolkata'").unwrap();
        let present = database.text("SELECT now()::text");
        insert(&mut database, &present, &EVENTS);

        let hour =
            database.text(&format!("SELECT to_char('{present}'::timestamptz AT TIME ZONE 'UTC', 'HH24')"));
        let expected = [
            vec![
                "10 a 1 2 3 2 4 61 20.333 1 1 1".to_owned(),
                "10 b 2 1 1 0 0 5 5.000 1 0 0".to_owned(),
                "23 a 2 1 1 1 2 40 40.000 0 0 0".to_owned(),
                format!("{hour} a 1 1 2 1 5 301 150.500 1 0 1"),
            ],
            vec![
                "00 a 2 4 3 6 101 25.250 1 1 1".to_owned(),
                "00 b 1 1 0 0 5 5.000 1 0 0".to_owned(),
                "00 a 1 2 1 5 301 150.500 1 0 1".to_owned(),
            ],
            vec!["01 00 a 6 4 11 402 67.000 2 1 2".to_owned(), "01 00 b 1 0 0 5 5.000 1 0 0".to_owned()],
        ];
        assert_eq!(figures(&mut database), expected, "{profile}, before any refresh");
        if profile == Profile::TimescaleDb {
            database.run_jobs("policy_refresh_continuous_aggregate");
            assert_eq!(figures(&mut database), expected, "after the policies ran");
            database
                .client
                .batch_execute("CALL refresh_continuous_aggregate('usage_hourly', NULL, NULL)")
                .unwrap();
            assert_eq!(figures(&mut database), expected, "with the current hour materialized");
        }
    }
}

#[test]
fn the_current_month_is_one_row_with_zeros_for_nothing() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database.client.batch_execute("SET TimeZone = 'Asia/Kolkata'").unwrap();
        let mut usage = |organization: &str| {
            database.text(&format!(
                "SELECT concat_ws(' ', u.*, pg_typeof(total_requests), pg_typeof(billable_units),
                                  pg_typeof(avg_response_time_ms))
                 FROM get_current_month_usage('{organization}') AS u"
            ))
        };
        assert_eq!(usage(A), "(0,0,0) bigint bigint numeric", "{profile}");

        let present = database.text("SELECT now()::text");
        let month_start = "date_trunc('month', present, 'UTC')";
        insert(&mut database, &present, &[("present", A, K1, "/", 200, 10, true, 2)]);
        insert(&mut database, &present, &[(month_start, A, K2, "/", 200, 11, false, 4)]);
        let last_month = "date_trunc('month', present, 'UTC') - interval '1 microsecond'";
        insert(&mut database, &present, &[(last_month, A, K1, "/", 200, 999, true, 100)]);
        let row = database.text(&format!(
            "SELECT concat_ws(' ', total_requests, billable_units, round(avg_response_time_ms, 1))
             FROM get_current_month_usage('{A}')"
        ));
        assert_eq!(row, "2 2 10.5", "{profile}");
    }
}

fn insert_days_ago(database: &mut Database, days: &[i32]) {
    for day in days {
        let sql = format!(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                       status_code, response_time_ms)
             VALUES (now() - interval '{day} days', gen_random_uuid()::text, '{A}', '{K1}', '/', 'GET', 200, 1)"
        );
        database.client.batch_execute(&sql).unwrap();
    }
}

fn billed(database: &mut Database) -> [String; 3] {
    ["usage_hourly", "usage_daily", "usage_monthly"]
        .map(|view| database.text(&format!("SELECT sum(billable_units)::text FROM {view}")))
}

#[test]
fn retention_and_late_events_never_erase_what_was_billed() {
    if !has_timescaledb() {
        return; // Said loudly. The portable profile drops nothing yet.
    }
    let mut database = Database::migrated(Profile::TimescaleDb);
    insert_days_ago(&mut database, &[200, 120, 100, 100, 95, 92, 88, 60, 30, 2]);
    for view in ["usage_hourly", "usage_daily", "usage_monthly"] {
        let refresh = format!("CALL refresh_continuous_aggregate('{view}', NULL, now())");
        database.client.batch_execute(&refresh).unwrap();
    }
    assert_eq!(billed(&mut database), ["10", "10", "10"]);

    database.run_jobs("usage_apply_retention_job");
    assert_eq!(database.text("SELECT count(*)::text FROM usage_events"), "4", "older chunks are dropped");
    database.run_jobs("policy_refresh_continuous_aggregate");
    assert_eq!(billed(&mut database), ["10", "10", "10"], "history stays");

    // Late, but retained: billed at every level. Too late: it must not replace the two that its hour held.
    insert_days_ago(&mut database, &[88, 31, 100]);
    database.run_jobs("policy_refresh_continuous_aggregate");
    assert_eq!(billed(&mut database), ["12", "12", "12"]);
}

#[test]
fn compressed_chunks_keep_the_unique_key_and_take_late_events() {
    if !has_timescaledb() {
        return; // Said loudly. Only TimescaleDB compresses.
    }
    let mut database = Database::migrated(Profile::TimescaleDb);
    let sql = format!(
        "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                   status_code, response_time_ms)
         SELECT date_trunc('day', now()) - interval '10 days' + n * interval '1 second', 'r' || n, '{A}', '{K1}',
                '/', 'GET', 200, 1
         FROM generate_series(1, 1000) AS n"
    );
    database.client.batch_execute(&sql).unwrap();
    database.run_jobs("policy_compression");
    let compressed = database.text(
        "SELECT count(*)::text FROM timescaledb_information.chunks
         WHERE hypertable_name = 'usage_events' AND is_compressed",
    );
    assert_eq!(compressed, "1");

    let error = database.client.batch_execute(&sql).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{error:?}");
    insert_days_ago(&mut database, &[10]);
    database.run_jobs("policy_refresh_continuous_aggregate");
    assert_eq!(billed(&mut database), ["1001", "1001", "1001"]);
}
