//! Migrations of a database that holds events, figures and compressed chunks; interrupted ones; servers that cannot carry
//! them.

use std::thread;

use postgres::{Client, NoTls};
use usage_processor::migrations::{self, MigrateError, Profile, ProfileChoice};

use crate::database::{Database, choice, has_timescaledb, profiles};
use crate::support::{PrivatePostgres, Processor, SERVER_TIMEOUT, eventually};

/// Twelve days of events, some compressed, folded until five days ago, and late ones that are not.
fn fill(database: &mut Database, profile: Profile) {
    let insert = |from: i32, to: i32, prefix: &str| {
        format!(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                       response_time_ms)
             SELECT now() - n * interval '1 hour', '{prefix}' || n, md5('o' || n % 3)::uuid, md5('k' || n % 5)::uuid,
                    '/e' || n % 4, 'GET', 200, n
               FROM generate_series({from}, {to}) AS n"
        )
    };
    let mut run =
        |sql: &str| database.client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run(&insert(120, 300, "r"));
    run("UPDATE usage_bounds SET fold_step = '1 year'");
    for _ in 0..2 {
        run("SELECT usage_begin_fold(now() - interval '5 days')");
        run("SELECT usage_fold()");
    }
    if profile == Profile::TimescaleDb {
        run(
            "SELECT compress_chunk(c) FROM show_chunks('usage_events', older_than => interval '8 days') AS c",
        );
    }
    run(&insert(1, 119, "r"));
    run(&insert(130, 280, "late"));
}

fn billed(database: &mut Database) -> String {
    database.text(
        "SELECT md5(string_agg(line, ',' ORDER BY line)) FROM (
             SELECT usage_hourly::text AS line FROM usage_hourly
             UNION ALL SELECT usage_endpoint_hourly::text FROM usage_endpoint_hourly
             UNION ALL SELECT usage_daily::text FROM usage_daily
             UNION ALL SELECT usage_monthly::text FROM usage_monthly) AS lines",
    )
}

/// Reverses down to this migration, it included.
fn down_to(database: &mut Database, label: &str) {
    while migrations::down(&mut database.client).unwrap().unwrap().label() != label {}
}

#[test]
fn a_filled_database_goes_down_and_up_again() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        fill(&mut database, profile);
        let before = billed(&mut database);

        // What lies above the figures can be taken back and made anew: nothing is lost by it.
        down_to(&mut database, "012_track_dead_letters");
        migrations::up(&mut database.client, choice(profile)).unwrap();
        assert_eq!(billed(&mut database), before, "{profile}");
        assert_eq!(database.text("SELECT count(*)::text FROM usage_events"), "451");

        // Down to the last: rows and figures are gone, and nothing else is left.
        while migrations::down(&mut database.client).unwrap().is_some() {}
        let left = database.text(
            "SELECT count(*)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'usage%'
                AND relname NOT LIKE 'usage_schema_migrations%'",
        );
        assert_eq!(left, "0", "{profile}");
        migrations::up(&mut database.client, choice(profile)).unwrap();
        assert_eq!(database.text("SELECT count(*)::text FROM usage_monthly"), "0");
        fill(&mut database, profile);
        assert_eq!(database.text("SELECT sum(total_requests)::text FROM usage_monthly"), "451", "{profile}");
    }
}

#[test]
fn figures_that_were_taken_back_are_folded_anew_from_the_rows() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        fill(&mut database, profile);
        let before = billed(&mut database);
        down_to(&mut database, "006_create_usage_figures");
        migrations::up(&mut database.client, choice(profile)).unwrap();
        assert_eq!(billed(&mut database), before, "{profile}: all read as rows");
        database.client.batch_execute("UPDATE usage_bounds SET fold_step = '1 year'").unwrap();
        database.client.batch_execute("SELECT usage_begin_fold(now())").unwrap();
        assert_eq!(database.text("SELECT usage_fold()::text"), "451", "{profile}");
        assert_eq!(billed(&mut database), before, "{profile}: all folded");
    }
}

/// 007 makes a trigger, which another's lock keeps waiting; there the server ends its session.
#[test]
fn a_migration_whose_session_is_killed_is_run_again() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        fill(&mut database, profile);
        let before = billed(&mut database);
        down_to(&mut database, "006_create_usage_figures");
        let mut other = database.connect();
        other.batch_execute("BEGIN; LOCK TABLE usage_events IN SHARE MODE").unwrap();
        let mut client = database.connect();
        let migrating = thread::Builder::new()
            .spawn(move || migrations::up(&mut client, choice(profile)).map(|list| list.len()))
            .unwrap();
        eventually("the migration waits and is killed", SERVER_TIMEOUT, || {
            let killed = database.text(
                "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'",
            );
            if killed == "1" { Ok(()) } else { Err(killed) }
        });
        let error = migrating.join().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "applying migration 007_record_late_events", "{profile}");
        other.batch_execute("COMMIT").unwrap();
        let newest = "SELECT max(version)::text FROM usage_schema_migrations";
        assert_eq!(database.text(newest), "6", "{profile}: those before it stay");
        let trigger = "SELECT count(*)::text FROM pg_proc WHERE proname = 'usage_note_events'";
        assert_eq!(database.text(trigger), "0", "{profile}: it left nothing behind");

        let applied = migrations::up(&mut database.client, ProfileChoice::Auto).unwrap();
        assert_eq!(applied.first().unwrap().label(), "007_record_late_events");
        assert_eq!(billed(&mut database), before, "{profile}");
    }
}

#[test]
fn an_apache_only_timescaledb_is_refused_and_the_portable_profile_offered() {
    if !has_timescaledb() {
        return; // Said loudly.
    }
    let server = PrivatePostgres::start_with(&["timescaledb.license=apache"]);
    let mut client = Client::connect(&server.url(), NoTls).unwrap();
    let error = migrations::up(&mut client, ProfileChoice::Auto).unwrap_err();
    assert!(matches!(error, MigrateError::ExtensionApache { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("timescaledb.license = 'timescale'"), "{message}");
    assert!(message.contains("--profile postgresql"), "{message}");
    assert!(
        migrations::status(&mut client, ProfileChoice::Auto)
            .unwrap()
            .iter()
            .all(|status| { status.state == migrations::State::Pending })
    );
    migrations::up(&mut client, ProfileChoice::PostgreSql).unwrap();
}

#[test]
fn down_asks_before_rows_are_dropped() {
    let mut database = Database::migrated(Profile::PostgreSql);
    fill(&mut database, Profile::PostgreSql);
    let down = |arguments: &[&str]| {
        let mut command = Processor::command("migrate").database(&database.test).arg("down");
        for argument in arguments {
            command = command.arg(argument);
        }
        let mut process = command.spawn();
        (process.wait_exit(SERVER_TIMEOUT).code(), process.lines().join("\n"))
    };
    for _ in 7..=22 {
        let (code, lines) = down(&[]);
        assert_eq!(code, Some(0), "nothing is in these: {lines}");
    }
    let (code, lines) = down(&[]);
    assert_eq!(code, Some(3), "{lines}");
    assert!(lines.contains("reverting 006_create_usage_figures drops what is in "), "{lines}");
    assert!(lines.contains("usage_daily_figures") && !lines.contains("usage_bounds"), "{lines}");
    for _ in 4..=6 {
        assert_eq!(down(&["--drop-rows"]).0, Some(0));
    }
}
