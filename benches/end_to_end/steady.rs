//! Latency at a steady rate, told twice: by the processor, and by the times that PostgreSQL keeps of commits.

use std::num::NonZeroU32;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use usage_processor::demo::offsets::{GroupOffsets, OffsetsError};
use usage_processor::demo::processor::{Finished, Processor};
use usage_processor::demo::target::Route;
use usage_processor::generate::{self, Generated, Pace};
use usage_processor::shutdown::Shutdown;

use crate::args::Args;
use crate::backlog::{generate, traffic};
use crate::database::{Database, Server};
use crate::{PROGRAM, Result};

/// How long a step may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

/// A steady rate.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Steady {
    pub(crate) rate: u32,
    /// Kafka timestamp to COMMIT acknowledged, by the processor's histograms.
    pub(crate) own: Latency,
    /// The event's time to PostgreSQL's commit timestamp, of events whose time has microseconds.
    pub(crate) database: Latency,
    /// How long a flush of the WAL took on average, and the largest part of a commit that its timestamp has not seen.
    pub(crate) flush_ms: f64,
    /// CPU time of the processor a message, once it was ready.
    pub(crate) cpu_micros_per_message: f64,
    /// CPU time of the database server a message.
    pub(crate) server_cpu_micros_per_message: f64,
    /// Transactions a second that wrote rows.
    pub(crate) commits_per_second: f64,
    /// The most that the generator itself was late.
    pub(crate) generator_behind_ms: f64,
}

/// After an outage.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Recovery {
    pub(crate) rate: u32,
    pub(crate) outage_seconds: u64,
    /// From the processor's start to the first of three seconds in a row whose commits have a p99 below 50 ms.
    pub(crate) seconds: Option<f64>,
}

/// A processor at work on a topic and a database of its own.
struct Stage {
    database: Database,
    route: Route,
    offsets: GroupOffsets,
}

