//! The whole way, measured: how fast a backlog drains against how fast PostgreSQL takes the same rows by COPY, what that costs
//! the processor, and how long an event takes at a steady rate.
//!
//! ```text
//! make bench                                 both profiles, five rounds each
//! make bench BENCH="--profile timescaledb --rounds 1 --rates 1000,10000"
//! make bench-page PAGE=batch-size            the runs that tuning/pages/batch-size.md lists, and its table
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

mod args;
mod backlog;
mod ceiling;
mod cost;
mod database;
mod drain;
mod page;
mod report;
mod steady;

use std::error::Error;
use std::num::NonZeroU32;

use clap::Parser;
use usage_processor::shutdown::Shutdown;

use args::{Args, Part};
use backlog::Backlog;
use ceiling::{Ceiling, RowOrder, Rows};
use database::Server;
use report::Report;

/// The outcome of a step; what fails is shown and ends the bench.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The processor, built for this bench.
const PROGRAM: &str = env!("CARGO_BIN_EXE_usage-processor");

/// A backlog, and the rows in it.
struct Load {
    backlog: Backlog,
    rows: Rows,
}

fn main() -> Result<()> {
    // rdkafka calls the end of a partition an error.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,rdkafka=off")).init();
    let args = Args::parse();
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    if let Some(page) = &args.page {
        return page::run(page, &shutdown);
    }
    let server = Server::new(&args)?;
    if !args.server_setting.is_empty() {
        server.configure()?;
    }
    let mut report = Report::new(&args, &server)?;
    if args.rounds > 0 {
        let load = Load::make(&args, &mut report)?;
        let ceiling = match args.ceiling {
            Some(given) => given,
            None if args.measures(Part::Ceiling) => survey(&server, &load.rows, &mut report)?,
            None => CEILING_DEFAULT,
        };
        for round in 1..=args.rounds {
            report.step(&format!("round {round} of {}", args.rounds));
            if args.measures(Part::Ceiling) {
                report.ceilings.push(ceiling::measure(&server, &load.rows, ceiling, args.row_order)?);
            }
            load.measure(&args, &server, &shutdown, &mut report)?;
            report.show_round();
        }
    }
    measure_latency(&args, &server, &shutdown, &mut report)?;
    report.print()?;
    report.write_json(args.json.as_deref())
}

/// Connections and rows a batch of a ceiling, unless it is looked for.
const CEILING_DEFAULT: (usize, usize) = (3, 10_000);

impl Load {
    fn make(args: &Args, report: &mut Report) -> Result<Self> {
        report.step(&format!("a backlog of {} messages", args.count));
        let backlog = Backlog::produce(args)?;
        let rows = Rows::read(args, &backlog)?;
        Ok(Self { backlog, rows })
    }

    /// Drain and poll, as far as they are asked for.
    fn measure(&self, args: &Args, server: &Server, shutdown: &Shutdown, report: &mut Report) -> Result<()> {
        report.row_count = self.rows.len();
        report.message_bytes = self.backlog.message_bytes;
        if args.measures(Part::Drain) {
            report.drains.push(drain::measure(args, server, &self.backlog, shutdown)?);
        }
        if args.measures(Part::Poll) {
            report.polls.push(self.backlog.poll_and_drop(args)?);
        }
        Ok(())
    }
}

/// Latency at each of the rates, and after an outage.
fn measure_latency(args: &Args, server: &Server, shutdown: &Shutdown, report: &mut Report) -> Result<()> {
    for rate in args.rates.iter().copied().filter_map(NonZeroU32::new) {
        report.step(&format!("{rate} messages/s for {:?}", args.duration));
        report.steady.push(steady::measure(args, server, rate, shutdown)?);
    }
    if let (Some(outage), Some(rate)) = (args.outage, args.rates.iter().copied().find_map(NonZeroU32::new)) {
        report.step(&format!("{rate} messages/s while the processor is down for {outage:?}, and after"));
        report.recovery = Some(steady::recover(args, server, rate, outage, shutdown)?);
    }
    Ok(())
}

/// Tries every combination once; gives the fastest.
fn survey(server: &Server, rows: &Rows, report: &mut Report) -> Result<(usize, usize)> {
    for connections in [2, 3, 4] {
        for batch_rows in [5_000, 10_000] {
            let measured = ceiling::measure(server, rows, (connections, batch_rows), RowOrder::Sorted)?;
            report.step(&format!("ceiling: {measured}"));
            report.survey.push(measured);
        }
    }
    let best = report.survey.iter().max_by(|a, b| a.rows_per_second.total_cmp(&b.rows_per_second));
    Ok(best.map_or(CEILING_DEFAULT, |Ceiling { connections, batch_rows, .. }| (*connections, *batch_rows)))
}
