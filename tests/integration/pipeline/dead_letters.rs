//! What can be done with dead letters: the commands, on letters that the pipeline itself stored.

use usage_processor::migrations::Profile;

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::database::profiles;
use crate::support::{Processor, Record};

const DAY_MS: i64 = 86_400_000;

impl Case {
    /// `dead-letters` with these arguments and variables: exit code and lines printed.
    pub(super) fn letters(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Option<i32>, Vec<String>) {
        let mut command = Processor::command("dead-letters").database(&self.database.test);
        for argument in arguments {
            command = command.arg(argument);
        }
        for (name, value) in variables {
            command = command.env(name, value);
        }
        let mut process = command.spawn();
        let code = process.wait_exit(PATIENCE).code();
        (code, process.lines())
    }

    /// The same, to its good end: what it printed, white space squeezed.
    #[track_caller]
    pub(super) fn replay(&self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let (code, lines) = self.letters(&[&["replay"], arguments].concat(), variables);
        assert_eq!(code, Some(0), "{lines:?}");
        let lines: Vec<_> =
            lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.join(", ")
    }

    /// Letters by outcome of their replay, and rows that replays have entered into the ledger.
    fn outcomes(&mut self) -> Vec<String> {
        self.database.texts(
            "SELECT concat_ws(' ', reason, coalesce(replay_outcome, 'never'), count(*)) FROM usage_dead_letters
              WHERE (replayed_at IS NULL) = (replay_outcome IS NULL) GROUP BY reason, replay_outcome
             UNION ALL
             SELECT concat_ws(' ', source, event_day, sum(written)) FROM usage_ledger_days
              WHERE source = 'replay' AND written > 0 GROUP BY source, event_day
              ORDER BY 1",
        )
    }
}

/// A valid event and four dead letters: garbage, no UTF-8, a tombstone, one that is 100 days old.
fn mixed(profile: Profile) -> (Case, i64) {
    let case = Case::in_profile(profile, 1);
    let now = now_ms();
    case.topic.produce(&[
        Record::new("k", event("valid", now).as_bytes()).at(now),
        Record::new("k", b"{\"\x1b[2J").at(now),
        Record::new("k", &[b'{', 0xff]).at(now),
        Record::tombstone("k").at(now),
        Record::new(ORGANIZATION, event("old", now - 100 * DAY_MS).as_bytes()).at(now),
    ]);
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (1, 4));
    (case, now)
}

#[test]
fn letters_are_listed_newest_first_and_filtered() {
    let (mut case, _) = mixed(profiles().pop().unwrap());
    case.database
        .client
        .batch_execute(
            "UPDATE usage_dead_letters SET received_at = now() - interval '3 hours' WHERE kafka_offset = 2",
        )
        .unwrap();
    let offsets = |arguments: &[&str]| -> Vec<String> {
        let (code, lines) = case.letters(&[&["list"], arguments].concat(), &[]);
        assert_eq!(code, Some(0), "{lines:?}");
        assert!(lines[0].starts_with("RECEIVED"), "{lines:?}");
        lines[1..].iter().map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
    };
    assert_eq!(offsets(&[]).last().unwrap(), "2", "the oldest comes last");
    assert_eq!(offsets(&["--limit", "3"]), ["4", "3", "1"]);
    assert_eq!(offsets(&["--reason", "tombstone", "--reason", "too_old"]), ["4", "3"]);
    assert_eq!(offsets(&["--offsets", "2..4"]), ["3", "2"]);
    assert_eq!(offsets(&["--since", "2h", "--offsets", "..3"]), ["1"]);
    assert_eq!(offsets(&["--until", "2h"]), ["2"]);
    assert_eq!(offsets(&["--topic", case.topic.name(), "--partition", "0"]).len(), 4);
    assert_eq!(offsets(&["--topic", "other"]), [""; 0]);
    assert_eq!(offsets(&["--partition", "1"]), [""; 0]);
    // What the user gives is a value, never SQL.
    assert_eq!(offsets(&["--topic", "' OR true --"]), [""; 0]);
}

