//! The promises of the pipeline, on real servers: the real binary between a broker and a database.
//!
//! Each test has a topic, a group and a database of its own; tests of outages have servers of their
//! own too. What must be in the database is known from what was produced, never from the program.

mod books;
mod breaker;
#[path = "../../chaos/mod.rs"]
mod chaos;
#[cfg(feature = "failpoints")]
mod crashes;
mod dead_letter_topic;
mod dead_letters;
mod decisions;
mod expired;
mod faults;
mod hostile;
mod hostile_logs;
mod flood;
mod housekeeping;
mod latency;
mod logs;
mod memory;
mod notify;
mod page;
mod pauses;
mod rebalance;
mod refusals;
mod replay;
mod retries;
mod scraped;
pub(crate) mod roles;
mod scaling;
mod silence;
mod smoke;
mod standby;
mod stops;

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::time::Duration;

use usage_processor::generate::{self, GenerateError, GenerateOptions, Pace, Share, Traffic, Truth};
use usage_processor::migrations::Profile;

use crate::database::{Database, profiles};
use crate::support::{Processor, ProcessorBuilder, Record, TestTopic, eventually};

/// How long a busy machine may take for a step that takes a second on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// One organization, in one partition.
pub(crate) const ORGANIZATION: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// A topic, a migrated database, and the group of the processors between them.
pub(crate) struct Case {
    pub(crate) topic: TestTopic,
    pub(crate) database: Database,
    pub(crate) group: String,
}

impl Case {
    /// On the shared servers, in the profile that the server carries at best.
    pub(crate) fn new(partition_count: i32) -> Self {
        let profile = profiles().pop().unwrap();
        Self::with(TestTopic::create(partition_count), Database::migrated(profile))
    }

    pub(crate) fn in_profile(profile: Profile, partition_count: i32) -> Self {
        Self::with(TestTopic::create(partition_count), Database::migrated(profile))
    }

    /// With a topic of one partition that has these settings.
    fn in_topic_with(settings: &[(&str, &str)]) -> Self {
        Self::with(TestTopic::create_with(1, settings), Database::migrated(profiles().pop().unwrap()))
    }

    pub(crate) fn with(topic: TestTopic, database: Database) -> Self {
        let group = format!("group_{}", topic.name());
        Self { topic, database, group }
    }

    /// `run` with this case's servers.
    pub(crate) fn processor(&self) -> ProcessorBuilder {
        Processor::run()
            .source(&self.topic, &self.group)
            .database(&self.database.test)
            .env("STATS_INTERVAL", "1s")
    }

    /// `run --stop-at-end`, to its good end.
    pub(crate) fn process_all(&self) -> Processor {
        self.process_all_as(&self.group)
    }

    fn process_all_as(&self, group: &str) -> Processor {
        let builder = Processor::run().source(&self.topic, group).database(&self.database.test);
        let mut processor = builder.arg("--stop-at-end").spawn();
        let status = processor.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{:?}", processor.lines());
        processor
    }

    pub(crate) fn produce(&self, payloads: &[String]) {
        let records: Vec<_> =
            payloads.iter().map(|payload| Record::new(ORGANIZATION, payload.as_bytes())).collect();
        self.topic.produce(&records);
    }

    /// Sends traffic and gives the truth about it.
    pub(crate) fn generate(&self, traffic: Traffic, pace: Pace) -> Truth {
        generate(&self.topic, traffic, pace)
    }

    pub(crate) fn rows(&self) -> i64 {
        self.count("usage_events")
    }

    fn dead_letters(&self) -> i64 {
        self.count("usage_dead_letters")
    }

    pub(crate) fn count(&self, table: &str) -> i64 {
        self.database.test.count(&format!("SELECT count(*) FROM {table}"))
    }

    /// Whether everything produced so far is committed.
    fn is_at_end(&self) -> Result<(), Vec<Option<i64>>> {
        let committed = self.topic.committed_offsets(&self.group);
        let ends = self.topic.end_offsets();
        // A partition that never had a message may have no committed offset.
        let at_end = committed.iter().zip(&ends).all(|(committed, end)| committed.unwrap_or(0) == *end);
        if at_end { Ok(()) } else { Err(committed) }
    }

    pub(crate) fn assert_at_end(&self) {
        assert_eq!(self.is_at_end(), Ok(()), "ends are {:?}", self.topic.end_offsets());
    }

