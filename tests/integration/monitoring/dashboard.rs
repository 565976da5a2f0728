//! The dashboard's JSON by itself: what Grafana would refuse, or show wrongly, without a word. Grafana itself cannot be had from a
//! package registry.

use std::collections::BTreeSet;

use serde_json::Value;

use super::read;

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/usage-processor.json")).unwrap()
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().unwrap().clone()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_row_is_there_with_its_panels() {
    let panels = panels();
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    assert_eq!(
        rows,
        [
            "At a glance",
            "Throughput, and where messages go",
            "Lag by partition",
            "Latency",
            "Stages: at work, starved, blocked",
            "Queues",
            "Dedup",
            "Dead letters",
            "Retries and database",
            "Figures, chunks, jobs, certificates",
            "Kafka client",
            "Process",
        ]
    );
    for pair in panels.windows(2) {
        assert!(pair[0]["type"] != "row" || pair[1]["type"] != "row", "{} is empty", pair[0]["title"]);
    }
}

#[test]
fn panels_lie_beside_each_other_and_have_numbers_of_their_own() {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        assert!(ids.insert(number(&panel["id"])), "{} is there twice", panel["id"]);
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| number(&place[key]));
        assert!(w > 0 && h > 0 && x + w <= 24, "{}: {place}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{} covers another", panel["title"]);
        }
    }
}

#[test]
fn every_panel_asks_the_chosen_data_source_about_the_chosen_job() {
    for panel in panels().iter().filter(|panel| panel["type"] != "row") {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let names: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(names.len(), targets.len(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expr = target["expr"].as_str().unwrap();
            // Each selector, or a second deployment would be added up with the first.
            let selectors = expr.matches('{').count();
            assert!(selectors > 0, "{title}: {expr}");
            assert_eq!(expr.matches("job=\"$job\"").count(), selectors, "{title}: {expr}");
        }
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        assert!(panel["type"] == "heatmap" || unit.is_string(), "{title}");
    }
    let names = dashboard()["templating"]["list"].as_array().unwrap().clone();
    let names: Vec<_> = names.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
}
