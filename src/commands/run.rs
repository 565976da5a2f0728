//! `run`: waits for the database, then runs the pipeline until a signal, and logs its statistics.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Client;

use super::check_config;
use super::connect::{SetupError, prepare_patiently};
use super::progress_bar::message_bar;
use super::run_summary::RunSummary;
use crate::cli::RunArgs;
use crate::config::{Config, core_count, format_duration};
use crate::database_target::certificates;
use crate::health::Health;
use crate::latency::reporter::ReportRequests;
use crate::maintenance::Bounds;
use crate::migrations::{self, MigrateError, ProfileChoice, ServerInfo};
use crate::observe::http::Server;
use crate::observe::instruments::{Certificates, Instruments};
use crate::observe::routes;
use crate::pipeline::{self, PipelineError, Report};
use crate::shutdown::Shutdown;
use crate::status::Setting;
use crate::systemd_notify::{Notifier, Observed};

/// How long the server may take to say what its schema is, as opposed to being away.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// How long migrations may take: those of a large table are slow.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// Why `run` failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong, or the database cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No signal handlers.
    #[error("installing signal handlers")]
    Signals(#[source] io::Error),
    /// METRICS_ADDR cannot be listened on: taken, or not there (yet), so that another start may succeed.
    #[error("listening on METRICS_ADDR={address}; each instance needs an address of its own, or none")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A metric is declared wrongly.
    #[error("declaring metrics")]
    Metrics(#[source] prometheus::Error),
    /// No thread that speaks to systemd.
    #[error("starting the thread systemd")]
    Notifier(#[source] io::Error),
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Standard output is closed. The run itself ended well.
    #[error("printing the summary")]
    Summary(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT, or with `--stop-at-end` until everything is processed.
pub fn run(args: &RunArgs) -> Result<(), RunError> {
    let config = Config::from_args(&args.pipeline, core_count()).map_err(SetupError::from)?;
    let shutdown = Shutdown::default();
    let latency_requests = ReportRequests::default();
    shutdown.on_signals().and_then(|()| latency_requests.on_signal()).map_err(RunError::Signals)?;
    let instruments = instruments(&config, &shutdown).map_err(RunError::Metrics)?;
    let _server = serve(&config, &instruments)?;
    let notifier = notify(&config, &instruments).map_err(RunError::Notifier)?;
    let outcome = run_with(args, &config, &instruments, &latency_requests);
    notifier.finish();
    outcome
}

fn run_with(
    args: &RunArgs,
    config: &Config,
    instruments: &Arc<Instruments>,
    latency_requests: &ReportRequests,
) -> Result<(), RunError> {
    if !prepare_database(config, args.migrate, instruments)? {
        log::info!("stopped before the database was reached");
        return Ok(());
    }
    let last = if args.stop_at_end {
        stop_at_end(config, instruments, latency_requests)?
    } else {
        let mut statistics = Statistics::new();
        pipeline::run(config, instruments, latency_requests, false, config.stats_interval, |report| {
            statistics.log(report);
        })?
    };
    log::info!("stopped: everything in flight is written and committed");
    if args.print_summary {
        RunSummary::of(&last).write(&mut io::stdout().lock()).map_err(RunError::Summary)?;
    }
    Ok(())
}

/// Tells systemd how it goes, likewise from before any server is reached.
fn notify(config: &Config, instruments: &Arc<Instruments>) -> io::Result<Notifier> {
    let health = Health::new(Arc::clone(instruments));
    let (shutdown, instruments) = (instruments.shutdown.clone(), Arc::clone(instruments));
    let observed = move || {
        let (alive, ready) = (health.liveness(), health.readiness());
        let recent = instruments.history.lock().recent();
        // That we stop is said anyway.
        let is_waiting = alive.is_ok && !ready.is_ok && !instruments.shutdown.is_requested();
        let reasons = if is_waiting { &ready.reasons } else { &alive.reasons };
        Observed {
            is_alive: alive.is_ok,
            is_ready: ready.is_ok,
            rate: rate(recent.tally.messages, Duration::from_secs_f64(recent.seconds)),
            lag: instruments.board.snapshot().lag,
            assigned: u32::try_from(instruments.board.partition_count()).unwrap_or(u32::MAX),
            note: (!reasons.is_empty()).then(|| reasons.join(", ")),
        }
    };
    Notifier::spawn(observed, shutdown, config.drain_timeout)
}

/// What the pipeline will write into, with what can be said before it runs.
fn instruments(config: &Config, shutdown: &Shutdown) -> Result<Arc<Instruments>, prometheus::Error> {
    let settings = check_config::settings(config);
    let settings = settings.into_iter().map(|(name, value)| Setting { name: name.trim().to_owned(), value });
    let database = config.database.describe();
    let mut instruments = Instruments::new(config, database, settings.collect(), shutdown.clone())?;
    let (targets, options) =
        ([config.database.clone(), config.maintenance.clone()], config.kafka_options.clone());
    // The files are read anew: a certificate may be renewed under a running process.
    instruments.certificates = Certificates(Arc::new(move || certificates(&targets.each_ref(), &options)));
    Ok(Arc::new(instruments))
}

/// Serves metrics, health and status, from before any server is reached to the end of the process.
fn serve(config: &Config, instruments: &Arc<Instruments>) -> Result<Option<Server>, RunError> {
    let Some(address) = config.metrics_address else { return Ok(None) };
    let health = Health::new(Arc::clone(instruments));
    let instruments = Arc::clone(instruments);
    let server = Server::start(address, move |path| routes::answer(&instruments, &health, path));
    let server = server.map_err(|source| RunError::Listen { address, source })?;
    log::info!("serving status and metrics at http://{}/", server.address());
    Ok(Some(server))
}

/// Reaches the database and makes sure that its schema is ours; `false` if a signal came first.
/// The connection ends here: from then on only writers have one.
fn prepare_database(config: &Config, migrate: bool, instruments: &Instruments) -> Result<bool, SetupError> {
    let waiting = |what: &str| instruments.is_starting(format!("waiting for the database: {what}"));
    let shutdown = &instruments.shutdown;
    if migrate {
        log::info!("migrating {}", config.maintenance.describe());
        let up = |client: &mut Client| migrations::up(client, ProfileChoice::Auto);
        instruments.is_starting("migrating the database");
        let applied = prepare_patiently(&config.maintenance, shutdown, MIGRATION_PATIENCE, up, waiting)?;
        let Some(applied) = applied else { return Ok(false) };
        for migration in applied {
            log::info!("applied migration {}", migration.label());
        }
    }
    log::info!("connecting to {}", config.database.describe());
    instruments.is_starting("connecting to the database");
    let found = prepare_patiently(&config.database, shutdown, ANSWER_PATIENCE, look, waiting)?;
    let Some((server, bounds)) = found else { return Ok(false) };
    log::info!("Connected to {server}");
    // Nobody else sets it.
    drop(instruments.identity.server.set(server.to_string()));
    if let Some(warning) = retention_warning(config.time_limits.event_age_max, &bounds) {
        log::warn!("{warning}");
    }
    Ok(true)
}

fn look(client: &mut Client) -> Result<(ServerInfo, Bounds), MigrateError> {
    let server = migrations::ensure_current(client)?;
    let bounds = Bounds::read(client).map_err(|source| MigrateError::Bounds { source })?;
    Ok((server, bounds))
}

/// What is accepted and cannot be kept, if anything.
pub(super) fn retention_warning(event_age_max: Duration, bounds: &Bounds) -> Option<String> {
    let retention = Duration::from_secs(u64::try_from(bounds.retention_s).unwrap_or(0));
    (event_age_max > retention).then(|| {
        format!(
            "MAX_EVENT_AGE is {}, and the database retains events for {} (usage_bounds.retention): older ones become dead \
             letters with the reason expired",
            format_duration(event_age_max),
            format_duration(retention)
        )
    })
}

fn stop_at_end(
    config: &Config,
    instruments: &Arc<Instruments>,
    latency_requests: &ReportRequests,
) -> Result<Report, RunError> {
    const TICK: Duration = Duration::from_millis(250);
    let bar = message_bar(0);
    let mut statistics = Statistics::new();
    let mut next_line = Instant::now() + config.stats_interval;
    let started = Instant::now();
    let last = pipeline::run(config, instruments, latency_requests, true, TICK, |report| {
        let done = report.tally.messages - report.tally.in_flight();
        bar.set_length(done + report.tally.lag);
        bar.set_position(done);
        if report.at >= next_line {
            statistics.log(report);
            next_line = report.at + config.stats_interval;
        }
    })?;
    bar.finish_and_clear();
    statistics.log(&last);
    let seconds = started.elapsed().as_secs_f64();
    log::info!(
        "read everything that was there: {} messages in {seconds:.1} s, {:.0}/s",
        last.tally.messages,
        rate(last.tally.messages, started.elapsed()),
    );
    Ok(last)
}

/// The statistics line, and what it needs to remember.
#[derive(Debug)]
pub struct Statistics {
    last_messages: u64,
    last_at: Instant,
}

impl Statistics {
    /// Rates count from here.
    pub fn new() -> Self {
        Self { last_messages: 0, last_at: Instant::now() }
    }

    /// Logs one line about the time since the last one.
    pub fn log(&mut self, report: &Report) {
        log::info!("{}", self.line(report));
    }

    fn line(&mut self, report: &Report) -> String {
        let Report { tally, dedup_entries, latency, at, .. } = report;
        let rate = rate(tally.messages - self.last_messages, at.duration_since(self.last_at));
        (self.last_messages, self.last_at) = (tally.messages, *at);
        let mut line = format!(
            "Stats - Messages: {}, Written: {}, Duplicates: {}, Dead letters: {}, Dedup cache: {dedup_entries}, \
             In flight: {}, Lag: {}, Rate: {rate:.0}/s, p50/p99/p99.9: {latency}",
            tally.messages,
            tally.written,
            tally.all_duplicates(),
            tally.dead_letters,
            tally.in_flight(),
            tally.lag,
        );
        // Said only when there is something to say.
        for (name, count) in [
            ("Returned", tally.returned),
            ("Late spans", tally.late_spans),
            ("Early evictions", u64::try_from(report.dedup_evictions).unwrap_or(u64::MAX)),
        ] {
            if count > 0 {
                line.push_str(&format!(", {name}: {count}"));
            }
        }
        line
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::tally::Tally;
    use crate::latency::Percentiles;

    #[test]
    fn the_line_reads_as_documented() {
        let mut statistics = Statistics::new();
        let tally = Tally {
            messages: 15_240,
            written: 14_662,
            duplicates: 200,
            database_duplicates: 36,
            lag: 7,
            ..Tally::default()
        };
        let latency = Percentiles { count: 9, p50_micros: 4_100, p99_micros: 11_900, p999_micros: 18_000 };
        let report = Report {
            tally,
            dedup_entries: 4_521,
            dedup_evictions: 0,
            latency,
            latency_overall: latency,
            at: statistics.last_at + Duration::from_secs(30),
        };
        assert_eq!(
            statistics.line(&report),
            "Stats - Messages: 15240, Written: 14662, Duplicates: 236, Dead letters: 0, Dedup cache: 4521, \
             In flight: 342, Lag: 7, Rate: 508/s, p50/p99/p99.9: 4.1/11.9/18.0 ms"
        );
    }
}
