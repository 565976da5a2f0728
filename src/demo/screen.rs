//! The one screen at the end: what was measured, what was counted, and the verdict. Pure.

use std::fmt::{self, Display};
use std::time::Duration;

use indicatif::HumanCount;

use super::figures::Difference;
use super::measure::Measured;
use super::processor::{Cost, Finished};
use crate::generate::{DuplicateKind, Truth};

/// Differences that are printed; a broken run may have thousands.
const DIFFERENCES_MAX: usize = 10;

/// Everything on it.
#[derive(Debug)]
pub struct Screen<'a> {
    /// The database.
    pub server: &'a str,
    /// The broker.
    pub broker: &'a str,
    /// Whether that is the mock cluster, whose latency says little about Kafka's.
    pub is_mock: bool,
    /// The first part, if it took place.
    pub backlog: Option<Backlog>,
    /// The second part.
    pub steady: Steady,
    /// What was sent.
    pub truth: &'a Truth,
    /// What the database and the broker hold.
    pub found: &'a Measured,
    /// Figures that were compared.
    pub figure_count: usize,
    /// Those that are off.
    pub differences: &'a [Difference],
}

/// What the backlog showed.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// The run that drained it.
    pub run: Finished,
    /// From the first transaction's start to the last one's.
    pub writing_time: Duration,
}

/// What the steady stream showed.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    /// The run beside it.
    pub run: Finished,
    /// Messages a second.
    pub rate: u32,
    /// Messages in all.
    pub messages: u64,
    /// How late the generator itself was at most; the latencies contain it.
    pub behind_max: Duration,
}

impl Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "-".repeat(96);
        writeln!(f, "{rule}")?;
        writeln!(f, "{} messages from {}", HumanCount(self.truth.messages), self.broker)?;
        writeln!(f, "into {}", self.server)?;
        writeln!(f)?;
        self.write_measurements(f)?;
        writeln!(f)?;
        self.write_counts(f)?;
        writeln!(f)?;
        self.write_busiest(f)?;
        writeln!(f, "{rule}")?;
        self.write_verdict(f)
    }
}

impl Screen<'_> {
    fn write_measurements(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Under full load if there was a backlog: at a steady rate batches are small on purpose.
        let (run, load) = match &self.backlog {
            Some(backlog) => {
                write_rate(f, backlog)?;
                (backlog.run, "draining the backlog".to_owned())
            }
            None => (self.steady.run, format!("at {} events/s", HumanCount(self.steady.rate.into()))),
        };
        let cpu = cpu_seconds_per_million(run.cost, run.summary.messages);
        write_line(
            f,
            "CPU",
            format_args!("{cpu:.2} s per million events"),
            &format!("the processor alone, {load}"),
        )?;
        if self.backlog.is_some() {
            let steady = self.steady.run;
            let cpu = cpu_seconds_per_million(steady.cost, steady.summary.messages);
            let note = format!("the same at {} events/s", HumanCount(self.steady.rate.into()));
            write_line(f, "", format_args!("{cpu:.2} s per million events"), &note)?;
        }
        let peak_bytes = self.runs().map(|run| run.cost.memory_peak_bytes).max().unwrap_or(0);
        write_line(f, "memory", format_args!("{} MB", peak_bytes.div_ceil(1_000_000)), "its peak, resident")?;
        self.write_latency(f)
    }

    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Steady { run, rate, messages, behind_max } = &self.steady;
        let latency = run.summary.latency;
        let [p50, p99, p999] = [latency.p50_micros, latency.p99_micros, latency.p999_micros].map(millis);
        let rate = HumanCount((*rate).into());
        let stand_in = if self.is_mock { " (the mock cluster's, not Kafka's)" } else { "" };
        let note =
            format!("p50 / p99 / p99.9 from Kafka's timestamp to durable, at {rate} events/s{stand_in}");
        write_line(f, "latency", format_args!("{p50} / {p99} / {p999} ms"), &note)?;
        let behind = millis(u64::try_from(behind_max.as_micros()).unwrap_or(u64::MAX));
        let messages = HumanCount(*messages);
        let note = format!("the generator's own lateness at most, over {messages} messages; contained in it");
        write_line(f, "", format_args!("{behind} ms"), &note)
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let truth = self.truth;
        let kind = |kind| HumanCount(truth.duplicates.get(&kind).copied().unwrap_or(0));
        let (identical, retimed) = (kind(DuplicateKind::Identical), kind(DuplicateKind::Retimed));
        let in_database: u64 = self.runs().map(|run| run.summary.database_duplicates).sum();
        let duplicates: u64 = self.runs().map(|run| run.summary.duplicates).sum::<u64>() + in_database;
        let note = format!("retries sent: {identical} as they were, {retimed} with a later time");
        write_line(f, "duplicates", HumanCount(duplicates), &note)?;
        let dead_letters: u64 = self.found.dead_letters.iter().map(|(_, count)| count).sum();
        write_line(f, "dead letters", HumanCount(dead_letters), "by reason:")?;
        for (reason, count) in &self.found.dead_letters {
            writeln!(f, "  {:<14}{:>8}  {reason}", "", HumanCount(*count).to_string())?;
        }
        Ok(())
    }

    fn write_busiest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("busiest of {} organizations", self.found.organization_count);
        writeln!(f, "{title:<38}{:>12}{:>12}{:>16}", "requests", "billable", "billable units")?;
        for (organization, usage) in &self.found.busiest {
            let [requests, billable, units] = [usage.requests, usage.billable_requests, usage.billable_units]
                .map(|n| HumanCount(n).to_string());
            writeln!(f, "{organization:<38}{requests:>12}{billable:>12}{units:>16}")?;
        }
        Ok(())
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure_count = HumanCount(self.figure_count.try_into().unwrap_or(u64::MAX));
        if self.differences.is_empty() {
            return writeln!(
                f,
                "CORRECT: all {figure_count} figures are what the generator says they must be: rows, usage\n\
                 by organization and hour, day and month, duplicates, dead letters, committed offsets."
            );
        }
        writeln!(f, "WRONG: {} of {figure_count} figures are off:", self.differences.len())?;
        for difference in self.differences.iter().take(DIFFERENCES_MAX) {
            writeln!(f, "  {difference}")?;
        }
        match self.differences.len().saturating_sub(DIFFERENCES_MAX) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }

    fn runs(&self) -> impl Iterator<Item = Finished> {
        self.backlog.map(|backlog| backlog.run).into_iter().chain([self.steady.run])
    }
}

