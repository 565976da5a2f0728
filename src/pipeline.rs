//! The pipeline put together: the only file that knows every stage. Channels, threads, join.
//!
//! Waiting is one-way: the poller waits for decoders, decoders for writers, writers for the
//! committer, the committer for no stage. That is the proof that nothing deadlocks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rand::rand_core::OsError;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;

use crate::commit::committer::Committer;
use crate::commit::offset_committer::KafkaOffsets;
use crate::commit::tally::Tally;
use crate::config::Config;
use crate::decode::circuit_breaker::CircuitBreaker;
use crate::decode::decoder::Decoder;
use crate::decode::dedup::DedupBudget;
use crate::decode::identity::IdentityHasher;
use crate::decode::sift::Sieve;
use crate::error_chain::error_chain;
use crate::folder;
use crate::latency::reporter::{ReportRequests, Reporter, ReporterError};
use crate::latency::{DurableLatency, Percentiles};
use crate::ledger::bookkeeper::{self, CommitsLost};
use crate::ledger::{Ledger, session_target};
use crate::maintenance;
use crate::messages::{PolledBatch, Progress, Revocation, WriteBatch};
use crate::observe::activity::StageActivity;
use crate::observe::instruments::Instruments;
use crate::observe::{database as observer_database, observer};
use crate::offsets::{Offset, Partition};
use crate::poll::consumer_config::{consumer_config, effective_duration};
use crate::poll::poller::Poller;
use crate::poll::rebalance::{GroupContext, GroupOptions};
use crate::stage::{BoxedError, StageError, Stages};
use crate::write::database::{Database, DatabaseOptions};
use crate::write::dead_letter_topic::DeadLetterTopic;
use crate::write::watchdog::Watchdog;
use crate::write::writer::Writer;

/// Polled batches waiting for a decoder: each has at most a mebibyte (and one message beyond it).
const POLLED_BATCHES_PER_DECODER: usize = 8;
/// Most messages in a polled batch. Several fit into a write batch, which is never split.
const POLLED_MESSAGES_MAX: usize = 1_000;
/// Reports waiting for the committer, which looks every ten milliseconds at least.
const PROGRESS_REPORTS_MAX: usize = 1_024;
/// Revocations waiting for the committer: the poller waits for each, though not for ever.
const REVOCATIONS_MAX: usize = 4;