#[test]
fn a_letter_is_shown_whole_and_cannot_rule_the_terminal() {
    let (case, now) = mixed(profiles().pop().unwrap());
    let (code, lines) = case.letters(&["show", "0", "1"], &[]);
    assert_eq!(code, Some(0));
    let line = |name: &str| lines.iter().find(|line| line.starts_with(name)).unwrap().clone();
    assert!(line("payload").ends_with(r#"{"\u{1b}[2J"#), "{lines:?}");
    assert!(line("timestamp_ms").ends_with(&now.to_string()), "{lines:?}");
    assert!(line("replay").ends_with("never replayed"), "{lines:?}");
    let (code, lines) = case.letters(&["show", "0", "99"], &[]);
    assert_eq!(code, Some(1));
    assert!(lines[0].contains("no dead letter of partition 0 at offset 99"), "{lines:?}");
}

#[test]
fn an_export_holds_every_byte() {
    let (mut case, now) = mixed(profiles().pop().unwrap());
    let (code, lines) = case.letters(&["export"], &[]);
    assert_eq!(code, Some(0));
    let letters: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let offsets: Vec<_> = letters.iter().map(|letter| letter["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [1, 2, 3, 4]);
    assert_eq!(letters[0]["payload"], "{\"\x1b[2J");
    assert_eq!(letters[1]["payload_base64"], "e/8=");
    assert!(letters[2].get("payload").is_none() && letters[2].get("payload_base64").is_none());
    assert_eq!(letters[3]["payload"], event("old", now - 100 * DAY_MS));
    assert_eq!((&letters[3]["key"], &letters[3]["timestamp_ms"]), (&ORGANIZATION.into(), &now.into()));

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("letters.jsonl");
    let path = path.to_str().unwrap();
    assert_eq!(case.letters(&["export", "--output", path], &[]).0, Some(0));
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    assert_eq!(case.letters(&["export", "--output", path], &[]).0, Some(1), "nothing is overwritten");
    assert_eq!(case.outcomes().len(), 3, "and nothing is changed");
}

#[test]
fn a_raised_limit_makes_letters_valid_and_replaying_twice_adds_nothing() {
    for profile in profiles() {
        let (mut case, now) = mixed(profile);
        let still = "written 0, duplicates 0, rejected 4, invalid_json 2, tombstone 1, too_old 1";
        assert_eq!(case.replay(&[], &[]), still, "{profile}");

        let raised = [("MAX_EVENT_AGE", "120d")];
        let before = case.outcomes();
        let dry = case.replay(&["--dry-run"], &raised);
        let expected = "written 1, duplicates 0, rejected 3, invalid_json 2, tombstone 1";
        assert_eq!(dry, format!("dry run: nothing was changed, {expected}"));
        assert_eq!((case.rows(), case.outcomes()), (1, before));

        assert_eq!(case.replay(&[], &raised), expected);
        assert_eq!(
            case.replay(&[], &raised),
            "written 0, duplicates 0, rejected 3, invalid_json 2, tombstone 1"
        );
        assert_eq!(case.rows(), 2, "{profile}");
        let day = case.database.text(&format!(
            "SELECT (to_timestamp({} / 1000.0) AT TIME ZONE 'UTC')::date::text",
            now - 100 * DAY_MS
        ));
        assert_eq!(
            case.outcomes(),
            [
                "invalid_json rejected 2",
                &format!("replay {day} 1"),
                "tombstone rejected 1",
                "too_old written 1"
            ]
        );

        // Even if the mark is lost: the unique key decides.
        case.database
            .client
            .batch_execute("UPDATE usage_dead_letters SET replayed_at = NULL, replay_outcome = NULL")
            .unwrap();
        let again = case.replay(&["--reason", "too_old"], &raised);
        assert_eq!((again.as_str(), case.rows()), ("written 0, duplicates 1, rejected 0", 2));
    }
}

#[test]
fn letters_that_a_constraint_refused_are_written_once_it_is_gone() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 1);
        let client = &mut case.database.client;
        client
            .batch_execute("ALTER TABLE usage_events ADD CONSTRAINT fast CHECK (response_time_ms < 13)")
            .unwrap();
        let now = now_ms();
        let slow = |id: &str| event(id, now).replace("\"response_time_ms\":12", "\"response_time_ms\":99");
        // Spread, since a table that refuses most rows of a batch is itself at fault.
        let one_of_nine =
            |n: usize| if n.is_multiple_of(9) { slow(&format!("{n}")) } else { event(&format!("{n}"), now) };
        let payloads: Vec<_> = (0..2_250).map(one_of_nine).collect();
        case.produce(&payloads);
        case.process_all();
        assert_eq!((case.rows(), case.dead_letters()), (2_000, 250), "{profile}");
        assert_eq!(
            case.replay(&["--limit", "10"], &[]),
            "written 0, duplicates 0, rejected 10, database_rejected 10",
            "{profile}"
        );

        case.database.client.batch_execute("ALTER TABLE usage_events DROP CONSTRAINT fast").unwrap();
        assert_eq!(case.replay(&["--limit", "120"], &[]), "written 120, duplicates 0, rejected 0");
        assert_eq!(case.replay(&[], &[]), "written 130, duplicates 0, rejected 0");
        assert_eq!(case.replay(&[], &[]), "written 0, duplicates 0, rejected 0");
        assert_eq!(case.rows(), 2_250);
        assert_eq!(case.outcomes()[0], "database_rejected written 250");
        // A redelivery finds the rows, and keeps the letters as they are.
        case.process_all_as("redelivery");
        assert_eq!((case.rows(), case.dead_letters()), (2_250, 250));
    }
}

#[test]
fn a_replayed_letter_whose_request_was_billed_meanwhile_is_a_duplicate() {
    let case = Case::new(1);
    let now = now_ms();
    let old = now - 100 * DAY_MS;
    // Two copies with times of their own, and a third that the gateway sent when its clock was right.
    let retries = [event("a", old), event("a", old + 60_000), event("b", old)];
    case.produce(&retries);
    case.process_all();
    case.topic.produce(&[Record::new(ORGANIZATION, event("b", old + 60_000).as_bytes()).at(old + 61_000)]);
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (1, 3));
    let replayed = case.replay(&[], &[("MAX_EVENT_AGE", "120d")]);
    assert_eq!(replayed, "written 1, duplicates 2, rejected 0");
    assert_eq!(case.rows(), 2);
}

