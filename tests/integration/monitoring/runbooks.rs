//! The runbooks: whoever is woken finds the four answers, links that lead somewhere, and SQL that runs.

use std::collections::BTreeSet;
use std::fs;

use super::{alerts, directory, metric_names, read, value};
use crate::database::profiles;
use crate::readme::{blocks_of, filled, row_count, statements};

const HEADINGS: [&str; 4] = ["What it means", "How to see it", "What to do", "How to tell it worked"];
/// Done by hand, whatever the alert: their headings are their own.
const PROCEDURES: [&str; 3] = ["failover.md", "certificate-rotation.md", "kill-and-restart.md"];

/// Name and text of each page.
fn pages() -> Vec<(String, String)> {
    let mut names: Vec<_> = fs::read_dir(directory().join("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), read(&format!("runbooks/{name}")))).collect()
}

#[test]
fn each_runbook_answers_the_four_questions() {
    for (name, text) in pages().iter().filter(|(name, _)| !PROCEDURES.contains(&name.as_str())) {
        let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{name}");
        for part in text.split("\n## ").skip(1) {
            assert!(part.lines().filter(|line| !line.trim().is_empty()).count() > 1, "{name}: {part}");
        }
    }
}

#[test]
fn no_runbook_is_without_an_alert_and_no_link_leads_nowhere() {
    let pages = pages();
    let mut wanted: BTreeSet<String> = PROCEDURES.into_iter().map(Into::into).collect();
    for lines in alerts().values() {
        let url = lines.iter().find_map(|line| value(line, "runbook_url")).unwrap();
        wanted.insert(url.rsplit('/').next().unwrap().to_owned());
    }
    for (name, text) in &pages {
        assert!(wanted.contains(name), "{name}: no alert leads here");
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            assert!(wanted.contains(link), "{name}: {link}");
        }
    }
}

#[test]
fn the_runbooks_sql_runs() {
    for profile in profiles() {
        let mut database = filled(profile);
        let mut count = 0;
        for (name, text) in pages() {
            for (section, sql) in blocks_of(&text) {
                for statement in statements(&sql, profile) {
                    assert!(statement.trim_start().starts_with("SELECT"), "{name}, {section}: {statement}");
                    row_count(&mut database, &statement);
                    count += 1;
                }
            }
        }
        assert!(count >= 15, "{profile}: {count}");
    }
}

/// A name that begins like ours is a metric of the rules and the dashboard, or something in the database.
#[test]
fn runbooks_name_no_metric_that_nobody_looks_at() {
    let migrations: String = ["common", "timescaledb", "postgresql"]
        .iter()
        .flat_map(|folder| fs::read_dir(directory().join("../migrations").join(folder)).unwrap())
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let known =
        metric_names(&(read("prometheus/rules.yml") + &read("grafana/usage-processor.json") + &migrations));
    for (name, text) in pages() {
        // The README's role.
        let text = text.replace("usage_writer", "");
        let unknown: Vec<_> = metric_names(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name}: {unknown:?}");
    }
}
