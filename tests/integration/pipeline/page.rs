//! The status page in a real browser (headless Chromium, tests/page), and `usage-processor status`: a pipeline that
//! idles, one under load and a broken one. The numbers on the page must be those of `/status.json` and `/metrics`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use usage_processor::status::Status;

use super::{Case, PATIENCE, event, generate, now_ms, steady, traffic};
use crate::support::{Processor, ProcessorBuilder, Proxy, eventually};

/// Statistics of Kafka come every second.
const SETTLED: Duration = Duration::from_secs(3);

/// What `look.mjs` has seen.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Look {
    title: String,
    /// When it was loaded, and after it refreshed itself.
    first: Vec<Figure>,
    refreshed: Vec<Figure>,
    /// What the reader had opened, focused and scrolled to, before and after.
    before: Value,
    after: Value,
    text: String,
    screenshots: BTreeMap<String, Screenshot>,
    without_java_script: Plain,
    complaints: Vec<String>,
    /// What was said when nobody answered.
    lost: String,
}

#[derive(Debug, Deserialize)]
struct Figure {
    id: String,
    value: String,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Screenshot {
    bytes: u64,
    overflow: i64,
    /// What axe-core found that keeps somebody out.
    barriers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Plain {
    figures: Vec<Figure>,
    reloads: u32,
}

type Figures = BTreeMap<String, String>;

fn start(builder: ProcessorBuilder) -> Processor {
    builder.env("METRICS_ADDR", "127.0.0.1:0").spawn()
}

/// When nothing moves any more.
fn settled(processor: &Processor, is_there: impl Fn(&Status) -> bool) -> Status {
    eventually("the pipeline comes to rest", PATIENCE, || {
        let before = processor.status();
        if !is_there(&before) {
            return Err(Box::new(before));
        }
        thread::sleep(SETTLED);
        let after = processor.status();
        if expected(&before) == expected(&after) { Ok(after) } else { Err(Box::new(after)) }
    })
}

/// In a browser. The screenshots stay when `STATUS_PAGES` is a directory for them.
fn look(processor: &Processor) -> Look {
    let directory = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("STATUS_PAGES").map(PathBuf::from);
    let test = thread::current().name().unwrap_or("page").replace("::", "-");
    let output = Command::new("node")
        .args(["look.mjs", &format!("http://{}/", processor.metrics_address())])
        .arg(kept.as_deref().unwrap_or(directory.path()).join(format!("{test}.png")))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page"))
        .output()
        .expect("node runs (`make test` installs it)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `usage-processor status` prints, and its exit code.
fn status_command(address: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let command = Processor::command("status").env("METRICS_ADDR", address);
    let mut command = arguments.iter().fold(command, |command, argument| command.arg(argument)).spawn();
    let code = command.wait_exit(PATIENCE).code();
    (command.lines().join("\n"), code)
}

/// What must be on the page, but for two counters that grow while a database is away.
fn expected(status: &Status) -> Figures {
    let totals = &status.totals;
    let mut figures: Figures = [
        ("messages", totals.messages),
        ("written", totals.written),
        ("memory_duplicates", totals.memory_duplicates),
        ("database_duplicates", totals.database_duplicates),
        ("dead_letters", totals.dead_letters),
        ("returned", totals.returned),
        ("in_flight", totals.in_flight),
        ("lag", status.partitions.iter().map(|of| of.lag).sum()),
        ("dedup.entries", status.dedup.entries),
        ("dedup.evictions", status.dedup.evictions),
        ("rebalances", status.kafka.rebalances),
    ]
    .map(|(id, value)| (id.to_owned(), value.to_string()))
    .into();
    figures.insert("alive".to_owned(), status.alive.is_ok.to_string());
    figures.insert("ready".to_owned(), status.ready.is_ok.to_string());
    for of in &status.partitions {
        figures.insert(format!("partition.{}.lag", of.partition), of.lag.to_string());
        figures.insert(format!("partition.{}.watermark", of.partition), of.watermark.to_string());
    }
    for of in &status.queues {
        figures.insert(format!("queue.{}", of.name), of.length.to_string());
    }
    for of in &status.dead_letters {
        figures.insert(format!("dead_letters.{}", of.reason), of.count.to_string());
    }
    figures
}

/// By id; what a person reads is what a program reads.
fn figures(seen: &[Figure]) -> Figures {
    let mut figures = Figures::new();
    for Figure { id, value, text } in seen {
        if value.parse::<i64>().is_ok() {
            assert_eq!(text.replace(',', ""), *value, "{id}");
        }
        assert_eq!(figures.insert(id.clone(), value.clone()), None, "{id} is there twice");
    }
    figures.retain(|id, _| id != "retries" && id != "reconnects");
    figures
}

impl Look {
    /// What holds in every state.
    fn assert_sound(&self) {
        assert_eq!(self.complaints, [""; 0], "the browser complains");
        assert_eq!(self.after, self.before, "the refresh disturbed the reader");
        assert!(self.before["isOpen"] == true, "{}", self.before);
        assert!(self.lost.starts_with("Not answering since "), "{}", self.lost);
        assert_eq!(self.without_java_script.reloads, 1);
        assert_eq!(self.screenshots.len(), 4);
        for (name, screenshot) in &self.screenshots {
            assert!(screenshot.bytes > 20_000, "{name} is nearly empty");
            assert!(
                screenshot.overflow <= 0,
                "{name} is {} pixels wider than the screen",
                screenshot.overflow
            );
            assert_eq!(screenshot.barriers, [""; 0], "{name}");
        }
    }

    fn assert_shows(&self, status: &Status) {
        let expected = expected(status);
        for (when, seen) in [
            ("at first", &self.first),
            ("refreshed", &self.refreshed),
            ("without JavaScript", &self.without_java_script.figures),
        ] {
            assert_eq!(figures(seen), expected, "{when}");
        }
    }
}

/// `/metrics` says the same as the status.
fn assert_metrics(processor: &Processor, status: &Status) {
    let metrics = processor.metrics();
    let of = |name: &str| metrics.get(name).copied().unwrap_or_else(|| panic!("{name} in {metrics:#?}"));
    let figures = expected(status);
    for (id, name) in [
        ("messages", "usage_messages_consumed_total"),
        ("written", "usage_rows_written_total"),
        ("memory_duplicates", "usage_duplicates_total{found_by=\"memory\"}"),
        ("database_duplicates", "usage_duplicates_total{found_by=\"database\"}"),
        ("returned", "usage_messages_returned_total"),
        ("in_flight", "usage_messages_in_flight"),
        ("lag", "usage_lag_messages"),
        ("partition.0.lag", "usage_partition_lag_messages{partition=\"0\"}"),
        ("partition.0.watermark", "usage_partition_watermark_offset{partition=\"0\"}"),
        ("queue.decoder-0", "usage_queue_length{queue=\"decoder-0\"}"),
        ("dedup.entries", "usage_dedup_entries"),
        ("rebalances", "usage_rebalances_total"),
    ] {
        let on_page: f64 = figures[id].parse().unwrap();
        assert!((of(name) - on_page).abs() < 0.5, "{name} is {}, {id} {on_page}", of(name));
    }
    let dead_letters = metrics.iter().filter(|(name, _)| name.starts_with("usage_dead_letters_total"));
    let dead_letters: f64 = dead_letters.map(|(_, count)| count).sum();
    let on_page: f64 = figures["dead_letters"].parse().unwrap();
    assert!((dead_letters - on_page).abs() < 0.5, "{dead_letters} {on_page}");
}

#[test]
fn an_idle_pipeline_is_shown_as_it_is() {
    let case = Case::new(4);
    let processor = start(case.processor());
    let status = settled(&processor, |status| status.partitions.len() == 4 && status.is_well());
    let seen = look(&processor);
    seen.assert_sound();
    seen.assert_shows(&status);
    assert_metrics(&processor, &status);
    assert!(seen.title.starts_with("alive and ready, lag 0"), "{}", seen.title);
    assert!(seen.text.contains("Nothing became durable in the last 15 minutes"), "{}", seen.text);
    let head = processor.get("/").head;
    assert!(head.contains("Content-Security-Policy: default-src 'none'"), "{head}");
    let (printed, code) = status_command(&processor.metrics_address(), &["--json"]);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(expected(&serde_json::from_str(&printed).unwrap()), expected(&status));
}

#[test]
fn a_loaded_pipeline_is_shown_while_it_works_and_to_the_last_message() {
    let case = Case::new(4);
    let processor = start(case.processor());
    let (before, seen, after) = thread::scope(|scope| {
        let topic = &case.topic;
        scope.spawn(|| generate(topic, traffic(30_000, "50%"), steady(2_000)));
        eventually("messages come", PATIENCE, || match processor.status() {
            status if status.totals.messages > 1_000 => Ok(()),
            status => Err(status.totals),
        });
        (processor.status(), look(&processor), processor.status())
    });
    seen.assert_sound();
    let number = |figures: &Figures, id: &str| figures[id].parse::<u64>().unwrap();
    for id in ["messages", "written", "memory_duplicates", "dead_letters"] {
        let counts =
            [&expected(&before), &figures(&seen.first), &figures(&seen.refreshed), &expected(&after)];
        let counts = counts.map(|figures| number(figures, id));
        assert!(counts.is_sorted(), "{id}: {counts:?}");
    }
    case.wait_until_at_end();
    let status =
        settled(&processor, |status| status.totals.messages >= 30_000 && status.totals.in_flight == 0);
    let seen = look(&processor);
    seen.assert_sound();
    seen.assert_shows(&status);
    assert_metrics(&processor, &status);
    for words in ["It adds up.", "minute by minute", "invalid_json", "usage-processor dead-letters show "] {
        assert!(seen.text.contains(words), "{words}: {}", seen.text);
    }
}

#[test]
fn a_broken_pipeline_says_what_is_broken_and_since_when() {
    let case = Case::new(4);
    let (proxy, url) = Proxy::before_database(&case.database.test.url());
    let server = case.database.test.url();
    let builder = case.processor().env("BATCH_SIZE", "10").env("DATABASE_URL", &url);
    let processor = start(builder);
    processor.wait_for_line("assigned 4 partitions", PATIENCE);
    let now = now_ms();
    proxy.lead_to("");
    proxy.cut();
    case.produce(&(0..2_000).map(|n| event(&format!("r-{n}"), now)).collect::<Vec<_>>());
    processor.wait_for_line("the pipeline is full", PATIENCE);
    let status = settled(&processor, |status| !status.database.is_reachable && status.kafka.is_paused);
    assert!(status.alive.is_ok && !status.ready.is_ok, "{:?} {:?}", status.alive, status.ready);
    assert!(status.database.unreachable_since_ms.is_some_and(|since_ms| since_ms >= now));
    let seen = look(&processor);
    seen.assert_sound();
    seen.assert_shows(&status);
    assert_metrics(&processor, &status);
    assert!(seen.title.starts_with("\u{2717} alive, not ready"), "{}", seen.title);
    // The moment stays; how long it has lasted, and what an attempt met with, may differ from look to look.
    let (since, _) = status.ready.reasons[0].split_once(" (").unwrap();
    assert!(status.database.last_error.is_some());
    for words in ["Not ready", "not answering for ", "Reading is paused", "retrying", since] {
        assert!(seen.text.contains(words), "{words}: {}", seen.text);
    }
    let (printed, code) = status_command(&processor.metrics_address(), &[]);
    assert_eq!(code, Some(1), "{printed}");
    for words in ["NOT READY", "READING IS PAUSED", "not ready: ", since] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    // It waits, and lives.
    let (printed, code) = status_command(&processor.metrics_address(), &["--alive"]);
    assert!(code == Some(0) && printed.contains("NOT READY"), "{code:?}: {printed}");

    let (_, target) = server.split_once('@').unwrap();
    proxy.lead_to(target.rsplit_once('/').unwrap().0);
    case.wait_until_at_end();
    settled(&processor, |status| status.is_well() && status.totals.written == 2_000);
}

#[test]
fn nobody_at_the_address_is_said_with_what_to_do() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (said, code) = status_command(&unused.to_string(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(status_command(&unused.to_string(), &["--alive"]).1, Some(3));
    for words in
        [&format!("nobody answers at http://{unused}/status.json"), "give --url", "Connection refused"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (said, code) = status_command("none", &[]);
    assert_eq!(code, Some(2), "{said}");
}
