//! The systemd units, by systemd's own judgement and against what the program says of itself. Needs no server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use usage_processor::cli::exit_code;

use crate::support::tool_is_missing;

/// What runs `run`, and what runs once.
const PROCESSORS: [&str; 2] = ["usage-processor.service", "usage-processor@.service"];
const ONCE: [&str; 3] =
    ["usage-processor-audit.service", "usage-processor-maintain.service", "usage-processor-migrate.service"];
const TIMERS: [&str; 2] = ["usage-processor-audit.timer", "usage-processor-maintain.timer"];

/// What systemd below 254 does not know and passes over; the units say so.
const SINCE_254: [&str; 2] = ["RestartSteps", "RestartMaxDelaySec"];
/// Highest exposure, of 10, that `systemd-analyze security` may find.
const EXPOSURE_MAX: f64 = 1.5;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

fn services() -> impl Iterator<Item = &'static str> {
    PROCESSORS.into_iter().chain(ONCE)
}

/// All values that a unit gives a key.
fn values(name: &str, key: &str) -> Vec<String> {
    let prefix = format!("{key}=");
    unit(name).lines().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect()
}

fn value(name: &str, key: &str) -> String {
    let [value] = &values(name, key)[..] else { panic!("{name} should have one {key}") };
    value.clone()
}

/// The units with the program that was just built, since systemd looks whether it is there.
fn copies() -> (TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let paths = services()
        .chain(TIMERS)
        .map(|name| {
            let text = unit(name).replace("/usr/bin/usage-processor", env!("CARGO_BIN_EXE_usage-processor"));
            let path = directory.path().join(name.replace('@', "@1"));
            fs::write(&path, text).unwrap();
            path
        })
        .collect();
    (directory, paths)
}

/// What `systemd-analyze` prints, unless it is not here.
#[track_caller]
fn analyze(arguments: &[&str], paths: &[PathBuf]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("systemd-analyze").args(arguments).args(paths).output() else {
        tool_is_missing("systemd-analyze", "the systemd units are not verified");
        return None;
    };
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    Some((output.status.success(), said))
}

/// `run --help`, without what is in this process's environment.
fn run_help() -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usage-processor"));
    let help = command.args(["run", "--help"]).env_clear().output().unwrap();
    String::from_utf8(help.stdout).unwrap()
}

#[test]
fn every_unit_is_known_here() {
    let mut found: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".service") || name.ends_with(".timer"))
        .collect();
    found.sort();
    let mut known: Vec<_> = services().chain(TIMERS).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let (_directory, paths) = copies();
    // The manual pages are not installed.
    let Some((is_fine, said)) = analyze(&["verify", "--man=no"], &paths) else { return };
    let is_expected =
        |line: &&str| SINCE_254.iter().any(|key| line.contains(&format!("Unknown key '{key}'")));
    let unexpected: Vec<_> = said.lines().filter(|line| !is_expected(line)).collect();
    assert!(is_fine && unexpected.is_empty(), "{said}");
}

#[test]
fn no_unit_may_do_more_than_it_must() {
    let (_directory, paths) = copies();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|kind| kind == "service")) {
        let Some((_, said)) =
            analyze(&["security", "--offline=true", "--no-pager"], std::slice::from_ref(path))
        else {
            return;
        };
        let overall = said.lines().find_map(|line| line.split_once("Overall exposure level for ")).unwrap().1;
        let exposure: f64 = overall.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(exposure <= EXPOSURE_MAX, "{said}");
    }
    let block = |name: &str| {
        let text = unit(name);
        let start = text.find("# What it may do").unwrap_or_else(|| panic!("{name} has no block"));
        text[start..].split("\n\n").next().unwrap().trim_end().to_owned()
    };
    for name in services() {
        assert_eq!(block(name), block(PROCESSORS[0]), "{name}");
    }
}

/// `ProcSubset=pid` hides /proc/stat, without which `process_start_time_seconds` is 0 and the alert on restarts never fires, and
/// /proc/sys, without which the host has no name on the status page.
#[test]
fn every_unit_sees_when_and_where_it_runs() {
    for name in services() {
        let subset = values(name, "ProcSubset");
        assert!(subset.iter().all(|value| value == "all"), "{name} hides /proc/stat: {subset:?}");
    }
}

