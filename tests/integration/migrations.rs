//! The way a schema is applied, reversed, recorded and refused.

use std::time::Duration;

use usage_processor::migrations::{
    self, LOCK_KEY, LOCK_WAIT, MigrateError, Migration, Profile, ProfileChoice, ServerInfo, State,
    TimescaleDb, with_lock,
};

use crate::database::{Database, choice, profiles};

const ALL: [&str; 19] = [
    "004_create_usage_events",
    "005_create_usage_dead_letters",
    "006_create_usage_figures",
    "007_record_late_events",
    "008_fold_usage_events",
    "009_create_usage_views",
    "010_create_usage_functions",
    "011_create_usage_ledger",
    "012_track_dead_letters",
    "013_find_droppable_events",
    "014_apply_retention",
    "015_close_months",
    "016_grant_roles",
    "017_maintain_usage",
    "018_schedule_maintenance",
    "019_find_parts",
    "020_index_time_by_blocks",
    "021_fold_touched_spans",
    "022_remove_smoke_events",
];

fn labels(list: &[&Migration]) -> Vec<String> {
    list.iter().map(|migration| migration.label()).collect()
}

/// Everything in the schema `public` that no extension owns, and the jobs that a user made.
fn objects(database: &mut Database, profile: Profile) -> Vec<String> {
    let mut list = database.texts(
        "SELECT relname::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'S')
           AND relname NOT LIKE 'usage_schema_migrations%'
           AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
         UNION ALL
         SELECT proname::text FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace
           AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')",
    );
    if profile == Profile::TimescaleDb {
        list.extend(database.texts(
            "SELECT 'job ' || job_id FROM timescaledb_information.jobs WHERE job_id >= 1000
             UNION ALL SELECT 'chunk ' || relname FROM pg_class
             WHERE relnamespace = '_timescaledb_internal'::regnamespace AND relname ~ '^_hyper_'",
        ));
    }
    list
}

#[test]
fn up_down_up_leaves_nothing_and_comes_back() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert_one(&mut database);
        let made = objects(&mut database, profile).len();
        assert!(made > 10, "{profile}: {made} objects");

        let mut reverted = Vec::new();
        while let Some(migration) = migrations::down(&mut database.client).unwrap() {
            reverted.push(migration.label());
        }
        reverted.reverse();
        assert_eq!(reverted, ALL);
        assert_eq!(objects(&mut database, profile), [""; 0], "{profile}");

        let applied = migrations::up(&mut database.client, choice(profile)).unwrap();
        assert_eq!(labels(&applied), ALL);
        insert_one(&mut database);
    }
}

fn insert_one(database: &mut Database) {
    database
        .client
        .execute(
            "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                       status_code, response_time_ms)
             VALUES (now(), 'r', gen_random_uuid(), gen_random_uuid(), '/', 'GET', 200, 1)",
            &[],
        )
        .unwrap();
}

#[test]
fn up_twice_applies_once() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        assert!(migrations::up(&mut database.client, ProfileChoice::Auto).unwrap().is_empty());
    }
}

#[test]
fn every_file_is_safe_to_run_twice_in_both_directions() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        insert_one(&mut database);
        let run = |database: &mut Database, label: &str, way: &str| {
            let read = |folder| std::fs::read_to_string(format!("migrations/{folder}/{label}.{way}.sql"));
            let sql = read("common").or_else(|_| read(profile.as_str())).unwrap();
            database
                .client
                .batch_execute(&sql)
                .unwrap_or_else(|error| panic!("{profile} {label} {way}: {error:?}"));
        };
        for label in ALL {
            run(&mut database, label, "up");
        }
        for label in ALL.iter().rev().flat_map(|label| [label, label]) {
            run(&mut database, label, "down");
        }
        assert_eq!(objects(&mut database, profile), [""; 0], "{profile}");
    }
}

#[test]
fn a_changed_applied_file_is_refused_by_name() {
    let mut database = Database::migrated(Profile::PostgreSql);
    database
        .client
        .batch_execute("UPDATE usage_schema_migrations SET sha256 = 'x' WHERE version = 6")
        .unwrap();
    let expected = "migration 006_create_usage_figures was changed after it was applied: \
                    restore its text and add a new migration instead";
    let client = &mut database.client;
    assert_eq!(migrations::up(client, ProfileChoice::Auto).unwrap_err().to_string(), expected);
    assert_eq!(migrations::down(client).unwrap_err().to_string(), expected);
    assert_eq!(migrations::ensure_current(client).unwrap_err().to_string(), expected);
    let status = migrations::status(client, ProfileChoice::Auto).unwrap();
    assert!(matches!(status[2].state, State::Changed(_)), "{status:?}");
    assert!(matches!(status[3].state, State::Applied(_)), "{status:?}");
}

