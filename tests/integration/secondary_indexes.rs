//! Which parts of `usage_events` have which indexes, in either mode and on the way between them, while others write; and that the
//! index of times is kept up to date.

use std::thread;

use postgres::Client;
use usage_processor::migrations::Profile;
use usage_processor::secondary_indexes::{self, SecondaryIndexes};

use crate::database::{Database, profiles};
use crate::pipeline::PATIENCE;
use crate::support::{Processor, eventually};

const KEY: &str = "00000000-0000-0000-0000-00000000000b";

/// So many events of one organization and key, so many days before now.
fn insert_sql(prefix: &str, count: u32, days_ago: u32) -> String {
    format!(
        "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method, status_code,
                                   response_time_ms)
         SELECT now() - INTERVAL '{days_ago} days' - n * INTERVAL '1 ms', '{prefix}' || n,
                '00000000-0000-0000-0000-00000000000a', '{KEY}', '/', 'GET', 200, 1
           FROM generate_series(1, {count}) AS n"
    )
}

/// Events of today and of the two days before, all but today's folded.
fn filled(profile: Profile) -> Database {
    let mut database = Database::migrated(profile);
    for days_ago in [2, 1, 0] {
        database.client.batch_execute(&insert_sql("r", 10, days_ago)).unwrap();
    }
    fold(&mut database);
    database
}

/// Until the beginning of the current UTC day, at the least.
fn fold(database: &mut Database) {
    database.client.batch_execute("UPDATE usage_bounds SET fold_step = '1 year'").unwrap();
    for _ in 0..2 {
        database.client.batch_execute("SELECT usage_begin_fold(date_trunc('day', now(), 'UTC'))").unwrap();
        database.client.batch_execute("SELECT usage_fold()").unwrap();
    }
}

/// `migrate up --secondary-indexes`, and what it printed.
fn switch(database: &Database, mode: &str) -> String {
    let mut process = Processor::command("migrate")
        .database(&database.test)
        .arg("up")
        .arg("--secondary-indexes")
        .arg(mode)
        .spawn();
    assert_eq!(process.wait_exit(PATIENCE).code(), Some(0), "{:?}", process.lines());
    process.lines().join("\n")
}

fn status(database: &Database) -> String {
    let mut process = Processor::command("migrate").database(&database.test).arg("status").spawn();
    assert_eq!(process.wait_exit(PATIENCE).code(), Some(0));
    process.lines().pop().unwrap()
}

fn maintain(database: &Database) -> i64 {
    let mut process = Processor::command("maintain").database(&database.test).arg("--json").spawn();
    assert_eq!(process.wait_exit(PATIENCE).code(), Some(0), "{:?}", process.lines());
    let done: serde_json::Value = serde_json::from_str(&process.lines().join("")).unwrap();
    done["indexes_built"].as_i64().unwrap()
}

/// Each kind of part with rows, by how many days ago it began, as `2: 2 valid`, and whether any index is INVALID.
fn secondaries(database: &mut Database) -> String {
    database.text(
        "SELECT string_agg(line, ', ' ORDER BY line DESC) FROM (
             SELECT DISTINCT format('%s days: %s', (now() AT TIME ZONE 'UTC')::date - (range_start AT TIME ZONE 'UTC')::date,
                        (SELECT string_agg(CASE WHEN indisvalid THEN '' ELSE 'INVALID ' END
                                           || substring(pg_get_indexdef(indexrelid) FROM 'USING \\w+ .(\\w+)'), ' '
                                           ORDER BY indexrelid::regclass::text ~ 'endpoint')
                           FROM pg_index WHERE indrelid = part
                            AND pg_get_indexdef(indexrelid) ~ 'btree .(api_key_id|endpoint)')) AS line
               FROM usage_parts((now() AT TIME ZONE 'UTC')::date - INTERVAL '30 hours' , now())) AS lines",
    )
}

const NONE_TODAY: &str = "2 days: api_key_id endpoint, 1 days: api_key_id endpoint, 0 days: ";
const EVERYWHERE: &str =
    "2 days: api_key_id endpoint, 1 days: api_key_id endpoint, 0 days: api_key_id endpoint";

