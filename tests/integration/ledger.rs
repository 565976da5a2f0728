//! The ledger's own promises, by SQL: beginnings that race, prefixes with holes, folds beside writers.

use usage_processor::ledger::Ledger;
use usage_processor::migrations::Profile;
use usage_processor::poll::start_position::{BeginReason, Beginning, Recorded};

use crate::database::{Database, profiles};

const GROUP: &str = "group";
const TOPIC: &str = "topic";

fn ledger(database: &Database) -> Ledger {
    Ledger::new(&database.test.url().parse().unwrap(), GROUP, TOPIC)
}

fn first_start(partition: i32, start: i64) -> Beginning {
    Beginning { partition, epoch: 1, start, reason: BeginReason::FirstStart, lost_offsets: 0 }
}

/// A span of the first epoch, every message of it written.
fn span(partition: i32, start: i64, end: i64) -> String {
    format!(
        "INSERT INTO usage_ledger VALUES ('{GROUP}', '{TOPIC}', {partition}, 1, {start}, {end},
                                          {end} - {start}, {end} - {start}, 0, 0, 0);"
    )
}

#[test]
fn of_two_beginnings_that_race_the_first_holds_for_both() {
    let database = Database::migrated(Profile::PostgreSql);
    let [one, other] = [ledger(&database), ledger(&database)];
    assert_eq!(one.recorded(&[0, 1]).unwrap(), []);
    let expected = [Recorded { partition: 0, epoch: 1, end: 7, first: 7 }];
    assert_eq!(one.begin(&[first_start(0, 7)]).unwrap(), expected);
    assert_eq!(other.begin(&[first_start(0, 9)]).unwrap(), expected);
    // It may come after the first has gone on.
    database.connect().batch_execute(&span(0, 7, 12)).unwrap();
    assert_eq!(other.begin(&[first_start(0, 9)]).unwrap()[0].end, 12);
}

#[test]
fn the_prefix_ends_at_the_first_hole_and_overlaps_are_none() {
    let database = Database::migrated(Profile::PostgreSql);
    let ledger = ledger(&database);
    let mut client = database.connect();
    ledger.begin(&[0, 1, 2, 3].map(|partition| first_start(partition, 10))).unwrap();
    for (partition, spans) in [
        (1, vec![(15, 20)]),
        (2, vec![(20, 30), (10, 25), (12, 14), (30, 31)]),
        (3, vec![(10, 20), (21, 40), (5, 12)]),
    ] {
        for (start, end) in spans {
            client.batch_execute(&span(partition, start, end)).unwrap();
        }
    }
    let ends = || {
        let mut recorded = ledger.recorded(&[0, 1, 2, 3]).unwrap();
        recorded.sort_by_key(|recorded| recorded.partition);
        recorded.iter().map(|recorded| recorded.end).collect::<Vec<_>>()
    };
    assert_eq!(ends(), [10, 10, 31, 20]);
    client.batch_execute("SELECT usage_fold_ledger()").unwrap();
    assert_eq!(ends(), [10, 10, 31, 20], "a fold changes no answer");
    client.batch_execute(&span(3, 20, 21)).unwrap();
    assert_eq!(ends(), [10, 10, 31, 40], "a closed hole opens what lies beyond it");
}

#[test]
fn a_fold_beside_writers_loses_nothing_and_counts_nothing_twice() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        database
            .client
            .batch_execute(&(0..50).map(|n| span(0, n * 10, n * 10 + 10)).collect::<String>())
            .unwrap();
        let mut writer = database.connect();
        let mut uncommitted = writer.transaction().unwrap();
        uncommitted.batch_execute(&span(0, 500, 600)).unwrap();
        assert_eq!(database.text("SELECT usage_fold_ledger()::text"), "49", "{profile}");
        uncommitted.commit().unwrap();
        let sums = "SELECT concat_ws(' ', count(*), sum(written), min(start_offset), max(end_offset)) FROM usage_ledger";
        assert_eq!(database.text(sums), "2 600 0 600");
        database.client.batch_execute("SELECT usage_fold_ledger()").unwrap();
        assert_eq!(database.text(sums), "1 600 0 600");
    }
}

#[test]
fn a_fold_does_not_write_again_what_can_become_one_with_nothing() {
    for profile in profiles() {
        let mut database = Database::migrated(profile);
        let spans = [span(0, 0, 10), span(1, 0, 10), span(1, 10, 20)].concat();
        let days = "INSERT INTO usage_ledger_days (event_day, source, written)
                    VALUES ('2026-01-01', 'kafka', 5), ('2026-01-02', 'kafka', 1), ('2026-01-02', 'kafka', 2)";
        database.client.batch_execute(&format!("{spans}{days}")).unwrap();
        let whole = "SELECT (SELECT xmin::text FROM usage_ledger WHERE kafka_partition = 0) || ' ' ||
                            (SELECT xmin::text FROM usage_ledger_days WHERE event_day = '2026-01-01')";
        let before = database.text(whole);
        assert_eq!(database.text("SELECT usage_fold_ledger()::text"), "2", "{profile}");
        assert_eq!(database.text(whole), before, "{profile}");
        assert_eq!(database.text("SELECT usage_fold_ledger()::text"), "0", "{profile}");
        let days =
            "SELECT string_agg(event_day || ' ' || written, ', ' ORDER BY event_day) FROM usage_ledger_days";
        assert_eq!(database.text(days), "2026-01-01 5, 2026-01-02 3", "{profile}");
    }
}
