//! A backlog drained by the real binary.

use std::path::Path;
use std::time::Duration;

use usage_processor::demo::processor::{Finished, Processor};
use usage_processor::demo::target::Route;
use usage_processor::shutdown::Shutdown;

use crate::args::Args;
use crate::backlog::Backlog;
use crate::database::Server;
use crate::{PROGRAM, Result};

/// How long a drain may take: of 1.5 million messages on a slow machine a minute.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// What the processor reached and took.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Drained {
    pub(crate) rows: i64,
    pub(crate) rows_per_second: f64,
    /// CPU time of the processor alone, its start and end included.
    pub(crate) cpu_seconds_per_million: f64,
    /// Highest resident memory, of the largest instance.
    pub(crate) memory_peak_bytes: u64,
    /// CPU time of the database server's processes, folding included.
    pub(crate) server_cpu_micros_per_row: f64,
    /// Bytes of WAL.
    pub(crate) wal_bytes_per_row: f64,
}

/// Drains it into a new database, as a new consumer group.
pub(crate) fn measure(
    args: &Args,
    server: &Server,
    backlog: &Backlog,
    shutdown: &Shutdown,
) -> Result<Drained> {
    let mut database = server.create()?;
    let route = Route {
        database_url: database.url.clone(),
        brokers: backlog.brokers.clone(),
        topic: backlog.topic.clone(),
    };
    let mut settings = args.settings();
    settings.push(("KAFKA_GROUP_ID".to_owned(), format!("drain-{}", usage_processor::clock::now_ms())));
    let cost_before = server.cost()?;
    let processors = (0..args.instances)
        .map(|_| Processor::start_with(Path::new(PROGRAM), &route, &["--stop-at-end"], &settings))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let runs = processors
        .into_iter()
        .map(|processor| processor.wait(PATIENCE, shutdown))
        .collect::<std::result::Result<Vec<Finished>, _>>()?;
    let server_cost = server.cost()? - cost_before;
    let (rows, seconds) = database.rows_and_seconds()?;
    let cpu: Duration = runs.iter().map(|run| run.cost.cpu).sum();
    let messages: u64 = runs.iter().map(|run| run.summary.messages).sum();
    if messages != backlog.message_count {
        return Err(format!("{messages} messages were processed of {}", backlog.message_count).into());
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people to read")]
    let (row_count, message_count) = (rows as f64, messages as f64);
    Ok(Drained {
        rows,
        rows_per_second: row_count / seconds,
        cpu_seconds_per_million: cpu.as_secs_f64() / message_count * 1e6,
        memory_peak_bytes: runs.iter().map(|run| run.cost.memory_peak_bytes).max().unwrap_or(0),
        server_cpu_micros_per_row: server_cost.cpu.as_secs_f64() * 1e6 / row_count,
        wal_bytes_per_row: server_cost.wal_bytes / row_count,
    })
}
