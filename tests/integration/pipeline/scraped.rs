//! `monitoring/` on the real program: a real Prometheus scrapes it, every expression of the rules and the dashboard is asked for, every
//! metric in them is one that the program has, and the rules notice when it is gone.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::MetricType;
use serde_json::Value;
use usage_processor::observe::declared::ALL;

use super::{BACKLOG, Case, PATIENCE, traffic};
use crate::monitoring::prometheus::{Prometheus, get};
use crate::monitoring::{has_prometheus, metric_names, read};
use crate::support::eventually;

/// Panels that show nothing as long as all is well, or here: no broker or database is away, nothing is compressed, and no TLS.
const EMPTY_WHEN_ALL_IS_WELL: [&str; 3] =
    ["Retries by SQLSTATE class", "Certificates expire in", "Rows are kept since"];

/// Title of the panel and expression, of all rows.
fn dashboard_expressions() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/usage-processor.json")).unwrap();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let mut expressions: Vec<_> = annotations.map(|annotation| ("annotation", &annotation["expr"])).collect();
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        expressions.extend(targets.map(|target| (panel["title"].as_str().unwrap(), &target["expr"])));
    }
    // As Grafana replaces them, for a Prometheus that scrapes every second.
    let replaced = |expr: &str| {
        expr.replace("$job", "usage-processor")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "10s")
            .replace("$__range", "1m")
    };
    expressions
        .into_iter()
        .map(|(title, expr)| (title.to_owned(), replaced(expr.as_str().unwrap())))
        .collect()
}

/// Name and query of each rule, which Prometheus has evaluated without an error.
fn rules(prometheus: &Prometheus) -> Result<BTreeMap<String, String>, String> {
    let groups = prometheus.api("rules")?["groups"].take();
    let rules = groups.as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array()).flatten();
    let mut queries = BTreeMap::new();
    for rule in rules {
        let name = rule["name"].as_str().unwrap().to_owned();
        if rule["health"] != "ok" {
            return Err(format!("{name}: {}, {}", rule["health"], rule["lastError"]));
        }
        queries.insert(name, rule["query"].as_str().unwrap().to_owned());
    }
    Ok(queries)
}

/// What the program has: all that it declares, as series (a histogram is three), and `process_*`, which is the library's.
fn known(metrics: &str) -> BTreeSet<String> {
    let of_process =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE process_")?.split(' ').next());
    let mut known: BTreeSet<_> = of_process.map(|name| format!("process_{name}")).collect();
    for metric in ALL {
        let is_histogram = metric.kind == MetricType::HISTOGRAM;
        let suffixes = if is_histogram { ["_bucket", "_sum", "_count"].as_slice() } else { &[""] };
        known.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", metric.name)));
    }
    known
}

/// State of an alert for this instance, if it is pending or firing.
fn state(prometheus: &Prometheus, alert: &str) -> Option<String> {
    let alerts = prometheus.api("alerts").ok()?["alerts"].take();
    let found = alerts.as_array()?.iter().find(|found| found["labels"]["alertname"] == alert)?;
    Some(found["state"].as_str()?.to_owned())
}

#[test]
fn prometheus_gets_an_answer_to_every_question_of_rules_and_dashboard() {
    if !has_prometheus() {
        return;
    }
    let case = Case::new(2);
    case.generate(traffic(20_000, "50%"), BACKLOG);
    let processor = case.processor().env("METRICS_ADDR", "127.0.0.1:0").spawn();
    let line = processor.wait_for_line("serving status and metrics at http://", PATIENCE);
    let address = line.rsplit_once("http://").unwrap().1.trim_end_matches('/').to_owned();
    let prometheus = Prometheus::watching(&[&address]);
    case.wait_until_at_end();
    // Within the windows of the rates; two scrapes between.
    case.generate(traffic(5_000, "50%"), super::steady(1_000));
    case.wait_until_at_end();

    let rules = eventually("Prometheus has evaluated every rule", PATIENCE, || {
        let rules = rules(&prometheus)?;
        if rules.len() > 15 { Ok(rules) } else { Err(format!("{} rules", rules.len())) }
    });
    let dashboard = dashboard_expressions();
    let known = known(&get(&address, "/metrics").unwrap().1);
    for (of, expression) in rules.clone().into_iter().chain(dashboard.clone()) {
        let unknown: Vec<_> = metric_names(&expression).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{of}: the program has no {unknown:?}");
    }
    for (title, expression) in &dashboard {
        eventually(&format!("{title} shows something: {expression}"), PATIENCE, || {
            let samples = prometheus.query(expression)?;
            let may_be_empty = EMPTY_WHEN_ALL_IS_WELL.contains(&title.as_str())
                || title == "annotation"
                // Nothing is unfolded any more some time after the last event.
                || expression.contains("oldest_unfolded");
            if may_be_empty || !samples.is_empty() { Ok(()) } else { Err("no sample".to_owned()) }
        });
    }
    let unaccounted = dashboard.iter().find(|(title, _)| title == "What is not accounted for").unwrap();
    assert_eq!(prometheus.query(&unaccounted.1).unwrap()[0]["value"][1], "0");
    for alert in rules.keys() {
        // One message in a hundred is malformed here, so that one may be pending.
        assert_ne!(state(&prometheus, alert).as_deref(), Some("firing"), "{alert}");
    }

    processor.kill();
    eventually("the rules notice that it is gone", PATIENCE, || {
        let states = ["InstanceDown", "AllInstancesDown"]
            .map(|name| state(&prometheus, &format!("UsageProcessor{name}")));
        if states == [Some("pending".to_owned()), Some("pending".to_owned())] { Ok(()) } else { Err(states) }
    });
}
