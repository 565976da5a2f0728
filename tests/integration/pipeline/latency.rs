//! Latency files: as many events at every stage as went through it, and read by the Java HdrHistogram.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use usage_processor::commands::run_summary::RunSummary;
use usage_processor::latency::Stage;
use usage_processor::latency::distribution::{self, Distribution};

use super::{BACKLOG, Case, PATIENCE, event, now_ms, traffic};
use crate::support::{Processor, eventually};

/// The directory's files with this ending, in order.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|of| of == extension)).collect();
    files.sort();
    files
}

/// What all interval logs have of a stage.
fn count(directory: &Path, stage: Stage) -> u64 {
    let all =
        files(directory, "hlog").iter().flat_map(|log| distribution::read(log).unwrap()).collect::<Vec<_>>();
    all.iter().filter(|of| of.stage == stage.name()).map(|of: &Distribution| of.count).sum()
}

/// Messages pass the stages up to the writer, rows the others.
#[track_caller]
fn assert_counts(directory: &Path, message_count: u64, row_count: u64) {
    use Stage::{Commit, Copy, Decoded, DecoderQueue, Durable, Polled, WriterQueue};
    for stage in [Polled, DecoderQueue, Decoded, WriterQueue] {
        assert_eq!(count(directory, stage), message_count, "{}", stage.name());
    }
    for stage in [Copy, Commit, Durable] {
        assert_eq!(count(directory, stage), row_count, "{}", stage.name());
    }
}

/// Value in milliseconds, quantile, count: the lines of a percentile table; then its last lines' numbers.
/// What Java says above it, of the log's times, is left out.
fn numbers(table: &str) -> Vec<Vec<f64>> {
    let is_number = |word: &str| word.parse().ok();
    let line = |line: &str| line.split([' ', ',', ']']).filter_map(is_number).collect::<Vec<f64>>();
    table
        .lines()
        .skip_while(|line| !line.contains("TotalCount"))
        .map(line)
        .filter(|numbers| !numbers.is_empty())
        .collect()
}

/// The Java HdrHistogram's table of all intervals of a stage must be ours of the whole run.
fn assert_java_agrees(log: &Path, table: &Path, stage: Stage) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/hdrhistogram");
    let out = log.with_extension(format!("java-{}", stage.name()));
    let output =
        Command::new(script).arg("-i").arg(log).arg("-o").arg(&out).args(["-tag", stage.name()]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let java = fs::read_to_string(format!("{}.hgrm", out.display())).unwrap();
    let ours = fs::read_to_string(table).unwrap();
    let (theirs, mine) = (numbers(&java), numbers(&ours));
    let is_near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.0011 + a.abs() * 1e-9;
    let is_same = |(a, b): (&Vec<f64>, &Vec<f64>)| a.len() == b.len() && a.iter().zip(b).all(is_near);
    assert!(theirs.len() > 5, "{java}");
    let same = theirs.len() == mine.len() && theirs.iter().zip(&mine).all(is_same);
    assert!(same, "{} by Java:\n{java}\nand by us:\n{ours}", stage.name());
}

