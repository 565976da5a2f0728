//! The files in `LATENCY_DIR`: names, the interval log, percentile tables, and how much is kept.
//!
//! `usage-processor-HOST-PID-TIME.hlog` is an interval log of one process; a new one is begun each UTC
//! day and when one has grown large. `usage-processor-HOST-PID.STAGE.hgrm` is a stage's table since the
//! process's start, replaced each time. When a log is begun the oldest files of all processes go, until
//! what is left is within the bounds. Files are opened for each write, so they may be moved away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use super::{Stage, hgrm};

/// A log that has grown to this is closed: a day of minutes takes about 5 MB.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// All files of ours in the directory, whichever process wrote them.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Files take blocks and names however small they are, and a process that is started over and over makes many.
const KEPT_FILES_MAX: usize = 2_000;
/// What files of ours begin with.
const PREFIX: &str = "usage-processor-";
const DAY: Duration = Duration::from_secs(86_400);
/// The legend of the Java tools' logs.
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Histograms of all stages, in nanoseconds, in the order of [`Stage::ALL`].
pub(super) type Histograms = [Histogram<u64>; Stage::ALL.len()];

/// What one process writes into the directory.
#[derive(Debug)]
pub(super) struct LatencyFiles {
    directory: PathBuf,
    /// `usage-processor-HOST-PID`.
    stem: String,
    log: Option<IntervalLog>,
}

#[derive(Debug)]
struct IntervalLog {
    path: PathBuf,
    /// What its timestamps count from, by both clocks.
    base: (SystemTime, Instant),
}

/// The directory, made if it is missing, takes files.
pub fn try_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let path = directory.join(format!("{PREFIX}try-{}.tmp", std::process::id()));
    let written = File::create(&path).and_then(|mut file| file.write_all(b"tried\n"));
    written.and(fs::remove_file(&path))
}

impl LatencyFiles {
    /// Files of this process. Nothing is made before there is something to write.
    pub(super) fn new(directory: &Path) -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let host: String = host.trim().chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let stem = format!("{PREFIX}{host}-{}", std::process::id());
        Self { directory: directory.to_owned(), stem, log: None }
    }

    /// Where they are, for people.
    pub(super) fn pattern(&self) -> String {
        self.directory.join(format!("{}*", self.stem)).display().to_string()
    }

    /// Appends what was recorded between two moments; stages without events are left out.
    pub(super) fn append(&mut self, began: Instant, ended: Instant, interval: &Histograms) -> io::Result<()> {
        let log = match self.log.take().filter(|log| !log.is_over(ended)) {
            Some(log) => log,
            None => self.begin_log(began)?,
        };
        let outcome = log.append(began, ended, interval);
        self.log = Some(log);
        outcome
    }

    /// Replaces the tables.
    pub(super) fn write_tables(&self, since_start: &Histograms) -> io::Result<()> {
        for (stage, histogram) in Stage::ALL.iter().zip(since_start).filter(|(_, all)| !all.is_empty()) {
            let path = self.directory.join(format!("{}.{}.hgrm", self.stem, stage.name()));
            // Whoever reads it finds the old table or the new one.
            let new = path.with_extension("tmp");
            fs::write(&new, hgrm::table(histogram))?;
            fs::rename(&new, &path)?;
        }
        Ok(())
    }

    fn begin_log(&self, began: Instant) -> io::Result<IntervalLog> {
        fs::create_dir_all(&self.directory)?;
        let base = SystemTime::now() - began.elapsed();
        let stamp = humantime::format_rfc3339_seconds(base).to_string().replace(['-', ':'], "");
        let path = self.directory.join(format!("{}-{stamp}.hlog", self.stem));
        prune(&self.directory, &self.stem)?;
        Ok(IntervalLog { path, base: (base, began) })
    }
}

