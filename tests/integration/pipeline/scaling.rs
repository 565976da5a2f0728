//! Instances of one group: how they share the partitions, and how they stop and start without disturbing each other.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::thread;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use usage_processor::generate::{Share, Traffic};
use usage_processor::kafka_group::member_count;

use super::{Case, PATIENCE, event, generate, now_ms, steady, traffic};
use crate::support::{Processor, Record, SERVER_TIMEOUT, eventually};

/// As many as a topic usually has.
const PARTITIONS: i32 = 16;
/// Sixteen processes start on two cores: seconds each, one after the other.
const CROWD_PATIENCE: Duration = Duration::from_secs(180);

/// An idle one is small; `id` makes it a static member, whose session outlives the slowest restart.
fn spawn(case: &Case, id: Option<&str>) -> Processor {
    let builder = case.processor().env("WRITER_THREADS", "1").env("STATS_INTERVAL", "1h");
    let Some(id) = id else { return builder.spawn() };
    builder.env("KAFKA_GROUP_INSTANCE_ID", id).env("KAFKA_OPTIONS", "session.timeout.ms=120000").spawn()
}

/// The partitions that a process has by its log.
fn owned(processor: &Processor) -> BTreeSet<i32> {
    let mut owned = BTreeSet::new();
    for line in processor.lines() {
        if let Some((_, list)) = line.split_once(" partitions: ") {
            let list = list.split(';').next().unwrap_or_default();
            owned.extend(list.split(", ").map(|position| {
                position
                    .split(' ')
                    .next()
                    .and_then(|partition| partition.parse::<i32>().ok())
                    .expect("a partition")
            }));
        } else if let Some((_, list)) =
            line.split_once("revoked partitions [").or_else(|| line.split_once("lost partitions ["))
        {
            for partition in list.split(']').next().unwrap_or_default().split(", ") {
                owned.remove(&partition.parse().expect("a partition"));
            }
        }
    }
    owned
}

/// Lines that tell of partitions that come and go.
fn moves(processor: &Processor) -> usize {
    let tells = |line: &&String| {
        [" partitions: ", "revoked partitions [", "lost partitions ["].iter().any(|part| line.contains(part))
    };
    processor.lines().iter().filter(tells).count()
}

/// Returns when the partitions lie with the processes, as many with each as with any other, but for one.
#[track_caller]
fn wait_until_shared(processors: &[Processor], partition_count: i32) {
    eventually("the partitions are shared", CROWD_PATIENCE, || {
        let shares: Vec<_> = processors.iter().map(owned).collect();
        let all: Vec<_> = shares.iter().flatten().collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        let sizes = || shares.iter().map(BTreeSet::len);
        let is_even = sizes().max().unwrap() - sizes().min().unwrap() <= 1;
        let is_whole = i32::try_from(all.len()) == Ok(partition_count) && distinct.len() == all.len();
        if is_even && is_whole { Ok(()) } else { Err(shares) }
    });
}

/// An event into each partition.
fn fill(case: &Case, round: &str, partition_count: i32) {
    let payloads: Vec<_> = (0..partition_count).map(|n| event(&format!("{round}-{n}"), now_ms())).collect();
    let records: Vec<_> =
        payloads.iter().zip(0..).map(|(payload, n)| Record::new("k", payload.as_bytes()).to(n)).collect();
    case.topic.produce(&records);
}

#[track_caller]
fn stop(mut processor: Processor) {
    processor.terminate();
    assert_eq!(processor.wait_exit(PATIENCE).code(), Some(0));
}

fn members(case: &Case) -> usize {
    let mut client = ClientConfig::new();
    let client = client.set("bootstrap.servers", case.topic.brokers()).set("group.id", &case.group);
    let consumer: BaseConsumer = client.create().unwrap();
    member_count(&consumer, &case.group, SERVER_TIMEOUT).unwrap()
}

#[test]
fn a_static_member_that_restarts_in_time_moves_nothing() {
    let case = Case::new(4);
    let mut pair = vec![spawn(&case, Some("a")), spawn(&case, Some("b"))];
    wait_until_shared(&pair, 4);
    let (other, mut restarted) = (pair.pop().unwrap(), pair.pop().unwrap());
    let (share, moves_before) = (owned(&restarted), moves(&other));
    for is_killed in [true, false, true] {
        if is_killed {
            restarted.kill();
            restarted.wait_exit(PATIENCE);
        } else {
            stop(restarted);
        }
        assert_eq!(members(&case), 2, "it has not left");
        fill(&case, &format!("while-away-{is_killed}"), 4);
        restarted = spawn(&case, Some("a"));
        restarted.wait_for_line("assigned 2 partitions", PATIENCE);
        assert_eq!(owned(&restarted), share, "its own");
        case.wait_until_at_end();
    }
    assert_eq!(moves(&other), moves_before, "the other one has noticed: {:?}", other.lines());
    // `while-away-true` came twice.
    assert_eq!(case.rows(), 8);
}

#[test]
fn of_two_instances_with_one_name_the_first_gives_way_and_says_why() {
    let case = Case::new(2);
    let mut first = spawn(&case, Some("same"));
    first.wait_for_line("assigned 2 partitions", PATIENCE);
    let second = spawn(&case, Some("same"));
    assert_eq!(first.wait_exit(PATIENCE).code(), Some(3), "{:?}", first.lines());
    first.wait_for_line(
        "as same, which is this one's KAFKA_GROUP_INSTANCE_ID: each instance needs its own",
        PATIENCE,
    );
    second.wait_for_line("assigned 2 partitions", PATIENCE);
    fill(&case, "after", 2);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 2);
    assert_eq!(members(&case), 1);
}