fn write_rate(f: &mut fmt::Formatter<'_>, backlog: &Backlog) -> fmt::Result {
    let Backlog { run, writing_time } = backlog;
    let messages = run.summary.messages;
    let writing_seconds = writing_time.as_secs_f64();
    if writing_seconds > 0.0 {
        let note = format!("from the first to the last transaction, {writing_seconds:.1} s");
        let rate = HumanCount(per_second(messages, *writing_time));
        write_line(f, "throughput", format_args!("{rate} events/s"), &note)?;
    }
    let note = format!("the process from start to end, {:.1} s", run.elapsed.as_secs_f64());
    let rate = HumanCount(per_second(messages, run.elapsed));
    write_line(f, "", format_args!("{rate} events/s"), &note)
}

fn write_line(f: &mut fmt::Formatter<'_>, name: &str, value: impl Display, note: &str) -> fmt::Result {
    writeln!(f, "{name:<14}{:<29}{note}", value.to_string())
}

fn cpu_seconds_per_million(cost: Cost, messages: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure for people to read")]
    let millions = messages.max(1) as f64 / 1e6;
    cost.cpu.as_secs_f64() / millions
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// Milliseconds to one decimal.
fn millis(micros: u64) -> String {
    let tenths = micros.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run_summary::RunSummary;
    use crate::latency::Percentiles;

    #[test]
    fn rates_and_costs_are_per_second_and_per_million() {
        assert_eq!(per_second(1_000_000, Duration::from_secs(8)), 125_000);
        let cost = Cost { cpu: Duration::from_secs(3), memory_peak_bytes: 0 };
        assert!((cpu_seconds_per_million(cost, 1_500_000) - 2.0).abs() < 1e-9);
        assert_eq!(millis(12_340), "12.3");
    }

    #[test]
    fn a_single_difference_makes_the_verdict() {
        let latency = Percentiles { count: 1, p50_micros: 1, p99_micros: 2, p999_micros: 3 };
        let summary = RunSummary {
            messages: 1,
            written: 1,
            duplicates: 0,
            database_duplicates: 0,
            dead_letters: 0,
            returned: 0,
            latency,
        };
        let run = Finished { summary, cost: Cost::default(), elapsed: Duration::from_secs(1) };
        let steady = Steady { run, rate: 1, messages: 1, behind_max: Duration::ZERO };
        let (truth, found, difference) = (
            Truth::default(),
            Measured::default(),
            Difference { figure: "rows in usage_events".to_owned(), expected: 1, found: 0 },
        );
        let screen = |differences| {
            let screen = Screen {
                server: "PostgreSQL",
                broker: "Kafka",
                is_mock: false,
                backlog: None,
                steady,
                truth: &truth,
                found: &found,
                figure_count: 7,
                differences,
            };
            screen.to_string()
        };
        assert!(screen(&[]).contains("CORRECT: all 7 figures"));
        let wrong = screen(std::slice::from_ref(&difference));
        assert!(
            wrong.contains("WRONG: 1 of 7 figures are off:\n  rows in usage_events: expected 1, found 0\n")
        );
        assert!(!wrong.contains("CORRECT"));
    }
}
