//! Latency files read again: an interval log's intervals of a tag added up, or a percentile table.
//! Files of other HdrHistogram programs are read too, their values taken for nanoseconds (`.hlog`) or
//! milliseconds (`.hgrm`), as the Java tools have it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::{Stage, hgrm};

/// Why a file tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is neither an interval log (.hlog) nor a percentile table (.hgrm): {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        what: String,
    },
}

/// How long the events of one stage took.
#[derive(Debug)]
pub struct Distribution {
    /// The stage's name, or another program's tag.
    pub stage: String,
    /// Events.
    pub count: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Whole(Histogram<u64>),
    /// Quantile, nanoseconds, events up to there; ascending, and not empty.
    Rows(Vec<(f64, u64, u64)>),
}

impl Distribution {
    /// Milliseconds within which this part of the events, 0 to 1, was done.
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    pub fn millis_at(&self, quantile: f64) -> f64 {
        let nanos = match &self.data {
            Data::Whole(histogram) => histogram.value_at_quantile(quantile),
            Data::Rows(rows) => {
                let row = rows.iter().find(|(reached, _, _)| *reached >= quantile).or(rows.last());
                row.map_or(0, |(_, nanos, _)| *nanos)
            }
        };
        nanos as f64 / 1e6
    }

    /// Percentiles of a plot: nines (0 is the fastest, 1 is 90 %, 2 is 99 %) and milliseconds, up to the
    /// slowest event.
    #[expect(clippy::cast_precision_loss, reason = "for people to see")]
    pub fn by_nines(&self) -> Vec<(f64, f64)> {
        const STEPS_A_NINE: u32 = 50;
        let nines_max = (self.count.max(1) as f64).log10();
        let steps = (0..).map(|step: u32| f64::from(step) / f64::from(STEPS_A_NINE));
        steps
            .take_while(|nines| *nines < nines_max)
            .map(|nines| (nines, self.millis_at(1.0 - 10_f64.powf(-nines))))
            .chain([(nines_max, self.millis_at(1.0))])
            .collect()
    }
}

/// All stages of a file, in the order of an event's way; others after them.
pub fn read(path: &Path) -> Result<Vec<Distribution>, ReadError> {
    let text = fs::read(path).map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
    if let Some(rows) = std::str::from_utf8(&text).ok().and_then(hgrm::rows) {
        // Ours are called STEM.STAGE.hgrm.
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stage = stem.rsplit('.').next().unwrap_or_default().to_owned();
        let count = rows.last().map_or(0, |(_, _, count)| *count);
        return Ok(vec![Distribution { stage, count, data: Data::Rows(rows) }]);
    }
    let sums = sum_intervals(&text).map_err(|what| ReadError::Format { path: path.to_owned(), what })?;
    let mut distributions: Vec<_> = sums
        .into_iter()
        .map(|(stage, sum)| Distribution { stage, count: sum.len(), data: Data::Whole(sum) })
        .collect();
    let place = |name: &str| Stage::ALL.iter().position(|stage| stage.name() == name);
    distributions.sort_by_key(|distribution| place(&distribution.stage).unwrap_or(Stage::ALL.len()));
    Ok(distributions)
}

fn sum_intervals(text: &[u8]) -> Result<BTreeMap<String, Histogram<u64>>, String> {
    let mut sums = BTreeMap::<String, Histogram<u64>>::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(text) {
        let LogEntry::Interval(interval) = entry.map_err(|error| format!("{error:?}"))? else { continue };
        let at = || format!("the interval at {:?}", interval.start_timestamp());
        let bytes =
            STANDARD.decode(interval.encoded_histogram()).map_err(|error| format!("{}: {error}", at()))?;
        let histogram: Histogram<u64> =
            deserializer.deserialize(&mut bytes.as_slice()).map_err(|error| format!("{}: {error}", at()))?;
        let tag = interval.tag().map_or("untagged", |tag| tag.as_str()).to_owned();
        match sums.get_mut(&tag) {
            Some(sum) => sum.add(&histogram).map_err(|error| format!("{}: {error}", at()))?,
            None => _ = sums.insert(tag, histogram),
        }
    }
    if sums.is_empty() { Err("it has no interval".to_owned()) } else { Ok(sums) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From HdrHistogram's own documentation of the format: three hits, one of them far out.
    #[test]
    fn a_log_of_another_program_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.hlog");
        let mut histogram = Histogram::<u64>::new(2).unwrap();
        histogram.record_n(2_000_000, 99).unwrap();
        histogram.record(80_000_000).unwrap();
        let mut text = Vec::new();
        let mut serializer = hdrhistogram::serialization::V2Serializer::new();
        let mut writer = hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder::new()
            .begin_log_with(&mut text, &mut serializer)
            .unwrap();
        let second = std::time::Duration::from_secs(1);
        writer.write_histogram(&histogram, second, second, None).unwrap();
        writer.write_histogram(&histogram, 2 * second, second, None).unwrap();
        fs::write(&path, &text).unwrap();
        let all = read(&path).unwrap();
        assert_eq!((all.len(), all[0].stage.as_str(), all[0].count), (1, "untagged", 200));
        assert!((all[0].millis_at(0.5) - 2.0).abs() < 0.02 && (all[0].millis_at(1.0) - 80.0).abs() < 0.8);
        let last = all[0].by_nines().pop().unwrap();
        assert!((last.0 - 200_f64.log10()).abs() < 1e-9 && (last.1 - 80.0).abs() < 0.8, "{last:?}");
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("neither an interval log"), "cut off");
        fs::write(&path, "#only a comment\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("it has no interval"));
    }
}
