//! The table and the JSON.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::backlog::Polled;
use crate::ceiling::Ceiling;
use crate::database::Server;
use crate::drain::Drained;
use crate::steady::{Recovery, Steady};
use crate::{Args, Result};

/// All that was measured.
pub(crate) struct Report {
    started: Instant,
    conditions: serde_json::Value,
    heading: String,
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
            heading: format!(
                "{date}, {machine}, {database}{timescaledb}, profile {}, table {}, usage-processor {}",
                format!("{:?}", args.profile).to_lowercase(),
                format!("{:?}", args.layout).to_lowercase(),
                env!("CARGO_PKG_VERSION")
            ),
            conditions: json!({ "date": date, "machine": machine, "database": format!("{database}{timescaledb}"),
                "profile": format!("{:?}", args.profile).to_lowercase(), "layout": format!("{:?}", args.layout).to_lowercase(),
                "messages": args.count, "partitions": args.partitions, "organizations": args.organizations,
                "instances": args.instances, "million_rows_before": args.million_rows,
                "settings": args.settings(), "database_settings": args.database_setting }),
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
        if let (Some(ceiling), Some(drained), Some(polled)) =
            (self.ceilings.last(), self.drains.last(), self.polls.last())
        {
            self.step(&format!(
                "{:.0} of {:.0} rows/s, {:.2} and {:.2} s of CPU a million",
                drained.rows_per_second,
                ceiling.rows_per_second,
                drained.cpu_seconds_per_million,
                polled.cpu_seconds_per_million
            ));
        }
    }

    /// Name, unit, digits and one value a round.
    fn figures(&self) -> Vec<(&'static str, &'static str, usize, Vec<f64>)> {
        let drains = |of: fn(&Drained) -> f64| self.drains.iter().map(of).collect::<Vec<_>>();
        let rates = drains(|drained| drained.rows_per_second);
        let costs = drains(|drained| drained.cpu_seconds_per_million);
        let ceilings: Vec<_> = self.ceilings.iter().map(|ceiling| ceiling.rows_per_second).collect();
        let polls: Vec<_> = self.polls.iter().map(|polled| polled.cpu_seconds_per_million).collect();
        let ratios = |above: &[f64], below: &[f64]| above.iter().zip(below).map(|(a, b)| a / b).collect();
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let memory = drains(|drained| drained.memory_peak_bytes as f64 / 1e6);
        vec![
            ("COPY ceiling", "rows/s", 0, ceilings.clone()),
            ("drain", "rows/s", 0, rates.clone()),
            ("drain / ceiling", "", 3, ratios(&rates, &ceilings)),
            ("processor CPU", "s a million", 2, costs.clone()),
            ("poll and drop CPU", "s a million", 2, polls.clone()),
            ("processor / poll and drop", "", 2, ratios(&costs, &polls)),
            ("peak resident memory", "MB", 0, memory),
            (
                "server CPU at the ceiling",
                "µs a row",
                2,
                self.ceilings.iter().map(|ceiling| ceiling.server_cpu_micros_per_row).collect(),
            ),
            ("server CPU at the drain", "µs a row", 2, drains(|drained| drained.server_cpu_micros_per_row)),
            (
                "poll and drop",
                "messages/s",
                0,
                self.polls.iter().map(|polled| polled.messages_per_second).collect(),
            ),
        ]
    }

    /// The table, in Markdown.
    #[expect(clippy::print_stdout, reason = "what it is for")]
    pub(crate) fn print(&self) -> Result<()> {
        println!("{}\n", self.heading);
        if !self.drains.is_empty() {
            println!(
                "{} rows of messages of {:.0} bytes; best ceiling: {}\n",
                self.row_count,
                self.message_bytes,
                self.ceilings.first().map(ToString::to_string).unwrap_or_default()
            );
            println!("| {} rounds | unit | min | median | max |\n|---|---|---|---|---|", self.drains.len());
            for (name, unit, digits, values) in self.figures() {
                let [min, median, max] = spread(&values);
                println!("| {name} | {unit} | {min:.digits$} | {median:.digits$} | {max:.digits$} |");
            }
            println!();
        }
        if !self.steady.is_empty() {
            println!(
                "| messages/s | p50 / p99 / p99.9 ms, own | by commit timestamps | WAL flush ms | CPU µs a message | server CPU µs | commits/s | generator late ms |\n|---|---|---|---|---|---|---|---|"
            );
        }
        for steady in &self.steady {
            let latency =
                |of: crate::steady::Latency| format!("{:.1} / {:.1} / {:.1}", of.p50, of.p99, of.p999);
            println!(
                "| {} | {} | {} | {:.2} | {:.1} | {:.1} | {:.0} | {:.1} |",
                steady.rate,
                latency(steady.own),
                latency(steady.database),
                steady.flush_ms,
                steady.cpu_micros_per_message,
                steady.server_cpu_micros_per_message,
                steady.commits_per_second,
                steady.generator_behind_ms
            );
        }
        if let Some(recovery) = &self.recovery {
            let after =
                recovery.seconds.map_or("not within 40 s".to_owned(), |seconds| format!("{seconds:.0} s"));
            println!(
                "\nafter {} s of {} messages/s without a processor, p99 was below 50 ms again after: {after}",
                recovery.outage_seconds, recovery.rate
            );
        }
        Ok(())
    }

    /// Everything, to be read by a program.
    pub(crate) fn write_json(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let figures: serde_json::Map<_, _> = self
            .figures()
            .into_iter()
            .filter(|(_, _, _, values)| !values.is_empty())
            .map(|(name, unit, _, values)| {
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

/// Least, middle (the lower of two) and greatest; zeros of nothing.
fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |idx: usize| sorted.get(idx).copied().unwrap_or(0.0);
    [at(0), at(sorted.len().saturating_sub(1) / 2), at(sorted.len().saturating_sub(1))]
}
