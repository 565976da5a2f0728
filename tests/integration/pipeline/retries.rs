//! Retries and conflicts behind a restart, a crash or a change of owner: the dedup window is rebuilt
//! from the topic before the first new message is judged.
//!
//! All copies carry another `time`, so that the database's unique key lets each of them in.

use std::os::unix::process::ExitStatusExt as _;

use super::{Case, ORGANIZATION, PATIENCE, event, now_ms};
use crate::support::{Processor, ProcessorBuilder, Record, TestTopic};

const MINUTE_MS: i64 = 60_000;

/// A copy of an event; with another endpoint it conflicts.
fn copy(request_id: &str, endpoint: &str, time_ms: i64) -> String {
    event(request_id, time_ms).replace("/v1/orders", endpoint)
}

/// A processor that takes the place of a dead one without waiting for the end of its session.
fn in_place(case: &Case) -> ProcessorBuilder {
    case.processor().env("KAFKA_GROUP_INSTANCE_ID", "one")
}

fn crash(mut processor: Processor) {
    processor.kill();
    assert_eq!(processor.wait_exit(PATIENCE).signal(), Some(9));
}

fn stop(mut processor: Processor) {
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_conflict_is_told_from_a_retry_across_stops_and_crashes() {
    for end in [stop, crash] {
        let mut case = Case::new(1);
        let now = now_ms();
        // One life each, and what must become of it; the last two come to one that read both before.
        let lives = [
            &[("/v1/orders", "row")][..],
            &[("/v1/refunds", "conflict")],
            &[("/v1/orders", "duplicate")],
            &[("/v1/refunds", "conflict")],
            &[("/v1/orders", "duplicate"), ("/v1/refunds", "conflict")],
        ];
        let mut expected = Vec::new();
        let mut time_ms = now;
        for life in lives {
            let processor = in_place(&case).spawn();
            for (endpoint, outcome) in life {
                case.produce(&[copy("a", endpoint, time_ms)]);
                if *outcome != "duplicate" {
                    expected.push(format!("{outcome} {endpoint} {time_ms}"));
                }
                time_ms += 1;
            }
            case.wait_until_at_end();
            end(processor);
        }
        expected.sort();
        let mut found = case.database.texts(
            "SELECT format('row %s %s', endpoint, (extract(epoch FROM time) * 1000)::bigint) FROM usage_events
              UNION ALL
             SELECT format('%s %s %s', reason, letter ->> 'endpoint', letter ->> 'time')
               FROM usage_dead_letters, LATERAL (SELECT convert_from(payload, 'UTF8')::jsonb) _ (letter)",
        );
        found.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_conflict_that_outlives_the_first_copy_is_judged_alike_with_and_without_a_restart() {
    let found = [false, true].map(|is_restarted| {
        let mut case = Case::new(1);
        let now = now_ms();
        let at = |minutes_ago: i64, endpoint: &str| {
            let at_ms = now - minutes_ago * MINUTE_MS;
            case.topic.produce(&[Record::new(ORGANIZATION, copy("a", endpoint, at_ms).as_bytes()).at(at_ms)]);
        };
        at(14, "/v1/orders");
        at(10, "/v1/refunds");
        // Moves the clock, so that the first copy is out of the window before the restart.
        let other = event("b", now - 8 * MINUTE_MS);
        case.topic.produce(&[Record::new(ORGANIZATION, other.as_bytes()).at(now - 8 * MINUTE_MS)]);
        if is_restarted {
            case.process_all();
        }
        at(7, "/v1/refunds");
        at(6, "/v1/orders");
        let processor = case.process_all();
        processor.wait_for_line(
            if is_restarted {
                "Messages: 2, Written: 0, Duplicates: 1, Dead letters: 1,"
            } else {
                "Messages: 5, Written: 2, Duplicates: 1, Dead letters: 2,"
            },
            PATIENCE,
        );
        case.database.texts(
            "SELECT concat_ws(' ', kafka_offset, reason) FROM usage_dead_letters ORDER BY kafka_offset",
        )
    });
    let expected = ["1 conflict", "4 conflict"];
    assert_eq!(found, [expected, expected]);
}

#[test]
fn a_retimed_retry_after_a_rebalance_is_stopped() {
    const PARTITIONS: i32 = 8;
    let case = Case::new(PARTITIONS);
    let now = now_ms();
    let produce = |time_ms: i64| {
        let payloads: Vec<_> =
            (0..PARTITIONS).map(|partition| event(&format!("in {partition}"), time_ms)).collect();
        let records = (0..PARTITIONS).zip(&payloads);
        let records: Vec<_> = records
            .map(|(partition, payload)| Record::new(ORGANIZATION, payload.as_bytes()).to(partition))
            .collect();
        case.topic.produce(&records);
        case.wait_until_at_end();
    };
    let first = case.processor().spawn();
    produce(now);
    first.wait_for_line("Messages: 8, Written: 8, Duplicates: 0,", PATIENCE);
    let second = case.processor().spawn();
    second.wait_for_line("assigned 4 partitions", PATIENCE);
    produce(now + 1);
    second.wait_for_line("Messages: 4, Written: 0, Duplicates: 4,", PATIENCE);
    stop(first);
    // The other four come with another assignment; the second one keeps its own.
    produce(now + 2);
    second.wait_for_line("Messages: 12, Written: 0, Duplicates: 12,", PATIENCE);
    assert_eq!((case.rows(), case.dead_letters()), (8, 0));
}

#[test]
fn a_retimed_retry_after_a_crash_with_a_backlog_of_half_an_hour_is_stopped() {
    // The window is measured between Kafka's timestamps: half an hour of backlog takes nothing from it.
    for (window, duplicate_count) in [("5m", 3), ("1h", 4)] {
        let case = Case::new(1);
        let now = now_ms();
        let produce = |copies: &[(String, i64)]| {
            let at_ms = |minutes_ago: i64| now - minutes_ago * MINUTE_MS;
            let payloads: Vec<_> = copies.iter().map(|(id, ago)| event(id, at_ms(*ago))).collect();
            let records = payloads.iter().zip(copies);
            let records: Vec<_> = records
                .map(|(payload, (_, ago))| Record::new(ORGANIZATION, payload.as_bytes()).at(at_ms(*ago)))
                .collect();
            case.topic.produce(&records);
        };
        let copies =
            |ids: &[&str], ago: i64| ids.iter().map(|id| ((*id).to_owned(), ago)).collect::<Vec<_>>();
        produce(&copies(&["once", "twice", "late"], 30));
        let spawn = || in_place(&case).env("DEDUP_WINDOW", window).spawn();
        let processor = spawn();
        case.wait_until_at_end();
        crash(processor);

        // What comes in while nobody reads: more than one batch, and retries in it.
        let others: Vec<_> = (0..2_700).map(|n| (format!("other {n}"), 29 - n / 100)).collect();
        let (until_26, rest) = others.split_at(400);
        let (until_22, until_now) = rest.split_at(400);
        produce(until_26);
        produce(&copies(&["once", "twice"], 26));
        produce(until_22);
        produce(&copies(&["twice"], 22));
        produce(until_now);
        produce(&copies(&["late"], 0));
        let processor = spawn();
        case.wait_until_at_end();
        // "late" comes half an hour after its first copy: beyond five minutes it gets through, as the README says.
        let written = 2_704 - duplicate_count;
        processor.wait_for_line(
            &format!("Messages: 2704, Written: {written}, Duplicates: {duplicate_count}, Dead letters: 0,"),
            PATIENCE,
        );
        assert_eq!(case.rows(), 3 + written);
    }
}

#[test]
fn generate_says_which_kinds_of_retries_it_makes() {
    let print = |generate: ProcessorBuilder| {
        let mut generate = generate.spawn();
        assert_eq!(generate.wait_exit(PATIENCE).code(), Some(0));
        generate.lines().join("\n")
    };
    let help = print(Processor::command("generate").arg("--help"));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("Share of duplicates that carry a later `time` (retimed)"), "{help}");
    assert!(help.contains("the others are the same bytes (identical)"), "{help}");
    let topic = TestTopic::create(1);
    let generate = Processor::command("generate").source(&topic, "none").arg("--count=2000").arg("--seed=1");
    let summary = print(generate.arg("--duplicates=5%"));
    let line = summary.lines().find(|line| line.trim_start().starts_with("duplicates")).unwrap();
    let words: Vec<_> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [_, all, "identical", identical, "retimed", retimed] = words[..] else { panic!("{line}") };
    let [all, identical, retimed] = [all, identical, retimed].map(|count| count.parse::<u32>().unwrap());
    assert_eq!(all, identical + retimed, "{line}");
    assert!(identical > 0 && retimed > 0, "{line}");
}
