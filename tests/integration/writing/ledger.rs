//! The writer's half of the ledger: every span is entered once, in the transaction that makes it
//! durable, and its figures are those of the tables.

use usage_processor::messages::WriteBatch;
use usage_processor::write::writer::RowSink as _;

use super::{Case, DAY, Part, TIMEOUTS, batch, events, now_ms, sink_of_group};
use crate::database::profiles;

fn entries(case: &mut Case) -> Vec<String> {
    case.database.texts(
        "SELECT format('%s %s %s e%s %s-%s: %s = %s + %s + %s + %s', consumer_group, kafka_topic, kafka_partition,
                       epoch, start_offset, end_offset, messages, written, duplicates, redelivered, dead_letters)
           FROM usage_ledger ORDER BY recorded_at, kafka_partition, start_offset",
    )
}

/// A part with a message that is no JSON behind its events.
fn with_garbage(mut part: Part) -> Part {
    part.payloads.push("{".to_owned());
    part
}

#[test]
fn every_span_is_entered_with_its_figures() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let first = [events("a", 3), events("a", 1)].concat();
        case.write(&batch(&[with_garbage(Part::new(0, 10, &first)), Part::new(3, 7, &events("b", 2))]));
        assert_eq!(
            entries(&mut case),
            [
                "billing usage-events 0 e0 10-15: 5 = 3 + 1 + 0 + 1",
                "billing usage-events 3 e0 7-9: 2 = 2 + 0 + 0 + 0"
            ]
        );
        case.assert_ledger_is_exact();
    }
}

#[test]
fn a_span_of_duplicates_alone_is_entered_and_one_without_offsets_is_not() {
    let mut case = Case::new(profiles().pop().unwrap());
    case.write(&batch(&[Part::new(0, 0, &events("a", 2))]));
    let mut all =
        batch(&[Part::new(0, 2, &events("b", 1)), Part::new(0, 3, &events("b", 1)), Part::new(1, 0, &[])]);
    // The first of the two went its way in an earlier batch.
    let duplicates = all.outcomes.split_off(1);
    case.write(&WriteBatch { outcomes: duplicates, ..WriteBatch::default() });
    assert_eq!(entries(&mut case)[1..], ["billing usage-events 0 e0 3-4: 1 = 0 + 1 + 0 + 0"]);
    case.assert_ledger_is_exact();
}

#[test]
fn a_span_belongs_to_the_beginning_that_it_was_read_under_however_late_it_comes() {
    let mut case = Case::new(profiles().pop().unwrap());
    case.execute(
        "INSERT INTO usage_ledger_starts (consumer_group, kafka_topic, kafka_partition, epoch, start_offset, reason)
         VALUES ('billing', 'usage-events', 0, 1, 0, 'first start'), ('billing', 'usage-events', 0, 2, 0, 'topic recreated')",
    );
    let parts: Vec<_> = (0..2).map(|n| Part::new(0, n, &events(&format!("p{n}"), 1))).collect();
    let mut late = batch(&parts);
    for (outcome, epoch) in late.outcomes.iter_mut().zip([1, 2]) {
        outcome.span.epoch = epoch;
    }
    case.write(&late);
    let epochs: Vec<_> =
        entries(&mut case).iter().map(|entry| entry.split(' ').nth(3).unwrap().to_owned()).collect();
    assert_eq!(epochs, ["e1", "e2"]);
}

#[test]
fn rows_are_counted_on_the_utc_day_of_their_event() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let mut events = events("r", 12);
        for (n, event) in (0..).zip(&mut events) {
            event.time_ms = now_ms() - n % 3 * 86_400_000;
        }
        // Midnight belongs to the day that begins.
        let day_ms = i64::try_from(DAY.as_millis()).unwrap();
        events[0].time_ms = now_ms() / day_ms * day_ms;
        events[3].time_ms = events[0].time_ms - 1;
        case.write(&batch(&[Part::new(0, 0, &events[..6])]));
        case.assert_ledger_is_exact();
        case.restart();
        assert_eq!(case.write_all(&batch(&[Part::new(0, 6, &events)])), [12, 6, 0, 6, 0], "{profile}");
        case.assert_ledger_is_exact();
        assert!(case.count("usage_ledger_days") >= 5, "insert-only");
    }
}

#[test]
fn a_message_that_is_handed_over_twice_is_one_dead_letter() {
    let mut case = Case::new(profiles().pop().unwrap());
    let part = || with_garbage(Part::new(0, 0, &events("a", 1)));
    assert_eq!(case.write_all(&batch(&[part(), part()])), [4, 1, 0, 2, 1]);
    case.assert_ledger_is_exact();
}

#[test]
fn a_group_may_be_called_anything_whatever_strings_mean_to_the_server() {
    let mut case = Case::new(profiles().pop().unwrap());
    for strings in ["on", "off"] {
        case.execute(&format!(
            "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = {strings}', current_database()); END$$"
        ));
        let group = format!("it's \\' {strings} $1 \"billing\"");
        case.sink = sink_of_group(&case.database.test.url(), TIMEOUTS, &group);
        case.write(&batch(&[Part::new(0, 0, &events(strings, 2))]));
        let entered = "SELECT consumer_group FROM usage_ledger ORDER BY recorded_at DESC LIMIT 1";
        assert_eq!(case.database.text(entered), group);
    }
    case.assert_ledger_is_exact();
}

#[test]
fn a_batch_that_fails_enters_nothing() {
    let mut case = Case::new(profiles().pop().unwrap());
    case.execute("ALTER TABLE usage_dead_letters RENAME TO away");
    let all = batch(&[with_garbage(Part::new(0, 0, &events("a", 3)))]);
    case.sink.write(&all).unwrap_err();
    case.execute("ALTER TABLE away RENAME TO usage_dead_letters");
    assert_eq!(
        (case.count("usage_ledger"), case.count("usage_ledger_days"), case.count("usage_events")),
        (0, 0, 0)
    );
    case.write(&all);
    case.assert_ledger_is_exact();
}
