//! `usage-processor maintain`: what it does, what it says, and whom it refuses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};
use crate::support::{Processor, TestDatabase, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Ten events on each day so many days ago.
fn insert(database: &mut Database, profile: Profile, days: &[i32]) {
    for day in days {
        if profile == Profile::PostgreSql {
            let ensure = format!(
                "SELECT usage_ensure_partitions(today - {day}, today - {day})
                   FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS utc"
            );
            database.client.batch_execute(&ensure).unwrap();
        }
        let sql = format!(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                       response_time_ms)
             SELECT now() - INTERVAL '{day} days', 'r' || n, '00000000-0000-0000-0000-00000000000a',
                    '00000000-0000-0000-0000-00000000000b', '/', 'GET', 200, 1
               FROM generate_series(1, 10) AS n"
        );
        database.client.batch_execute(&sql).unwrap();
    }
}

/// `maintain` with these arguments: exit code and lines printed, standard error's among them.
fn maintain(database: &TestDatabase, arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let mut command = Processor::command("maintain").database(database);
    for argument in arguments {
        command = command.arg(argument);
    }
    let mut process = command.spawn();
    (process.wait_exit(PATIENCE).code(), process.lines())
}

/// The object that `--json` prints, and the other lines.
fn maintain_json(database: &TestDatabase) -> (serde_json::Value, Vec<String>) {
    let (code, lines) = maintain(database, &["--json"]);
    assert_eq!(code, Some(0), "{lines:?}");
    let (json, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.starts_with('{'));
    assert_eq!(json.len(), 1, "{json:?} {others:?}");
    (serde_json::from_str(&json[0]).unwrap(), others)
}

fn count(database: &mut Database, table: &str) -> String {
    database.text(&format!("SELECT count(*)::text FROM {table}"))
}

#[test]
fn all_that_is_due_is_done_and_said_and_then_nothing_is_left() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database, profile, &[95, 94, 30, 0]);
        if profile == Profile::PostgreSql {
            // As two weeks after the last call.
            let drop = "SELECT format('DROP TABLE usage_events_%s', to_char((now() AT TIME ZONE 'UTC')::date + day, 'YYYYMMDD'))
                          FROM generate_series(3, 14) AS day";
            for drop in database.texts(drop) {
                database.client.batch_execute(&drop).unwrap();
            }
        }
        let (done, others) = maintain_json(&database.test);
        assert!(others.is_empty(), "{profile}: {others:?}");
        let expected_partitions = if profile == Profile::PostgreSql { 12 } else { 0 };
        assert_eq!(done["partitions_made"], expected_partitions, "{profile}: {done}");
        // All but those of the newest moment, which more may come of.
        assert_eq!(
            (&done["events_folded"], &done["rows_dropped"]),
            (&30.into(), &20.into()),
            "{profile}: {done}"
        );
        assert_eq!(count(&mut database, "usage_events"), "20");
        assert_eq!(database.text("SELECT sum(total_requests)::text FROM usage_monthly"), "40", "{profile}");
        let since = database.text("SELECT retained_since::text FROM usage_bounds");
        assert_eq!(done["retained_since"], since.as_str());
        let is_right = "SELECT (retained_since <= now() - retention AND retained_since > now() - retention - INTERVAL '2 days')::text
                          FROM usage_bounds";
        assert_eq!(database.text(is_right), "true", "{since}");

        let (code, lines) = maintain(&database.test, &[]);
        let folded = database.text("SELECT folded_until::text FROM usage_bounds");
        let nothing = format!(
            "ledger rows saved: 0, events folded: 0, rows dropped: 0, partitions made: 0, indexes built: 0, \
             folded until: {folded}, retained since: {since}"
        );
        assert_eq!((code, lines), (Some(0), vec![nothing]), "{profile}");
    }
}

#[test]
fn a_day_whose_figures_cannot_be_proven_is_kept_with_a_warning() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database, profile, &[95, 94, 0]);
        // A first part, so that there are figures to falsify.
        database.client.batch_execute("UPDATE usage_bounds SET retention = '200 days'").unwrap();
        maintain_json(&database.test);
        database
            .client
            .batch_execute(
                "UPDATE usage_hourly_figures SET total_requests = total_requests + 1
                  WHERE bucket = (SELECT min(bucket) FROM usage_hourly_figures);
                 UPDATE usage_bounds SET retention = '90 days'",
            )
            .unwrap();
        let (done, warnings) = maintain_json(&database.test);
        assert_eq!(done["rows_dropped"], 10, "{profile}: the other day's");
        let day = database.text("SELECT (min(time) AT TIME ZONE 'UTC')::date::text FROM usage_events");
        let warning =
            format!("events of {day} are kept beyond their time: 1 figures differ from the 10 rows");
        let warned = warnings.iter().filter(|line| line.contains(&warning)).count();
        assert_eq!(warned, 1, "{profile}: once, however many rounds it took: {warnings:?}");
        assert_eq!(count(&mut database, "usage_events"), "20", "{profile}");
    }
}