impl IntervalLog {
    /// Whether another one is to be begun.
    fn is_over(&self, at: Instant) -> bool {
        let day = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / DAY.as_secs())
        };
        let (base, base_instant) = self.base;
        let is_another_day = day(base) != day(base + at.saturating_duration_since(base_instant));
        is_another_day || fs::metadata(&self.path).is_ok_and(|file| file.len() >= LOG_BYTES_MAX)
    }

    fn append(&self, began: Instant, ended: Instant, interval: &Histograms) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let text = self.lines(length == 0, began, ended, interval)?;
        let outcome = file.write_all(&text);
        if outcome.is_err() {
            // Half a line would spoil the next one. Making a file shorter takes no room.
            file.set_len(length)?;
        }
        outcome
    }

    fn lines(
        &self,
        is_first: bool,
        began: Instant,
        ended: Instant,
        interval: &Histograms,
    ) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut header = IntervalLogWriterBuilder::new();
        if is_first {
            header
                .add_comment("[Histogram log format version 1.3]")
                .add_comment(&format!(
                    "[usage-processor {}, process {}; nanoseconds]",
                    env!("CARGO_PKG_VERSION"),
                    std::process::id()
                ))
                .with_start_time(self.base.0)
                .with_base_time(self.base.0);
            header.begin_log_with(&mut text, &mut V2DeflateSerializer::new())?;
            text.extend_from_slice(LEGEND.as_bytes());
        }
        let mut serializer = V2DeflateSerializer::new();
        // The Java tools divide the printed maximum alone, from nanoseconds to milliseconds.
        let mut writer = IntervalLogWriterBuilder::new().begin_log_with(&mut text, &mut serializer)?;
        let start = began.saturating_duration_since(self.base.1);
        for (stage, histogram) in Stage::ALL.iter().zip(interval).filter(|(_, part)| !part.is_empty()) {
            let written = writer.write_histogram(
                histogram,
                start,
                ended.saturating_duration_since(began),
                Tag::new(stage.name()),
            );
            written.map_err(|error| match error {
                IntervalLogWriterError::IoError(error) => error,
                IntervalLogWriterError::SerializeError(error) => io::Error::other(error),
            })?;
        }
        Ok(text)
    }
}

/// Removes the oldest files of ours, of other processes, until the rest is within the bounds.
fn prune(directory: &Path, own_stem: &str) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_ours = name.starts_with(PREFIX)
            && [".hlog", ".hgrm", ".tmp"].iter().any(|extension| name.ends_with(extension));
        // Another process may have removed it meanwhile.
        if let (true, Ok(metadata)) = (is_ours, fs::metadata(&path)) {
            files.push((metadata.modified()?, metadata.len(), path));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    let mut count = files.len();
    for (_, length, path) in files {
        if bytes <= KEPT_BYTES_MAX && count < KEPT_FILES_MAX {
            break;
        }
        // The tables of this process; its older logs may go.
        let own_table = path.extension().is_some_and(|extension| extension == "hgrm")
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{own_stem}.")));
        if own_table {
            continue;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (bytes, count) = (bytes - length, count - 1),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histograms(nanos: u64) -> Histograms {
        Stage::ALL.map(|_| {
            let mut histogram = Histogram::new_with_bounds(1_000, 1 << 50, 3).unwrap();
            histogram.record(nanos).unwrap();
            histogram
        })
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn intervals_of_a_day_are_appended_to_one_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LatencyFiles::new(directory.path());
        let (began, minute) = (Instant::now(), Duration::from_secs(60));
        files.append(began, began + minute, &histograms(5_000)).unwrap();
        let base = files.log.as_ref().unwrap().base.0;
        // Whatever the time of the day: what is left of it may be less than another minute.
        let rest = DAY
            - Duration::from_secs(base.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % 86_400);
        files.append(began + minute, began + minute.min(rest / 2), &histograms(5_000)).unwrap();
        assert_eq!(names(directory.path()).len(), 1);
        let log = fs::read_to_string(&files.log.as_ref().unwrap().path).unwrap();
        assert_eq!(log.matches("BaseTime").count(), 1, "{log}");
        assert!(
            log.contains("\nTag=durable,0.000,60.000,") && log.contains("\nTag=durable,60.000,"),
            "{log}"
        );
        files.append(began + rest, began + rest + minute, &histograms(5_000)).unwrap();
        // Base times are taken from this moment's clock, whose second the name holds.
        assert_eq!(files.log.as_ref().unwrap().base.1, began + rest);
    }

    #[test]
    fn a_log_that_cannot_be_written_keeps_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = LatencyFiles::new(&directory.path().join("none"));
        let now = Instant::now();
        fs::write(directory.path().join("none"), "in the way").unwrap();
        files.append(now, now, &histograms(1)).unwrap_err();
        fs::remove_file(directory.path().join("none")).unwrap();
        files.append(now, now, &histograms(1)).unwrap();
        files.write_tables(&histograms(1)).unwrap();
        assert_eq!(names(&directory.path().join("none")).len(), 1 + Stage::ALL.len());
    }

    #[test]
    fn the_oldest_go_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (age_s, name) in [(3, "usage-processor-a-1-x.hlog"), (2, "usage-processor-b-2-x.hlog")] {
            let file = File::create(path(name)).unwrap();
            file.set_len(KEPT_BYTES_MAX / 2 + 1).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age_s)).unwrap();
        }
        File::create(path("other.hlog")).unwrap().set_len(KEPT_BYTES_MAX).unwrap();
        prune(directory.path(), "usage-processor-c-3").unwrap();
        assert_eq!(names(directory.path()), ["other.hlog", "usage-processor-b-2-x.hlog"]);
    }
}
