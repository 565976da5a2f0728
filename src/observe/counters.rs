//! What each stage counts, and how the counts are read: the parts of the instruments that stages know.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector as _;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts};

use super::activity::StageActivity;
use super::declared::{self, Metric};
use super::reach::Attempts;
use crate::status::LastDeadLetter;

/// Dead letters shown.
const LAST_LETTERS_MAX: usize = 10;

/// How full a channel was when one of its ends looked last: a clone of an end, kept here, would hold the other one
/// up when the stage is gone.
#[derive(Debug, Default)]
pub struct Queue {
    /// `decoder-0` or `progress`.
    pub name: String,
    length: AtomicUsize,
    capacity: AtomicUsize,
}

impl Queue {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), length: AtomicUsize::new(0), capacity: AtomicUsize::new(0) }
    }

    /// What is in it, and what fits.
    pub fn look(&self, length: usize, capacity: Option<usize>) {
        self.length.store(length, Ordering::Relaxed);
        self.capacity.store(capacity.unwrap_or(0), Ordering::Relaxed);
    }

    /// Length and capacity.
    pub fn seen(&self) -> (u64, u64) {
        (self.length.load(Ordering::Relaxed) as u64, self.capacity.load(Ordering::Relaxed) as u64)
    }
}

/// The poller's, and its callbacks', which run on its thread.
#[derive(Debug)]
pub struct PollInstruments {
    /// What the thread does.
    pub activity: StageActivity,
    /// To each decoder.
    pub decoder_queues: Vec<Queue>,
    /// Whether the group has said which partitions are ours.
    has_joined: AtomicBool,
    /// Whether Kafka has said, and not taken back, that it knows no such topic.
    lacks_topic: AtomicBool,
    /// Callbacks that assign or revoke.
    rebalances: AtomicU64,
    paused_partitions: AtomicU64,
    pauses: AtomicU64,
    /// Errors that librdkafka has reported.
    kafka_errors: AtomicU64,
    /// librdkafka's figures, once a second.
    kafka: Mutex<KafkaFigures>,
}

/// What librdkafka says of itself and of its brokers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KafkaFigures {
    /// Brokers connected.
    pub brokers_up: u64,
    /// Brokers known.
    pub brokers_known: u64,
    /// Messages fetched and not polled.
    pub fetch_queue_messages: u64,
    /// Their bytes.
    pub fetch_queue_bytes: u64,
    /// Mean round trip in seconds of each broker that had requests in the interval, by `host:port`.
    pub round_trips: Vec<(String, f64)>,
    /// Bytes received since the start.
    pub received_bytes: u64,
    /// Messages received since the start.
    pub received_messages: u64,
    /// Whether the group is being rebalanced.
    pub is_rebalancing: bool,
}

impl PollInstruments {
    pub(super) fn new(activity: StageActivity, decoder_count: usize) -> Self {
        Self {
            activity,
            decoder_queues: (0..decoder_count).map(|idx| Queue::new(format!("decoder-{idx}"))).collect(),
            has_joined: AtomicBool::new(false),
            lacks_topic: AtomicBool::new(false),
            rebalances: AtomicU64::new(0),
            paused_partitions: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            kafka_errors: AtomicU64::new(0),
            kafka: Mutex::default(),
        }
    }

    /// The group assigned partitions, were it none, or took some away.
    pub fn rebalanced(&self) {
        self.rebalances.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the group counts us as a member whose partitions are known.
    pub fn set_joined(&self, has_joined: bool) {
        self.has_joined.store(has_joined, Ordering::Release);
        self.lacks_topic.store(false, Ordering::Release);
    }

    /// Kafka knows no such topic.
    pub fn found_no_topic(&self) {
        self.lacks_topic.store(true, Ordering::Release);
    }

    /// Reading is paused, of so many partitions.
    pub fn paused(&self, partition_count: usize) {
        self.paused_partitions.store(partition_count as u64, Ordering::Relaxed);
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Reading goes on.
    pub fn resumed(&self) {
        self.paused_partitions.store(0, Ordering::Relaxed);
    }

    /// librdkafka has reported an error, whatever comes of it.
    pub fn kafka_failed(&self) {
        self.kafka_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Errors that librdkafka has reported. Its statistics count them by broker, and forget those that go.
    pub fn kafka_errors(&self) -> u64 {
        self.kafka_errors.load(Ordering::Relaxed)
    }

    /// What librdkafka's statistics say, in place of what they said.
    pub fn set_kafka(&self, figures: KafkaFigures) {
        *self.kafka.lock() = figures;
    }

    /// Whether the group has said which partitions are ours.
    pub fn has_joined(&self) -> bool {
        self.has_joined.load(Ordering::Acquire)
    }

    /// Whether the topic does not exist, as far as is known.
    pub fn lacks_topic(&self) -> bool {
        self.lacks_topic.load(Ordering::Acquire)
    }

    /// Assignments and revocations.
    pub fn rebalances(&self) -> u64 {
        self.rebalances.load(Ordering::Relaxed)
    }

    /// Partitions that are paused, and how often that was.
    pub fn pauses(&self) -> (u64, u64) {
        (self.paused_partitions.load(Ordering::Relaxed), self.pauses.load(Ordering::Relaxed))
    }

    /// librdkafka's last figures.
    pub fn kafka(&self) -> KafkaFigures {
        self.kafka.lock().clone()
    }
}

/// A decoder's.
#[derive(Debug, Clone)]
pub struct DecodeInstruments {
    /// What the thread does.
    pub activity: StageActivity,
    /// Shared by all decoders.
    pub counters: DecodeCounters,
}

/// What all decoders count together.
#[derive(Debug, Clone)]
pub struct DecodeCounters {
    /// Rows of the batches that left.
    pub batch_rows: Histogram,
    /// Accepted events that are an hour late or more.
    pub late_events: IntCounter,
    /// By [`Leave`].
    batches: [IntCounter; Leave::ALL.len()],
}

/// Why a batch leaves its decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// A writer was free.
    WriterFree,
    /// No room for more.
    Full,
    /// As old as it may get (BATCH_TIMEOUT).
    Timeout,
    /// The poller has ended.
    End,
}

impl Leave {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::WriterFree, Self::Full, Self::Timeout, Self::End];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WriterFree => "writer_free",
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::End => "end",
        }
    }
}

