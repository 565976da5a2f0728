//! What systemd hears of the real process, on a datagram socket that stands in for systemd's: ready when it is, more
//! time while a server is waited for, and no sign of life once a stage is stuck.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use super::{BACKLOG, Case, PATIENCE, event, now_ms, traffic};
use crate::support::{Processor, ProcessorBuilder, Proxy, eventually};

/// systemd's end of the socket, and the datagrams that came.
struct Systemd {
    directory: TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Systemd {
    fn listen() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        // Few datagrams fit into the socket, and whoever sends one more waits. Ends with the tests.
        let read = move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                all.lock().unwrap().push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
        };
        thread::Builder::new().name("systemd".to_owned()).spawn(read).unwrap();
        Self { directory, heard }
    }

    /// As systemd would start it, with a watchdog that wants to be fed every 200 ms at least.
    fn start(&self, builder: ProcessorBuilder) -> Processor {
        let socket = self.directory.path().join("notify");
        builder.env("NOTIFY_SOCKET", socket.to_str().unwrap()).env("WATCHDOG_USEC", "400000").spawn()
    }

    fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// The next datagrams from the one with this number on, at least so many.
    fn listen_for(&self, from: usize, count: usize) -> Vec<String> {
        eventually("more datagrams", PATIENCE, || {
            let heard = self.heard.lock().unwrap();
            if heard.len() >= from + count { Ok(heard[from..].to_vec()) } else { Err(heard.len()) }
        })
    }

    /// The first datagram, of all that came or come, that has this.
    fn wait_for(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        self.wait_from(0, what, is_wanted)
    }

    /// The same from the datagram with this number on.
    fn wait_from(&self, from: usize, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, PATIENCE, || {
            let heard = self.heard.lock().unwrap();
            heard[from..]
                .iter()
                .find(|datagram| is_wanted(datagram))
                .cloned()
                .ok_or_else(|| heard.last().cloned())
        })
    }

    fn how_often(&self, line: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|datagram| has(datagram, line)).count()
    }
}

fn has(datagram: &str, line: &str) -> bool {
    datagram.lines().any(|found| found == line)
}

fn status(datagram: &str) -> &str {
    datagram.lines().find_map(|line| line.strip_prefix("STATUS=")).expect("each datagram has a status")
}

#[test]
fn a_server_that_is_away_is_waited_for_before_and_after_ready() {
    let case = Case::new(2);
    let (door, url) = Proxy::before_database(&case.database.test.url());
    let server = case.database.test.url().split_once('@').unwrap().1.rsplit_once('/').unwrap().0.to_owned();
    door.lead_to("");
    let systemd = Systemd::listen();
    // Of more writers one might first connect now, and say the same in its second attempt as in its first.
    let processor = systemd.start(case.processor().env("DATABASE_URL", &url).env("WRITER_THREADS", "1"));
    let starting = systemd.listen_for(0, 3);
    for datagram in &starting {
        assert!(has(datagram, "EXTEND_TIMEOUT_USEC=30000000"), "{datagram}");
        assert!(status(datagram).starts_with("Starting; "), "{datagram}");
    }
    systemd.wait_for("its reason", |datagram| {
        status(datagram).starts_with("Starting; waiting for the database: connecting to ")
    });
    assert_eq!(systemd.how_often("READY=1"), 0);

    door.lead_to(&server);
    systemd.wait_for("ready", |datagram| has(datagram, "READY=1"));
    processor.wait_for_line("assigned 2 partitions", PATIENCE);
    // Idle, and alive.
    let idle = systemd.listen_for(systemd.count(), 5);
    assert!(idle.iter().all(|datagram| has(datagram, "WATCHDOG=1")), "{idle:?}");
    systemd.wait_for("figures", |datagram| status(datagram).starts_with("0 messages/s, lag 0, 2 partitions"));
    case.generate(traffic(2_000, "0%"), BACKLOG);
    systemd.wait_for("a rate", |datagram| {
        let rate = status(datagram).split_once(" messages/s, lag ").and_then(|(rate, _)| rate.parse().ok());
        rate.is_some_and(|rate: u64| rate > 0)
    });

    case.wait_until_at_end();
    door.lead_to("");
    door.cut();
    case.produce(&[event("a", now_ms())]);
    processor.wait_for_line("attempt 2 to write", PATIENCE);
    systemd.wait_for("its lag", |datagram| status(datagram).contains("lag 1, 2 partitions"));
    let waiting = systemd.listen_for(systemd.count(), 5);
    assert!(waiting.iter().all(|datagram| has(datagram, "WATCHDOG=1")), "{waiting:?}");
    door.lead_to(&server);
    case.wait_until_at_end();
    assert_eq!(systemd.how_often("READY=1"), 1);
}

