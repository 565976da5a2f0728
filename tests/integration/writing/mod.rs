//! The promises of the write path, on a real database in every profile that the server carries: what
//! becomes of a batch whose rows exist already, contradict existing ones, or are refused.
//!
//! Batches are made by the decoder's own sieve and handed to the real sink, without Kafka, so that a
//! test can count statements and see each outcome.

mod adopted;
mod at_fault;
mod combinations;
mod conflicts;
mod ledger;
mod refused;
mod stalled;

use std::time::Duration;

use usage_processor::decode::dedup::DedupBudget;
use usage_processor::decode::identity::IdentityHasher;
use usage_processor::decode::sift::Sieve;
use usage_processor::messages::{PolledBatch, SpanOutcome, WriteBatch};
use usage_processor::migrations::Profile;
use usage_processor::offsets::{Generation, Offset, OffsetSpan, Partition};
use usage_processor::usage_event::TimeLimits;
use usage_processor::write::database::{Database as Sink, DatabaseOptions};
use usage_processor::write::session::ServerTimeouts;
use usage_processor::write::watchdog::Watchdog;
use usage_processor::write::writer::RowSink;

use crate::database::Database;

const DAY: Duration = Duration::from_secs(86_400);
const ORGANIZATION: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// What a test says of an event; the rest is the same in all.
#[derive(Debug, Clone)]
struct Event {
    request_id: String,
    organization_id: String,
    time_ms: i64,
    endpoint: String,
    weight: u32,
}

impl Event {
    fn new(request_id: impl Into<String>) -> Self {
        Self {
            request_id: request_id.into(),
            organization_id: ORGANIZATION.to_owned(),
            time_ms: now_ms(),
            endpoint: "/v1/orders".to_owned(),
            weight: 1,
        }
    }

    fn weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    fn json(&self) -> String {
        let Self { request_id, organization_id, time_ms, endpoint, weight } = self;
        format!(
            r#"{{"time":{time_ms},"request_id":"{request_id}","organization_id":"{organization_id}",
                "api_key_id":"{ORGANIZATION}","endpoint":"{endpoint}","method":"GET","status_code":200,
                "response_time_ms":12,"weight":{weight}}}"#
        )
    }
}

/// One moment for the whole test, so that an event made twice is the same event.
fn now_ms() -> i64 {
    static NOW: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *NOW.get_or_init(usage_processor::clock::now_ms)
}

/// One polled batch: messages of a partition from an offset on.
struct Part {
    partition: Partition,
    start: Offset,
    payloads: Vec<String>,
}

impl Part {
    fn new(partition: Partition, start: Offset, events: &[Event]) -> Self {
        Self { partition, start, payloads: events.iter().map(Event::json).collect() }
    }
}

/// A write batch as a decoder that starts afresh makes it.
fn batch(parts: &[Part]) -> WriteBatch {
    let limits = TimeLimits { event_age_max: 90 * DAY, clock_skew_max: Duration::from_secs(300) };
    let hasher = IdentityHasher::with_random_key().unwrap();
    let mut sieve = Sieve::new(limits, hasher, Duration::from_secs(300), DedupBudget::new(100_000));
    let mut batch = WriteBatch::default();
    for Part { partition, start, payloads } in parts {
        let mut polled = PolledBatch::with_capacity(payloads.len());
        let end = start + i64::try_from(payloads.len()).unwrap();
        let (partition, generation, start) = (*partition, Generation(1), *start);
        polled.spans.push(OffsetSpan { partition, generation, epoch: 0, start, end });
        for (offset, payload) in (start..).zip(payloads) {
            polled.push(0, offset, Some(now_ms()), Some(b"key"), Some(payload.as_bytes()));
        }
        sieve.sift(polled, &mut batch, now_ms()).unwrap();
    }
    batch
}

/// A migrated database and a writer's sink to it.
struct Case {
    database: Database,
    sink: Sink,
}

const TIMEOUTS: ServerTimeouts =
    ServerTimeouts { statement: Duration::from_secs(60), lock: Duration::from_secs(2) };

impl Case {
    fn new(profile: Profile) -> Self {
        let database = Database::migrated(profile);
        let sink = sink(&database.test.url());
        Self { database, sink }
    }

    /// Forgets the connection and what it has seen, as a restart does.
    fn restart(&mut self) {
        self.sink = sink(&self.database.test.url());
    }

    #[track_caller]
    fn write(&mut self, batch: &WriteBatch) -> Vec<SpanOutcome> {
        self.sink.write(batch).unwrap_or_else(|error| panic!("{error:?}")).outcomes
    }

    /// `[messages, written, duplicates, redelivered, dead letters]` of all spans together.
    #[track_caller]
    fn write_all(&mut self, batch: &WriteBatch) -> [u64; 5] {
        let outcomes = self.write(batch);
        let sum = |value: fn(&SpanOutcome) -> u64| outcomes.iter().map(value).sum();
        [
            sum(|outcome| outcome.messages),
            sum(|outcome| outcome.written),
            sum(|outcome| outcome.duplicates),
            sum(|outcome| outcome.database_duplicates),
            sum(|outcome| outcome.dead_letters),
        ]
    }

    fn count(&self, table: &str) -> i64 {
        self.database.test.count(&format!("SELECT count(*) FROM {table}"))
    }

    fn execute(&mut self, sql: &str) {
        self.database.client.batch_execute(sql).unwrap();
    }

    /// Dead letters as `offset reason detail`.
    fn dead_letters(&mut self) -> Vec<String> {
        self.database.texts(
            "SELECT format('%s %s %s', kafka_offset, reason, detail) FROM usage_dead_letters
              ORDER BY kafka_partition, kafka_offset",
        )
    }

    /// The sums of the ledger are the tables, and its days are the rows' days.
    #[track_caller]
    fn assert_ledger_is_exact(&mut self) {
        let sums = self.database.text(
            "SELECT format('%s %s', coalesce(sum(written), 0), coalesce(sum(dead_letters), 0)) FROM usage_ledger",
        );
        assert_eq!(sums, format!("{} {}", self.count("usage_events"), self.count("usage_dead_letters")));
        let entered = self.database.texts(
            "SELECT format('%s %s', event_day, sum(written)) FROM usage_ledger_days GROUP BY event_day
              ORDER BY event_day",
        );
        let found = self.database.texts(
            "SELECT format('%s %s', (time AT TIME ZONE 'UTC')::date, count(*)) FROM usage_events
              GROUP BY (time AT TIME ZONE 'UTC')::date ORDER BY (time AT TIME ZONE 'UTC')::date",
        );
        assert_eq!(entered, found);
    }
}

fn sink(url: &str) -> Sink {
    sink_with(url, TIMEOUTS)
}

fn sink_with(url: &str, timeouts: ServerTimeouts) -> Sink {
    sink_of_group(url, timeouts, "billing")
}

fn sink_of_group(url: &str, timeouts: ServerTimeouts, consumer_group: &str) -> Sink {
    let options = DatabaseOptions {
        target: url.parse().unwrap(),
        consumer_group: consumer_group.to_owned(),
        topic: "usage-events".to_owned(),
        timeouts,
    };
    // Nobody runs the watchdog: these tests are about what the server answers.
    Sink::new(options, "writer-0", Watchdog::new(timeouts.statement).watch("writer-0"))
}

fn events(prefix: &str, count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::new(format!("{prefix}-{n}"))).collect()
}
