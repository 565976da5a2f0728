//! The rules of this code base that no lint checks. Pure: reads the sources, needs no server.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this is missing a name.
const FILE_LINES_MAX: usize = 450;
/// A function longer than this does not fit a screen.
const FUNCTION_LINES_MAX: usize = 65;
/// Stages speak through `messages` and are put together by `pipeline`; none knows another.
const STAGES: [&str; 4] = ["poll", "decode", "write", "commit"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders, with their text.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
    assert!(!sources.is_empty());
    sources
}

fn assert_none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_says_what_it_owns_and_is_short() {
    let all = sources(&["src", "tests"]);
    let undocumented = all.iter().filter(|(_, text)| !text.starts_with("//! "));
    let undocumented: Vec<_> = undocumented.map(|(path, _)| path.display().to_string()).collect();
    assert_none("files without a module doc", &undocumented);
    let long = all.iter().map(|(path, text)| (path, text.lines().count()));
    let long = long.filter(|(_, lines)| *lines > FILE_LINES_MAX);
    let long: Vec<_> = long.map(|(path, lines)| format!("{} ({lines} lines)", path.display())).collect();
    assert_none("files that are missing a name", &long);
}

#[test]
fn functions_fit_a_screen() {
    let mut long = Vec::new();
    for (path, text) in sources(&["src"]) {
        let lines: Vec<_> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let is_function = code.contains("fn ") && !code.starts_with("//") && !code.ends_with(';');
            if !is_function || code.contains('"') {
                continue;
            }
            // The code is formatted: a function ends with a brace at its own indentation.
            let end_line = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[start..].iter().position(|line| *line == end_line).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{} ({length} lines)", path.display(), start + 1));
            }
        }
    }
    assert_none("functions that do not fit a screen", &long);
}

#[test]
fn stages_do_not_know_each_other() {
    let mut imports = Vec::new();
    for stage in STAGES {
        for (path, text) in sources(&[&format!("src/{stage}")]) {
            for other in STAGES.iter().filter(|other| **other != stage) {
                if text.contains(&format!("crate::{other}::"))
                    || text.contains(&format!("super::super::{other}"))
                {
                    imports.push(format!("{} uses {other}", path.display()));
                }
            }
            if text.contains("crate::pipeline") || text.contains("crate::commands") {
                imports.push(format!("{} knows who puts it together", path.display()));
            }
        }
    }
    assert_none("stages that know each other", &imports);
}

#[test]
fn the_generator_shares_nothing_with_the_pipeline() {
    let shares = |text: &str| {
        text.contains("crate::")
            && !text
                .lines()
                .filter(|line| line.contains("crate::"))
                .all(|line| line.contains("crate::generate"))
    };
    let offenders = sources(&["src/generate"]).into_iter().filter(|(_, text)| shares(text));
    let offenders: Vec<_> = offenders.map(|(path, _)| path.display().to_string()).collect();
    assert_none("the truth is computed apart from the pipeline", &offenders);
}

#[test]
fn both_profiles_have_the_same_migrations_each_with_its_way_back() {
    let names = |folder: &str| {
        let folder = root().join("migrations").join(folder);
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let (common, timescaledb) = (names("common"), names("timescaledb"));
    assert_eq!(timescaledb, names("postgresql"));
    let both: Vec<_> = common.iter().filter(|name| timescaledb.contains(name)).cloned().collect();
    assert_none("migrations that are in common and not", &both);
    for name in common.iter().chain(&timescaledb) {
        let up = name.strip_suffix(".down.sql").map(|stem| format!("{stem}.up.sql"));
        let other = up.unwrap_or_else(|| name.replace(".up.sql", ".down.sql"));
        assert!(
            other != *name && (common.contains(&other) || timescaledb.contains(&other)),
            "{name} is alone"
        );
    }
}