impl Stage {
    fn set(args: &Args, server: &Server) -> Result<Self> {
        let topic = format!("usage-bench-{}", usage_processor::clock::now_ms());
        generate::create_topic(&args.kafka_brokers, &topic, args.partitions, &[])?;
        let database = server.create()?;
        let route = Route { database_url: database.url.clone(), brokers: args.kafka_brokers.clone(), topic };
        let offsets = GroupOffsets::new(&route, args.partitions)?;
        // A topic that is new may have no leaders yet.
        let started = Instant::now();
        while let Err(error) = offsets.partitions() {
            if started.elapsed() > PATIENCE {
                return Err(error.into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { database, route, offsets })
    }

    fn start(&self, args: &Args) -> Result<Processor> {
        let mut processor = Processor::start_with(Path::new(PROGRAM), &self.route, &[], &args.settings())?;
        self.wait_until(&mut processor, || self.offsets.is_stable())?;
        Ok(processor)
    }

    fn await_end(&self, processor: &mut Processor) -> Result<()> {
        self.wait_until(processor, || -> std::result::Result<_, OffsetsError> {
            Ok(self.offsets.partitions()?.iter().all(|partition| partition.committed == partition.end))
        })
    }

    fn wait_until<E: std::error::Error + 'static>(
        &self,
        processor: &mut Processor,
        mut is_done: impl FnMut() -> std::result::Result<bool, E>,
    ) -> Result<()> {
        let started = Instant::now();
        while !is_done()? {
            processor.ensure_running()?;
            if started.elapsed() > PATIENCE {
                return Err(format!("the processor did not get there within {PATIENCE:?}").into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn send(args: &Args, route: &Route, rate: NonZeroU32, duration: Duration, seed: u64) -> Result<Generated> {
    let count = u64::from(rate.get()) * duration.as_secs();
    generate(&route.brokers, &route.topic, traffic(args, seed, count), Pace::Steady { rate })
}

/// Sends that many messages a second for a while; the processor has been started before.
pub(crate) fn measure(args: &Args, server: &Server, rate: NonZeroU32, shutdown: &Shutdown) -> Result<Steady> {
    let mut stage = Stage::set(args, server)?;
    // By another processor, whose latency is not asked for.
    let mut first = stage.start(args)?;
    send(args, &stage.route, rate, args.warm_up, 1)?;
    stage.await_end(&mut first)?;
    first.terminate(PATIENCE, shutdown)?;
    let mut processor = stage.start(args)?;
    thread::sleep(Duration::from_secs(1));
    processor.wait_until_ready(PATIENCE)?;
    let since = usage_processor::clock::now_micros();
    let (cost_before, flushes_before) = (server.cost()?, Flushes::read(&mut stage.database.client)?);
    let generated = send(args, &stage.route, rate, args.duration, 2)?;
    let (cost, flushes) = (server.cost()? - cost_before, Flushes::read(&mut stage.database.client)?);
    stage.await_end(&mut processor)?;
    let run = processor.terminate(PATIENCE, shutdown)?;
    let commits = Commits::read(&mut stage.database.client, since)?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people to read")]
    let messages = run.summary.messages.max(1) as f64;
    Ok(Steady {
        rate: rate.get(),
        own: own(&run),
        database: commits.latency,
        flush_ms: flushes.mean_ms_since(&flushes_before),
        cpu_micros_per_message: run.cost.cpu.as_secs_f64() * 1e6 / messages,
        server_cpu_micros_per_message: cost.cpu.as_secs_f64() * 1e6 / messages,
        commits_per_second: commits.count / args.duration.as_secs_f64(),
        generator_behind_ms: generated.behind_max.as_secs_f64() * 1e3,
    })
}

/// Stops the processor while messages come in, and starts it again.
pub(crate) fn recover(
    args: &Args,
    server: &Server,
    rate: NonZeroU32,
    outage: Duration,
    shutdown: &Shutdown,
) -> Result<Recovery> {
    const AFTERWARDS: Duration = Duration::from_secs(40);
    let mut stage = Stage::set(args, server)?;
    let mut first = stage.start(args)?;
    send(args, &stage.route, rate, args.warm_up, 1)?;
    stage.await_end(&mut first)?;
    first.terminate(PATIENCE, shutdown)?;
    let (mut processor, started_micros) = thread::scope(|scope| -> Result<_> {
        let route = &stage.route;
        let sender = scope.spawn(move || {
            send(args, route, rate, outage + AFTERWARDS, 2).map_err(|error| error.to_string())
        });
        thread::sleep(outage);
        let started_micros = usage_processor::clock::now_micros();
        let processor = stage.start(args)?;
        sender.join().map_err(|_| "the generator panicked")??;
        Ok((processor, started_micros))
    })?;
    stage.await_end(&mut processor)?;
    processor.terminate(PATIENCE, shutdown)?;
    Ok(Recovery {
        rate: rate.get(),
        outage_seconds: outage.as_secs(),
        seconds: recovered_after(&mut stage.database.client, started_micros)?,
    })
}

fn own(run: &Finished) -> Latency {
    #[expect(clippy::cast_precision_loss, reason = "figures for people to read")]
    let millis = |micros: u64| micros as f64 / 1e3;
    let own = run.summary.latency;
    Latency { p50: millis(own.p50_micros), p99: millis(own.p99_micros), p999: millis(own.p999_micros) }
}

/// What the database says of the rows that were committed since.
struct Commits {
    count: f64,
    latency: Latency,
}

/// Times with microseconds alone: the others are cut to milliseconds or seconds. `$1` is in microseconds since 1970.
const PRECISE_ROWS: &str = "
    SELECT xmin, extract(epoch FROM pg_xact_commit_timestamp(xmin) - time)::float8 * 1000 AS ms,
           extract(epoch FROM pg_xact_commit_timestamp(xmin) - to_timestamp($1::bigint / 1e6))::float8 AS second
      FROM usage_events
     WHERE time >= to_timestamp($1::bigint / 1e6) AND extract(microseconds FROM time)::bigint % 1000 <> 0";

impl Commits {
    fn read(client: &mut Client, since_micros: i64) -> Result<Self> {
        let percentiles = client.query_one(
            &format!(
                "SELECT count(DISTINCT xmin::text)::float8,
                        percentile_disc(ARRAY[0.5, 0.99, 0.999]) WITHIN GROUP (ORDER BY ms) FROM ({PRECISE_ROWS}) AS rows"
            ),
            &[&since_micros],
        )?;
        let of: Vec<f64> = percentiles.try_get(1)?;
        Ok(Self { count: percentiles.try_get(0)?, latency: Latency { p50: of[0], p99: of[1], p999: of[2] } })
    }
}

/// By whole seconds after the start: the first from which on three have a p99 below 50 ms.
fn recovered_after(client: &mut Client, started_micros: i64) -> Result<Option<f64>> {
    let seconds = client.query(
        &format!(
            "SELECT floor(second)::float8, percentile_disc(0.99) WITHIN GROUP (ORDER BY ms)
               FROM ({PRECISE_ROWS}) AS rows GROUP BY 1 ORDER BY 1"
        )
        .replace("WHERE time >= to_timestamp($1::bigint / 1e6) AND", "WHERE"),
        &[&started_micros],
    )?;
    let seconds = seconds.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    let seconds: Vec<(f64, f64)> = seconds.collect::<std::result::Result<_, postgres::Error>>()?;
    let after: Vec<_> = seconds.into_iter().filter(|(second, _)| *second >= 0.0).collect();
    Ok(after.windows(3).find(|three| three.iter().all(|(_, p99)| *p99 < 50.0)).map(|three| three[0].0))
}

/// Flushes of the WAL so far: `track_wal_io_timing` is on.
struct Flushes {
    count: f64,
    ms: f64,
}

impl Flushes {
    fn read(client: &mut Client) -> Result<Self> {
        let row = client.query_one("SELECT wal_sync::float8, wal_sync_time FROM pg_stat_wal", &[])?;
        Ok(Self { count: row.try_get(0)?, ms: row.try_get(1)? })
    }

    fn mean_ms_since(&self, earlier: &Self) -> f64 {
        (self.ms - earlier.ms) / (self.count - earlier.count).max(1.0)
    }
}
