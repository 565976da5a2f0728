//! `run` maintains the database when it is given the owner's URL, and its pipeline does not depend on it.

use std::time::{Duration, Instant};

use super::roles::Writer;
use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::database::profiles;
use crate::support::{Processor, Record, eventually};

const DAY_MS: i64 = 86_400_000;

#[test]
fn the_database_is_maintained_by_the_owner_while_a_writer_writes() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let writer = Writer::create(&mut case);
        let now = now_ms();
        // A day that is past its time, written when it was not; and what may not be lost over it.
        case.topic.produce(&[
            Record::new(ORGANIZATION, event("old", now - 95 * DAY_MS).as_bytes()).at(now - 95 * DAY_MS),
            Record::new(ORGANIZATION, event("yesterday", now - DAY_MS).as_bytes()).at(now - DAY_MS),
        ]);
        case.process_all();
        assert_eq!(case.rows(), 2, "{profile}");

        let run = |case: &Case, owner: &str| {
            writer.run(case, &case.group).env("MAINTENANCE_DATABASE_URL", owner).spawn()
        };
        let mut processor = run(&case, &case.database.test.url());
        let line = processor.wait_for_line("maintenance: ", PATIENCE);
        assert!(line.contains("rows dropped: 1, "), "{profile}: {line}");
        assert_eq!(case.rows(), 1, "{profile}");
        case.produce(&[event("now", now_ms())]);
        eventually("the next event is written", PATIENCE, || if case.rows() == 2 { Ok(()) } else { Err(()) });
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        let units = "SELECT sum(billable_units)::text FROM usage_monthly";
        assert_eq!(case.database.text(units), "3", "{profile}");

        // By a role that may not: said, and nothing else.
        let mut processor = run(&case, &writer.url);
        let line = processor.wait_for_line("maintenance: ", PATIENCE);
        assert!(line.contains("permission denied") && line.contains("trying again in 3600s"), "{line}");
        case.produce(&[event("later", now_ms())]);
        eventually("the last event is written", PATIENCE, || if case.rows() == 3 { Ok(()) } else { Err(()) });
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        // By nobody, when it is not asked for.
        let quiet = case.process_all();
        assert!(!quiet.lines().iter().any(|line| line.contains("maintenance")), "{:?}", quiet.lines());
    }
}

#[test]
fn maintenance_that_hangs_delays_neither_the_pipeline_nor_its_end() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        case.produce(&[event("first", now_ms())]);
        let owner = case.database.test.url();
        let mut blocker = case.database.connect();
        let mut transaction = blocker.transaction().unwrap();
        // What a fold writes to, and no writer.
        transaction.batch_execute("LOCK TABLE usage_hourly_figures IN SHARE MODE").unwrap();
        let mut processor = case.processor().env("MAINTENANCE_DATABASE_URL", &owner).spawn();
        eventually("the event is written", PATIENCE, || if case.rows() == 1 { Ok(()) } else { Err(()) });
        let waiting = "SELECT count(*)::text FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'
                          AND application_name = 'usage-processor maintenance'";
        eventually("maintenance waits", PATIENCE, || match case.database.text(waiting).as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        });
        case.produce(&[event("second", now_ms())]);
        eventually("the next event is written", PATIENCE, || if case.rows() == 2 { Ok(()) } else { Err(()) });
        processor.terminate();
        let asked_at = Instant::now();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        assert!(asked_at.elapsed() < Duration::from_secs(20), "{profile}: {:?}", asked_at.elapsed());
        transaction.rollback().unwrap();
    }
}

#[test]
fn an_owner_that_cannot_be_reached_is_tried_again_and_the_pipeline_runs() {
    let case = Case::new(1);
    case.produce(&[event("a", now_ms())]);
    let mut processor = Processor::run()
        .source(&case.topic, &case.group)
        .database(&case.database.test)
        .env("MAINTENANCE_DATABASE_URL", "postgresql://nobody:x@127.0.0.1:1/none")
        .spawn();
    processor.wait_for_line("maintenance: connecting to PostgreSQL to maintain it: ", PATIENCE);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 1);
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
}