#[test]
fn whoever_has_not_joined_the_group_is_not_ready() {
    let case = Case::new(1);
    let systemd = Systemd::listen();
    // Nobody listens there.
    let _processor = systemd.start(case.processor().env("KAFKA_BROKERS", "127.0.0.1:1"));
    systemd.wait_for("its reason", |datagram| {
        status(datagram).starts_with("Starting; the group has not said yet which partitions are ours")
    });
    let waiting = systemd.listen_for(systemd.count(), 5);
    for datagram in &waiting {
        assert!(has(datagram, "EXTEND_TIMEOUT_USEC=30000000") && !has(datagram, "READY=1"), "{datagram}");
    }
}

#[test]
fn an_instance_without_partitions_is_ready_and_its_end_is_announced() {
    let case = Case::new(1);
    let (first, second) = (Systemd::listen(), Systemd::listen());
    let processors = [first.start(case.processor()), second.start(case.processor())];
    first.wait_for("the first is ready", |datagram| has(datagram, "READY=1"));
    second.wait_for("the second is ready", |datagram| has(datagram, "READY=1"));
    for mut processor in processors {
        processor.terminate();
        assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0), "{:?}", processor.lines());
    }
    for systemd in [&first, &second] {
        let last = systemd.wait_for("its end", |datagram| has(datagram, "STOPPING=1"));
        assert!(status(&last).starts_with("Stopping: "), "{last}");
        // DRAIN_TIMEOUT and a margin, less what has passed.
        let extension = last.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
        assert!((30_000_000..=40_000_000).contains(&extension.parse::<u64>().unwrap()), "{last}");
        assert_eq!(systemd.how_often("STOPPING=1"), 1);
    }
    let said = [&first, &second].map(|systemd| systemd.heard.lock().unwrap().join("\n"));
    assert!(said.iter().any(|all| all.contains("lag 0, 0 partitions")), "{said:?}");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_stage_that_is_stuck_stops_the_feeding() {
    thread::scope(|scope| {
        for (point, stage) in [
            ("after_issue", "poller"),
            ("after_dedup", "decoder-0"),
            ("after_commit", "writer-"),
            ("before_offset_commit", "committer"),
        ] {
            scope.spawn(move || hang_at(point, stage));
        }
    });
}

/// A thread stands still there, and the status names its stage.
#[cfg(feature = "failpoints")]
fn hang_at(point: &str, stage: &str) {
    let case = Case::new(1);
    let systemd = Systemd::listen();
    let hang = format!("{point}=1");
    let processor = systemd.start(case.processor().env("HANG_AT", &hang).env("STUCK_AFTER_MS", "3000"));
    systemd.wait_for("ready", |datagram| has(datagram, "READY=1"));
    case.produce(&[event("a", now_ms())]);
    processor.wait_for_line("hanging at", PATIENCE);
    // A busy machine may look stuck for a moment before.
    systemd.wait_from(systemd.count(), "hunger", |datagram| {
        !has(datagram, "WATCHDOG=1") && status(datagram).contains(&format!("; {stage}"))
    });
    let later = systemd.listen_for(systemd.count(), 3);
    assert!(!later.iter().any(|datagram| has(datagram, "WATCHDOG=1")), "{later:?}");
}
