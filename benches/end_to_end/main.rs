//! The whole way, measured: how fast a backlog drains against how fast PostgreSQL takes the same rows by COPY, what that costs
//! the processor, and how long an event takes at a steady rate.
//!
//! ```text
//! make bench                                 both profiles, five rounds each
//! make bench BENCH="--profile timescaledb --rounds 1 --rates 1000,10000"
//! ```
//!
//! Everything is in one run, on the private servers in `DATABASE_URL` and `KAFKA_BROKERS`, which share this machine with it:
//!
//! ```text
//! backlog   a topic with --count messages of a gateway, claiming to have come in at 10,000/s
//! ceiling   the same rows in the same order, encoded beforehand, COPYed in batches by connections that do nothing
//!           else, into the same schema; the best of 2, 3 and 4 connections with 5,000 and 10,000 rows
//! drain     the real binary, from the first transaction's start to the last commit, by the database's clock
//! poll      a consumer with the processor's settings that drops what it gets
//! steady    --rate messages/s for --duration: latency by the processor's histograms and by PostgreSQL's commit
//!           timestamps
//! ```
//!
//! Each drain and each ceiling has a new database. No time is a failure: what is measured is printed and written as JSON.

mod backlog;
mod ceiling;
mod cost;
mod database;
mod drain;
mod report;
mod steady;

use std::error::Error;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use usage_processor::migrations::ProfileChoice;
use usage_processor::shutdown::Shutdown;

use backlog::Backlog;
use ceiling::{Ceiling, Rows};
use database::{Layout, Server};
use report::Report;

/// The outcome of a step; what fails is shown and ends the bench.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The processor, built for this bench.
const PROGRAM: &str = env!("CARGO_BIN_EXE_usage-processor");

#[derive(Debug, Parser)]
#[command(about = "measure drain, cost and latency against the COPY ceiling", disable_version_flag = true)]
struct Args {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[arg(long, env = "KAFKA_BROKERS")]
    kafka_brokers: String,
    /// timescaledb, postgresql, or auto: what the server has.
    #[arg(long, default_value = "auto")]
    profile: ProfileChoice,
    /// What the rows go into.
    #[arg(long, value_enum, default_value_t = Layout::Indexed)]
    layout: Layout,
    /// Messages in the backlog.
    #[arg(long, default_value_t = 1_500_000)]
    count: u64,
    /// Organizations that send.
    #[arg(long, default_value_t = 200)]
    organizations: u32,
    /// How many messages are retries.
    #[arg(long, default_value = "1%")]
    duplicates: usage_processor::generate::Share,
    /// Bytes that make each message longer than its 315.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    padding: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 16)]
    partitions: u16,
    /// Processors that share the drain.
    #[arg(long, default_value_t = 1)]
    instances: usize,
    /// Rows that the table holds before, in millions, on the same day.
    #[arg(long, default_value_t = 0)]
    million_rows: u32,
    /// BATCH_SIZE of the processor; its default if not given.
    #[arg(long)]
    batch_size: Option<usize>,
    /// WRITER_THREADS of the processor; its default if not given.
    #[arg(long)]
    writers: Option<usize>,
    /// DECODER_THREADS of the processor; its default if not given.
    #[arg(long)]
    decoders: Option<usize>,
    /// KAFKA_OPTIONS of the processor.
    #[arg(long)]
    kafka_options: Option<String>,
    /// A setting of the database, such as synchronous_commit=off; can be repeated. For ceilings and drains alike.
    #[arg(long, value_name = "NAME=VALUE")]
    database_setting: Vec<String>,
    /// Times that drain, best ceiling and poll are measured, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections and rows a batch of the ceiling; all six combinations are tried if not given.
    #[arg(long, value_name = "CONNECTIONSxROWS", value_parser = parse_ceiling)]
    ceiling: Option<(usize, usize)>,
    /// Messages a second at which latency is measured, one after the other; 0 for none.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100])]
    rates: Vec<u32>,
    /// How long each of them.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Also: how long latency takes to recover from a backlog that came in meanwhile, at the first of the rates.
    #[arg(long, value_parser = humantime::parse_duration)]
    outage: Option<Duration>,
    /// Where the figures go besides.
    #[arg(long)]
    json: Option<PathBuf>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn parse_ceiling(text: &str) -> std::result::Result<(usize, usize), String> {
    let (connections, rows) = text.split_once('x').ok_or("wanted is CONNECTIONSxROWS, such as 3x10000")?;
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text:?}: {error}"));
    Ok((number(connections)?, number(rows)?))
}

impl Args {
    /// What the processor is configured to beyond its defaults.
    fn settings(&self) -> Vec<(String, String)> {
        let numbers = [
            ("BATCH_SIZE", self.batch_size),
            ("WRITER_THREADS", self.writers),
            ("DECODER_THREADS", self.decoders),
        ];
        let given = numbers.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let options = self.kafka_options.clone().map(|options| ("KAFKA_OPTIONS", options));
        given.chain(options).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let args = Args::parse();
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let server = Server::new(&args)?;
    let mut report = Report::new(&args, &server)?;
    if args.rounds > 0 {
        measure_drain(&args, &server, &shutdown, &mut report)?;
    }
    for rate in args.rates.iter().copied().filter_map(NonZeroU32::new) {
        report.step(&format!("{rate} messages/s for {:?}", args.duration));
        report.steady.push(steady::measure(&args, &server, rate, &shutdown)?);
    }
    if let (Some(outage), Some(rate)) = (args.outage, args.rates.iter().copied().find_map(NonZeroU32::new)) {
        report.step(&format!("{rate} messages/s while the processor is down for {outage:?}, and after"));
        report.recovery = Some(steady::recover(&args, &server, rate, outage, &shutdown)?);
    }
    report.print()?;
    report.write_json(args.json.as_deref())
}

/// Ceilings, drains and polls, in turn.
fn measure_drain(args: &Args, server: &Server, shutdown: &Shutdown, report: &mut Report) -> Result<()> {
    report.step(&format!("a backlog of {} messages", args.count));
    let backlog = Backlog::produce(args)?;
    let rows = Rows::read(args, &backlog)?;
    report.row_count = rows.len();
    report.message_bytes = backlog.message_bytes;
    let best = match args.ceiling {
        Some(given) => given,
        None => survey(server, &rows, report)?,
    };
    for round in 1..=args.rounds {
        report.step(&format!("round {round} of {}: ceiling, drain, poll", args.rounds));
        report.ceilings.push(ceiling::measure(server, &rows, best)?);
        report.drains.push(drain::measure(args, server, &backlog, shutdown)?);
        report.polls.push(backlog.poll_and_drop(args)?);
        report.show_round();
    }
    Ok(())
}

/// Tries every combination once; gives the fastest.
fn survey(server: &Server, rows: &Rows, report: &mut Report) -> Result<(usize, usize)> {
    for connections in [2, 3, 4] {
        for batch_rows in [5_000, 10_000] {
            let measured = ceiling::measure(server, rows, (connections, batch_rows))?;
            report.step(&format!("ceiling: {measured}"));
            report.survey.push(measured);
        }
    }
    let best = report.survey.iter().max_by(|a, b| a.rows_per_second.total_cmp(&b.rows_per_second));
    Ok(best.map_or((3, 10_000), |Ceiling { connections, batch_rows, .. }| (*connections, *batch_rows)))
}
