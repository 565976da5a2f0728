//! Writers that hold locks and do not work any more: their sessions are ended, nobody else's is.

use std::io::Write as _;
use std::thread;

use postgres::config::Config;
use postgres::{Client, NoTls};
use usage_processor::write::writer::RowSink as _;

use super::{Case, Part, ServerTimeouts, TIMEOUTS, batch, events, now_ms, sink_with};
use crate::database::profiles;
use crate::support::{SERVER_TIMEOUT, eventually};

/// A session of that name which has inserted the key of `r-0` and not committed.
fn holder(case: &Case, application_name: &str) -> Client {
    let mut config: Config = case.database.test.url().parse().unwrap();
    let mut client = config.application_name(application_name).connect(NoTls).unwrap();
    client
        .batch_execute(&format!(
            "BEGIN; INSERT INTO usage_events (time, request_id, organization_id, api_key_id, endpoint, method,
                                              status_code, response_time_ms)
             VALUES (to_timestamp({} / 1000.0), 'r-0', '{org}', '{org}', '/v1/orders', 'GET', 200, 12)",
            now_ms(),
            org = super::ORGANIZATION
        ))
        .unwrap();
    client
}

fn sessions(case: &mut Case, application_name: &str) -> i64 {
    let count = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = ";
    case.database.text(&format!("{count} '{application_name}'")).parse().unwrap()
}

#[test]
fn a_writer_that_is_frozen_in_mid_copy_is_ended_and_the_batch_gets_through() {
    for profile in profiles() {
        let mut case = Case::new(profile);
        let name = "usage-processor writer-7@elsewhere";
        // In mid-COPY: the server waits for the client, which says nothing more.
        let mut frozen = holder(&case, name);
        let mut copy = frozen.copy_in("COPY usage_dead_letters (kafka_topic) FROM STDIN").unwrap();
        copy.write_all(b"half a ro").unwrap();
        copy.flush().unwrap();

        let all = batch(&[Part::new(0, 0, &events("r", 20))]);
        let error = case.sink.write(&all).unwrap_err();
        assert!(error.to_string().contains("copying 20 rows"), "{error}");
        assert_eq!(case.write_all(&all), [20, 20, 0, 0, 0], "{profile}");
        eventually("the frozen session has ended", SERVER_TIMEOUT, || match sessions(&mut case, name) {
            0 => Ok(()),
            count => Err(count),
        });
        assert!(copy.finish().is_err(), "it cannot commit when it wakes up");
    }
}

#[test]
fn a_writer_that_is_frozen_between_two_statements_is_ended_too() {
    let mut case = Case::new(profiles().pop().unwrap());
    let mut frozen = holder(&case, "usage-processor writer-7@elsewhere");
    let all = batch(&[Part::new(0, 0, &events("r", 20))]);
    case.sink.write(&all).unwrap_err();
    assert_eq!(case.write_all(&all), [20, 20, 0, 0, 0]);
    assert!(frozen.batch_execute("COMMIT").is_err(), "it cannot commit when it wakes up");
}

#[test]
fn sessions_that_are_no_writers_are_left_alone() {
    let mut case = Case::new(profiles().pop().unwrap());
    let name = "psql usage-processor writer-7";
    let mut foreign = holder(&case, name);
    let all = batch(&[Part::new(0, 0, &events("r", 20))]);
    for _ in 0..2 {
        assert!(case.sink.write(&all).is_err());
    }
    assert_eq!(sessions(&mut case, name), 1);
    foreign.batch_execute("COMMIT").unwrap();
    assert_eq!(case.write_all(&all), [20, 19, 0, 1, 0]);
}

#[test]
fn a_writer_that_works_is_left_alone_however_long_it_works() {
    let mut case = Case::new(profiles().pop().unwrap());
    // Long, so that a pause of this test does not look like one of the writer.
    let lock = 4 * TIMEOUTS.lock;
    case.sink = sink_with(&case.database.test.url(), ServerTimeouts { lock, ..TIMEOUTS });
    let name = "usage-processor writer-7@elsewhere";
    let mut busy = holder(&case, name);
    let all = batch(&[Part::new(0, 0, &events("r", 20))]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| case.sink.write(&all).unwrap_err());
        while !waiting.is_finished() {
            busy.batch_execute("SELECT 1").unwrap();
            thread::sleep(TIMEOUTS.lock / 20);
        }
    });
    busy.batch_execute("ROLLBACK").unwrap();
    assert_eq!(sessions(&mut case, name), 1);
    assert_eq!(case.write_all(&all), [20, 20, 0, 0, 0]);
}
