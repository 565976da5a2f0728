//! Every step between poll and offset commit, and the process dies there.

use std::os::unix::process::ExitStatusExt as _;
use std::thread;

use usage_processor::crash_point::CrashPoint;

use super::{BACKLOG, Case, PATIENCE, steady, traffic};

#[test]
fn a_crash_at_any_step_loses_and_doubles_nothing() {
    // A few at a time: each has two processes.
    for points in CrashPoint::ALL.chunks(3) {
        thread::scope(|scope| {
            for &point in points {
                scope.spawn(move || crash_at(point));
            }
        });
    }
}

fn crash_at(point: CrashPoint) {
    const SIGABRT: i32 = 6;
    let mut case = Case::new(4);
    let mut truth = case.generate(traffic(4_000, "50%"), BACKLOG);
    // What happens once in a process happens there; of the rest some batches have gone through.
    let count = if matches!(point, CrashPoint::InRevoke | CrashPoint::InDrain) { 1 } else { 3 };
    let mut processor = case
        .processor()
        .env("BATCH_SIZE", "100")
        .env("DRAIN_TIMEOUT", "5s")
        .env("KAFKA_OPTIONS", "session.timeout.ms=6000")
        .env("CRASH_AT", &format!("{}={count}", point.name()))
        .spawn();
    processor.wait_for_line("assigned 4 partitions", PATIENCE);
    // Offsets are committed once a second, so something has to come for some seconds from now on.
    let more = super::Traffic { seed: 43, ..traffic(4_000, "50%") };
    let topic = &case.topic;
    truth.merge(&thread::scope(|scope| {
        let generator = scope.spawn(|| super::generate(topic, more, steady(1_000)));
        let other = (point == CrashPoint::InRevoke).then(|| case.processor().spawn());
        if point == CrashPoint::InDrain {
            processor.terminate();
        }
        let status = processor.wait_exit(PATIENCE);
        assert_eq!(status.signal(), Some(SIGABRT), "{point:?}: {status}");
        drop(other);
        generator.join().unwrap()
    }));
    let _restarted = case.processor().spawn();
    case.wait_until_at_end();
    case.assert_truth(&truth);
}
