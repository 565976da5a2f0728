//! What the pipeline's threads write into while they work, for whoever shows it: made before them, from the
//! configuration, and shared by reference. Counters are atomic and are counted by the batch; what takes a lock here
//! happens once a second, or when something went wrong.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::activity::StageActivity;
pub use super::counters::{
    CommitInstruments, DecodeCounters, DecodeInstruments, KafkaFigures, Leave, PollInstruments, Queue,
    WriteCounters, WriteInstruments,
};
use super::database::DatabaseFigures;
use super::observer::History;
use super::reach::Attempts;
use crate::commit::tally::TallyBoard;
use crate::config::Config;
use crate::decode::dedup::DedupBudget;
use crate::latency::Latencies;
use crate::shutdown::Shutdown;
use crate::status::Setting;

/// Decoding a batch takes milliseconds: a decoder at work for so long is stuck, or the machine is.
const DECODER_WORKING_MAX: Duration = Duration::from_secs(30);
/// A synchronous commit to a broker that is away ends by librdkafka's `socket.timeout.ms`, a minute, and it may
/// ask for the coordinator before.
const COMMITTER_WORKING_MAX: Duration = Duration::from_secs(150);
/// A rebalance callback asks for start positions for two minutes at most, through an outage of either server, and
/// each of its last requests may take some seconds more; DRAIN_TIMEOUT is added.
const CALLBACK_WORKING_MAX: Duration = Duration::from_secs(150);
/// The poller looks up ten times a second while it waits for messages, the committer every second: a call that does not
/// return is a bug of ours or of librdkafka's.
const LOOK_UP_MAX: Duration = Duration::from_secs(60);
/// The watchdog stops the process when a statement takes longer than STATEMENT_TIMEOUT and twenty seconds; that
/// should come first. Each statement is a sign.
const WRITER_MARGIN: Duration = Duration::from_secs(40);

/// All of it.
#[derive(Debug)]
pub struct Instruments {
    /// When the process began.
    pub started_at: Instant,
    /// What the process is, in words.
    pub identity: Identity,
    /// What is waited for before the pipeline starts; nothing once it has.
    starting: Mutex<Option<String>>,
    /// Asked to stop.
    pub shutdown: Shutdown,
    /// Stages that have failed.
    pub failed_stages: Arc<AtomicUsize>,
    /// The committer's books.
    pub board: TallyBoard,
    /// How long events take.
    pub latencies: Latencies,
    /// The poller's and its callbacks'.
    pub poll: Arc<PollInstruments>,
    /// One a decoder.
    pub decoders: Vec<DecodeInstruments>,
    /// One a writer.
    pub writers: Vec<WriteInstruments>,
    /// The committer's.
    pub committer: Arc<CommitInstruments>,
    /// One a decoder.
    pub budgets: Vec<DedupBudget>,
    /// Whether the database answers.
    pub reach: Attempts,
    /// What the database says of itself.
    pub database: Arc<Mutex<DatabaseFigures>>,
    /// The last minutes.
    pub history: Mutex<History>,
    /// When certificates in use expire: name and seconds since 1970.
    pub certificates: Certificates,
}

/// Asked at each scrape.
#[derive(Clone)]
pub struct Certificates(pub Arc<dyn Fn() -> Vec<(String, i64)> + Send + Sync>);

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self(Arc::new(Vec::new))
    }
}

/// What the process is, in words.
#[derive(Debug)]
pub struct Identity {
    /// KAFKA_BROKERS.
    pub kafka_brokers: String,
    /// KAFKA_TOPIC.
    pub kafka_topic: String,
    /// KAFKA_GROUP_ID.
    pub kafka_group_id: String,
    /// The database, without its password.
    pub database: String,
    /// What the server said it is.
    pub server: OnceLock<String>,
    /// The effective configuration, without secrets.
    pub settings: Vec<Setting>,
    /// DEDUP_MAX_ENTRIES.
    pub dedup_entries_max: usize,
}

impl Instruments {
    /// Those of a pipeline with this configuration.
    ///
    /// # Errors
    /// When a metric is declared wrongly, which a test would have found.
    pub fn new(
        config: &Config,
        database: String,
        settings: Vec<Setting>,
        shutdown: Shutdown,
    ) -> Result<Self, prometheus::Error> {
        let decode = DecodeCounters::new()?;
        let reach = Attempts::default();
        let write = WriteCounters::new(reach.clone())?;
        let writer_working_max = config.server_timeouts.statement.saturating_add(WRITER_MARGIN);
        let share = (config.dedup_entries_max / config.decoder_count).max(1);
        Ok(Self {
            started_at: Instant::now(),
            identity: Identity {
                kafka_brokers: config.kafka_brokers.clone(),
                kafka_topic: config.kafka_topic.clone(),
                kafka_group_id: config.kafka_group_id.clone(),
                database,
                server: OnceLock::new(),
                settings,
                dedup_entries_max: config.dedup_entries_max,
            },
            starting: Mutex::new(Some("starting".to_owned())),
            shutdown,
            failed_stages: Arc::default(),
            board: TallyBoard::default(),
            latencies: Latencies::new(),
            poll: Arc::new(PollInstruments::new(
                StageActivity::new("poller", CALLBACK_WORKING_MAX.saturating_add(config.drain_timeout))
                    .looking_up_within(LOOK_UP_MAX),
                config.decoder_count,
            )),
            decoders: (0..config.decoder_count)
                .map(|idx| DecodeInstruments {
                    activity: StageActivity::new(format!("decoder-{idx}"), DECODER_WORKING_MAX),
                    counters: decode.clone(),
                })
                .collect(),
            writers: (0..config.writer_count)
                .map(|idx| WriteInstruments {
                    activity: StageActivity::new(format!("writer-{idx}"), writer_working_max),
                    batch: Attempts::default(),
                    counters: write.clone(),
                })
                .collect(),
            committer: Arc::new(CommitInstruments {
                activity: StageActivity::new("committer", COMMITTER_WORKING_MAX)
                    .looking_up_within(LOOK_UP_MAX),
                progress: Queue::new("progress"),
            }),
            // An equal share for each decoder, which makes room among its own windows: nothing is shared.
            budgets: (0..config.decoder_count).map(|_| DedupBudget::new(share)).collect(),
            reach,
            database: Arc::default(),
            history: Mutex::default(),
            certificates: Certificates::default(),
        })
    }

    /// Says what is waited for before the pipeline starts.
    pub fn is_starting(&self, waits_for: impl Into<String>) {
        *self.starting.lock() = Some(waits_for.into());
    }

    /// The pipeline runs.
    pub fn has_started(&self) {
        *self.starting.lock() = None;
    }

    /// What is waited for, if the pipeline does not run yet.
    pub fn waits_for(&self) -> Option<String> {
        self.starting.lock().clone()
    }

    /// The stages' threads, on the way of an event, each stage with its name.
    pub fn stages(&self) -> [(&'static str, Vec<&StageActivity>); 4] {
        [
            ("poller", vec![&self.poll.activity]),
            ("decoders", self.decoders.iter().map(|decoder| &decoder.activity).collect()),
            ("writers", self.writers.iter().map(|writer| &writer.activity).collect()),
            ("committer", vec![&self.committer.activity]),
        ]
    }

    /// All their threads.
    pub fn activities(&self) -> impl Iterator<Item = &StageActivity> {
        self.stages().into_iter().flat_map(|(_, threads)| threads)
    }

    /// The queues between stages, on the way of an event.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.poll.decoder_queues.iter().chain([&self.committer.progress])
    }
}
