//! The audit agrees with fourteen simulated months, and finds each change that is made by hand to what they left.

use std::time::Duration;

use usage_processor::ledger::audit::{Report, audit};
use usage_processor::migrations::Profile;

use crate::cases;
use crate::database::{Database, profiles};

/// What is changed, how it is put right again, and which checks must find it (and no other).
struct Corruption {
    change: String,
    mend: String,
    found_by: &'static [&'static str],
}

/// Adds one to a figure and takes it away again.
fn figure(table: &str, column: &str, which: &str, found_by: &'static [&'static str]) -> Corruption {
    let update = |sign| {
        format!(
            "UPDATE {table} SET {column} = {column} {sign} 1 WHERE (organization_id, bucket) =
                 (SELECT organization_id, bucket FROM {table} WHERE {which} ORDER BY bucket, organization_id LIMIT 1)"
        )
    };
    Corruption { change: update("+"), mend: update("-"), found_by }
}

/// The same change to all three levels, so that they still agree with each other.
fn all_levels(column: &str, found_by: &'static [&'static str]) -> Corruption {
    let update = |sign| {
        let one = "organization_id = id_of('a') AND bucket";
        let cell =
            "FROM truth WHERE organization_id = id_of('a') AND time >= '2024-03-10Z' ORDER BY time LIMIT 1";
        format!(
            "UPDATE usage_hourly_figures SET {column} = {column} {sign} 1
              WHERE {one} = (SELECT date_trunc('hour', time, 'UTC') {cell}) AND api_key_id = (SELECT api_key_id {cell});
             UPDATE usage_endpoint_hourly_figures SET {column} = {column} {sign} 1
              WHERE {one} = (SELECT date_trunc('hour', time, 'UTC') {cell})
                AND (endpoint, method) = (SELECT endpoint, method {cell});
             UPDATE usage_daily_figures SET {column} = {column} {sign} 1
              WHERE {one} = (SELECT date_trunc('day', time, 'UTC') {cell}) AND api_key_id = (SELECT api_key_id {cell})"
        )
    };
    Corruption { change: update("+"), mend: update("-"), found_by }
}

/// Takes the rows away that `which` names, and puts them back.
fn removal(table: &str, which: &str, found_by: &'static [&'static str]) -> Corruption {
    Corruption {
        change: format!(
            "CREATE TABLE removed AS SELECT * FROM {table} WHERE {which};
             ALTER TABLE {table} DISABLE TRIGGER USER; DELETE FROM {table} WHERE {which}"
        ),
        mend: format!(
            "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM removed; SET CONSTRAINTS ALL IMMEDIATE;
             ALTER TABLE {table} ENABLE TRIGGER USER; DROP TABLE removed"
        ),
        found_by,
    }
}

const RETAINED: &str = "bucket >= '2025-01-10Z'";
const HOUR: &str = "bucket = '2025-01-10 10:00Z'";
const DROPPED: &str = "bucket >= '2024-03-10Z'";

fn corruptions() -> Vec<Corruption> {
    let frozen = |value: &str| {
        format!(
            "ALTER TABLE usage_invoice_basis DISABLE TRIGGER USER;
             UPDATE usage_invoice_basis SET billable_units = billable_units {value}
              WHERE month = '2024-03-01Z' AND organization_id = id_of('a');
             ALTER TABLE usage_invoice_basis ENABLE TRIGGER USER"
        )
    };
    vec![
        figure("usage_hourly_figures", "billable_units", RETAINED, &["usage_hourly", "levels"]),
        Corruption {
            change: format!("UPDATE usage_hourly_figures SET endpoint_hashes = endpoint_hashes || 1::bigint WHERE {HOUR}"),
            mend: format!(
                "UPDATE usage_hourly_figures SET endpoint_hashes = endpoint_hashes[:cardinality(endpoint_hashes) - 1]
                  WHERE {HOUR}"
            ),
            found_by: &["usage_hourly"],
        },
        figure(
            "usage_endpoint_hourly_figures",
            "total_requests",
            RETAINED,
            &["usage_endpoint_hourly", "levels"],
        ),
        figure(
            "usage_daily_figures",
            "error_count",
            RETAINED,
            &["usage_daily", "usage_monthly", "levels", "closed_months"],
        ),
        removal("usage_hourly_figures", HOUR, &["usage_hourly", "levels"]),
        // Of rows that are gone: each level by itself, and all of them in step.
        figure("usage_hourly_figures", "billable_units", DROPPED, &["levels"]),
        figure("usage_endpoint_hourly_figures", "success_count", DROPPED, &["levels"]),
        figure("usage_daily_figures", "billable_units", DROPPED, &["levels", "closed_months"]),
        figure(
            "usage_daily_figures",
            "total_requests",
            DROPPED,
            &["levels", "dropped_days", "closed_months"],
        ),
        all_levels("total_requests", &["dropped_days", "closed_months"]),
        all_levels("billable_units", &["closed_months"]),
        all_levels("response_time_ms_sum", &["closed_months"]),
        removal(
            "usage_events",
            "request_id = '2025-02-10-5'",
            &["rows_by_day", "usage_hourly", "usage_endpoint_hourly", "usage_daily", "usage_monthly"],
        ),
        removal("usage_adjustments", "adjustment_id = 7", &["closed_months"]),
        removal(
            "usage_invoice_basis",
            "month = '2024-03-01Z' AND organization_id = id_of('d')",
            &["closed_months"],
        ),
        removal(
            "usage_retention_drops",
            "event_day = '2024-03-10'",
            &["rows_by_day", "usage_hourly", "usage_endpoint_hourly", "usage_daily"],
        ),
        Corruption { change: frozen("+ 1"), mend: frozen("- 1"), found_by: &["closed_months"] },
    ]
}

