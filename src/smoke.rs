//! The smoke test: events of an organization that is nobody's travel the whole way through a deployment that is running,
//! and are looked for at each station. Takes nothing that the processors have: no group membership, no offset.
//!
//! `kafka.rs` asks the broker, `database.rs` the tables and views; this file is the order of the seven steps. It runs on a
//! thread of its own, since a server may take a question and never answer: whoever waits for a step has a deadline.
//!
//! The events are not billable, whatever becomes of them. Their removal is booked in the ledger by a function of the database
//! (migration 022), so that `audit` agrees before, meanwhile and afterwards.

mod database;
mod kafka;

use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rand::TryRngCore as _;
use rand::rand_core::OsError;
use rand::rngs::OsRng;
use serde::Serialize;
use serde_json::json;

use crate::clock;
use crate::config::Config;
use crate::offsets::{Offset, Partition};
use database::Tables;
use kafka::Broker;

/// Whose events they are: nobody's. The first 16 bytes of SHA-256("usage-processor smoke organization"), as a UUID of version 8.
pub const ORGANIZATION: &str = "7a2222c5-cb31-8a16-845e-50f6ad0b6feb";
/// Their api key, from "usage-processor smoke api key" in the same way.
pub const API_KEY: &str = "8a2c9cb9-8771-8245-9608-9d82c8f579dd";
/// What they say was requested.
pub const ENDPOINT: &str = "/usage-processor/smoke";
/// How many are sent: over as many partitions, where there are so many.
pub const EVENT_COUNT: usize = 5;
/// The seven steps, by their names.
pub const STEPS: [&str; 7] =
    ["servers", "sent", "in Kafka", "consumed", "in the table", "in the aggregates", "cleaned up"];
/// How many of them have been made when events are on their way.
const SENT: usize = 2;
/// How much longer than the timeout a step may take before its server counts as silent.
const SILENCE: Duration = Duration::from_secs(5);

/// What became of one step.
#[derive(Debug, Clone, Serialize)]
pub struct StepDone {
    /// 1 to 7.
    pub step: usize,
    /// Its name in [`STEPS`].
    pub name: &'static str,
    /// Whether all is as it should be.
    pub is_ok: bool,
    /// How long it took.
    pub elapsed_ms: u64,
    /// What was found, with figures.
    pub found: String,
    /// What a person can do about it, unless all is well.
    pub what_to_do: Option<String>,
}

/// What is wrong, and what to do about it.
#[derive(Debug)]
struct Trouble {
    found: String,
    what_to_do: String,
}

impl Trouble {
    fn new(found: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { found: found.into(), what_to_do: what_to_do.into() }
    }
}

/// An event, and where the broker says that it is.
#[derive(Debug, Clone)]
struct SentEvent {
    request_id: String,
    payload: String,
    partition: Partition,
    offset: Offset,
}

/// The events of one run.
#[derive(Debug, Clone)]
struct Run {
    /// In their request ids: `smoke-RUN-1`.
    name: String,
    /// The `time` of all of them, so that they are in one hour.
    time_ms: i64,
    /// Chooses the partitions.
    random: usize,
}

impl Run {
    fn new() -> Result<Self, OsError> {
        let mut bytes = [0; 8];
        OsRng.try_fill_bytes(&mut bytes)?;
        let number = u64::from_be_bytes(bytes);
        let random = usize::try_from(number >> 33).unwrap_or(0);
        Ok(Self { name: format!("{number:016x}"), time_ms: clock::now_ms(), random })
    }

    fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(self.time_ms).unwrap_or(0))
    }

    fn request_id(&self, idx: usize) -> String {
        format!("smoke-{}-{}", self.name, idx + 1)
    }

    fn payload(&self, idx: usize) -> String {
        json!({
            "time": self.time_ms,
            "request_id": self.request_id(idx),
            "organization_id": ORGANIZATION,
            "api_key_id": API_KEY,
            "endpoint": ENDPOINT,
            "method": "GET",
            "status_code": 200,
            "response_time_ms": 1,
            "billable": false,
        })
        .to_string()
    }

    /// Evenly spread over the topic, and elsewhere each time: in the end every instance is looked at.
    fn partition(&self, idx: usize, partition_count: usize) -> Partition {
        let step = (partition_count / EVENT_COUNT).max(1);
        Partition::try_from((self.random + idx * step) % partition_count.max(1)).unwrap_or(0)
    }

    /// How to remove them later.
    fn removal(&self) -> String {
        format!("SELECT usage_remove_smoke_events('{}')", self.name)
    }
}

/// What is looked at, and how.
#[derive(Debug, Clone)]
pub struct SmokeOptions {
    /// Which servers, topic and group. The tables are asked with the rights of MAINTENANCE_DATABASE_URL.
    pub config: Config,
    /// Leave the events where they are.
    pub keeps: bool,
    /// How long each step may take.
    pub timeout: Duration,
}

