//! The final figures of a `run`, as the line of JSON that `--print-summary` prints: written by
//! `run`, read by scripts and by `demo`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::latency::Percentiles;
use crate::pipeline::Report;

/// Figures since the process started; `messages` is the sum of the five below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Messages that were read.
    pub messages: u64,
    /// Rows that were inserted.
    pub written: u64,
    /// Copies that the dedup window dropped.
    pub duplicates: u64,
    /// Copies that the database's unique key dropped.
    pub database_duplicates: u64,
    /// Messages that were stored as dead letters.
    pub dead_letters: u64,
    /// Messages that another instance reads again.
    pub returned: u64,
    /// From a row's Kafka timestamp to the end of its COMMIT.
    pub latency: Percentiles,
}

impl RunSummary {
    /// The summary of a run whose last report this is.
    pub fn of(last: &Report) -> Self {
        let tally = last.tally;
        Self {
            messages: tally.messages,
            written: tally.written,
            duplicates: tally.duplicates,
            database_duplicates: tally.database_duplicates,
            dead_letters: tally.dead_letters,
            returned: tally.returned,
            latency: last.latency_overall,
        }
    }

    /// Writes the line.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let json = serde_json::to_string(self)?;
        writeln!(out, "{json}")?;
        out.flush()
    }

    /// Reads the line.
    pub fn read(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_json_and_reads_back() {
        let latency = Percentiles { count: 9, p50_micros: 1, p99_micros: 2, p999_micros: 3 };
        let summary = RunSummary {
            messages: 10,
            written: 9,
            duplicates: 0,
            database_duplicates: 1,
            dead_letters: 0,
            returned: 0,
            latency,
        };
        let mut line = Vec::new();
        summary.write(&mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(
            line,
            "{\"messages\":10,\"written\":9,\"duplicates\":0,\"database_duplicates\":1,\"dead_letters\":0,\
             \"returned\":0,\"latency\":{\"count\":9,\"p50_micros\":1,\"p99_micros\":2,\"p999_micros\":3}}\n"
        );
        assert_eq!(RunSummary::read(&line).unwrap(), summary);
    }
}