/// How long start positions are asked for at most, through an outage of either server. At most half
/// of the time in which the group expects the next poll.
const RESOLVE_TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// Why the pipeline could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The Kafka client was not to be had.
    #[error("creating the Kafka consumer")]
    Consumer(#[source] KafkaError),
    /// The producer of dead letters was not to be had.
    #[error("creating the Kafka producer of dead letters")]
    DeadLetterTopic(#[source] KafkaError),
    /// No latency histogram.
    #[error("creating latency histograms")]
    Latency(#[from] hdrhistogram::CreationError),
    /// Nobody to report latencies.
    #[error(transparent)]
    Reporter(#[from] ReporterError),
    /// Nobody to keep the last minutes.
    #[error(transparent)]
    Observer(#[from] observer::ObserverError),
    /// No random key for the dedup window.
    #[error("asking the operating system for a random key")]
    Key(#[source] OsError),
    /// A stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The database has forgotten what it had confirmed.
    #[error(transparent)]
    CommitsLost(#[from] CommitsLost),
}

/// The state of a running pipeline at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The books.
    pub tally: Tally,
    /// Identities in the dedup windows.
    pub dedup_entries: usize,
    /// Identities that had to leave the windows early.
    pub dedup_evictions: usize,
    /// Kafka timestamp to durable, since the last report.
    pub latency: Percentiles,
    /// The same since the start.
    pub latency_overall: Percentiles,
    /// When the report was made.
    pub at: Instant,
}

/// Runs the pipeline until shutdown, calling `on_report` every `report_interval` and once at the
/// end. With `stops_at_end`, ends by itself when everything that was there has been processed.
/// What the stages do can be read from `instruments`, made for this configuration and this `Shutdown`.
pub fn run(
    config: &Config,
    instruments: &Arc<Instruments>,
    latency_requests: &ReportRequests,
    stops_at_end: bool,
    report_interval: Duration,
    mut on_report: impl FnMut(&Report),
) -> Result<Report, PipelineError> {
    let Instruments { shutdown, latencies, board, .. } = &**instruments;
    let (revocation_sender, revocations) = bounded(REVOCATIONS_MAX);
    let consumer = Arc::new(create_consumer(config, revocation_sender, instruments)?);
    let mut durable = DurableLatency::new(latencies)?;
    let reporter = Reporter::spawn(latencies, &config.latency_reports, latency_requests)?;
    let failed_stages = Arc::clone(&instruments.failed_stages);
    let mut stages = Stages::new(shutdown.clone()).counting_failures(failed_stages);

    // From the end to the beginning: a stage starts when the next one is there to take its output.
    let (progress, progress_inbox) = bounded(PROGRESS_REPORTS_MAX);
    let offsets = KafkaOffsets::new(Arc::clone(&consumer), &config.kafka_topic);
    let commit_instruments = Arc::clone(&instruments.committer);
    let committer = Committer::new(progress_inbox, revocations, offsets, board.clone(), commit_instruments);
    spawn(&mut stages, &instruments.committer.activity, move || committer.run())?;
    let write_batches = spawn_writers(&mut stages, config, &progress, instruments)?;
    let decoder_inboxes = spawn_decoders(&mut stages, config, write_batches, instruments)?;
    let poller = Poller::new(
        Arc::clone(&consumer),
        &config.kafka_topic,
        decoder_inboxes,
        progress,
        shutdown.clone(),
        stops_at_end,
        (config.batch.row_count_max / 4).clamp(1, POLLED_MESSAGES_MAX),
    );
    let (is_polling, hang_up) = bounded(0);
    let watermarks = {
        let board = board.clone();
        move || board.watermarks()
    };
    let findings = bookkeeper::spawn(ledger(config), watermarks, shutdown.clone(), hang_up.clone())
        .map_err(|source| StageError::Spawn { stage: "bookkeeper".to_owned(), source })?;
    spawn_housekeepers(config, instruments, hang_up)?;
    spawn(&mut stages, &instruments.poll.activity, move || {
        let _until_the_end = is_polling;
        poller.run()
    })?;
    instruments.has_started();

    let mut report = || make_report(instruments, &mut durable);
    let outcome = stages.join(config.drain_timeout, report_interval, || on_report(&report()));
    reporter.finish();
    outcome?;
    findings.verdict()?;
    if stops_at_end {
        // Nobody may start again to notice.
        look_once_more(&ledger(config), board.watermarks())?;
    }
    let last = report();
    on_report(&last);
    // Leaves the group; a static member does not, and its partitions wait for it until its session ends.
    drop(consumer);
    Ok(last)
}

/// Starts a stage under the name of its record, which ends with it.
fn spawn<E: Into<BoxedError>>(
    stages: &mut Stages,
    activity: &StageActivity,
    run: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), StageError> {
    let until_end = activity.until_end();
    stages.spawn(activity.name(), move || {
        let _until_end = until_end;
        run()
    })
}

fn make_report(instruments: &Instruments, durable: &mut DurableLatency) -> Report {
    let Instruments { board, budgets, .. } = instruments;
    let (latency, latency_overall) = durable.take_interval();
    Report {
        tally: board.snapshot(),
        dedup_entries: budgets.iter().map(DedupBudget::record_count).sum(),
        dedup_evictions: budgets.iter().map(DedupBudget::evictions).sum(),
        latency,
        latency_overall,
        at: Instant::now(),
    }
}

/// The threads that keep the figures short to read and the database small, and those that watch. They end with the poller.
fn spawn_housekeepers(
    config: &Config,
    instruments: &Arc<Instruments>,
    hang_up: Receiver<Infallible>,
) -> Result<(), PipelineError> {
    observer::spawn(Arc::clone(instruments), hang_up.clone())?;
    let failed = |stage: &str| {
        let stage = stage.to_owned();
        move |source| StageError::Spawn { stage, source }
    };
    if config.maintains {
        let maintenance = session_target(&config.maintenance, "usage-processor maintenance");
        maintenance::spawn(maintenance, hang_up.clone()).map_err(failed("maintenance"))?;
    }
    let observer = session_target(&config.database, "usage-processor observer");
    observer_database::spawn(observer, Arc::clone(instruments), hang_up.clone())
        .map_err(failed("observer-db"))?;
    let folder = session_target(&config.database, "usage-processor folder");
    Ok(folder::spawn(folder, hang_up).map_err(failed("folder"))?)
}

/// What the database has lost since the bookkeeper's last look.
fn look_once_more(ledger: &Ledger, watermarks: Vec<(Partition, Offset)>) -> Result<(), CommitsLost> {
    match ledger.find_lost_commits(watermarks) {
        Ok(None) => Ok(()),
        Ok(Some(lost)) => Err(lost),
        Err(error) => {
            log::warn!("whether the database still has everything: {}", error_chain(error.as_ref()));
            Ok(())
        }
    }
}

fn ledger(config: &Config) -> Ledger {
    Ledger::new(&config.database, &config.kafka_group_id, &config.kafka_topic)
}

fn create_consumer(
    config: &Config,
    revocations: Sender<Revocation>,
    instruments: &Instruments,
) -> Result<BaseConsumer<GroupContext>, PipelineError> {
    let poll_interval = effective_duration("max.poll.interval.ms", &config.kafka_options);
    let context = GroupContext::new(GroupOptions {
        group: config.kafka_group_id.clone(),
        instance_id: config.kafka_group_instance_id.clone(),
        topic: config.kafka_topic.clone(),
        start_policy: config.start_policy,
        ledger: Box::new(ledger(config)),
        resolve_timeout: poll_interval
            .map_or(RESOLVE_TIMEOUT_MAX, |interval| RESOLVE_TIMEOUT_MAX.min(interval / 2)),
        dedup_window: config.dedup_window,
        drain_timeout: config.drain_timeout,
        revocations,
        shutdown: instruments.shutdown.clone(),
        instruments: Arc::clone(&instruments.poll),
    });
    let mut client = consumer_config(&config.kafka_brokers, &config.kafka_group_id, &config.kafka_options);
    if let Some(id) = &config.kafka_group_instance_id {
        client.set("group.instance.id", id);
    }
    BaseConsumer::from_config_and_context(&client, context).map_err(PipelineError::Consumer)
}

/// Starts the writers and their watchdog; gives the channel that leads to them. It has no room: a
/// batch grows until a writer is free to take it.
fn spawn_writers(
    stages: &mut Stages,
    config: &Config,
    progress: &Sender<Progress>,
    instruments: &Instruments,
) -> Result<Sender<WriteBatch>, PipelineError> {
    let (sender, write_batches) = bounded(0);
    let mut watchdog = Watchdog::new(config.server_timeouts.statement);
    let options = DatabaseOptions {
        target: config.database.clone(),
        consumer_group: config.kafka_group_id.clone(),
        topic: config.kafka_topic.clone(),
        timeouts: config.server_timeouts,
    };
    for writer_instruments in &instruments.writers {
        let name = writer_instruments.activity.name().to_owned();
        let dead_letter_topic = config
            .dead_letter_target
            .as_ref()
            .map(|target| DeadLetterTopic::new(target, &config.kafka_topic, &config.kafka_options))
            .transpose()
            .map_err(PipelineError::DeadLetterTopic)?;
        let writer = Writer {
            write_batches: write_batches.clone(),
            progress: progress.clone(),
            sink: Database::new(options.clone(), &name, watchdog.watch(&name))
                .with_instruments(writer_instruments)
                .with_dead_letter_topic(dead_letter_topic),
            latencies: instruments.latencies.clone(),
            instruments: writer_instruments.clone(),
        };
        spawn(stages, &writer_instruments.activity, move || writer.run())?;
    }
    stages.spawn("watchdog", move || watchdog.run())?;
    Ok(sender)
}

/// Starts the decoders; gives the channel that leads to each.
fn spawn_decoders(
    stages: &mut Stages,
    config: &Config,
    write_batches: Sender<WriteBatch>,
    instruments: &Instruments,
) -> Result<Vec<Sender<PolledBatch>>, PipelineError> {
    let hasher = IdentityHasher::with_random_key().map_err(PipelineError::Key)?;
    let breaker = CircuitBreaker::new(config.dead_letter_ratio_max);
    let mut inboxes = Vec::with_capacity(config.decoder_count);
    for (decoder_instruments, budget) in instruments.decoders.iter().zip(&instruments.budgets) {
        let (inbox, polled_batches) = bounded(POLLED_BATCHES_PER_DECODER);
        let sieve = Sieve::new(config.time_limits, hasher.clone(), config.dedup_window, budget.clone())
            .with_breaker(breaker.clone());
        let decoder = Decoder {
            polled_batches,
            write_batches: write_batches.clone(),
            sieve,
            limits: config.batch,
            latencies: instruments.latencies.clone(),
            instruments: decoder_instruments.clone(),
        };
        spawn(stages, &decoder_instruments.activity, move || decoder.run())?;
        inboxes.push(inbox);
    }
    Ok(inboxes)
}