fn audited(database: &mut Database) -> Report {
    audit(&mut database.client, Duration::from_secs(300), &mut |_| {}).unwrap()
}

#[track_caller]
fn assert_found_by(database: &mut Database, checks: &[&str], place: &str) {
    let report = audited(database);
    let found: Vec<_> = report.checks.iter().filter(|outcome| outcome.inconsistent_count > 0).collect();
    let names: Vec<_> = found.iter().map(|outcome| outcome.check).collect();
    assert_eq!(names, checks, "{place}: {found:#?}");
    assert_eq!(report.is_consistent, checks.is_empty());
}

/// Lives through the fourteen months, and enters what was written into the ledger as their writer would have.
fn after_fourteen_months(profile: Profile) -> Database {
    let mut database = cases::after_fourteen_months(profile);
    database
        .client
        .batch_execute(
            "INSERT INTO usage_ledger_days (event_day, source, written)
             SELECT (time AT TIME ZONE 'UTC')::date, 'replay', count(*) FROM truth GROUP BY 1",
        )
        .unwrap();
    database
}

#[test]
fn the_audit_agrees_with_fourteen_months_and_finds_every_corruption() {
    for profile in profiles() {
        let mut database = after_fourteen_months(profile);
        assert_found_by(&mut database, &[], &profile.to_string());
        for Corruption { change, mend, found_by } in corruptions() {
            database.client.batch_execute(&change).unwrap();
            assert_found_by(&mut database, found_by, &format!("{profile}: {change}"));
            database.client.batch_execute(&mend).unwrap();
        }
        assert_found_by(&mut database, &[], &format!("{profile}: all is mended"));

        // A late event whose increment is lost before it is folded.
        database
            .client
            .batch_execute(
                "CALL add_event('2025-02-10 10:00Z', 'a', '1', '/late', 200, 1);
                 INSERT INTO usage_ledger_days (event_day, source, written) VALUES ('2025-02-10', 'replay', 1)",
            )
            .unwrap();
        assert_found_by(&mut database, &[], &format!("{profile}: late"));
        database.client.batch_execute("DELETE FROM usage_late_figures").unwrap();
        let levels = ["usage_hourly", "usage_endpoint_hourly", "usage_daily", "usage_monthly"];
        assert_found_by(&mut database, &levels, &format!("{profile}: a late increment is lost"));
        database.client.batch_execute("SELECT usage_rebuild_day('2025-02-10')").unwrap();
        assert_found_by(&mut database, &[], &format!("{profile}: rebuilt"));
    }
}

#[test]
fn the_audit_finds_why_retention_has_kept_a_day() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        for statement in cases::helpers().statements {
            database.client.query(&statement.sql, &[]).unwrap();
        }
        for day in ["2025-01-01", "2025-01-02", "2025-01-03", "2025-06-01"] {
            let event = format!("CALL add_event('{day} 10:00Z', 'a', '1', '/', 200, 1)");
            database.client.batch_execute(&event).unwrap();
        }
        database
            .client
            .batch_execute(
                "INSERT INTO usage_ledger_days (event_day, source, written)
                 SELECT (time AT TIME ZONE 'UTC')::date, 'replay', count(*) FROM usage_events GROUP BY 1;
                 CALL announce('2025-06-02 00:00Z')",
            )
            .unwrap();
        for sql in ["usage_fold()", "usage_close_month('2025-01-01')", "usage_apply_retention()"] {
            database.client.batch_execute(&format!("SELECT {sql}")).unwrap();
        }
        // Wrong at all levels, and so in the statement of its month: only the rows know.
        for table in ["usage_hourly_figures", "usage_endpoint_hourly_figures", "usage_daily_figures"] {
            let change = format!(
                "UPDATE {table} SET error_count = error_count + 1 WHERE date_trunc('day', bucket, 'UTC') = '2025-01-02Z'"
            );
            database.client.batch_execute(&change).unwrap();
        }
        assert_eq!(database.text("SELECT usage_apply_retention()::text"), "2", "{profile}");
        let checks = ["usage_hourly", "usage_endpoint_hourly", "usage_daily", "closed_months"];
        assert_found_by(&mut database, &checks, &format!("{profile}: kept"));
        database.client.batch_execute("SELECT usage_rebuild_day('2025-01-02')").unwrap();
        assert_eq!(database.text("SELECT usage_apply_retention()::text"), "1", "{profile}");
        assert_found_by(&mut database, &[], &format!("{profile}: mended and dropped"));
    }
}
