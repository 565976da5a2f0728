//! Chaos: a producer never stops, several processors of one group run on servers of their own, and a
//! seeded scheduler breaks one thing after the other. At the end everything is there exactly once.
//!
//! `make test` goes once through every kind of fault. `make chaos DURATION=10m SEED=7` draws them
//! for that long, and `REPORT=FILE` keeps the report. A seed gives the same faults in the same order
//! with the same targets; what they meet depends on the machine.

mod faults;
mod fleet;
mod report;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use usage_processor::generate::{GenerateError, Traffic, Truth};

use self::faults::{Fault, Source, World};
use self::report::Report;
use super::{Case, steady, traffic, try_to_generate};
use crate::support::{Processor, eventually};

/// How long everything may take to be written and committed once nothing is broken any more. Longer than
/// the group waits for a member that it believes in: `max.poll.interval.ms`, five minutes.
const DRAIN_PATIENCE: Duration = Duration::from_secs(400);
/// Messages a second, in slices of so many: the topic is only changed between two slices.
const RATE: u32 = 1_500;
const SLICE_MESSAGES: u64 = 3_000;

/// Longer than any fault by itself: such times are logged.
const LONG_PAUSE: Duration = Duration::from_secs(25);

#[test]
fn under_every_kind_of_fault_everything_is_there_exactly_once() {
    let seed = variable("CHAOS_SEED").map_or(1, |text| text.parse().expect("CHAOS_SEED is a number"));
    let duration = variable("CHAOS_DURATION")
        .map(|text| humantime::parse_duration(&text).expect("CHAOS_DURATION is a duration such as 10m"));
    let (world, mut case) = World::start();
    let mut report = Report::new(seed);
    let (is_over, sampler_is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let longest_pause_ms = AtomicU64::new(0);
    let truth = thread::scope(|scope| {
        let (world, topic, source) = (&world, &case.topic, world.source(&case.topic));
        let (sampler_is_over, longest_pause_ms, is_over) = (&sampler_is_over, &longest_pause_ms, &is_over);
        scope.spawn(move || watch_progress(&world.database_url, sampler_is_over, longest_pause_ms));
        let producer = scope.spawn(move || produce(&source, seed, is_over));
        // However this ends: the scope waits for both.
        let (_producer_ends, sampler_ends) = (SetAtEnd(is_over), SetAtEnd(sampler_is_over));
        world.fleet.lock().unwrap().fill();
        let started = Instant::now();
        for step in plan(seed, duration.is_some()) {
            if duration.is_some_and(|duration| started.elapsed() >= duration) {
                break;
            }
            report.begin(&step, started.elapsed());
            thread::scope(|at_once| {
                for &(fault, random) in &step {
                    at_once.spawn(move || world.strike(topic, fault, random));
                }
            });
            thread::sleep(Duration::from_millis(500 + step[0].1 % 1_000));
            world.fleet.lock().unwrap().fill();
        }
        is_over.store(true, Ordering::SeqCst);
        let truth = producer.join().unwrap();
        eprintln!("chaos: {} messages sent; draining", truth.messages);
        eventually("everything is committed", DRAIN_PATIENCE, || {
            world.fleet.lock().unwrap().fill();
            case.is_at_end()
        });
        drop(sampler_ends);
        truth
    });
    world.fleet.lock().unwrap().end();
    report.finish(&world, &mut case, &truth, longest_pause_ms.load(Ordering::SeqCst));
    assert_all_is_there_once(&mut case, &truth);
}

/// Sets a flag when it is dropped.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Faults that happen at the same time, each with a number to choose targets by: one, or two.
type Step = Vec<(Fault, u64)>;

/// The faults of a seed: once through all kinds, in random order, and on and on for a run of a given
/// duration. About half of those that can overlap with the next one do.
fn plan(seed: u64, is_endless: bool) -> impl Iterator<Item = Step> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let rounds = if is_endless { usize::MAX } else { 1 };
    (0..rounds).flat_map(move |_| {
        let mut kinds = Fault::ALL;
        kinds.shuffle(&mut random);
        let mut steps: Vec<Step> = Vec::new();
        for kind in kinds {
            let strike = (kind, random.random());
            match steps.last_mut() {
                Some(step) if step.len() == 1 && step[0].0.may_overlap(kind) && random.random() => {
                    step.push(strike);
                }
                _ => steps.push(vec![strike]),
            }
        }
        steps
    })
}

/// Sends slices of traffic until it is over; gives the truth about all of them.
fn produce(source: &Source<'_>, seed: u64, is_over: &AtomicBool) -> Truth {
    let mut truth = Truth::default();
    let mut slice_seed = seed.wrapping_mul(1_000_000);
    while !is_over.load(Ordering::SeqCst) {
        let unchanged = source.topic_is_stable.lock().unwrap();
        let slice = Traffic { seed: slice_seed, ..traffic(SLICE_MESSAGES, "50%") };
        // A broker that is away for longer than a client tries to reach it has not had any of the slice.
        let sent = eventually("a broker to send to", DRAIN_PATIENCE, || {
            match try_to_generate(source.topic, slice.clone(), steady(RATE)) {
                Err(error @ GenerateError::Connect { .. }) => Err(error),
                result => Ok(result.unwrap()),
            }
        });
        truth.merge(&sent);
        slice_seed += 1;
        drop(unchanged);
        // Whoever waits to change the topic gets his turn.
        thread::sleep(Duration::from_millis(50));
    }
    let garbage = source.garbage_sent.load(Ordering::SeqCst);
    if garbage > 0 {
        truth.messages += garbage;
        *truth.dead_letters.entry("invalid_json".to_owned()).or_default() += garbage;
    }
    truth
}

/// Samples what the ledger holds, past the proxy; keeps the longest time in which it did not grow.
fn watch_progress(database_url: &str, is_over: &AtomicBool, longest_pause_ms: &AtomicU64) {
    let started = Instant::now();
    let (mut client, mut last_messages, mut progress_at) = (None, 0_i64, started);
    while !is_over.load(Ordering::SeqCst) {
        let mut connected =
            client.take().or_else(|| postgres::Client::connect(database_url, postgres::NoTls).ok());
        let messages = connected.as_mut().and_then(|client| {
            client.query_one("SELECT coalesce(sum(messages), 0)::bigint FROM usage_ledger", &[]).ok()
        });
        if let Some(messages) = messages.map(|row| row.get::<_, i64>(0)) {
            client = connected;
            if messages != last_messages {
                let pause = progress_at.elapsed();
                longest_pause_ms.fetch_max(u64::try_from(pause.as_millis()).unwrap(), Ordering::SeqCst);
                if pause > LONG_PAUSE {
                    let at = started.elapsed().as_secs_f64();
                    eprintln!("chaos: {at:7.1} s: progress again after {:.1} s without", pause.as_secs_f64());
                }
                (last_messages, progress_at) = (messages, Instant::now());
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn assert_all_is_there_once(case: &mut Case, truth: &Truth) {
    case.database.reconnect();
    case.assert_truth(truth);
    let doubled = case
        .database
        .text("SELECT (count(*) - count(DISTINCT (organization_id, request_id)))::text FROM usage_events");
    assert_eq!(doubled, "0", "requests that are there twice");
    case.assert_at_end();
    let mut audit = Processor::command("audit").database(&case.database.test).spawn();
    assert_eq!(audit.wait_exit(DRAIN_PATIENCE).code(), Some(0), "{:#?}", audit.lines());
}
