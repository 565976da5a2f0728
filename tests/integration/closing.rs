//! Months are closed while writers write into them and others fold: a statement has every event, once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use postgres::Client;
use postgres::error::SqlState;
use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};
use crate::support::{SERVER_TIMEOUT, eventually};

const WRITERS: usize = 3;
/// Each is half a day later than the one before: January to March 2025.
const STEPS: i32 = 178;
const MARCH: i32 = 2 * (31 + 28);

/// Forty events of now, and one of any time since the first of January: too few to hold the fold back.
const WRITE: &str =
    "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                               status_code, response_time_ms, weight)
    SELECT '2025-01-01 06:00Z'::timestamptz
               + CASE WHEN n > 0 THEN $1::integer * interval '12 hours' + n * interval '1 second'
                      ELSE $1::integer * random() * interval '12 hours' END,
           gen_random_uuid()::text, ('00000000-0000-0000-0000-00000000000' || n % 3)::uuid,
           '00000000-0000-0000-0000-000000000001', '/', 'GET', 200, 1, n + 1
      FROM generate_series(0, 40) AS n";

fn write(mut client: Client) {
    for step in 0..STEPS {
        client.execute(WRITE, &[&step]).unwrap();
    }
}

/// As `write`, but what it writes after February came after January was closed, however slow the fold is.
fn write_late(mut client: Client) {
    for step in 0..STEPS {
        if step == MARCH {
            let closed = "SELECT FROM usage_closed_months LIMIT 1";
            eventually("January is closed", SERVER_TIMEOUT * 4, || client.query_one(closed, &[]));
        }
        client.execute(WRITE, &[&step]).unwrap();
    }
}

/// A writer that has ended, even by a panic: nobody folds for it any more.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Folds until every writer has ended and everything is folded.
fn fold(mut client: Client, writing: &AtomicUsize) {
    let mut is_over = false;
    while !is_over {
        is_over = writing.load(Ordering::SeqCst) == 0;
        client.batch_execute("SELECT usage_begin_fold()").unwrap();
        client.batch_execute("SELECT usage_fold()").unwrap();
        let is_folded = "SELECT folded_until = newest_time FROM usage_bounds";
        is_over &= client.query_one(is_folded, &[]).unwrap().get::<_, bool>(0);
    }
}

/// Closes January and February, each as soon as it is over.
fn close(mut client: Client) {
    for month in ["2025-01-01", "2025-02-01"] {
        let close = format!("SELECT usage_close_month('{month}', '0 days')");
        while let Err(error) = client.batch_execute(&close) {
            assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn closing_while_others_write_and_fold_loses_nothing() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        if profile == Profile::PostgreSql {
            let make = "SELECT usage_ensure_partitions('2025-01-01', '2025-04-01')";
            database.client.batch_execute(make).unwrap();
        }
        database.client.batch_execute("UPDATE usage_bounds SET fold_step = '1 day'").unwrap();
        let writing = AtomicUsize::new(WRITERS);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let client = database.connect();
                let ended = Ended(&writing);
                scope.spawn(move || {
                    let _ended = ended;
                    if writer == 0 { write_late(client) } else { write(client) }
                });
            }
            for _ in 0..2 {
                let client = database.connect();
                scope.spawn(|| fold(client, &writing));
            }
            let client = database.connect();
            scope.spawn(|| close(client));
        });
        database.client.batch_execute("SELECT usage_fold()").unwrap();

        let told = database.texts(
            "SELECT concat_ws(' ', date_trunc('month', time, 'UTC')::date, right(organization_id::text, 1), count(*), sum(weight))
               FROM usage_events WHERE time < '2025-03-01Z' GROUP BY date_trunc('month', time, 'UTC'), organization_id
              ORDER BY 1",
        );
        let billed = database.texts(
            "SELECT concat_ws(' ', month, right(organization_id::text, 1), sum(total_requests), sum(billable_units))
               FROM (VALUES (date '2025-01-01'), ('2025-02-01')) AS months (month),
                    (SELECT DISTINCT organization_id FROM usage_events) AS known,
                    usage_statement(organization_id, month) GROUP BY month, organization_id ORDER BY 1",
        );
        assert_eq!(billed, told, "{profile}");
        assert_eq!(billed.len(), 6);
        let late = database.text("SELECT sum(total_requests)::text FROM usage_adjustments");
        assert!(
            late.parse::<i64>().unwrap() > 0,
            "{profile}: {late} events came after their month was closed"
        );
        let unchanged =
            "SELECT bool_and(checksum = usage_month_checksum(month))::text FROM usage_closed_months";
        assert_eq!(database.text(unchanged), "true");
    }
}

/// Whoever remembers the last adjustment that was invoiced must not miss one that commits behind it.
#[test]
fn adjustments_become_visible_in_the_order_of_their_ids() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database
            .client
            .batch_execute("INSERT INTO usage_closed_months (month, organizations, checksum) VALUES ('2025-01-01 00:00Z', 0, '')")
            .unwrap();
        let adjust = "INSERT INTO usage_adjustments (month, organization_id, total_requests, billable_requests, billable_units,
                                                     response_time_ms_sum, success_count, client_error_count, error_count, reason)
                      VALUES ('2025-01-01 00:00Z', gen_random_uuid(), 1, 1, 1, 1, 1, 0, 0, 'by hand')";
        let mut slow_client = database.connect();
        let mut slow = slow_client.transaction().unwrap();
        slow.batch_execute(adjust).unwrap();

        let mut other = database.connect();
        other.batch_execute("SET lock_timeout = '300ms'").unwrap();
        let overtaken = other.batch_execute(adjust).unwrap_err();
        assert_eq!(overtaken.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "{profile}: {overtaken:?}");
        slow.commit().unwrap();
        other.batch_execute(adjust).unwrap();
        assert_eq!(database.text("SELECT count(*)::text FROM usage_adjustments"), "2");
    }
}