/// Why no step could be made.
#[derive(Debug, thiserror::Error)]
pub enum SmokeError {
    /// No thread.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
    /// No name for the run.
    #[error("asking the operating system for random bytes")]
    Random(#[source] OsError),
}

/// Makes the steps one after the other and tells `on_step` of each, up to and including the first that fails. `on_begin` hears
/// the name of each before.
///
/// # Errors
/// When nothing could be begun.
pub fn run(
    options: SmokeOptions,
    mut on_begin: impl FnMut(&'static str),
    mut on_step: impl FnMut(&StepDone),
) -> Result<(), SmokeError> {
    let events = Run::new().map_err(SmokeError::Random)?;
    let (sender, done) = bounded(STEPS.len());
    let patience = options.timeout + SILENCE;
    thread::Builder::new()
        .name("smoke".to_owned())
        .spawn(move || {
            let removal = events.removal();
            make_steps(&options, &events, &mut Steps { done_count: 0, removal, sender })
        })
        .map_err(SmokeError::Thread)?;
    for (idx, name) in STEPS.into_iter().enumerate() {
        on_begin(name);
        let step = await_step(&done, idx, name, patience);
        on_step(&step);
        if !step.is_ok {
            break;
        }
    }
    Ok(())
}

fn await_step(done: &Receiver<StepDone>, idx: usize, name: &'static str, patience: Duration) -> StepDone {
    let failed = |found: String, what_to_do: &str| StepDone {
        step: idx + 1,
        name,
        is_ok: false,
        elapsed_ms: millis(patience),
        found,
        what_to_do: Some(what_to_do.to_owned()),
    };
    done.recv_timeout(patience).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => failed(
            format!("no answer within {patience:?}"),
            "a server takes questions and does not answer: look at its load, its disk and its locks",
        ),
        RecvTimeoutError::Disconnected => {
            failed("the smoke test itself has failed".to_owned(), "look at the line with the panic above")
        }
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts and times the steps.
struct Steps {
    done_count: usize,
    /// How to remove what was sent.
    removal: String,
    sender: Sender<StepDone>,
}

impl Steps {
    /// Makes the next one; `None` if it failed, or nobody waits for it any more.
    fn make<T>(&mut self, work: impl FnOnce() -> Result<(T, String), Trouble>) -> Option<T> {
        let started = Instant::now();
        let outcome = work();
        let elapsed_ms = millis(started.elapsed());
        let (step, name) = (self.done_count + 1, STEPS[self.done_count]);
        self.done_count += 1;
        let (made, is_ok, found, what_to_do) = match outcome {
            Ok((made, found)) => (Some(made), true, found, None),
            // Sent, and nobody cleans up any more.
            Err(Trouble { found, what_to_do }) if (SENT..STEPS.len()).contains(&(step - 1)) => {
                let removal =
                    format!("{what_to_do}; what was sent is removed, once it has come, by {}", self.removal);
                (None, false, found, Some(removal))
            }
            Err(Trouble { found, what_to_do }) => (None, false, found, Some(what_to_do)),
        };
        let told = self.sender.send(StepDone { step, name, is_ok, elapsed_ms, found, what_to_do });
        made.filter(|_| told.is_ok())
    }
}

fn make_steps(options: &SmokeOptions, run: &Run, steps: &mut Steps) -> Option<()> {
    let timeout = options.timeout;
    let (mut tables, broker) = steps.make(|| {
        let (tables, database) = Tables::reach(&options.config, options.keeps, timeout)?;
        let (broker, kafka) = Broker::reach(&options.config, timeout)?;
        Ok(((tables, broker), format!("{database}; {kafka}")))
    })?;
    let sent = steps.make(|| {
        let sent = broker.send(run, timeout)?;
        let found = format!("{EVENT_COUNT} events of run {}, acknowledged at {}", run.name, places(&sent));
        Ok((sent, found))
    })?;
    steps.make(|| {
        let found = broker.read_back(&sent, timeout)?;
        Ok(((), found))
    })?;
    steps.make(|| {
        let found =
            broker.await_committed(&sent, timeout).map_err(|trouble| tables.explain(trouble, &sent))?;
        Ok(((), found))
    })?;
    steps.make(|| Ok(((), tables.find_rows(run, &sent, timeout)?)))?;
    steps.make(|| Ok(((), tables.find_figures(run)?)))?;
    steps.make(|| Ok(((), if options.keeps { tables.keep(run) } else { tables.clean_up(run)? })))
}

/// `3 at 1841, 6 at 20`: partitions and offsets.
fn places(sent: &[SentEvent]) -> String {
    let places: Vec<_> =
        sent.iter().map(|event| format!("{} at {}", event.partition, event.offset)).collect();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// As a UUID of version 8 (RFC 9562).
    fn uuid_of(text: &str) -> String {
        let mut bytes: Vec<u8> = Sha256::digest(text).iter().copied().take(16).collect();
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    #[test]
    fn the_marked_ids_are_derived_as_documented_and_in_the_migration() {
        assert_eq!(uuid_of("usage-processor smoke organization"), ORGANIZATION);
        assert_eq!(uuid_of("usage-processor smoke api key"), API_KEY);
        let migration = include_str!("../migrations/common/022_remove_smoke_events.up.sql");
        assert!(migration.contains(ORGANIZATION));
    }

    #[test]
    fn partitions_are_spread_and_in_the_topic() {
        let run = |random| Run { name: String::new(), time_ms: 0, random };
        let of =
            |random, count| (0..EVENT_COUNT).map(|idx| run(random).partition(idx, count)).collect::<Vec<_>>();
        assert_eq!(of(2, 16), [2, 5, 8, 11, 14]);
        assert_eq!(of(15, 16), [15, 2, 5, 8, 11]);
        assert_eq!(of(7, 1), [0; 5]);
        assert_eq!(of(7, 3), [1, 2, 0, 1, 2]);
    }

    #[test]
    fn runs_differ() {
        let [a, b] = [(); 2].map(|()| Run::new().unwrap());
        assert_ne!(a.request_id(0), b.request_id(0));
        assert!(a.payload(4).contains(&a.request_id(4)) && a.payload(4).contains("\"billable\":false"));
    }
}
