//! What a running process says of itself to people and programs: `/status.json`, the status page and the
//! command `status` show this, and the numbers are those of `/metrics`.
//!
//! Types only. `page.rs` is the page at `/`, `terminal.rs` what the command prints; `text.rs` writes numbers for
//! both, and `reading.rs` says what both conclude from them.

pub mod page;
mod reading;
#[cfg(test)]
pub(crate) mod samples;
pub mod terminal;
mod text;

use serde::{Deserialize, Serialize};

use crate::health::Verdict;
use crate::latency::Percentiles;
use crate::offsets::{Offset, Partition};

/// All of it, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version and commit, as `--version` prints them.
    pub version: String,
    /// The host's name.
    pub host: String,
    /// When this was put together, milliseconds since 1970.
    pub now_ms: i64,
    /// For how long the process has run.
    pub uptime_s: u64,
    /// Whether stages progress.
    pub alive: Verdict,
    /// Whether it has joined the group and reaches the database.
    pub ready: Verdict,
    /// Messages since the start, by what became of them.
    pub totals: Totals,
    /// The same a second, over the last ten seconds.
    pub rates: Rates,
    /// On the way of an event: poller, decoders, writers, committer.
    pub stages: Vec<StageStatus>,
    /// On the way of an event.
    pub queues: Vec<QueueStatus>,
    /// The assigned ones, by number.
    pub partitions: Vec<PartitionStatus>,
    /// From Kafka timestamp to durable: the last fifteen minutes, oldest first.
    pub latency: Vec<LatencyPoint>,
    /// The dedup windows.
    pub dedup: DedupStatus,
    /// Since the start, commonest first.
    pub dead_letters: Vec<ReasonCount>,
    /// The last few, newest first.
    pub last_dead_letters: Vec<LastDeadLetter>,
    /// The broker's side.
    pub kafka: KafkaStatus,
    /// The database's side.
    pub database: DatabaseStatus,
    /// The effective configuration, in the order of `check-config`, without secrets.
    pub settings: Vec<Setting>,
}

/// `messages` is the sum of the others: one snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Read from Kafka and handed on.
    pub messages: u64,
    /// Rows inserted.
    pub written: u64,
    /// Dropped by the dedup windows.
    pub memory_duplicates: u64,
    /// Dropped by the database's unique key.
    pub database_duplicates: u64,
    /// Stored as dead letters.
    pub dead_letters: u64,
    /// Handed back with their partition before they were durable.
    pub returned: u64,
    /// Not accounted for yet.
    pub in_flight: u64,
}

/// A second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Messages read.
    pub messages: f64,
    /// Rows inserted.
    pub written: f64,
    /// Dropped by window or database.
    pub duplicates: f64,
    /// Dead letters stored.
    pub dead_letters: f64,
}

/// The threads of one stage together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// poller, decoders, writers or committer.
    pub name: String,
    /// How many threads.
    pub threads: u32,
    /// Messages (of the poller and the decoders) or rows (of the writers) a second; 0 for the committer.
    pub rate: f64,
    /// Parts of the last ten seconds, 0 to 1 as a mean over the threads: at work,
    pub working: f64,
    /// waiting for something to do,
    pub starved: f64,
    /// waiting for the next stage to take it,
    pub blocked: f64,
    /// trying again what has failed, from the first failure to the success (writers only).
    pub retrying: f64,
}

/// A channel between two stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// As in `usage_queue_length{queue=...}`: `decoder-0` or `progress`.
    pub name: String,
    /// Batches, or reports, in it.
    pub length: u64,
    /// Most that fit.
    pub capacity: u64,
}

/// An assigned partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: Partition,
    /// Everything below it is durable.
    pub watermark: Offset,
    /// What Kafka has confirmed as committed, if it is known.
    pub committed: Option<Offset>,
    /// The end of its log, if it is known.
    pub high_water_mark: Option<Offset>,
    /// The oldest offset that Kafka still has, if it is known.
    pub low_water_mark: Option<Offset>,
    /// High-water mark minus watermark.
    pub lag: u64,
}

/// Ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyPoint {
    /// Their end, milliseconds since 1970.
    pub at_ms: i64,
    /// Of the rows that became durable in them.
    pub percentiles: Percentiles,
}

/// The dedup windows of all decoders together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupStatus {
    /// Copies remembered.
    pub entries: u64,
    /// Most that may be.
    pub entries_max: u64,
    /// What they take.
    pub bytes: u64,
    /// Copies that had to leave early.
    pub evictions: u64,
}

/// Dead letters of one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// As in `usage_dead_letters.reason`.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A dead letter, without its payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDeadLetter {
    /// When it was stored, milliseconds since 1970.
    pub at_ms: i64,
    /// Where it came from: `dead-letters show PARTITION OFFSET`.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
    /// Why.
    pub reason: String,
    /// More of it.
    pub detail: String,
}

/// The broker's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaStatus {
    /// KAFKA_BROKERS.
    pub brokers: String,
    /// KAFKA_TOPIC.
    pub topic: String,
    /// KAFKA_GROUP_ID.
    pub group: String,
    /// Brokers connected, by librdkafka's statistics.
    pub brokers_up: u64,
    /// Brokers that it knows.
    pub brokers_known: u64,
    /// Whether the group has said which partitions are ours, were it none.
    pub has_joined: bool,
    /// How often the group was rebalanced.
    pub rebalances: u64,
    /// Whether reading is paused since the pipeline is full.
    pub is_paused: bool,
}

/// The database's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Database, host, port and role.
    pub target: String,
    /// What it said it is; empty until it was asked.
    pub server: String,
    /// Whether the last attempt to reach it succeeded.
    pub is_reachable: bool,
    /// Since when it has not been: the first attempt that failed since the last success, milliseconds since 1970.
    #[serde(default)]
    pub unreachable_since_ms: Option<i64>,
    /// What went wrong last, if something has since the last success.
    pub last_error: Option<String>,
    /// Times a batch was tried again.
    pub retries: u64,
    /// Sessions opened anew.
    pub reconnects: u64,
    /// Until when events are in the figures, milliseconds since 1970, if known.
    pub folded_until_ms: Option<i64>,
    /// Bytes of `usage_events` with its indexes, if known.
    pub table_bytes: Option<u64>,
}

/// A line of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The variable.
    pub name: String,
    /// Its value, secrets left out.
    pub value: String,
}
