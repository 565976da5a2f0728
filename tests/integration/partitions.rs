//! The portable profile's daily partitions, and the keys that both profiles share.

use postgres::error::SqlState;
use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};

const INSERT: &str =
    "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                                 status_code, response_time_ms)
                      VALUES ($1::text::timestamptz, $2, '00000000-0000-0000-0000-00000000000a',
                              '00000000-0000-0000-0000-00000000000b', '/', 'GET', 200, 1)";

#[test]
fn the_same_request_at_the_same_time_is_refused() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        let now = database.text("SELECT now()::text");
        let mut insert = |request_id| database.client.execute(INSERT, &[&now, &request_id]);
        insert("r1").unwrap();
        insert("r2").unwrap();
        let error = insert("r1").unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{profile}: {error:?}");
    }
}

#[test]
fn both_profiles_have_the_same_table_and_views() {
    let columns = "SELECT concat_ws(' ', table_name, ordinal_position, column_name, data_type, is_nullable,
                                    character_maximum_length, collation_name)
                   FROM information_schema.columns
                   WHERE table_name ~ '^usage_(events|hourly|daily|monthly|dead_letters)$'
                   ORDER BY table_name, ordinal_position";
    // Index by index: the definition without the tables' and schemas' names.
    let indexes =
        "SELECT indexname || regexp_replace(indexdef, '.* USING', ' ' || (indexdef ~ 'UNIQUE')::text)
                   FROM pg_indexes WHERE tablename IN ('usage_events', 'usage_dead_letters') ORDER BY 1";
    let mut described: Vec<_> = profiles()
        .into_iter()
        .map(|profile| {
            let mut database = Database::migrated(profile);
            (database.texts(columns), database.texts(indexes))
        })
        .collect();
    let first = described.remove(0);
    assert_eq!(first.0.len(), 11 + 11 + 12 + 11 + 11, "{first:#?}");
    assert_eq!(first.1.len(), 6, "{first:#?}");
    for other in described {
        assert_eq!(other, first);
    }
}

#[test]
fn partitions_cover_the_retention_and_the_days_ahead() {
    let mut database = Database::migrated(Profile::PostgreSql);
    for (day, request_id) in [("-90", "oldest"), ("0", "now"), ("7", "ahead")] {
        let time = database.text(&format!("SELECT (now() + interval '{day} days')::text"));
        database.client.execute(INSERT, &[&time, &request_id]).unwrap();
    }
    assert_eq!(database.text("SELECT count(*)::text FROM usage_events"), "3");
}

#[test]
fn a_partition_is_a_utc_day_whatever_the_session_says() {
    let mut database = Database::migrated(Profile::PostgreSql);
    database.client.batch_execute("SET TimeZone = 'Pacific/Kiritimati'").unwrap();
    let made = "SELECT usage_ensure_partitions('2031-03-30', '2031-03-31')::text";
    assert_eq!(database.text(made), "2");
    assert_eq!(database.text(made), "0", "safe to call again");
    let many = database.client.batch_execute("SELECT usage_ensure_partitions('1970-01-01', '2040-01-01')");
    let many = many.unwrap_err().as_db_error().unwrap().message().to_owned();
    assert_eq!(many, "1970-01-01 to 2040-01-01 are more than a thousand partitions: make them in parts");

    database.client.execute(INSERT, &[&"2031-03-30 00:00:00Z", &"first"]).unwrap();
    database.client.execute(INSERT, &[&"2031-03-30 23:59:59.999999Z", &"last"]).unwrap();
    database.client.execute(INSERT, &[&"2031-03-31 00:00:00Z", &"next"]).unwrap();
    let placed =
        database.texts("SELECT request_id || ' ' || tableoid::regclass FROM usage_events ORDER BY time");
    assert_eq!(
        placed,
        ["first usage_events_20310330", "last usage_events_20310330", "next usage_events_20310331"]
    );
    let error = database.client.execute(INSERT, &[&"2031-04-01 00:00:00Z", &"beyond"]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "no partition: {error:?}");
}

#[test]
fn partitions_are_made_once_by_concurrent_callers_and_never_block_a_writer() {
    let mut database = Database::migrated(Profile::PostgreSql);
    let now = database.text("SELECT now()::text");
    let mut writer_client = database.connect();
    let mut writer = writer_client.transaction().unwrap();
    writer.execute(INSERT, &[&now, &"before"]).unwrap();

    let made: i32 = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = database.connect();
                scope.spawn(move || -> i32 {
                    // The writer's transaction stays open: whoever had to wait for it would fail here.
                    client.batch_execute("SET lock_timeout = '20s'").unwrap();
                    let sql = "SELECT usage_ensure_partitions('2032-01-01', '2032-01-31')";
                    client.query_one(sql, &[]).unwrap().get(0)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    assert_eq!(made, 31);
    writer.execute(INSERT, &[&now, &"after"]).unwrap();
    writer.commit().unwrap();
}