#[test]
fn a_day_gets_its_indexes_when_it_is_over() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        assert_eq!(status(&database), "secondary indexes: immediate", "{profile}");
        let said = switch(&database, "deferred");
        assert!(said.ends_with("secondary indexes: deferred, 0 built now"), "{profile}: {said}");
        for days_ago in [2, 1, 0] {
            database.client.batch_execute(&insert_sql("r", 10, days_ago)).unwrap();
        }
        assert_eq!(secondaries(&mut database), "2 days: , 1 days: , 0 days: ", "{profile}");
        let unique_and_times = database.text(
            "SELECT string_agg(DISTINCT substring(pg_get_indexdef(indexrelid) FROM 'INDEX .* USING (.*)$'), '; ')
               FROM usage_parts(now(), now()) JOIN pg_index ON indrelid = part",
        );
        let expected = r#"brin ("time"); btree (organization_id, "time" DESC, request_id)"#;
        assert_eq!(unique_and_times, expected, "{profile}");

        fold(&mut database);
        let lacking = status(&database);
        assert!(lacking.contains("deferred, and ") && lacking.contains("still lack them"), "{lacking}");
        assert!(maintain(&database) >= 4, "{profile}");
        assert_eq!(secondaries(&mut database), NONE_TODAY, "{profile}");
        assert_eq!(maintain(&database), 0, "{profile}: nothing is left to do");
        assert_eq!(status(&database), "secondary indexes: deferred", "{profile}");

        // Late events are found by the new indexes, are there once, and count once.
        let late = insert_sql("late", 5, 1);
        let again = format!("{late} ON CONFLICT DO NOTHING");
        let run =
            format!("BEGIN; {late}; {again}; COMMIT; SET enable_seqscan = off; SET enable_bitmapscan = off");
        database.client.batch_execute(&run).unwrap();
        let by_key = format!(
            "SELECT count(*)::text FROM usage_events WHERE api_key_id = '{KEY}' AND request_id LIKE 'late%'"
        );
        assert_eq!(database.text(&by_key), "5", "{profile}");
        let plan = database.texts(&format!("EXPLAIN {by_key}")).join("\n");
        assert!(plan.contains("api_key_id = "), "{plan}");
        assert_eq!(database.text("SELECT sum(total_requests)::text FROM usage_monthly"), "35", "{profile}");
    }
}

#[test]
fn the_mode_is_changed_there_and_back() {
    for profile in profiles() {
        let mut database = filled(profile);
        assert_eq!(secondaries(&mut database), EVERYWHERE, "{profile}");
        if profile == Profile::TimescaleDb {
            database.client.batch_execute(&insert_sql("old", 10, 20)).unwrap();
            database.client.batch_execute(&insert_sql("week", 10, 7)).unwrap();
            let compress =
                "SELECT compress_chunk(part) FROM usage_parts('-infinity', now() - INTERVAL '10 days')";
            database.client.batch_execute(compress).unwrap();
        }
        switch(&database, "deferred");
        assert_eq!(secondaries(&mut database), NONE_TODAY, "{profile}: ended days keep theirs");
        if profile == Profile::TimescaleDb {
            let week = "usage_parts(now() - INTERVAL '7 days', now() - INTERVAL '7 days')";
            let count = format!("SELECT count(*)::text FROM {week} JOIN pg_index ON indrelid = part");
            assert_eq!(database.text(&count), "2", "the policy that compresses it must not wait for a build");
        }
        switch(&database, "deferred");
        assert_eq!(secondaries(&mut database), NONE_TODAY, "{profile}: again");
        database.client.batch_execute(&insert_sql("more", 10, 1)).unwrap();

        switch(&database, "immediate");
        assert_eq!(secondaries(&mut database), EVERYWHERE, "{profile}");
        assert_eq!(status(&database), "secondary indexes: immediate", "{profile}");
        if profile == Profile::TimescaleDb {
            // What a policy does, and undoes for nobody but whoever asks.
            let part = "usage_parts(now() - INTERVAL '30 hours', now() - INTERVAL '24 hours')";
            let compress = format!("SELECT compress_chunk(part), decompress_chunk(part) FROM {part}");
            database.client.batch_execute(&compress).unwrap();
            assert_eq!(secondaries(&mut database), EVERYWHERE);
        } else {
            let is_valid =
                "SELECT bool_and(indisvalid)::text FROM pg_index WHERE indrelid = 'usage_events'::regclass";
            assert_eq!(database.text(is_valid), "true", "each partition has what the table has");
        }
        // New parts have them.
        if profile == Profile::PostgreSql {
            database
                .client
                .batch_execute("SELECT usage_ensure_partitions('2030-01-01', '2030-01-01')")
                .unwrap();
        } else {
            database.client.batch_execute(&insert_sql("new", 10, 40)).unwrap();
        }
        let newest = "SELECT count(*)::text FROM pg_index JOIN (SELECT part FROM usage_parts() ORDER BY part::oid DESC LIMIT 1) AS p
                          ON indrelid = part";
        assert_eq!(database.text(newest), "4", "{profile}");
        assert_eq!(
            database
                .text("SELECT count(DISTINCT request_id)::text FROM usage_events WHERE request_id ~ '^r'"),
            "10"
        );
    }
}

/// The session's process id, of the one that is building and waits for a transaction.
const WAITING: &str =
    "SELECT coalesce(max(pid), 0)::text FROM pg_stat_activity WHERE datname = current_database()
                          AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'";

fn wait_for_build(database: &mut Database) -> String {
    let mut pid = String::new();
    eventually("an index is being built", PATIENCE, || {
        pid = database.text(WAITING);
        if pid == "0" { Err("not yet".to_owned()) } else { Ok(()) }
    });
    pid
}