#[test]
fn an_instance_is_what_the_single_processor_is_with_a_file_of_its_own() {
    let lines = |name: &str| -> Vec<String> {
        let text = unit(name);
        let lines = text.lines().skip_while(|line| *line != "[Unit]");
        lines.filter(|line| !line.starts_with("Description=")).map(str::to_owned).collect()
    };
    let own = "EnvironmentFile=-/etc/usage-processor/%i.env";
    let (mut instance, single) = (lines(PROCESSORS[1]), lines(PROCESSORS[0]));
    let at = instance.iter().position(|line| line == own).unwrap();
    assert!(instance[at - 1].starts_with("EnvironmentFile="), "the later file wins");
    instance.remove(at);
    assert_eq!(instance, single);
}

/// Those that the table in the README calls final, and no other: `audit` runs once.
#[test]
fn what_a_restart_cannot_mend_is_not_restarted() {
    let readme = fs::read_to_string(folder().join("../README.md")).unwrap();
    let table = readme.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let mut said: Vec<u8> =
        rows.filter(|row| row.get(3) == Some(&"no")).map(|row| row[1].parse().unwrap()).collect();
    said.sort_unstable();
    use exit_code::{CONFIGURATION, EVENTS_LOST, MOSTLY_REJECTED, REFUSED};
    assert_eq!(said, [CONFIGURATION, REFUSED, EVENTS_LOST, MOSTLY_REJECTED]);
    for name in PROCESSORS {
        let prevented = value(name, "RestartPreventExitStatus");
        let prevented: Vec<u8> = prevented.split(' ').map(|code| code.parse().unwrap()).collect();
        assert_eq!(prevented, said, "{name}");
        assert_eq!(value(name, "Restart"), "on-failure");
        assert_eq!(value(name, "SuccessExitStatus"), "130 143", "{name}");
        // Only the main process can prevent a restart.
        assert!(value(name, "ExecStartPre").starts_with('-'), "{name}");
    }
}

#[test]
fn stopping_may_take_longer_than_the_drain() {
    let help = run_help();
    let option = help.split("DRAIN_TIMEOUT=]").nth(1).expect("the option's help");
    let default = option.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
    let drain = humantime::parse_duration(default).unwrap();
    for name in PROCESSORS {
        let stop = humantime::parse_duration(&value(name, "TimeoutStopSec")).unwrap();
        assert!(stop >= drain + std::time::Duration::from_secs(20), "{name}: {stop:?}, drain {drain:?}");
    }
}

#[test]
fn the_units_call_commands_that_exist_and_hold_no_secret() {
    for name in services() {
        let commands = values(name, "ExecStart").into_iter().chain(values(name, "ExecStartPre"));
        for command in commands {
            let mut words = command.trim_start_matches('-').split_whitespace();
            assert_eq!(words.next(), Some("/usr/bin/usage-processor"), "{name}");
            let help = Command::new(env!("CARGO_BIN_EXE_usage-processor"))
                .args(words)
                .arg("--help")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&help.stdout);
            assert!(help.status.success() && text.contains("DATABASE_URL"), "{name}: {text}");
        }
        assert!(!unit(name).contains("://"), "{name}: a URL holds a password");
        // Each credential may be absent.
        for credential in values(name, "LoadCredential") {
            let id = credential.split(':').next().unwrap();
            assert!(values(name, "SetCredential").contains(&format!("{id}:\\n")), "{name}: {id}");
        }
    }
}

/// What the file that is to be edited names is what the program knows, with its default.
#[test]
fn the_environment_file_names_real_variables() {
    // It wraps its lines.
    let help = run_help().split_whitespace().collect::<Vec<_>>().join(" ");
    let text = fs::read_to_string(folder().join("usage-processor.env")).unwrap();
    let mut count = 0;
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        let Some((name, _)) = line.split_once('=') else { continue };
        if name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            let is_known = ["=]", "]"].iter().any(|end| help.contains(&format!("[env: {name}{end}")));
            assert!(is_known, "{name}");
            count += 1;
        }
    }
    assert!(count >= 5, "{text}");
}