impl DecodeCounters {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let batches = Leave::ALL.map(|_| IntCounter::with_opts(opts(&declared::BATCHES)));
        let [writer_free, full, timeout, end] = batches;
        Ok(Self {
            batch_rows: histogram(&declared::BATCH_ROWS, &declared::ROW_BUCKETS)?,
            late_events: IntCounter::with_opts(opts(&declared::LATE_EVENTS))?,
            batches: [writer_free?, full?, timeout?, end?],
        })
    }

    /// A batch has been handed over.
    #[expect(clippy::cast_precision_loss, reason = "a batch has 10,000 rows at most")]
    pub fn batch_left(&self, why: Leave, row_count: usize) {
        self.batches[why as usize].inc();
        self.batch_rows.observe(row_count as f64);
    }

    /// Batches by why they left.
    pub fn batches(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Leave::ALL.iter().map(|why| (why.as_str(), self.batches[*why as usize].get()))
    }
}

/// A writer's.
#[derive(Debug, Clone)]
pub struct WriteInstruments {
    /// What the thread does.
    pub activity: StageActivity,
    /// The batch in hand: failing means that it is being tried again.
    pub batch: Attempts,
    /// Shared by all writers.
    pub counters: WriteCounters,
}

#[cfg(test)]
impl WriteInstruments {
    /// At which nobody looks.
    pub(crate) fn unwatched() -> Self {
        let counters = WriteCounters::new(Attempts::default()).unwrap();
        Self { activity: StageActivity::default(), batch: Attempts::default(), counters }
    }
}

/// What all writers count together.
#[derive(Debug, Clone)]
pub struct WriteCounters {
    /// Up to the COMMIT.
    pub copy_seconds: Histogram,
    /// The COMMIT.
    pub commit_seconds: Histogram,
    /// Failed attempts, by the first two characters of the SQLSTATE.
    pub retries: IntCounterVec,
    /// Sessions opened anew.
    pub reconnects: IntCounter,
    /// Whether the database answers.
    pub reach: Attempts,
    last_letters: Arc<Mutex<VecDeque<LastDeadLetter>>>,
}

impl WriteCounters {
    pub(super) fn new(reach: Attempts) -> Result<Self, prometheus::Error> {
        let retries = IntCounterVec::new(opts(&declared::WRITE_RETRIES), declared::WRITE_RETRIES.labels)?;
        // Those that are seen in practice begin at 0, so that their first one is an increase.
        for class in ["none", "08", "40", "53", "55", "57", "58"] {
            retries.with_label_values(&[class]);
        }
        Ok(Self {
            copy_seconds: histogram(&declared::COPY_DURATION, &declared::TRANSACTION_BUCKETS)?,
            commit_seconds: histogram(&declared::COMMIT_DURATION, &declared::TRANSACTION_BUCKETS)?,
            retries,
            reconnects: IntCounter::with_opts(opts(&declared::RECONNECTS))?,
            reach,
            last_letters: Arc::default(),
        })
    }

    /// A batch is durable.
    pub fn written(&self, copy: Duration, commit: Duration) {
        self.copy_seconds.observe(copy.as_secs_f64());
        self.commit_seconds.observe(commit.as_secs_f64());
    }

    /// A batch could not be written, with this SQLSTATE, and is tried again.
    pub fn retried(&self, sqlstate: Option<&str>) {
        let class = sqlstate.and_then(|code| code.get(..2)).unwrap_or("none");
        self.retries.with_label_values(&[class]).inc();
    }

    /// Failed attempts by the class of their SQLSTATE.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    pub fn sqlstate_classes(&self) -> Vec<(String, u64)> {
        let families = self.retries.collect();
        let samples = families.iter().flat_map(|family| family.get_metric());
        let class = |sample: &prometheus::proto::Metric| {
            sample.get_label().first().map(|label| label.value().to_owned())
        };
        samples
            .map(|sample| (class(sample).unwrap_or_default(), sample.get_counter().get_value() as u64))
            .collect()
    }

    /// Failed attempts of all classes.
    pub fn retry_count(&self) -> u64 {
        self.sqlstate_classes().iter().map(|(_, count)| count).sum()
    }

    /// Dead letters are stored, oldest first.
    pub fn letters_stored(&self, letters: Vec<LastDeadLetter>) {
        if letters.is_empty() {
            return;
        }
        let mut last = self.last_letters.lock();
        for letter in letters {
            if last.len() == LAST_LETTERS_MAX {
                last.pop_back();
            }
            last.push_front(letter);
        }
    }

    /// The last ones, newest first.
    pub fn last_letters(&self) -> Vec<LastDeadLetter> {
        self.last_letters.lock().iter().cloned().collect()
    }
}

/// The committer's. The default is for tests: nobody looks.
#[derive(Debug, Default)]
pub struct CommitInstruments {
    /// What the thread does.
    pub activity: StageActivity,
    /// From poller and writers.
    pub progress: Queue,
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn histogram(metric: &Metric, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    Histogram::with_opts(HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec()))
}
