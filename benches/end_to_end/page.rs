//! A tuning page: a Markdown file that lists runs in a block of its own, and has their table put between two marks.
//!
//! ````text
//! ```runs
//! all: --count 1000000 --rounds 2 --rates 0        arguments of every run
//! x: rows a batch (BATCH_SIZE)                     what the runs' names say; if they are numbers, curves are drawn
//! 1000: --batch-size 1000                          a run: its name and its arguments
//! 5000: --batch-size 5000
//! ```
//!
//! <!-- measured -->
//! ... is replaced ...
//! <!-- end -->
//! ````
//!
//! Rounds go through all runs in turn, so that what changes on the machine meanwhile is spread over all of them. Runs that load
//! the same share the backlog, and runs that also write into the same share each round's ceiling.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use usage_processor::plot::{Line, Plot};
use usage_processor::shutdown::Shutdown;

use crate::args::{Args, Part};
use crate::database::Server;
use crate::report::{self, Report};
use crate::steady::Latency;
use crate::{CEILING_DEFAULT, Load, Result, ceiling, measure_latency};

/// Of a rate at which p99 is above this, latency is not drawn: next to it, nothing else could be seen.
const DRAWN_MS_MAX: f64 = 500.0;
const RUNS: (&str, &str) = ("```runs\n", "```");
const MEASURED: (&str, &str) = ("<!-- measured -->\n", "<!-- end -->");

/// What is to be measured, and where that goes.
struct Page {
    path: PathBuf,
    text: String,
    /// What the names of the runs say.
    axis: String,
    runs: Vec<Run>,
}

struct Run {
    name: String,
    args: Args,
    server: Server,
    report: Report,
}

/// Measures all runs of the page, and writes it.
pub(crate) fn run(path: &Path, shutdown: &Shutdown) -> Result<()> {
    let mut page = Page::read(path)?;
    let mut loads = HashMap::new();
    let mut settings = Vec::new();
    for round in 1..=page.runs.iter().map(|run| run.args.rounds).max().unwrap_or(0) {
        let mut ceilings = HashMap::new();
        for Run { name, args, server, report } in page.runs.iter_mut().filter(|run| round <= run.args.rounds)
        {
            adopt(&mut settings, args, server)?;
            let load = match loads.get(&load_key(args)) {
                Some(load) => load,
                None => loads.entry(load_key(args)).or_insert(Load::make(args, report)?),
            };
            report.step(&format!("round {round}, {name}"));
            if args.measures(Part::Ceiling) {
                let key = ceiling_key(args);
                let measured = match ceilings.get(&key) {
                    Some(measured) => *measured,
                    None => ceiling::measure(
                        server,
                        &load.rows,
                        args.ceiling.unwrap_or(CEILING_DEFAULT),
                        args.row_order,
                    )?,
                };
                ceilings.insert(key, measured);
                report.ceilings.push(measured);
            }
            load.measure(args, server, shutdown, report)?;
            report.show_round();
        }
    }
    for Run { name, args, server, report } in &mut page.runs {
        adopt(&mut settings, args, server)?;
        report.step(name);
        measure_latency(args, server, shutdown, report)?;
    }
    page.write()
}

/// Configures the server unless it is as it should be.
fn adopt(settings: &mut Vec<String>, args: &Args, server: &Server) -> Result<()> {
    if *settings != args.server_setting {
        server.configure()?;
        settings.clone_from(&args.server_setting);
    }
    Ok(())
}

/// Of what makes a backlog.
fn load_key(args: &Args) -> String {
    format!("{:?}", (args.count, args.organizations, args.duplicates, args.padding, args.partitions))
}

/// Of what a ceiling depends on besides.
fn ceiling_key(args: &Args) -> String {
    format!(
        "{:?}",
        (
            load_key(args),
            &args.server_setting,
            args.profile,
            args.layout,
            args.million_rows,
            args.ceiling,
            args.row_order
        )
    )
}

