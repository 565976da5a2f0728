//! The status, put together from the instruments when somebody asks for it.

use std::time::Duration;

use super::activity::Activity;
use super::database::SILENT_AFTER;
use super::instruments::Instruments;
use super::observer::Recent;
use crate::cli::VERSION;
use crate::clock;
use crate::commit::tally::Tally;
use crate::decode::dedup::DedupBudget;
use crate::health::Health;
use crate::status::{
    DatabaseStatus, DedupStatus, KafkaStatus, QueueStatus, Rates, ReasonCount, StageStatus, Status, Totals,
};
use crate::usage_event::RejectReason;

/// All of it.
pub(super) fn status(instruments: &Instruments, health: &Health) -> Status {
    let tally = instruments.board.snapshot();
    let (recent, latency) = {
        let history = instruments.history.lock();
        (history.recent(), history.latency())
    };
    Status {
        version: VERSION.to_owned(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        now_ms: clock::now_ms(),
        uptime_s: instruments.started_at.elapsed().as_secs(),
        alive: health.liveness(),
        ready: health.readiness(),
        totals: totals(&tally),
        rates: rates(&recent),
        stages: stages(instruments, &recent),
        queues: instruments
            .queues()
            .map(|queue| {
                let (length, capacity) = queue.seen();
                QueueStatus { name: queue.name.clone(), length, capacity }
            })
            .collect(),
        partitions: instruments.board.partitions(),
        latency,
        dedup: dedup(instruments),
        dead_letters: reasons(&tally),
        last_dead_letters: instruments
            .writers
            .first()
            .map(|writer| writer.counters.last_letters())
            .unwrap_or_default(),
        kafka: kafka(instruments),
        database: database(instruments),
        settings: instruments.identity.settings.clone(),
    }
}

fn totals(tally: &Tally) -> Totals {
    Totals {
        messages: tally.messages,
        written: tally.written,
        memory_duplicates: tally.duplicates,
        database_duplicates: tally.database_duplicates,
        dead_letters: tally.dead_letters,
        returned: tally.returned,
        in_flight: tally.in_flight(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn per_second(count: u64, recent: &Recent) -> f64 {
    if recent.seconds > 0.0 { count as f64 / recent.seconds } else { 0.0 }
}

fn rates(recent: &Recent) -> Rates {
    Rates {
        messages: per_second(recent.tally.messages, recent),
        written: per_second(recent.tally.written, recent),
        duplicates: per_second(recent.tally.all_duplicates(), recent),
        dead_letters: per_second(recent.tally.dead_letters, recent),
    }
}

#[expect(clippy::cast_precision_loss, reason = "parts for people to read")]
fn stages(instruments: &Instruments, recent: &Recent) -> Vec<StageStatus> {
    let all = instruments.stages().into_iter().zip(recent.nanos);
    all.map(|((name, threads), nanos)| {
        let available = (recent.seconds * 1e9 * threads.len() as f64).max(1.0);
        let part = |activity: Activity| (nanos[activity as usize] as f64 / available).min(1.0);
        StageStatus {
            name: name.to_owned(),
            threads: u32::try_from(threads.len()).unwrap_or(u32::MAX),
            rate: match name {
                "poller" | "decoders" => per_second(recent.tally.messages, recent),
                "writers" => per_second(recent.tally.written, recent),
                _ => 0.0,
            },
            working: part(Activity::Working),
            starved: part(Activity::Starved),
            blocked: part(Activity::Blocked),
            retrying: part(Activity::Retrying),
        }
    })
    .collect()
}

fn dedup(instruments: &Instruments) -> DedupStatus {
    let sum = |value: fn(&DedupBudget) -> usize| instruments.budgets.iter().map(value).sum::<usize>() as u64;
    DedupStatus {
        entries: sum(DedupBudget::record_count),
        entries_max: instruments.identity.dedup_entries_max as u64,
        bytes: sum(DedupBudget::bytes),
        evictions: sum(DedupBudget::evictions),
    }
}

fn reasons(tally: &Tally) -> Vec<ReasonCount> {
    let all = RejectReason::ALL.iter().zip(tally.by_reason).filter(|(_, count)| *count > 0);
    let mut reasons: Vec<_> =
        all.map(|(reason, count)| ReasonCount { reason: reason.as_str().to_owned(), count }).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    reasons
}

fn kafka(instruments: &Instruments) -> KafkaStatus {
    let (identity, poll) = (&instruments.identity, &instruments.poll);
    let figures = poll.kafka();
    KafkaStatus {
        brokers: identity.kafka_brokers.clone(),
        topic: identity.kafka_topic.clone(),
        group: identity.kafka_group_id.clone(),
        brokers_up: figures.brokers_up,
        brokers_known: figures.brokers_known,
        has_joined: poll.has_joined(),
        rebalances: poll.rebalances(),
        is_paused: poll.pauses().0 > 0,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
fn database(instruments: &Instruments) -> DatabaseStatus {
    let figures = instruments.database.lock().clone();
    let batches = instruments.writers.iter().filter_map(|writer| writer.batch.trouble());
    let trouble = instruments.reach.trouble().or_else(|| batches.min_by_key(|trouble| trouble.since));
    let counters = instruments.writers.first().map(|writer| &writer.counters);
    let is_reachable = is_database_up(instruments);
    let silent_since_ms = || {
        let silent = figures.waiting_since?.elapsed().as_millis();
        Some(clock::now_ms().saturating_sub(i64::try_from(silent).unwrap_or(i64::MAX)))
    };
    let since_ms = trouble.as_ref().map(|trouble| trouble.since_ms).or_else(silent_since_ms);
    DatabaseStatus {
        target: instruments.identity.database.clone(),
        server: instruments.identity.server.get().cloned().unwrap_or_default(),
        is_reachable,
        unreachable_since_ms: since_ms.filter(|_| !is_reachable),
        last_error: trouble.map(|trouble| trouble.describe()),
        retries: counters.map_or(0, |counters| counters.retry_count()),
        reconnects: counters.map_or(0, |counters| counters.reconnects.get()),
        folded_until_ms: figures.folded_until.map(|seconds| (seconds * 1e3) as i64),
        table_bytes: figures.table_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// Whether the last attempt to reach the database succeeded, and none is left without an answer.
pub(super) fn is_database_up(instruments: &Instruments) -> bool {
    let waited = instruments.database.lock().waiting_since.map_or(Duration::ZERO, |since| since.elapsed());
    instruments.waits_for().is_none() && instruments.reach.trouble().is_none() && waited <= SILENT_AFTER
}
