//! The table and the JSON.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::Result;
use crate::args::Args;
use crate::backlog::Polled;
use crate::ceiling::Ceiling;
use crate::database::Server;
use crate::drain::Drained;
use crate::steady::{Latency, Recovery, Steady};

/// A figure, with a value for each round.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    digits: usize,
    pub(crate) values: Vec<f64>,
}

/// What [`Steady::cells`] are.
pub(crate) const STEADY_HEADS: [&str; 8] = [
    "messages/s",
    "p50 / p99 / p99.9 ms, own",
    "by commit timestamps",
    "WAL flush ms",
    "CPU µs a message",
    "server CPU µs",
    "commits/s",
    "generator late ms",
];

/// All that was measured.
pub(crate) struct Report {
    started: Instant,
    conditions: serde_json::Value,
    /// When and where.
    pub(crate) place: String,
    what: String,
    pub(crate) row_count: usize,
    pub(crate) message_bytes: f64,
    pub(crate) survey: Vec<Ceiling>,
    pub(crate) ceilings: Vec<Ceiling>,
    pub(crate) drains: Vec<Drained>,
    pub(crate) polls: Vec<Polled>,
    pub(crate) steady: Vec<Steady>,
    pub(crate) recovery: Option<Recovery>,
}

impl Report {
    pub(crate) fn new(args: &Args, server: &Server) -> Result<Self> {
        let mut client = server.connect()?;
        let database: String =
            client.query_one("SELECT 'PostgreSQL ' || current_setting('server_version')", &[])?.try_get(0)?;
        let timescaledb: Option<String> = client
            .query_opt("SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'", &[])?
            .and_then(|row| row.get(0));
        let date: String =
            client.query_one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')", &[])?.try_get(0)?;
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let machine =
            format!("{} cores ({})", usage_processor::config::core_count(), cpu.unwrap_or("unknown"));
        let timescaledb = timescaledb.map_or(String::new(), |version| format!(", TimescaleDB {version}"));
        Ok(Self {
            started: Instant::now(),
            place: format!(
                "{date}, {machine}, {database}{timescaledb}, usage-processor {}",
                env!("CARGO_PKG_VERSION")
            ),
            what: format!(
                "profile {}, table {}",
                format!("{:?}", args.profile).to_lowercase(),
                format!("{:?}", args.layout).to_lowercase()
            ),
            conditions: json!({ "date": date, "machine": machine, "database": format!("{database}{timescaledb}"),
                "profile": format!("{:?}", args.profile).to_lowercase(), "layout": format!("{:?}", args.layout).to_lowercase(),
                "messages": args.count, "partitions": args.partitions, "organizations": args.organizations,
                "instances": args.instances, "million_rows_before": args.million_rows,
                "settings": args.settings(), "server_settings": args.server_setting }),
            row_count: 0,
            message_bytes: 0.0,
            survey: Vec::new(),
            ceilings: Vec::new(),
            drains: Vec::new(),
            polls: Vec::new(),
            steady: Vec::new(),
            recovery: None,
        })
    }

    /// Says on standard error what comes now.
    #[expect(clippy::print_stderr, reason = "progress, for people")]
    pub(crate) fn step(&self, what: &str) {
        eprintln!("bench: {:>4} s: {what}", self.started.elapsed().as_secs());
    }

    pub(crate) fn show_round(&self) {
        let figures = self.figures();
        let last = figures.iter().filter_map(|figure| {
            let value = figure.values.last()?;
            Some(format!("{} {value:.*} {}", figure.name, figure.digits, figure.unit))
        });
        self.step(&last.take(4).collect::<Vec<_>>().join(", "));
    }