fn complete(client: &mut Client) -> Result<i64, String> {
    secondary_indexes::complete(client, || true).map_err(|error| error.to_string())
}

#[test]
fn a_build_that_is_killed_is_begun_anew_and_nobody_waits_for_it() {
    for profile in profiles() {
        let mut database = filled(profile);
        switch(&database, "deferred");
        let yesterday = "usage_parts(now() - INTERVAL '24 hours', now() - INTERVAL '24 hours')";
        let drop = format!(
            "SELECT format('DROP INDEX %s', indexrelid::regclass) FROM {yesterday} JOIN pg_index ON indrelid = part
              WHERE pg_get_indexdef(indexrelid) ~ 'btree .(api_key_id|endpoint)'"
        );
        for sql in database.texts(&drop) {
            database.client.batch_execute(&sql).unwrap();
        }
        // Of whoever has written the build waits for the end.
        let mut writer = database.connect();
        writer.batch_execute(&format!("BEGIN; {}", insert_sql("open", 5, 1))).unwrap();
        let (mut builder, mut second) = (database.connect(), database.connect());
        let killed = thread::Builder::new().spawn(move || complete(&mut builder)).unwrap();
        let pid = wait_for_build(&mut database);
        assert_eq!(complete(&mut second), Ok(0), "{profile}: the second one leaves");
        database.client.batch_execute("SET lock_timeout = '1s'").unwrap();
        database.client.batch_execute(&insert_sql("late", 5, 1)).unwrap();
        database.client.batch_execute(&insert_sql("now", 5, 0)).unwrap();
        database.client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
        assert!(killed.join().unwrap().is_err(), "{profile}");
        assert!(secondaries(&mut database).contains("INVALID"), "{profile}: {}", secondaries(&mut database));
        writer.batch_execute("COMMIT").unwrap();

        eventually("the killed session's lock is released", PATIENCE, || {
            let built = complete(&mut second)?;
            if built > 0 { Ok(()) } else { Err("none built".to_owned()) }
        });
        assert_eq!(secondaries(&mut database), NONE_TODAY, "{profile}");
        assert_eq!(database.text("SELECT count(*)::text FROM usage_events"), "45", "{profile}");
    }
}

#[test]
fn a_table_in_use_is_waited_for_without_holding_up_others() {
    for profile in profiles() {
        let mut database = filled(profile);
        // Reads for long: what would change the table must wait for it, and others must not wait behind that.
        let mut reader = database.connect();
        reader
            .batch_execute("BEGIN; SELECT count(*) FROM usage_events WHERE time >= now() - INTERVAL '1 hour'")
            .unwrap();
        let mut client = database.connect();
        let switching = thread::Builder::new()
            .spawn(move || secondary_indexes::switch(&mut client, SecondaryIndexes::Deferred).is_ok())
            .unwrap();
        eventually("the switch waits for the table", PATIENCE, || {
            let waits = database.text(
                "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'DROP INDEX u%'
                    AND wait_event_type = 'Lock'",
            );
            if waits == "1" { Ok(()) } else { Err(waits) }
        });
        database.client.batch_execute("SET lock_timeout = '1s'").unwrap();
        database.client.batch_execute(&insert_sql("meanwhile", 5, 0)).unwrap();
        reader.batch_execute("COMMIT").unwrap();
        assert!(switching.join().unwrap(), "{profile}");
        assert_eq!(secondaries(&mut database), NONE_TODAY, "{profile}");
    }
}

#[test]
fn a_fold_reads_by_blocks_and_leaves_the_index_of_times_up_to_date() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database.client.batch_execute(&insert_sql("r", 20_000, 1)).unwrap();
        let unsummarized = "SELECT sum(brin_summarize_new_values(indexrelid))::text
                              FROM usage_parts(now() - INTERVAL '24 hours', now() - INTERVAL '24 hours') JOIN pg_index ON indrelid = part
                             WHERE pg_get_indexdef(indexrelid) ~ 'USING brin'";
        fold(&mut database);
        assert_eq!(database.text(unsummarized), "0", "{profile}: nothing was left to do");

        let setting = "SELECT array_to_string(proconfig, ' ') FROM pg_proc WHERE proname = 'usage_fold'";
        assert!(database.text(setting).contains("enable_seqscan=off"), "{profile}");
        database.client.batch_execute("SET enable_seqscan = off").unwrap();
        let day = database.text("SELECT (now() - INTERVAL '1 day')::text");
        let plan = database.texts(&format!(
            "EXPLAIN SELECT api_key_id, count(*) FROM usage_events
              WHERE time >= '{day}'::timestamptz - INTERVAL '2 s' AND time < '{day}' GROUP BY 1"
        ));
        assert!(plan.join("\n").contains("Bitmap Index Scan on"), "{profile}, never analyzed: {plan:?}");
    }
}
