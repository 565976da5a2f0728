//! Events that were accepted and come to be written when their day is no longer retained: dead letters
//! with a reason of their own, and no chunk or partition comes back with a single row in it.

use postgres::error::SqlState;
use usage_processor::migrations::Profile;

use super::{Case, PATIENCE, event, now_ms};
use crate::database::profiles;
use crate::support::{Processor, Record, eventually};

/// Within MAX_EVENT_AGE=90d.
const OLD_MS: i64 = 89 * 86_400_000 + 77_760_000;

impl Case {
    /// As maintenance moves it, to 88 to 89 days ago; and what lies before has been dropped.
    fn move_limit(&mut self, profile: Profile) {
        self.database
            .client
            .batch_execute(
                "BEGIN;
                 SELECT pg_advisory_xact_lock(hashtext('usage_bounds'), 'usage_bounds'::regclass::oid::integer);
                 UPDATE usage_bounds SET retained_since = date_trunc('day', now() - INTERVAL '88 days', 'UTC');
                 COMMIT",
            )
            .unwrap();
        if profile == Profile::PostgreSql {
            let sql = "SELECT usage_drop_range(range_start, range_end)
                         FROM usage_ranges_before((SELECT retained_since FROM usage_bounds))";
            self.database.client.batch_execute(sql).unwrap();
        }
        assert_eq!(self.expired_ranges(), "0", "{profile}");
    }

    /// Chunks or partitions of what is no longer retained.
    fn expired_ranges(&mut self) -> String {
        self.database
            .text("SELECT count(*)::text FROM usage_ranges_before((SELECT retained_since FROM usage_bounds))")
    }

    fn letters_by_reason(&mut self) -> Vec<String> {
        self.database.texts("SELECT reason || ' ' || count(*) FROM usage_dead_letters GROUP BY reason")
    }
}

#[test]
fn an_event_whose_day_is_gone_becomes_a_letter_and_the_others_are_written() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        case.move_limit(profile);
        let now = now_ms();
        if profile == Profile::PostgreSql {
            // A day whose partition is missing too, and must be made.
            let sql = "SELECT usage_drop_range(day, day + INTERVAL '1 day')
                         FROM date_trunc('day', now() - INTERVAL '30 days', 'UTC') AS day";
            case.database.client.batch_execute(sql).unwrap();
        }
        let years_ago = now - 1_000 * 86_400_000;
        case.produce(&[event("a", now), event("old", now - OLD_MS), event("b", now - 30 * 86_400_000)]);
        case.topic.produce(&[Record::new("k", event("older", years_ago).as_bytes()).at(years_ago)]);
        case.process_all();
        assert_eq!((case.rows(), case.letters_by_reason()), (2, vec!["expired 2".to_owned()]), "{profile}");
        assert_eq!(case.expired_ranges(), "0", "{profile}");
        let units = "SELECT sum(billable_units)::text FROM usage_monthly";
        assert_eq!(case.database.text(units), "2", "{profile}");
        case.assert_all_accounted_for();

        // Redelivered, they are the same letters; and beside rows that exist one more is a letter too.
        case.produce(&[event("old-2", now - OLD_MS)]);
        case.process_all_as("redelivery");
        assert_eq!((case.rows(), case.letters_by_reason()), (2, vec!["expired 3".to_owned()]), "{profile}");
        let entered =
            "SELECT format('%s %s %s', sum(written), sum(redelivered), sum(dead_letters)) FROM usage_ledger
                        WHERE consumer_group = 'redelivery'";
        assert_eq!(case.database.text(entered), "0 4 1", "{profile}");

        // A replay says the same, and brings nothing back either.
        let replayed = case.replay(&[], &[("MAX_EVENT_AGE", "2000d")]);
        assert_eq!(replayed, "written 0, duplicates 0, rejected 3, expired 3", "{profile}");
        assert_eq!(case.expired_ranges(), "0", "{profile}");
        // Until a person takes the limit back.
        case.database.client.batch_execute("UPDATE usage_bounds SET retained_since = '-infinity'").unwrap();
        let replayed = case.replay(&[], &[("MAX_EVENT_AGE", "2000d")]);
        assert_eq!(replayed, "written 3, duplicates 0, rejected 0", "{profile}");
        assert_eq!(case.database.text(units), "5", "{profile}");
    }
}