#[test]
fn of_two_at_once_one_works_and_both_end_well() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database, profile, &[95, 60, 0]);
        let test = &database.test;
        let outcomes: Vec<_> = thread::scope(|scope| {
            let both: Vec<_> = (0..2).map(|_| scope.spawn(|| maintain_json(test))).collect();
            both.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let sum = |name: &str| outcomes.iter().map(|(done, _)| done[name].as_i64().unwrap()).sum::<i64>();
        // Whoever of them was refused, the next one finishes.
        let (rest, _) = maintain_json(&database.test);
        let total = |name: &str| sum(name) + rest[name].as_i64().unwrap();
        assert_eq!((total("events_folded"), total("rows_dropped")), (20, 10), "{profile}: {outcomes:?}");
        assert_eq!(database.text("SELECT sum(total_requests)::text FROM usage_daily"), "30", "{profile}");
    }
}

#[test]
fn while_events_arrive_it_comes_to_an_end() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database, profile, &[20, 0]);
        let mut writer = database.connect();
        let is_over = AtomicBool::new(false);
        let (code, lines) = thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let sql = format!(
                        "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                                   status_code, response_time_ms)
                         VALUES (clock_timestamp(), 'w{n}', '00000000-0000-0000-0000-00000000000a',
                                 '00000000-0000-0000-0000-00000000000b', '/', 'GET', 200, 1)"
                    );
                    writer.batch_execute(&sql).unwrap();
                }
            });
            let outcome = maintain(&database.test, &[]);
            is_over.store(true, Ordering::Relaxed);
            outcome
        });
        assert_eq!(code, Some(0), "{profile}: {lines:?}");
    }
}

#[test]
fn only_the_owner_may_maintain() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        let role = format!("maintainer_of_{}", database.test.name().trim_start_matches("test_"));
        let role = &role[..role.len().min(60)];
        let (_, server) =
            database.test.url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        database
            .client
            .batch_execute(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'x'; SELECT usage_grant_writer('{role}')"
            ))
            .unwrap();
        let url = format!("postgresql://{role}:x@{server}");
        let mut process = Processor::command("maintain").env("DATABASE_URL", &url).spawn();
        let code = process.wait_exit(PATIENCE).code();
        let lines = process.lines();
        database.client.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
        assert_eq!(code, Some(3), "{profile}: {lines:?}");
        assert!(lines.iter().any(|line| line.contains("only the role that owns the tables")), "{lines:?}");

        // A schema that is not this program's.
        database.client.batch_execute("DELETE FROM usage_schema_migrations WHERE version = 17").unwrap();
        let (code, lines) = maintain(&database.test, &[]);
        assert_eq!(code, Some(3), "{profile}: {lines:?}");
    }
    let mut process = Processor::command("maintain").spawn();
    assert_eq!(process.wait_exit(PATIENCE).code(), Some(2), "{:?}", process.lines());
}

#[test]
fn dropping_holds_up_nobody_while_the_rest_of_the_work_is_done() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert(&mut database, profile, &[95, 94, 0]);
        for sql in [
            "UPDATE usage_bounds SET fold_step = '1 year'",
            "SELECT usage_begin_fold(now())",
            "SELECT usage_fold()",
            "SELECT usage_advance_retention()",
        ] {
            database.client.batch_execute(sql).unwrap();
        }
        // The fold waits here, in the round that also drops two days.
        let mut blocker = database.connect();
        let mut transaction = blocker.transaction().unwrap();
        transaction.batch_execute("LOCK TABLE usage_hourly_figures IN SHARE MODE").unwrap();
        let mut maintainer = database.connect();
        let rows_dropped = thread::scope(|scope| {
            let maintaining = scope.spawn(|| -> i64 {
                maintainer.query_one("SELECT rows_dropped FROM usage_maintain()", &[]).unwrap().get(0)
            });
            let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database()
                            AND wait_event_type = 'Lock' AND query LIKE '%usage_maintain()'";
            eventually("the fold waits", PATIENCE, || match database.text(waiting).as_str() {
                "1" => Ok(()),
                other => Err(other.to_owned()),
            });
            database.client.batch_execute("SET lock_timeout = '1s'").unwrap();
            insert(&mut database, profile, &[0]);
            assert_eq!(count(&mut database, "usage_events"), "40", "{profile}: read and written meanwhile");
            assert_eq!(database.text("SELECT sum(total_requests)::text FROM usage_daily"), "40", "{profile}");
            transaction.rollback().unwrap();
            maintaining.join().unwrap()
        });
        assert_eq!(rows_dropped, 20, "{profile}");
        assert_eq!(count(&mut database, "usage_events"), "20", "{profile}");
        let dropped = "SELECT count(*) || ' ' || sum(rows_dropped) FROM usage_retention_drops";
        assert_eq!(database.text(dropped), "2 20", "{profile}");
    }
}

#[test]
fn when_no_events_arrive_it_comes_to_an_end_too() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        // Never any; then none for days, whose bounds move on by the clock.
        for expected in [0, 20] {
            if expected > 0 {
                insert(&mut database, profile, &[5, 3]);
            }
            let (done, _) = maintain_json(&database.test);
            assert_eq!(done["events_folded"], expected, "{profile}: {done}");
            let (nothing, _) = maintain_json(&database.test);
            assert_eq!(nothing["events_folded"], 0, "{profile}: {nothing}");
        }
        let rounds = "SELECT is_more_due::text FROM usage_maintain()";
        eventually("nothing more is due", PATIENCE, || match database.text(rounds).as_str() {
            "false" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
}