    pub(crate) fn wait_until_at_end(&self) {
        eventually("everything is committed", PATIENCE, || self.is_at_end());
    }

    /// Compares rows by organization and hour, and dead letters by reason, with the truth.
    pub(crate) fn assert_truth(&mut self, truth: &Truth) {
        let expected: Vec<String> = truth
            .usage
            .iter()
            .flat_map(|(organization, hours)| {
                hours.iter().map(move |(hour, usage)| {
                    format!(
                        "{organization} {hour} {} {} {}",
                        usage.requests, usage.billable_requests, usage.billable_units
                    )
                })
            })
            .collect();
        let found = self.database.texts(
            "SELECT format('%s %s %s %s %s', organization_id,
                           to_char(date_trunc('hour', time), 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), count(*),
                           count(*) FILTER (WHERE billable), coalesce(sum(weight) FILTER (WHERE billable), 0))
               FROM usage_events GROUP BY organization_id, date_trunc('hour', time)
              ORDER BY organization_id, date_trunc('hour', time)",
        );
        assert!(found == expected, "{}", first_difference(&expected, &found));
        let expected: Vec<_> =
            truth.dead_letters.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let found = self.database.texts(
            "SELECT format('%s %s', reason, count(*)) FROM usage_dead_letters GROUP BY reason ORDER BY reason",
        );
        assert_eq!(found, expected);
    }
}

fn first_difference(expected: &[String], found: &[String]) -> String {
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    format!(
        "{} figures expected, {} found; first difference: expected {:?}, found {:?}",
        expected.len(),
        found.len(),
        expected.get(at),
        found.get(at)
    )
}

fn generate(topic: &TestTopic, traffic: Traffic, pace: Pace) -> Truth {
    try_to_generate(topic, traffic, pace).unwrap()
}

fn try_to_generate(topic: &TestTopic, traffic: Traffic, pace: Pace) -> Result<Truth, GenerateError> {
    let options = GenerateOptions {
        brokers: topic.brokers().to_owned(),
        topic: topic.name().to_owned(),
        kafka_options: Vec::new(),
        linger: Duration::from_millis(5),
        traffic,
        pace,
        start_time: None,
    };
    Ok(generate::run(&options, &mut |_| ControlFlow::Continue(()))?.truth)
}

/// Traffic with 3 % retries, of which `retimed` carry another time, and 1 % malformed messages.
pub(crate) fn traffic(message_count: u64, retimed: &str) -> Traffic {
    let share = |text: &str| text.parse::<Share>().unwrap();
    Traffic {
        seed: 42,
        message_count,
        organization_count: 50,
        duplicates: share("3%"),
        retimed: share(retimed),
        malformed: share("1%"),
        late: share("2%"),
        late_up_to: Duration::from_secs(3 * 86_400),
        padding_bytes: 0,
    }
}

fn steady(rate: u32) -> Pace {
    Pace::Steady { rate: NonZeroU32::new(rate).unwrap() }
}

pub(crate) const BACKLOG: Pace = Pace::Backlog { spread: Duration::from_secs(600) };

/// A valid event of [`ORGANIZATION`], at `time_ms`.
pub(crate) fn event(request_id: &str, time_ms: i64) -> String {
    format!(
        r#"{{"time":{time_ms},"request_id":"{request_id}","organization_id":"{ORGANIZATION}",
            "api_key_id":"6ba7b811-9dad-11d1-80b4-00c04fd430c8","endpoint":"/v1/orders","method":"GET",
            "status_code":200,"response_time_ms":12}}"#
    )
}

pub(crate) fn now_ms() -> i64 {
    usage_processor::clock::now_ms()
}

#[test]
fn every_event_is_written_once() {
    for profile in profiles() {
        let mut case = Case::in_profile(profile, 16);
        let truth = case.generate(traffic(60_000, "50%"), BACKLOG);
        let processor = case.process_all();
        case.assert_truth(&truth);
        case.assert_at_end();
        let line = processor.wait_for_line("Stats - Messages: 60000", PATIENCE);
        let expected = format!(
            "Messages: 60000, Written: {}, Duplicates: {}, Dead letters: {},",
            truth.requests,
            truth.duplicate_count(),
            truth.malformed_count()
        );
        assert!(line.contains(&expected), "{line}\nexpected: {expected}");
        assert!(line.contains("In flight: 0, Lag: 0,"), "{line}");
        // Once more, from the group's offsets: nothing is left to do.
        case.process_all();
        case.assert_truth(&truth);
    }
}