#[test]
fn a_limit_that_moves_while_writers_run_is_noticed_by_them() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let mut processor = case.processor().env("WRITER_THREADS", "1").spawn();
        let now = now_ms();
        case.produce(&[event("a", now), event("old-1", now - OLD_MS)]);
        eventually("both are written", PATIENCE, || if case.rows() == 2 { Ok(()) } else { Err(()) });
        // The writer's session knows the older limit.
        case.database
            .client
            .batch_execute("SELECT usage_begin_fold(now()); SELECT usage_fold(); DELETE FROM usage_events WHERE request_id = 'old-1'")
            .unwrap();
        if profile == Profile::TimescaleDb {
            let drop = "SELECT drop_chunks('usage_events', older_than => INTERVAL '80 days')";
            case.database.client.batch_execute(drop).unwrap();
        }
        case.move_limit(profile);
        case.produce(&[event("b", now), event("old-2", now - OLD_MS), event("c", now - 30 * 86_400_000)]);
        case.wait_until_at_end();
        assert_eq!((case.rows(), case.letters_by_reason()), (3, vec!["expired 1".to_owned()]), "{profile}");
        assert_eq!(case.expired_ranges(), "0", "{profile}");
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
        // A fold that met a batch under way on a slow disk says so, which is another matter.
        let is_loud = |line: &String| {
            (line.contains("ERROR") || line.contains("WARN"))
                && !line.contains("events cannot be folded beyond")
        };
        let loud = processor.lines().into_iter().find(is_loud);
        assert_eq!(loud, None, "{profile}: it is a letter, not an incident");
        let units = "SELECT sum(billable_units)::text FROM usage_monthly";
        assert_eq!(case.database.text(units), "4", "{profile}: what was folded stays");
    }
}

#[test]
fn the_limit_cannot_move_between_the_rows_and_their_commit() {
    let insert = "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                            status_code, response_time_ms)
                  SELECT now() - INTERVAL '40 days', gen_random_uuid()::text, gen_random_uuid(), gen_random_uuid(),
                         '/', 'GET', 200, 1";
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        case.produce(&[event("now", now_ms())]);
        case.process_all();
        let client = &mut case.database.client;
        client.batch_execute("UPDATE usage_bounds SET retention = '30 days'").unwrap();
        client.batch_execute("SELECT usage_begin_fold(now())").unwrap();
        client.batch_execute("SELECT usage_fold()").unwrap();

        // From its rows to its commit a writer holds the lock that whoever moves the limit must have alone.
        let mut writer_client = case.database.connect();
        let mut writer = writer_client.transaction().unwrap();
        writer.batch_execute(insert).unwrap();
        let advance = "SELECT usage_advance_retention()::text";
        assert_eq!(case.database.text(advance), "false", "{profile}: not while it writes");
        writer.commit().unwrap();
        assert_eq!(case.database.text(advance), "true", "{profile}");
        let error = writer_client.batch_execute(insert).unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::from_code("UP001")), "{profile}: {error:?}");
        assert_eq!(case.rows(), 2, "{profile}");
    }
}

#[test]
fn accepting_what_cannot_be_kept_is_warned_of_and_not_refused() {
    let mut case = Case::new(1);
    case.produce(&[event("a", now_ms())]);
    let warning = "MAX_EVENT_AGE is 90d, and the database retains events for 30d (usage_bounds.retention)";
    let check = |case: &Case| {
        let command = Processor::command("check-config").source(&case.topic, "group");
        let mut process = command.database(&case.database.test).spawn();
        assert_eq!(process.wait_exit(PATIENCE).code(), Some(0), "{:?}", process.lines());
        process
    };
    for processor in [case.process_all(), check(&case)] {
        assert!(!processor.lines().iter().any(|line| line.contains("retains")), "{:?}", processor.lines());
    }
    case.database.client.batch_execute("UPDATE usage_bounds SET retention = '30 days'").unwrap();
    case.process_all().wait_for_line(warning, PATIENCE);
    let checked = check(&case);
    checked.wait_for_line(warning, PATIENCE);
    checked.wait_for_line("retention: 30 days, retained since: -infinity, folded until: ", PATIENCE);
    checked.wait_for_line("secondary indexes: immediate", PATIENCE);
}
