//! Several processors of one group, coming and going while events come in.

use std::thread;
use std::time::Duration;

use super::{Case, PATIENCE, generate, steady, traffic};

#[test]
fn a_rebalance_loses_and_doubles_nothing() {
    let mut case = Case::new(8);
    let spawn = || {
        case.processor().env("KAFKA_OPTIONS", "session.timeout.ms=6000").env("DRAIN_TIMEOUT", "5s").spawn()
    };
    // All retries carry another time: the unique key cannot stop them, only a window that survives
    // the change of owner.
    let truth = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(45_000, "100%"), steady(3_000)));
        let mut first = spawn();
        first.wait_for_line("assigned 8 partitions", PATIENCE);
        let mut second = spawn();
        // Cooperative: the first one gives half of them back and keeps the others.
        second.wait_for_line("assigned 4 partitions", PATIENCE);
        first.wait_for_line("revoked", PATIENCE);
        thread::sleep(Duration::from_secs(1));
        let third = spawn();
        third.wait_for_line("assigned", PATIENCE);
        first.terminate();
        assert_eq!(first.wait_exit(PATIENCE).code(), Some(0));
        thread::sleep(Duration::from_secs(1));
        second.kill();
        second.wait_exit(PATIENCE);
        let truth = generator.join().unwrap();
        // The third one inherits the dead one's partitions when its session has timed out.
        case.wait_until_at_end();
        truth
    });
    case.assert_truth(&truth);
}

#[test]
fn a_frozen_processor_that_wakes_up_loses_and_doubles_nothing() {
    let mut case = Case::new(8);
    let spawn = || {
        case.processor().env("KAFKA_OPTIONS", "session.timeout.ms=6000").env("DRAIN_TIMEOUT", "5s").spawn()
    };
    let (truth, _processors) = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic(75_000, "0%"), steady(3_000)));
        let first = spawn();
        first.wait_for_line("assigned 8 partitions", PATIENCE);
        let second = spawn();
        second.wait_for_line("assigned 4 partitions", PATIENCE);
        // Each in turn sleeps through its session, with batches on their way, and is replaced.
        for frozen in [&first, &second] {
            frozen.freeze();
            thread::sleep(Duration::from_secs(8));
            frozen.thaw();
            frozen.wait_for_line("the group gave them to others", PATIENCE);
        }
        (generator.join().unwrap(), [first, second])
    });
    case.wait_until_at_end();
    case.assert_truth(&truth);
}