#[test]
fn a_conflict_is_replayed_only_when_it_is_asked_for() {
    let case = Case::new(1);
    let now = now_ms();
    let refund = |time_ms| event("a", time_ms).replace("/v1/orders", "/v1/refunds");
    case.produce(&[event("a", now), refund(now), refund(now + 1_000)]);
    case.process_all();
    assert_eq!((case.rows(), case.dead_letters()), (1, 2));
    let skipped = "written 0, duplicates 0, rejected 0, conflicts left 2 (see --include-conflicts)";
    assert_eq!(case.replay(&[], &[]), skipped);
    assert_eq!(case.rows(), 1);
    assert_eq!(case.replay(&["--include-conflicts"], &[]), "written 1, duplicates 0, rejected 1, conflict 1");
    assert_eq!(case.rows(), 2);
}

#[test]
fn a_purge_needs_to_be_confirmed_and_leaves_its_counts() {
    let (mut case, _) = mixed(profiles().pop().unwrap());
    case.replay(&[], &[("MAX_EVENT_AGE", "120d")]);
    let (code, lines) = case.letters(&["purge", "--offsets", "2.."], &[]);
    assert_eq!((code, case.dead_letters()), (Some(2), 4));
    assert!(lines[0].contains("3 dead letters would be deleted for good: add --yes"), "{lines:?}");

    let (code, lines) = case.letters(&["purge", "--offsets", "2..", "--yes"], &[]);
    assert_eq!(code, Some(0));
    assert_eq!(lines, ["deleted 3 dead letters", "of these, 1 had been written as rows by a replay"]);
    assert_eq!(case.database.texts("SELECT kafka_offset::text FROM usage_dead_letters"), ["1"]);
    let counted = "SELECT concat_ws(' ', kafka_topic, kafka_partition, letters, replayed_written)
                     FROM usage_dead_letter_purges";
    assert_eq!(case.database.texts(counted), [format!("{} 0 3 1", case.topic.name())]);
    // With nothing to delete, nothing is counted.
    assert_eq!(case.letters(&["purge", "--reason", "too_old", "--yes"], &[]).0, Some(0));
    assert_eq!(case.database.texts(counted).len(), 1);
    assert_eq!(case.rows(), 2, "rows stay");
}

#[test]
fn after_a_replay_and_a_purge_everything_still_adds_up() {
    let (case, _) = mixed(Profile::PostgreSql);
    case.replay(&[], &[("MAX_EVENT_AGE", "120d")]);
    assert_eq!(case.letters(&["purge", "--offsets", "2..", "--yes"], &[]).0, Some(0));
    let audit = || {
        let mut audit = Processor::command("audit").database(&case.database.test).spawn();
        (audit.wait_exit(PATIENCE).code(), audit.lines())
    };
    let (code, lines) = audit();
    assert_eq!(code, Some(0), "{lines:#?}");
    // By hand is not the same.
    case.database.test.client().execute("DELETE FROM usage_dead_letters", &[]).unwrap();
    assert_eq!(audit().0, Some(6));
}
