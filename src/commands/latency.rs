//! `latency`: percentiles from the files in `LATENCY_DIR`, as a table, compared, and as a plot.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::latency::distribution::{self, Distribution, ReadError};
use crate::plot::{Line, Plot};

/// `latency`.
#[derive(Debug, Clone, Args)]
pub struct LatencyArgs {
    /// Interval logs (.hlog) and percentile tables (.hgrm). A log's intervals are added up.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Show only this stage, such as `durable`; may be given several times.
    #[arg(long)]
    pub stage: Vec<String>,
    /// Compare two files: below each stage, what the second has divided by what the first has.
    #[arg(long)]
    pub compare: bool,
    /// Draw percentiles by nines into this file, an SVG: a line for each stage of each file
    /// [default stage: durable].
    #[arg(long, value_name = "OUT.svg")]
    pub plot: Option<PathBuf>,
}

/// Why `latency` failed.
#[derive(Debug, thiserror::Error)]
pub enum LatencyError {
    /// A file is missing, or something else.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Two runs are compared.
    #[error("--compare takes 2 files, {0} are given")]
    NotTwo(usize),
    /// No file has it.
    #[error("no file has the stage {stage}; there are {there}")]
    NoStage {
        /// What was asked for.
        stage: String,
        /// What there is.
        there: String,
    },
    /// The plot cannot be written.
    #[error("writing the plot {path}")]
    Plot {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("printing percentiles")]
    Print(#[from] io::Error),
}

/// What is printed of each stage, in milliseconds.
const COLUMNS: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.999_9), ("max", 1.0)];

struct FileOfStages {
    name: String,
    stages: Vec<Distribution>,
}

/// Reads all files, then prints, then draws.
pub fn run(args: &LatencyArgs) -> Result<(), LatencyError> {
    if args.compare && args.files.len() != 2 {
        return Err(LatencyError::NotTwo(args.files.len()));
    }
    let files = args
        .files
        .iter()
        .map(|path| Ok(FileOfStages { name: path.display().to_string(), stages: distribution::read(path)? }))
        .collect::<Result<Vec<_>, ReadError>>()?;
    for stage in &args.stage {
        let mut there = files.iter().flat_map(|file| &file.stages).map(|of| of.stage.as_str());
        if !there.clone().any(|name| name == stage) {
            let there = there.by_ref().collect::<Vec<_>>().join(", ");
            return Err(LatencyError::NoStage { stage: stage.clone(), there });
        }
    }
    let is_asked = |of: &Distribution| args.stage.is_empty() || args.stage.contains(&of.stage);
    let mut out = io::stdout().lock();
    match &files[..] {
        [first, second] if args.compare => print_comparison(&mut out, first, second, is_asked)?,
        _ => print_all(&mut out, &files, is_asked)?,
    }
    if let Some(path) = &args.plot {
        let is_drawn =
            |of: &Distribution| if args.stage.is_empty() { of.stage == "durable" } else { is_asked(of) };
        draw(&files, is_drawn)
            .write(path)
            .map_err(|source| LatencyError::Plot { path: path.clone(), source })?;
    }
    Ok(())
}

fn print_all(
    out: &mut dyn Write,
    files: &[FileOfStages],
    is_asked: impl Fn(&Distribution) -> bool,
) -> io::Result<()> {
    for file in files {
        writeln!(out, "{}", file.name)?;
        print_head(out)?;
        for of in file.stages.iter().filter(|of| is_asked(of)) {
            print_row(out, of)?;
        }
    }
    Ok(())
}

fn print_comparison(
    out: &mut dyn Write,
    first: &FileOfStages,
    second: &FileOfStages,
    is_asked: impl Fn(&Distribution) -> bool,
) -> io::Result<()> {
    writeln!(out, "{}, below it {}, below that the second divided by the first", first.name, second.name)?;
    print_head(out)?;
    for old in first.stages.iter().filter(|of| is_asked(of)) {
        let Some(new) = second.stages.iter().find(|new| new.stage == old.stage) else { continue };
        print_row(out, old)?;
        print_row(out, new)?;
        write!(out, "{:<14}{:>10}", "", "ratio")?;
        for (_, quantile) in COLUMNS {
            write!(out, "{:>11.2}", new.millis_at(quantile) / old.millis_at(quantile))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn print_head(out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{:<14}{:>10}", "ms", "events")?;
    COLUMNS.iter().try_for_each(|(name, _)| write!(out, "{name:>11}"))?;
    writeln!(out)
}

fn print_row(out: &mut dyn Write, of: &Distribution) -> io::Result<()> {
    write!(out, "{:<14}{:>10}", of.stage, of.count)?;
    COLUMNS.iter().try_for_each(|(_, quantile)| write!(out, "{:>11.3}", of.millis_at(*quantile)))?;
    writeln!(out)
}

/// Percentiles by nines: each further step to the right is ten times fewer events.
fn draw(files: &[FileOfStages], is_drawn: impl Fn(&Distribution) -> bool) -> Plot<'static> {
    let mut lines = Vec::new();
    for file in files {
        for of in file.stages.iter().filter(|of| is_drawn(of)) {
            let label =
                if files.len() == 1 { of.stage.clone() } else { format!("{} {}", of.stage, file.name) };
            lines.push(Line { label, points: of.by_nines() });
        }
    }
    Plot {
        title: "Latency by percentile",
        x_label: "percentile",
        y_label: "milliseconds",
        x_tick: &percentile_of,
        lines,
    }
}

/// `90%` for 1, `99.9%` for 3; nothing between whole nines.
fn percentile_of(nines: f64) -> String {
    if (nines - nines.round()).abs() > 1e-6 {
        return String::new();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    let decimals = (nines.round() as usize).saturating_sub(2);
    format!("{:.decimals$}%", 100.0 * (1.0 - 10_f64.powf(-nines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_written_as_percentiles() {
        let written: Vec<_> = [0.0, 1.0, 2.0, 3.0, 4.0, 2.5].map(percentile_of).into();
        assert_eq!(written, ["0%", "90%", "99%", "99.9%", "99.99%", ""]);
    }
}
