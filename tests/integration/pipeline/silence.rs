//! A database that takes everything and answers nothing any more, as through a proxy that has lost
//! its way back: the process stops by itself, and what it did not hear of is neither lost nor doubled.

use std::thread;
use std::time::Duration;

use super::{Case, PATIENCE, event, generate, now_ms, steady, traffic};
use crate::support::Proxy;

#[test]
fn a_server_that_never_answers_stops_the_process_and_loses_nothing() {
    let mut case = Case::new(4);
    let (proxy, url) = Proxy::before_database(&case.database.test.url());
    let mut processor = case
        .processor()
        .env("DATABASE_URL", &url)
        .env("STATEMENT_TIMEOUT", "1s")
        .env("LOCK_TIMEOUT", "500ms")
        .env("DRAIN_TIMEOUT", "2s")
        .env("KAFKA_OPTIONS", "session.timeout.ms=6000")
        // Another one might not be connected yet, and have nothing to cancel.
        .env("WRITER_THREADS", "1")
        .spawn();
    let now = now_ms();
    let produce = |range: std::ops::Range<u32>| {
        let events: Vec<_> = range.map(|n| event(&format!("r-{n}"), now)).collect();
        case.produce(&events);
    };
    produce(0..500);
    case.wait_until_at_end();
    proxy.silence(true);
    // The server takes the rows; of their COMMIT nobody hears.
    produce(500..1_000);
    processor.wait_for_line("for the database: cancelling", PATIENCE);
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(1));
    processor.wait_for_line(
        "the server answers neither within STATEMENT_TIMEOUT nor to being cancelled",
        PATIENCE,
    );

    case.process_all();
    assert_eq!(case.rows(), 1_000);
    case.assert_at_end();
    let sums = case.database.text(
        "SELECT format('%s of %s', sum(written), (SELECT sum(written) FROM usage_ledger_days)) FROM usage_ledger",
    );
    assert_eq!(sums, "1000 of 1000");
}

#[test]
fn a_commit_whose_answer_is_lost_loses_and_doubles_nothing() {
    let mut case = Case::new(4);
    let (proxy, url) = Proxy::before_database(&case.database.test.url());
    let processor = case.processor().env("DATABASE_URL", &url).spawn();
    processor.wait_for_line("assigned 4 partitions", PATIENCE);
    let truth = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(30_000, "50%"), steady(6_000)));
        while !generator.is_finished() {
            proxy.cut_after_commits(3);
            thread::sleep(Duration::from_millis(300));
        }
        generator.join().unwrap()
    });
    proxy.cut_after_commits(0);
    case.wait_until_at_end();
    case.assert_truth(&truth);
    let sums = case.database.text(
        "SELECT format('%s of %s, again: %s', sum(written), (SELECT sum(written) FROM usage_ledger_days),
                       sum(redelivered) > 0) FROM usage_ledger",
    );
    assert_eq!(sums, format!("{0} of {0}, again: t", truth.requests), "some COMMIT was cut and tried again");
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_and_tried_again() {
    let case = Case::new(1);
    let mut client = case.database.connect();
    client
        .batch_execute(
            "CREATE SEQUENCE calls;
             CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF nextval('calls') <= 2 THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
             CREATE TRIGGER hesitate BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION hesitate()",
        )
        .unwrap();
    case.produce(&[event("a", now_ms()), event("b", now_ms())]);
    let processor = case.processor().env("STATEMENT_TIMEOUT", "1s").env("LOCK_TIMEOUT", "500ms").spawn();
    processor.wait_for_line("canceling statement due to statement timeout (SQLSTATE 57014)", PATIENCE);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 2);
}