#[test]
fn a_failed_migration_leaves_nothing_and_the_next_run_continues() {
    let mut database = Database::create();
    database.client.batch_execute("CREATE VIEW usage_daily AS SELECT 1").unwrap();
    let error = migrations::up(&mut database.client, ProfileChoice::PostgreSql).unwrap_err();
    assert_eq!(error.to_string(), "applying migration 009_create_usage_views");

    database.client.batch_execute("DROP VIEW usage_daily").unwrap();
    let applied = migrations::up(&mut database.client, ProfileChoice::PostgreSql).unwrap();
    assert_eq!(labels(&applied), ALL[5..]);
}

#[test]
fn a_second_process_waits_for_the_lock_and_then_gives_up() {
    let database = Database::create();
    let mut holder = database.connect();
    holder.execute("SELECT pg_advisory_lock($1)", &[&LOCK_KEY]).unwrap();
    let mut waiter = database.connect();
    let busy = with_lock(&mut waiter, Duration::from_millis(100), |_| Ok(()));
    assert!(matches!(busy, Err(MigrateError::LockBusy { .. })), "{busy:?}");

    drop(holder);
    with_lock(&mut waiter, LOCK_WAIT, |_| Ok(())).unwrap();
    let timeout: String = waiter.query_one("SHOW lock_timeout", &[]).unwrap().get(0);
    assert_eq!(timeout, "0", "the wait's bound must not stay with the session");
}

#[test]
fn two_processes_at_once_apply_every_migration_once() {
    let database = Database::create();
    let applied: usize = std::thread::scope(|scope| {
        let runs = [database.connect(), database.connect()].map(|mut client| {
            scope.spawn(move || migrations::up(&mut client, ProfileChoice::PostgreSql).unwrap().len())
        });
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    assert_eq!(applied, ALL.len());
}

#[test]
fn the_program_says_which_command_helps_when_the_schema_is_not_current() {
    let mut database = Database::create();
    let error = migrations::ensure_current(&mut database.client).unwrap_err();
    assert_eq!(error.to_string(), "the database has no usage schema: run `usage-processor migrate up`");

    for profile in profiles() {
        let mut database = Database::migrated(profile);
        let server = migrations::ensure_current(&mut database.client).unwrap().to_string();
        let start = if profile == Profile::TimescaleDb { "TimescaleDB " } else { "PostgreSQL " };
        assert!(server.starts_with(start), "{server}");

        migrations::down(&mut database.client).unwrap();
        let error = migrations::ensure_current(&mut database.client).unwrap_err().to_string();
        let newest = ALL.last().unwrap();
        assert_eq!(error, format!("the database lacks migration {newest}: run `usage-processor migrate up`"));
    }
}

#[test]
fn a_newer_schema_serves_an_older_program_which_does_not_reverse_it() {
    let mut database = Database::migrated(Profile::PostgreSql);
    database
        .client
        .batch_execute(
            "INSERT INTO usage_schema_migrations VALUES (999, 'from_the_future', 'postgresql', 'x')",
        )
        .unwrap();
    let client = &mut database.client;
    migrations::ensure_current(client).unwrap();
    assert!(migrations::up(client, ProfileChoice::Auto).unwrap().is_empty());
    let error = migrations::down(client).unwrap_err();
    assert_eq!(
        error.to_string(),
        "migration 999_from_the_future is not known to this program: a newer one applied it"
    );
    let status = migrations::status(client, ProfileChoice::Auto).unwrap();
    assert!(matches!(status.last().unwrap().state, State::Unknown(_)), "{status:?}");
}

#[test]
fn a_database_keeps_the_profile_that_it_was_migrated_as() {
    let mut database = Database::create();
    let before = migrations::status(&mut database.client, ProfileChoice::PostgreSql).unwrap();
    assert_eq!(before.len(), ALL.len());
    assert!(before.iter().all(|status| status.state == State::Pending));

    migrations::up(&mut database.client, ProfileChoice::PostgreSql).unwrap();
    let error = migrations::up(&mut database.client, ProfileChoice::TimescaleDb).unwrap_err();
    assert!(matches!(error, MigrateError::ProfileMismatch { .. }), "{error:?}");
    let after = migrations::status(&mut database.client, ProfileChoice::Auto).unwrap();
    assert!(after.iter().all(|status| status.profile == Profile::PostgreSql));
}

#[test]
fn a_new_database_becomes_what_its_server_can_carry() {
    let mut database = Database::create();
    let offered = ServerInfo::detect(&mut database.client).unwrap().timescaledb;
    let applied = migrations::up(&mut database.client, ProfileChoice::Auto);
    let expected = match offered {
        TimescaleDb::Absent => Profile::PostgreSql,
        TimescaleDb::Offered | TimescaleDb::Created { .. } => Profile::TimescaleDb,
        TimescaleDb::NotLoaded => {
            assert!(matches!(applied, Err(MigrateError::ExtensionNotLoaded)), "{applied:?}");
            return;
        }
    };
    let migrated_as = migrations::ensure_current(&mut database.client).unwrap().migrated_as;
    assert_eq!(migrated_as, Some(expected));
}
