//! More distinct events within one dedup window than may be remembered.

use std::ops::Range;

use super::{Case, PATIENCE, event, now_ms};
use crate::support::{Processor, Record};

const PARTITIONS: i32 = 4;
const REMEMBERED_MAX: i64 = 1_000;
const ROUND: i64 = 80_000;
/// The first two fill buffers.
const ROUNDS: i64 = 5;
/// The other three would add 9 MiB at least, were they remembered. An allocator's memory varies by four.
const GROWTH_KIB_MAX: u64 = 7 * 1_024;

/// A figure of a statistics line; 0 if it is not in it.
fn figure(line: &str, name: &str) -> i64 {
    let Some((_, rest)) = line.split_once(&format!("{name}: ")) else { return 0 };
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn produce(case: &Case, numbers: Range<i64>, now: i64) {
    let events: Vec<_> = numbers.map(|n| (n, event(&format!("flood-{n}"), now))).collect();
    let records: Vec<_> = events
        .iter()
        .map(|(n, event)| {
            Record::new("", event.as_bytes()).to(i32::try_from(n % i64::from(PARTITIONS)).unwrap())
        })
        .collect();
    case.topic.produce(&records);
}

/// The statistics line once so many messages are durable.
fn line_after(processor: &Processor, message_count: i64) -> String {
    let line = format!("Stats - Messages: {message_count}, Written: {message_count},");
    processor.wait_for_line(&line, PATIENCE)
}

#[test]
fn a_flood_of_distinct_events_stays_inside_the_dedup_cap_and_every_event_is_written_once() {
    let case = Case::new(PARTITIONS);
    let processor = case
        .processor()
        .env("DEDUP_MAX_ENTRIES", &REMEMBERED_MAX.to_string())
        .env("DEDUP_WINDOW", "1d")
        // Small buffers, whose memory does not vary much.
        .env("KAFKA_OPTIONS", "queued.max.messages.kbytes=1024")
        .env("BATCH_SIZE", "1000")
        .env("WRITER_THREADS", "2")
        .spawn();
    let now = now_ms();
    let mut resident_kib = Vec::new();
    for round in 1..=ROUNDS {
        produce(&case, (round - 1) * ROUND..round * ROUND, now);
        let line = line_after(&processor, round * ROUND);
        let (held, evicted) = (figure(&line, "Dedup cache"), figure(&line, "Early evictions"));
        assert_eq!(evicted + held, round * ROUND, "none has left the window by age: {line}");
        resident_kib.push(processor.resident_kib());
        eprintln!("{held} of {} remembered, {} KiB resident", round * ROUND, processor.resident_kib());
    }
    // A window that was empty when the last room was taken holds the event it has just judged.
    let held_max = REMEMBERED_MAX + i64::from(PARTITIONS) - 1;
    for line in processor.lines().iter().filter(|line| line.contains("Stats - ")) {
        assert!(figure(line, "Dedup cache") <= held_max, "{line}");
    }
    assert!(resident_kib[4] < resident_kib[1] + GROWTH_KIB_MAX, "{resident_kib:?}");
    // Copies of evicted ones, with their time: the database stops them.
    produce(&case, 0..500, now);
    case.wait_until_at_end();
    let distinct = case.database.test.count("SELECT count(DISTINCT request_id) FROM usage_events");
    assert_eq!((case.rows(), distinct, case.dead_letters()), (ROUNDS * ROUND, ROUNDS * ROUND, 0));
}
