//! Rows that the table refuses: they alone become dead letters, at a bounded cost.

use usage_processor::write::writer::RowSink as _;

use super::{Case, Event, Part, batch, events};
use crate::database::profiles;

const ADDED_CHECK: &str = "ALTER TABLE usage_events ADD CONSTRAINT weight_is_sane CHECK (weight < 1000)";

/// `count` events of which those at `bad` break [`ADDED_CHECK`].
fn events_with_bad(count: usize, is_bad: impl Fn(usize) -> bool) -> Vec<Event> {
    let mark = |(n, event): (usize, Event)| if is_bad(n) { event.weight(1_000) } else { event };
    events("r", count).into_iter().enumerate().map(mark).collect()
}

#[test]
fn one_bad_row_in_five_thousand_costs_two_more_copies() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        case.execute(ADDED_CHECK);
        for (round, bad) in [0_i64, 2_500, 4_999].into_iter().enumerate() {
            let start = i64::try_from(round).unwrap() * 5_000;
            let mut events = events_with_bad(5_000, |n| i64::try_from(n).unwrap() == bad);
            events.iter_mut().for_each(|event| event.request_id += &format!("-{round}"));
            let before = case.sink.copy_count();
            assert_eq!(case.write_all(&batch(&[Part::new(0, start, &events)])), [5_000, 4_999, 0, 0, 1]);
            assert_eq!(case.sink.copy_count() - before, 3, "{profile}: row {bad}");
            let letter = case.dead_letters().pop().unwrap();
            let (place, said) = letter.split_once(" database_rejected 23514: ").expect(&letter);
            assert_eq!(place, (start + bad).to_string());
            assert!(said.contains("weight_is_sane"), "{said}");
        }
        case.assert_ledger_is_exact();
    }
}

#[test]
fn a_hundred_bad_rows_cost_a_bounded_number_of_copies() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        case.execute(ADDED_CHECK);
        let events = events_with_bad(5_000, |n| n % 50 == 17);
        assert_eq!(case.write_all(&batch(&[Part::new(0, 0, &events)])), [5_000, 4_900, 0, 0, 100]);
        let copy_count = case.sink.copy_count();
        println!("{profile}: 100 bad rows in 5,000 took {copy_count} COPYs");
        // Three a bad row, and as many as there are smallest slices.
        assert!(copy_count <= 3 * 100 + 5_000 / 16, "{profile}: {copy_count} COPYs");
        let expected: Vec<i64> = (0..100).map(|n| n * 50 + 17).collect();
        let offsets = case.database.texts(
            "SELECT kafka_offset::text FROM usage_dead_letters ORDER BY usage_dead_letters.kafka_offset",
        );
        assert_eq!(offsets, expected.iter().map(i64::to_string).collect::<Vec<_>>());
        case.assert_ledger_is_exact();
    }
}

#[test]
fn a_value_that_no_longer_fits_is_refused_alone() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        // As a column does that has been narrowed, which one that others depend on cannot be.
        case.execute(
            "CREATE FUNCTION narrow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF length(NEW.request_id) > 20 THEN RAISE string_data_right_truncation; END IF;
                   RETURN NEW; END $$;
             CREATE TRIGGER narrow BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION narrow()",
        );
        let mut events = events("r", 300);
        events[120].request_id = "much-longer-than-the-column-takes".to_owned();
        assert_eq!(case.write_all(&batch(&[Part::new(0, 0, &events)])), [300, 299, 0, 0, 1]);
        let letters = case.dead_letters();
        assert!(letters[0].starts_with("120 database_rejected 22001"), "{profile}: {letters:?}");
        case.assert_ledger_is_exact();
    }
}

#[test]
fn a_row_that_the_server_does_not_name_is_found_by_halving() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        // Fires once all rows of a COPY are in: no line is being read any more.
        case.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF NEW.weight >= 1000 THEN RAISE numeric_value_out_of_range; END IF; RETURN NULL; END $$;
             CREATE TRIGGER refuse AFTER INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        let events = events_with_bad(1_000, |n| n == 333);
        assert_eq!(case.write_all(&batch(&[Part::new(0, 0, &events)])), [1_000, 999, 0, 0, 1], "{profile}");
        assert!(case.dead_letters()[0].starts_with("333 database_rejected 22003"), "{profile}");
        // Ten halvings of a thousand rows, two COPYs each.
        assert!(case.sink.copy_count() <= 1 + 2 * 10, "{profile}: {} COPYs", case.sink.copy_count());
        case.assert_ledger_is_exact();
    }
}

#[test]
fn refused_rows_are_found_among_rows_that_exist_already() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        case.execute(ADDED_CHECK);
        let events = events_with_bad(1_000, |n| n == 7 || n == 700);
        let good: Vec<_> = events.iter().filter(|event| event.weight == 1).cloned().collect();
        case.write(&batch(&[Part::new(1, 0, &good[100..400])]));
        let all = batch(&[Part::new(0, 0, &events)]);
        assert_eq!(case.write_all(&all), [1_000, 698, 0, 300, 2], "{profile}");
        case.assert_ledger_is_exact();
        // Delivered again, everything is there already, the dead letters too.
        case.restart();
        assert_eq!(case.write_all(&all), [1_000, 0, 0, 1_000, 0], "{profile}");
        assert_eq!((case.count("usage_events"), case.count("usage_dead_letters")), (998, 2));
        case.assert_ledger_is_exact();
    }
}

#[test]
fn when_most_rows_are_refused_none_is_diverted() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        case.execute(ADDED_CHECK);
        let all = batch(&[Part::new(0, 0, &events_with_bad(400, |n| n % 2 == 0 || n % 5 == 1))]);
        let error = case.sink.write(&all).unwrap_err();
        assert!(error.to_string().contains("more than 200 of 400 rows"), "{error}");
        assert_eq!((case.count("usage_events"), case.count("usage_dead_letters")), (0, 0));
        case.execute("ALTER TABLE usage_events DROP CONSTRAINT weight_is_sane");
        assert_eq!(case.write_all(&all), [400, 400, 0, 0, 0]);
        case.assert_ledger_is_exact();
    }
}

#[test]
fn most_rows_of_many_small_batches_are_not_diverted_either() {
    let mut case = Case::new(profiles().pop().unwrap());
    case.execute(ADDED_CHECK);
    let write = |case: &mut Case, n: i64, is_bad| {
        let events = [Event::new(format!("r-{n}")).weight(if is_bad { 1_000 } else { 1 })];
        case.sink.write(&batch(&[Part::new(0, n, &events)]))
    };
    for n in 0..100 {
        write(&mut case, n, false).unwrap();
    }
    let diverted = (100..200).take_while(|n| write(&mut case, *n, true).is_ok()).count();
    assert_eq!(diverted, 50);
    assert_eq!(case.count("usage_dead_letters"), 50);
}
