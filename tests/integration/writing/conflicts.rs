//! Rows of one identity and time that say different things: the first is kept, the other becomes a
//! dead letter, however often the batch is delivered.

use std::thread;

use usage_processor::migrations::Profile;
use usage_processor::write::writer::RowSink as _;

use super::{Case, Event, Part, ServerTimeouts, TIMEOUTS, batch, events, now_ms, sink_with};
use crate::database::profiles;
use crate::support::{SERVER_TIMEOUT, eventually};

#[test]
fn another_payload_at_the_same_time_is_a_conflict_and_stays_one() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let first = events("r", 200);
        case.write(&batch(&[Part::new(0, 0, &first)]));
        // A new owner, without the window: some copies agree and some do not.
        let mut second = first.clone();
        second[3].weight = 2;
        second[150].endpoint = "/v2/orders".to_owned();
        second.push(Event::new("new"));
        let second = batch(&[Part::new(0, 200, &second)]);
        case.restart();
        assert_eq!(case.write_all(&second), [201, 1, 0, 198, 2], "{profile}");
        let letters = case.dead_letters();
        assert!(
            letters[0].starts_with("203 conflict ") && letters[1].starts_with("350 conflict "),
            "{letters:?}"
        );
        case.assert_ledger_is_exact();
        for _ in 0..2 {
            case.restart();
            assert_eq!(case.write_all(&second), [201, 0, 0, 201, 0], "{profile}: redelivered");
        }
        assert_eq!((case.count("usage_events"), case.count("usage_dead_letters")), (201, 2));
        assert_eq!(
            case.database.test.count("SELECT sum(weight) FROM usage_events"),
            201,
            "the first is kept"
        );
        case.assert_ledger_is_exact();
    }
}

#[test]
fn what_is_not_billed_by_may_differ() {
    let mut case = Case::new(profiles().pop().unwrap());
    let event = Event::new("r");
    case.write(&batch(&[Part::new(0, 0, std::slice::from_ref(&event))]));
    let mut other = Part::new(0, 1, &[event]);
    other.payloads[0] = other.payloads[0].replace("\"response_time_ms\":12", "\"response_time_ms\":99");
    assert_eq!(case.write_all(&batch(&[other])), [1, 0, 0, 1, 0]);
}

#[test]
fn within_one_batch_the_earlier_of_two_partitions_is_kept() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let (same, twin) = (events("same", 50), events("twin", 50));
        let twin_changed: Vec<_> = twin.iter().map(|event| event.clone().weight(9)).collect();
        let all = batch(&[
            Part::new(0, 0, &[same.clone(), twin].concat()),
            Part::new(1, 0, &[same, twin_changed].concat()),
        ]);
        assert_eq!(case.write_all(&all), [200, 100, 0, 50, 50], "{profile}");
        assert_eq!(case.database.test.count("SELECT sum(weight) FROM usage_events"), 100);
        case.assert_ledger_is_exact();
        case.restart();
        assert_eq!(case.write_all(&all), [200, 0, 0, 200, 0], "{profile}");
        assert_eq!(case.count("usage_dead_letters"), 50);
        case.assert_ledger_is_exact();
    }
}

#[test]
fn a_row_that_another_writer_commits_meanwhile_is_compared_too() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let lock = SERVER_TIMEOUT;
        case.sink = sink_with(&case.database.test.url(), ServerTimeouts { lock, ..TIMEOUTS });
        // Of the same day and organization, or the other one's new chunk would be what is waited for.
        case.write(&batch(&[Part::new(1, 0, &events("before", 1))]));
        let mut other = case.database.connect();
        let mut transaction = other.transaction().unwrap();
        let insert = |request: &str, weight: i32| {
            format!(
                "INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                           status_code, response_time_ms, weight)
                 VALUES (to_timestamp({} / 1000.0), '{request}', '{org}', '{org}', '/v1/orders', 'GET', 200, 12, {weight})",
                now_ms(), org = super::ORGANIZATION
            )
        };
        transaction.batch_execute(&insert("r-3", 1)).unwrap();
        transaction.batch_execute(&insert("r-4", 7)).unwrap();
        let all = batch(&[Part::new(0, 0, &events("r", 10))]);
        let counts = thread::scope(|scope| {
            let writing = scope.spawn(|| case.write_all(&all));
            eventually("the writer waits for the other", SERVER_TIMEOUT, || {
                let waiting = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                                WHERE NOT granted AND locktype = 'transactionid' AND datname = current_database()";
                let row = transaction.query_one(waiting, &[]).unwrap();
                if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err("nobody waits") }
            });
            transaction.commit().unwrap();
            writing.join().unwrap()
        });
        assert_eq!(counts, [10, 8, 0, 1, 1], "{profile}");
    }
}

#[test]
fn a_unique_key_that_is_not_ours_hides_no_row() {
    let mut case = Case::new(profiles().pop().unwrap());
    case.execute("CREATE UNIQUE INDEX one_weight ON usage_events (organization_id, time, weight)");
    let all = batch(&[Part::new(0, 0, &events("r", 2))]);
    let error = case.sink.write(&all).unwrap_err();
    assert!(error.to_string().contains("next to existing ones"), "{error}");
    case.execute("DROP INDEX one_weight");
    assert_eq!(case.write_all(&all), [2, 2, 0, 0, 0]);
}

#[test]
fn rows_that_exist_in_compressed_chunks_are_compared_too() {
    let Some(profile) = profiles().into_iter().find(|p| *p == Profile::TimescaleDb) else {
        return; // `profiles` has said so.
    };
    let mut case = Case::new(profile);
    let first = events("r", 500);
    case.write(&batch(&[Part::new(0, 0, &first)]));
    case.execute("SELECT compress_chunk(chunk) FROM show_chunks('usage_events') AS chunk");
    let mut second = first;
    second[9].weight = 7;
    case.restart();
    assert_eq!(case.write_all(&batch(&[Part::new(0, 500, &second)])), [500, 0, 0, 499, 1]);
    case.assert_ledger_is_exact();
}