    /// What was measured of the backlog; of what was not, no values.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let drains = |of: fn(&Drained) -> f64| self.drains.iter().map(of).collect::<Vec<_>>();
        let ceilings = |of: fn(&Ceiling) -> f64| self.ceilings.iter().map(of).collect::<Vec<_>>();
        let polls = |of: fn(&Polled) -> f64| self.polls.iter().map(of).collect::<Vec<_>>();
        let (rates, ceiling_rates) =
            (drains(|drained| drained.rows_per_second), ceilings(|ceiling| ceiling.rows_per_second));
        let (costs, poll_costs) = (
            drains(|drained| drained.cpu_seconds_per_million),
            polls(|polled| polled.cpu_seconds_per_million),
        );
        let ratios = |above: &[f64], below: &[f64]| above.iter().zip(below).map(|(a, b)| a / b).collect();
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let memory = drains(|drained| drained.memory_peak_bytes as f64 / 1e6);
        let figure = |name, unit, digits, values| Figure { name, unit, digits, values };
        vec![
            figure("COPY ceiling", "rows/s", 0, ceiling_rates.clone()),
            figure("drain", "rows/s", 0, rates.clone()),
            figure("drain / ceiling", "", 3, ratios(&rates, &ceiling_rates)),
            figure("processor CPU", "s a million", 2, costs.clone()),
            figure("poll and drop CPU", "s a million", 2, poll_costs.clone()),
            figure("processor / poll and drop", "", 2, ratios(&costs, &poll_costs)),
            figure("peak resident memory", "MB", 0, memory),
            figure(
                "server CPU at the ceiling",
                "µs a row",
                2,
                ceilings(|ceiling| ceiling.server_cpu_micros_per_row),
            ),
            figure(
                "server CPU at the drain",
                "µs a row",
                2,
                drains(|drained| drained.server_cpu_micros_per_row),
            ),
            figure("WAL at the ceiling", "bytes a row", 0, ceilings(|ceiling| ceiling.wal_bytes_per_row)),
            figure("WAL at the drain", "bytes a row", 0, drains(|drained| drained.wal_bytes_per_row)),
            figure("poll and drop", "messages/s", 0, polls(|polled| polled.messages_per_second)),
        ]
    }

    /// The table, in Markdown.
    #[expect(clippy::print_stdout, reason = "what it is for")]
    pub(crate) fn print(&self) -> Result<()> {
        println!("{}, {}\n", self.place, self.what);
        let figures: Vec<_> = self.figures().into_iter().filter(|figure| !figure.values.is_empty()).collect();
        if let Some(first) = figures.first() {
            println!("{} rows of messages of {:.0} bytes\n", self.row_count, self.message_bytes);
            if let Some(ceiling) = self.ceilings.first() {
                println!("Ceiling: {ceiling}\n");
            }
            println!("| {} rounds | unit | min | median | max |\n|---|---|---|---|---|", first.values.len());
            for Figure { name, unit, digits, values } in &figures {
                let [min, median, max] = spread(values);
                println!("| {name} | {unit} | {min:.digits$} | {median:.digits$} | {max:.digits$} |");
            }
            println!();
        }
        if !self.steady.is_empty() {
            println!("| {} |\n|{}", STEADY_HEADS.join(" | "), "---|".repeat(STEADY_HEADS.len()));
        }
        for steady in &self.steady {
            println!("| {} |", steady.cells().join(" | "));
        }
        if let Some(recovery) = &self.recovery {
            println!("\n{recovery}");
        }
        Ok(())
    }

    /// Everything, to be read by a program.
    pub(crate) fn write_json(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let figures: serde_json::Map<_, _> = self
            .figures()
            .into_iter()
            .filter(|figure| !figure.values.is_empty())
            .map(|Figure { name, unit, values, .. }| {
                let [min, median, max] = spread(&values);
                (
                    name.to_owned(),
                    json!({ "unit": unit, "min": min, "median": median, "max": max, "rounds": values }),
                )
            })
            .collect();
        let all = json!({ "conditions": self.conditions, "rows": self.row_count, "message_bytes": self.message_bytes,
            "survey": self.survey, "best_ceiling": self.ceilings.first(), "figures": figures, "steady": self.steady,
            "recovery": self.recovery });
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&all)?))
            .map_err(|error| format!("writing {}: {error}", path.display()).into())
    }
}

impl Figure {
    /// The median, and least and greatest of more than one if it is a speed.
    pub(crate) fn cell(&self) -> String {
        let ([min, median, max], digits) = (spread(&self.values), self.digits);
        match self.values.len() {
            0 => String::new(),
            2.. if digits == 0 && self.unit.ends_with("/s") => format!("{median:.0} ({min:.0} to {max:.0})"),
            _ => format!("{median:.digits$}"),
        }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        (!self.values.is_empty()).then(|| spread(&self.values)[1])
    }
}

impl Steady {
    /// A row, under [`STEADY_HEADS`].
    pub(crate) fn cells(&self) -> [String; 8] {
        let latency = |of: Latency| format!("{:.1} / {:.1} / {:.1}", of.p50, of.p99, of.p999);
        [
            self.rate.to_string(),
            latency(self.own),
            latency(self.database),
            format!("{:.2}", self.flush_ms),
            format!("{:.1}", self.cpu_micros_per_message),
            format!("{:.1}", self.server_cpu_micros_per_message),
            format!("{:.0}", self.commits_per_second),
            format!("{:.1}", self.generator_behind_ms),
        ]
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, outage_seconds, seconds } = self;
        write!(
            f,
            "after {outage_seconds} s of {rate} messages/s without a processor, p99 was below 50 ms again "
        )?;
        match seconds {
            Some(seconds) => write!(f, "{seconds:.0} s after its start"),
            None => write!(f, "not within 40 s"),
        }
    }
}

/// Least, middle (of an even number, between the two) and greatest; zeros of nothing.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |idx: usize| sorted.get(idx).copied().unwrap_or(0.0);
    let last = sorted.len().saturating_sub(1);
    [at(0), f64::midpoint(at(last / 2), at(last.div_ceil(2))), at(last)]
}
