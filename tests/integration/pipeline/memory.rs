//! A database that is away while events keep coming: they wait in Kafka, not in the process.
//!
//! `OUTAGE_DURATION=5m` lengthens the outage.

use std::thread;
use std::time::{Duration, Instant};

use super::{Case, PATIENCE, generate, steady, traffic};
use crate::support::{Proxy, eventually};

const RATE: u32 = 10_000;
/// When everything with a bound is full.
const FILLED: Duration = Duration::from_secs(10);
/// More than the process may hold: most of these wait in Kafka.
const WAITING_MIN: i64 = 100_000;
const GROWTH_KIB_MAX: u64 = 64 * 1_024;

#[test]
fn memory_stays_flat_while_the_database_is_away() {
    let outage = std::env::var("OUTAGE_DURATION").unwrap_or_else(|_| "25s".to_owned());
    let outage = humantime::parse_duration(&outage).expect("OUTAGE_DURATION is a duration such as 5m");
    let mut case = Case::new(16);
    let (proxy, url) = Proxy::before_database(&case.database.test.url());
    let processor = case.processor().env("DATABASE_URL", &url).spawn();
    processor.wait_for_line("assigned 16 partitions", PATIENCE);
    let message_count = u64::from(RATE) * (outage + FILLED).as_secs();
    let (truth, filled_kib, peak_kib) = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(move || generate(topic, traffic(message_count, "50%"), steady(RATE)));
        thread::sleep(FILLED / 2);
        proxy.lead_to("");
        proxy.cut();
        let began = Instant::now();
        thread::sleep(FILLED);
        let filled_kib = processor.resident_kib();
        let mut peak_kib = filled_kib;
        while began.elapsed() < outage {
            peak_kib = peak_kib.max(processor.resident_kib());
            thread::sleep(Duration::from_millis(100));
        }
        eventually("the generator has sent more than the process may hold", PATIENCE, || {
            let waiting = case.topic.end_offsets().iter().sum::<i64>() - case.rows();
            if waiting > WAITING_MIN { Ok(()) } else { Err(waiting) }
        });
        (generator.join().unwrap(), filled_kib, peak_kib)
    });
    eprintln!(
        "resident: {filled_kib} KiB after {FILLED:?} of the outage, {peak_kib} KiB at most in {outage:?}"
    );
    assert!(peak_kib - filled_kib < GROWTH_KIB_MAX, "from {filled_kib} KiB to {peak_kib} KiB");
    let url = case.database.test.url();
    let (_, target) = url.split_once('@').unwrap();
    proxy.lead_to(target.rsplit_once('/').unwrap().0);
    case.wait_until_at_end();
    case.assert_truth(&truth);
}
