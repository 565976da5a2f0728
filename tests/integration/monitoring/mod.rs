//! What `monitoring/` holds, by the judgement of Prometheus's own tools, and that its parts fit together. Needs no server; the
//! real program beside a real Prometheus is in `pipeline/scraped.rs`, and the runbooks' SQL runs in `runbooks.rs`.

mod dashboard;
pub(crate) mod prometheus;
mod runbooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::tool_is_missing;

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

pub(crate) fn read(path: &str) -> String {
    let path = directory().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether Debian's package `prometheus` is here.
#[track_caller]
pub(crate) fn has_prometheus() -> bool {
    let runs = |name| Command::new(name).arg("--version").output().is_ok();
    let has = runs("promtool") && runs("prometheus");
    if !has {
        tool_is_missing("promtool and prometheus", "alerts and dashboard are not tried");
    }
    has
}

/// Fails with what it said, unless it is content.
fn promtool(arguments: &[&str]) {
    if !has_prometheus() {
        return;
    }
    let mut command = Command::new("promtool");
    let output = command.args(arguments).current_dir(directory().join("prometheus")).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "promtool {arguments:?}: {}", said.concat());
}

#[test]
fn promtool_accepts_rules_and_configuration() {
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    promtool(&["test", "rules", "rules_test.yml"]);
}

/// The value of `key: value`, at whatever depth, dashes aside.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.trim_start_matches([' ', '-']).strip_prefix(key)?.strip_prefix(": ")
}

/// Name of each alert, and the lines of its rule.
fn alerts() -> BTreeMap<String, Vec<String>> {
    let mut alerts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in read("prometheus/rules.yml").lines() {
        if let Some(name) = value(line, "alert") {
            assert!(!alerts.contains_key(name), "{name} is there twice");
            current = Some(name.to_owned());
        }
        if let Some(name) = &current {
            alerts.entry(name.clone()).or_default().push(line.to_owned());
        }
    }
    assert!(alerts.len() > 15, "{}", alerts.len());
    alerts
}

#[test]
fn each_alert_says_what_it_is_and_where_its_runbook_is() {
    for (name, lines) in alerts() {
        let of = |key| lines.iter().find_map(|line| value(line, key));
        assert!(of("summary").is_some() && of("description").is_some(), "{name}");
        assert!(matches!(of("severity"), Some("critical" | "warning")), "{name}: {:?}", of("severity"));
        let runbook = of("runbook_url").unwrap();
        let page = runbook.strip_prefix("monitoring/").unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(read(page).contains(&format!("`{name}`")), "{runbook} does not say that it is for {name}");
        assert!(
            lines.iter().any(|line| line.trim_start().starts_with("# ")),
            "{name}: why this threshold, and this long?"
        );
    }
}

/// Of the inhibit rules in the example: a name that no alert has would inhibit nothing, and say nothing.
#[test]
fn what_inhibits_and_is_inhibited_are_alerts() {
    let alerts = alerts();
    let mut count = 0;
    for line in read("prometheus/prometheus.yml").lines().filter(|line| line.contains("_matchers: ")) {
        let names = line.split('"').nth(1).unwrap().trim_end_matches(')');
        let (prefix, names) = names.split_once('(').unwrap_or(("", names));
        for name in names.split('|') {
            assert!(alerts.contains_key(&format!("{prefix}{name}")), "{prefix}{name}");
            count += 1;
        }
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn each_alert_is_tested_firing_and_not_firing() {
    let (mut firing, mut silent, mut current) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for part in read("prometheus/rules_test.yml").replace(", exp_alerts", "\nexp_alerts").lines() {
        if let Some((_, name)) = part.split_once("alertname: ") {
            name.clone_into(&mut current);
        } else if part.trim_start().starts_with("exp_alerts: []") {
            silent.insert(current.clone());
        } else if part.trim_start().starts_with("exp_alerts:") {
            firing.insert(current.clone());
        }
    }
    let alerts: BTreeSet<_> = alerts().into_keys().collect();
    assert_eq!(firing, alerts, "firing");
    assert_eq!(silent, alerts, "not firing");
}

/// All words of a text that could be the name of a metric of ours.
pub(crate) fn metric_names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("usage_") || word.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}
