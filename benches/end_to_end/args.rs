//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use usage_processor::generate::Share;
use usage_processor::migrations::ProfileChoice;

use crate::ceiling::RowOrder;
use crate::database::Layout;

/// What is measured of a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// COPY of the same rows alone.
    Ceiling,
    /// The real binary.
    Drain,
    /// A consumer that drops what it gets.
    Poll,
}

#[derive(Debug, Parser)]
#[command(
    about = "measure drain, cost and latency against the COPY ceiling",
    disable_version_flag = true,
    args_override_self = true
)]
pub(crate) struct Args {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,
    #[arg(long, env = "KAFKA_BROKERS")]
    pub(crate) kafka_brokers: String,
    /// timescaledb, postgresql, or auto: what the server has.
    #[arg(long, default_value = "auto")]
    pub(crate) profile: ProfileChoice,
    /// What the rows go into.
    #[arg(long, value_enum, default_value_t = Layout::Indexed)]
    pub(crate) layout: Layout,
    /// Messages in the backlog.
    #[arg(long, default_value_t = 1_500_000)]
    pub(crate) count: u64,
    /// Organizations that send.
    #[arg(long, default_value_t = 200)]
    pub(crate) organizations: u32,
    /// How many messages are retries.
    #[arg(long, default_value = "1%")]
    pub(crate) duplicates: Share,
    /// Bytes that make each message longer than its 315.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub(crate) padding: u32,
    /// Partitions of the topics.
    #[arg(long, default_value_t = 16)]
    pub(crate) partitions: u16,
    /// Processors that share the drain.
    #[arg(long, default_value_t = 1)]
    pub(crate) instances: usize,
    /// Rows that the table holds before, in millions, on the same day.
    #[arg(long, default_value_t = 0)]
    pub(crate) million_rows: u32,
    /// BATCH_SIZE of the processor; its default if not given.
    #[arg(long)]
    pub(crate) batch_size: Option<usize>,
    /// WRITER_THREADS of the processor; its default if not given.
    #[arg(long)]
    pub(crate) writers: Option<usize>,
    /// DECODER_THREADS of the processor; its default if not given.
    #[arg(long)]
    pub(crate) decoders: Option<usize>,
    /// KAFKA_OPTIONS of the processor.
    #[arg(long)]
    pub(crate) kafka_options: Option<String>,
    /// A setting of the server, such as wal_compression=lz4; can be repeated. A private server is started again where it has to be.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) server_setting: Vec<String>,
    /// What is measured of the backlog.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Ceiling, Part::Drain, Part::Poll])]
    pub(crate) measure: Vec<Part>,
    /// Times that each of them is measured, in turn.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Connections and rows a batch of the ceiling; all six combinations are tried if not given.
    #[arg(long, value_name = "CONNECTIONSxROWS", value_parser = parse_ceiling)]
    pub(crate) ceiling: Option<(usize, usize)>,
    /// In which order the ceiling's rows are within a batch.
    #[arg(long, value_enum, default_value_t = RowOrder::Sorted)]
    pub(crate) row_order: RowOrder,
    /// Messages a second at which latency is measured, one after the other; 0 for none.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100])]
    pub(crate) rates: Vec<u32>,
    /// How long each of them.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// How long messages come at that rate before, to another processor: the broker's code is compiled while it runs, and the
    /// first seconds of a stream on a new topic are its.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Also: how long latency takes to recover from a backlog that came in meanwhile, at the first of the rates.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) outage: Option<Duration>,
    /// Where the figures go besides.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// A tuning page: measure the runs that it lists, and put their table into it. Other arguments do not count.
    #[arg(long, value_name = "FILE.md")]
    pub(crate) page: Option<PathBuf>,
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
    pub(crate) fn measures(&self, part: Part) -> bool {
        self.measure.contains(&part)
    }

    /// What the processor is configured to beyond its defaults.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
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
