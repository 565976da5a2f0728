//! How fast PostgreSQL takes rows at best: COPY of streams that were made beforehand, and nothing else.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::ValueEnum;
use postgres::NoTls;
use rdkafka::Message;
use usage_processor::copy_tuple::{COLUMNS, CopyStream, append_tuple};
use usage_processor::decode::identity::IdentityHasher;
use usage_processor::decode::json::JsonDecoder;

use crate::Result;
use crate::args::Args;
use crate::backlog::Backlog;
use crate::database::{Layout, Server};

/// How rows lie within a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RowOrder {
    /// By organization and time, as the processor sorts them.
    Sorted,
    /// By time, whoever sent them.
    Time,
    /// As a consumer gets them: runs of one partition after the other.
    Polled,
}

/// The distinct rows of a backlog in the order in which a consumer gets them.
#[derive(Debug)]
pub(crate) struct Rows {
    tuples: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    organization_id: u128,
    time_micros: i64,
    tuple: Range<usize>,
}

/// What a number of connections reached.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Ceiling {
    pub(crate) connections: usize,
    pub(crate) batch_rows: usize,
    pub(crate) rows_per_second: f64,
    /// CPU time of the server's processes.
    pub(crate) server_cpu_micros_per_row: f64,
    /// Bytes of WAL.
    pub(crate) wal_bytes_per_row: f64,
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, batch_rows, rows_per_second, server_cpu_micros_per_row, .. } = self;
        write!(
            f,
            "{connections} connections, {batch_rows} rows a batch: {rows_per_second:.0} rows/s, {server_cpu_micros_per_row:.2} µs of the \
             server's CPU a row"
        )
    }
}

impl Rows {
    /// Reads and encodes all of it.
    pub(crate) fn read(args: &Args, backlog: &Backlog) -> Result<Self> {
        let (mut decoder, hasher) = (JsonDecoder::default(), IdentityHasher::new([7; 16]));
        let mut seen = HashSet::new();
        let mut rows = Self { tuples: Vec::new(), rows: Vec::new() };
        backlog.read(args, |message| {
            let Ok(event) = decoder.decode(message.payload()) else { return };
            if seen.insert(hasher.identify(&event).hash) {
                let start = rows.tuples.len();
                append_tuple(&mut rows.tuples, &event);
                rows.rows.push(Row {
                    organization_id: event.organization_id,
                    time_micros: event.time_micros,
                    tuple: start..rows.tuples.len(),
                });
            }
        })?;
        Ok(rows)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whole COPY streams of this many rows, in that order within each.
    fn streams(&self, batch_rows: usize, order: RowOrder) -> Vec<Vec<u8>> {
        let mut stream = CopyStream::default();
        let batches = self.rows.chunks(batch_rows);
        let encoded = batches.map(|batch| {
            let mut rows: Vec<&Row> = batch.iter().collect();
            match order {
                RowOrder::Sorted => rows.sort_by_key(|row| (row.organization_id, row.time_micros)),
                RowOrder::Time => rows.sort_by_key(|row| row.time_micros),
                RowOrder::Polled => {}
            }
            stream.start();
            rows.iter().for_each(|row| stream.push(&self.tuples[row.tuple.clone()]));
            stream.finish().to_vec()
        });
        encoded.collect()
    }

    /// First and last UTC day, counted from 1970.
    fn days(&self) -> (i64, i64) {
        let days = self.rows.iter().map(|row| row.time_micros.div_euclid(86_400_000_000));
        (days.clone().min().unwrap_or(0), days.max().unwrap_or(0))
    }
}

/// COPYs all rows into a new database.
pub(crate) fn measure(
    server: &Server,
    rows: &Rows,
    (connections, batch_rows): (usize, usize),
    order: RowOrder,
) -> Result<Ceiling> {
    let streams = rows.streams(batch_rows, order);
    let mut database = server.create()?;
    if server.layout != Layout::Heap {
        make_partitions(&mut database.client, rows)?;
    }
    let (ready, next) = (Barrier::new(connections), AtomicUsize::new(0));
    let cost_before = server.cost()?;
    let url = &database.url;
    thread::scope(|scope| {
        let copiers: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| copy(url, &streams, &ready, &next))).collect();
        copiers
            .into_iter()
            .try_for_each(|copier| copier.join().unwrap_or_else(|_| Err("a copier panicked".into())))
    })
    .map_err(|error| -> Box<dyn std::error::Error> { error })?;
    let cost = server.cost()? - cost_before;
    let (row_count, seconds) = database.rows_and_seconds()?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
    let row_count = row_count as f64;
    Ok(Ceiling {
        connections,
        batch_rows,
        rows_per_second: row_count / seconds,
        server_cpu_micros_per_row: cost.cpu.as_secs_f64() * 1e6 / row_count,
        wal_bytes_per_row: cost.wal_bytes / row_count,
    })
}

/// A connection's loop: each batch is a transaction of its own.
fn copy(
    url: &str,
    streams: &[Vec<u8>],
    ready: &Barrier,
    next: &AtomicUsize,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut client = url.parse::<postgres::Config>()?.connect(NoTls)?;
    let statement = client.prepare(&format!("COPY usage_events ({COLUMNS}) FROM STDIN (FORMAT binary)"))?;
    ready.wait();
    while let Some(stream) = streams.get(next.fetch_add(1, Ordering::Relaxed)) {
        let mut copy = client.copy_in(&statement)?;
        copy.write_all(stream)?;
        copy.finish()?;
    }
    Ok(())
}

/// The portable profile's, for all days that occur; chunks come by themselves.
fn make_partitions(client: &mut postgres::Client, rows: &Rows) -> Result<()> {
    let (first, last) = rows.days();
    client.batch_execute(&format!(
        "DO $$ BEGIN
             IF to_regprocedure('usage_ensure_partitions(date, date)') IS NOT NULL THEN
                 PERFORM usage_ensure_partitions(DATE '1970-01-01' + {first}, DATE '1970-01-01' + {last});
             END IF;
         END $$"
    ))?;
    Ok(())
}