impl Page {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        let (mut common, mut axis, mut runs) = ("", "run", Vec::new());
        for line in between(&text, RUNS)?.lines() {
            let (name, rest) = line.split_once(':').ok_or_else(|| format!("no run: {line:?}"))?;
            match name {
                "all" => common = rest,
                "x" => axis = rest.trim(),
                _ => {
                    let words = common.split_ascii_whitespace().chain(rest.split_ascii_whitespace());
                    let args = Args::try_parse_from([name].into_iter().chain(words))?;
                    let server = Server::new(&args)?;
                    let report = Report::new(&args, &server)?;
                    runs.push(Run { name: name.to_owned(), args, server, report });
                }
            }
        }
        between(&text, MEASURED)?;
        Ok(Self { path: path.to_owned(), axis: axis.to_owned(), runs, text: text.clone() })
    }

    fn write(&self) -> Result<()> {
        let old = between(&self.text, MEASURED)?;
        let start = old.as_ptr() as usize - self.text.as_ptr() as usize;
        let mut new = self.text.clone();
        new.replace_range(start..start + old.len(), &self.measured()?);
        fs::write(&self.path, new).map_err(|error| format!("writing {}: {error}", self.path.display()).into())
    }

    /// Where and when, and the tables.
    fn measured(&self) -> Result<String> {
        let mut text = String::new();
        let Some(first) = self.runs.first() else { return Ok(text) };
        writeln!(text, "\n{}\n", first.report.place)?;
        let figures: Vec<_> = self.runs.iter().map(|run| run.report.figures()).collect();
        let columns: Vec<usize> = (0..figures[0].len())
            .filter(|column| figures.iter().any(|figures| !figures[*column].values.is_empty()))
            .collect();
        if !columns.is_empty() {
            let heads = columns.iter().map(|column| {
                let figure = &figures[0][*column];
                if figure.unit.is_empty() {
                    figure.name.to_owned()
                } else {
                    format!("{}, {}", figure.name, figure.unit)
                }
            });
            writeln!(text, "{}", row(&self.axis, heads))?;
            writeln!(text, "|{}", "---|".repeat(columns.len() + 1))?;
            for (run, figures) in self.runs.iter().zip(&figures) {
                writeln!(text, "{}", row(&run.name, columns.iter().map(|column| figures[*column].cell())))?;
            }
            writeln!(text)?;
        }
        if self.runs.iter().any(|run| !run.report.steady.is_empty()) {
            writeln!(text, "{}", row(&self.axis, report::STEADY_HEADS.into_iter().map(str::to_owned)))?;
            writeln!(text, "|{}", "---|".repeat(report::STEADY_HEADS.len() + 1))?;
            for run in &self.runs {
                for steady in &run.report.steady {
                    writeln!(text, "{}", row(&run.name, steady.cells().into_iter()))?;
                }
            }
            writeln!(text)?;
        }
        for (kind, y_label, lines) in
            [("throughput", "rows/s", self.throughput_lines()), ("latency", "ms", self.latency_lines())]
        {
            if lines.iter().any(|line| line.points.len() > 2) {
                let path = self.path.with_file_name(format!("{}-{kind}.svg", self.name()));
                let title = format!("{}: {kind}", self.name());
                Plot { title: &title, x_label: &self.axis, y_label, x_tick: &|x| x.to_string(), lines }
                    .write(&path)?;
                writeln!(text, "![{title}]({}-{kind}.svg)\n", self.name())?;
            }
        }
        for run in &self.runs {
            if let Some(recovery) = &run.report.recovery {
                writeln!(text, "{}: {recovery}\n", run.name)?;
            }
        }
        Ok(text)
    }
}

impl Page {
    fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Drains and ceilings.
    fn throughput_lines(&self) -> Vec<Line> {
        ["drain", "COPY ceiling"]
            .map(|label| {
                self.line(label, |report| {
                    report.figures().iter().find(|figure| figure.name == label)?.median()
                })
            })
            .into()
    }

    /// Percentiles by the processor's histograms, at the first of a run's rates.
    fn latency_lines(&self) -> Vec<Line> {
        let at = |label, of: fn(&Latency) -> f64| {
            self.line(label, |report| {
                let own = report.steady.first()?.own;
                (own.p99 <= DRAWN_MS_MAX).then(|| of(&own))
            })
        };
        vec![at("p50", |own| own.p50), at("p99", |own| own.p99), at("p99.9", |own| own.p999)]
    }

    /// Of the runs whose name is a number.
    fn line(&self, label: &str, y: impl Fn(&Report) -> Option<f64>) -> Line {
        let points = self.runs.iter().filter_map(|run| Some((run.name.parse().ok()?, y(&run.report)?)));
        Line { label: label.to_owned(), points: points.collect() }
    }
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.collect();
    format!("| {name} | {} |", cells.join(" | "))
}

/// What lies between the two marks.
fn between<'a>(text: &'a str, (start, end): (&str, &str)) -> Result<&'a str> {
    let inside = text.split_once(start).and_then(|(_, rest)| rest.split_once(end));
    Ok(inside.ok_or_else(|| format!("the page has no {:?} ... {end:?}", start.trim()))?.0)
}