#[test]
fn two_four_and_sixteen_instances_share_and_the_seventeenth_stands_by() {
    let case = Case::new(PARTITIONS);
    let mut processors = Vec::new();
    for count in [2, 4, 16] {
        processors.extend((processors.len()..count).map(|_| spawn(&case, None)));
        wait_until_shared(&processors, PARTITIONS);
        fill(&case, &format!("of-{count}"), PARTITIONS);
        case.wait_until_at_end();
    }
    assert_eq!(case.rows(), 48);
    let seventeenth = spawn(&case, None);
    let line = seventeenth.wait_for_line("no partition for this instance", CROWD_PATIENCE);
    let expected = format!(
        "{} has 16 and group {} has 17 members; it stands by until one of them leaves",
        case.topic.name(),
        case.group
    );
    assert!(line.contains(" WARN ") && line.contains(&expected), "{line}");
    assert_eq!(
        processors.iter().map(|p| p.lines().join("\n").matches("no partition").count()).sum::<usize>(),
        0
    );
    stop(processors.pop().unwrap());
    processors.push(seventeenth);
    wait_until_shared(&processors, PARTITIONS);
    fill(&case, "of-17", PARTITIONS);
    case.wait_until_at_end();
    assert_eq!(case.rows(), 64);
    processors.iter().for_each(Processor::terminate);
    for mut processor in processors {
        assert_eq!(processor.wait_exit(CROWD_PATIENCE).code(), Some(0), "{:?}", processor.lines());
    }
}

/// What a rolling restart was measured to be.
struct Rolled {
    /// From an event's due time to its row's COMMIT, at most.
    longest_wait_ms: i64,
    /// Between two COMMITs in a row, at most: all partitions together.
    longest_gap_ms: i64,
    /// Assignments of single partitions after the first ones.
    moves: usize,
}

/// Restarts four instances one after the other while events come steadily: none is lost, none is there twice.
fn roll(is_static: bool) -> Rolled {
    const INSTANCES: usize = 4;
    let rate =
        std::env::var("ROLLING_RESTART_RATE").map_or(500, |rate| rate.parse().expect("events a second"));
    let mut case = Case::new(PARTITIONS);
    let id = |idx: usize| format!("instance-{idx}");
    let start = |idx: usize| spawn(&case, is_static.then(|| id(idx)).as_deref());
    let mut processors: Vec<_> = (0..INSTANCES).map(start).collect();
    wait_until_shared(&processors, PARTITIONS);
    let assigned = |processors: &[Processor]| processors.iter().map(assignments).sum::<usize>();
    let first = assigned(&processors);
    let mut ended = 0;
    let traffic = Traffic { late: Share::NONE, ..traffic(u64::from(rate) * 24, "100%") };
    let truth = thread::scope(|scope| {
        let topic = &case.topic;
        let generator = scope.spawn(|| generate(topic, traffic, steady(rate)));
        for idx in 0..INSTANCES {
            thread::sleep(Duration::from_secs(2));
            processors[idx].terminate();
            assert_eq!(processors[idx].wait_exit(PATIENCE).code(), Some(0), "{:?}", processors[idx].lines());
            ended += assignments(&processors[idx]);
            processors[idx] = start(idx);
            wait_until_shared(&processors, PARTITIONS);
        }
        generator.join().unwrap()
    });
    case.wait_until_at_end();
    let moves = assigned(&processors) + ended - first;
    drop(processors);
    case.assert_truth(&truth);
    let mut milliseconds = |sql: &str| -> i64 { case.database.text(sql).parse().unwrap() };
    Rolled {
        longest_wait_ms: milliseconds(
            "SELECT round(extract(epoch FROM max(pg_xact_commit_timestamp(xmin) - time)) * 1000)::text FROM usage_events",
        ),
        longest_gap_ms: milliseconds(
            "SELECT round(extract(epoch FROM max(gap)) * 1000)::text
               FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap
                       FROM (SELECT DISTINCT pg_xact_commit_timestamp(xmin) AS at FROM usage_events) AS commits) AS gaps",
        ),
        moves,
    }
}

/// How many partitions a process was given, each time counted.
fn assignments(processor: &Processor) -> usize {
    let count = |line: &String| -> usize {
        let (_, rest) = line.split_once(" assigned ").unwrap_or_default();
        rest.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    processor.lines().iter().map(count).sum()
}

/// Says what was measured, and adds a line to the file that `make rolling-restart` names.
fn report(kind: &str, rolled: &Rolled) {
    let Rolled { longest_wait_ms, longest_gap_ms, moves } = rolled;
    let line = format!("| {kind} | {longest_wait_ms} | {longest_gap_ms} | {moves} |");
    eprintln!("{line}");
    if let Ok(path) = std::env::var("ROLLING_RESTART_REPORT") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

#[test]
fn a_rolling_restart_of_static_members_loses_nothing_and_moves_nothing() {
    let rolled = roll(true);
    report("static", &rolled);
    assert_eq!(rolled.moves, 16, "each instance has its own partitions back");
}

#[test]
fn a_rolling_restart_without_names_loses_nothing() {
    let rolled = roll(false);
    report("dynamic", &rolled);
    assert!(rolled.moves >= 16);
}