#[test]
fn every_event_is_measured_and_the_java_hdrhistogram_reads_it() {
    let case = Case::new(4);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("latency"); // Made when it is missing.
    let truth = case.generate(traffic(20_000, "50%"), BACKLOG);
    let mut processor = case
        .processor()
        .env("LATENCY_DIR", path.to_str().unwrap())
        .env("LATENCY_INTERVAL", "1h")
        .arg("--print-summary")
        .spawn();
    case.wait_until_at_end();
    assert!(files(&path, "hlog").is_empty(), "nothing was due yet");
    processor.signal(Signal::USR1);
    let line = processor.wait_for_line("Latency since the start, p50/p99/p99.9: polled ", PATIENCE);
    assert!(line.contains(path.to_str().unwrap()), "{line}");
    assert_eq!(truth.requests, u64::try_from(case.rows()).unwrap());
    assert_counts(&path, 20_000, truth.requests);

    case.produce(&[event("a", now_ms()), event("b", now_ms()), "{".to_owned()]);
    case.wait_until_at_end();
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_counts(&path, 20_003, truth.requests + 2);
    let lines = processor.lines();
    let summary = RunSummary::read(lines.iter().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!(summary.latency.count, truth.requests + 2);

    let logs = files(&path, "hlog");
    assert_eq!((logs.len(), files(&path, "hgrm").len()), (1, Stage::ALL.len()), "unless it is midnight");
    for stage in Stage::ALL {
        let ending = format!(".{}.hgrm", stage.name());
        let tables = files(&path, "hgrm");
        let table = tables.iter().find(|table| table.to_str().unwrap().ends_with(&ending)).unwrap();
        assert_java_agrees(&logs[0], table, stage);
    }
    the_command_reads_them(&logs[0], &files(&path, "hgrm"));
}

fn the_command_reads_them(log: &Path, tables: &[PathBuf]) {
    let latency = |arguments: &[&str]| {
        let command = Processor::command("latency");
        let mut process = arguments.iter().fold(command, |command, argument| command.arg(argument)).spawn();
        (process.wait_exit(PATIENCE).code(), process.lines())
    };
    let log_name = log.to_str().unwrap();
    let plot = log.with_extension("svg");
    let (code, lines) = latency(&[log_name, "--plot", plot.to_str().unwrap()]);
    assert_eq!((code, lines.len()), (Some(0), 2 + Stage::ALL.len()), "{lines:?}");
    let row = lines.iter().find(|line| line.starts_with("durable")).unwrap().clone();
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.contains("durable") && svg.contains("99.9%") && !svg.contains("polled"), "{svg}");

    // A table says the same; it has fewer steps.
    let table = tables.iter().find(|table| table.to_str().unwrap().ends_with(".durable.hgrm")).unwrap();
    let (code, lines) = latency(&["--compare", "--stage", "durable", log_name, table.to_str().unwrap()]);
    assert_eq!((code, lines.len()), (Some(0), 5), "{lines:?}");
    assert_eq!(lines[2], row);
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(columns(&lines[3])[1..3], columns(&row)[1..3], "events and the median");
    let ratios = columns(&lines[4]);
    assert_eq!(
        (ratios[0].as_str(), ratios[1].as_str(), ratios[6].as_str()),
        ("ratio", "1.00", "1.00"),
        "{lines:?}"
    );

    let (code, lines) = latency(&["--stage", "polling", log_name]);
    assert_eq!(code, Some(1));
    assert!(lines.concat().contains("no file has the stage polling; there are polled, "), "{lines:?}");
    assert_eq!(latency(&["--compare", log_name]).0, Some(1));
}

#[test]
fn a_directory_that_takes_no_files_stops_nothing() {
    let case = Case::new(1);
    let in_the_way = tempfile::NamedTempFile::new().unwrap();
    let directory = in_the_way.path().to_str().unwrap();
    case.produce(&[event("a", now_ms())]);
    let mut processor = case.processor().env("LATENCY_DIR", directory).env("LATENCY_INTERVAL", "1s").spawn();
    processor.wait_for_line("takes no files", PATIENCE);
    processor.wait_for_line("writing latencies to", PATIENCE);
    case.wait_until_at_end();
    // Once there is room, nothing is missing.
    fs::remove_file(directory).unwrap();
    let path = Path::new(directory);
    eventually("the event is in a file", PATIENCE, || {
        if path.is_dir() && !files(path, "hlog").is_empty() { Ok(()) } else { Err("none") }
    });
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
    assert_counts(path, 1, 1);
    let warnings = processor.lines().iter().filter(|line| line.contains("writing latencies to")).count();
    assert_eq!(warnings, 1);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn sigusr1_ends_no_process_and_needs_no_directory() {
    let case = Case::new(1);
    let mut waiting = case.processor().env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/usage").spawn();
    waiting.wait_for_line("connecting to", PATIENCE);
    waiting.signal(Signal::USR1);
    waiting.terminate();
    assert_eq!(waiting.wait_exit(PATIENCE).code(), Some(0));

    let mut processor = case.processor().spawn();
    processor.wait_for_line("assigned", PATIENCE);
    processor.signal(Signal::USR1);
    processor.wait_for_line("durable -/-/- ms; in no file, as LATENCY_DIR is not set", PATIENCE);
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn check_config_tries_the_directory() {
    let check = |directory: &str| {
        let mut process = Processor::command("check-config")
            .arg("--offline")
            .env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/usage")
            .env("LATENCY_DIR", directory)
            .spawn();
        assert_eq!(process.wait_exit(PATIENCE).code(), Some(0));
        process.lines().join("\n")
    };
    let directory = tempfile::tempdir().unwrap();
    let said = check(directory.path().to_str().unwrap());
    assert!(!said.contains("warning") && said.contains(directory.path().to_str().unwrap()), "{said}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays");
    let said = check("/proc/latency");
    assert!(said.contains("warning  latency_dir         /proc/latency takes no files"), "{said}");
}
