//! Three processes, for tests and to look at: one without traffic, one under load, one whose database is away.

use super::*;

/// 2026-11-24T07:15:02Z.
pub(super) const NOW_MS: i64 = 1_795_504_502_000;

/// All three, by name.
pub(super) fn all() -> [(&'static str, Status); 3] {
    [("idle", idle()), ("loaded", loaded()), ("broken", broken())]
}

/// With this at the end of every text, as a stranger might have written it.
pub(super) fn spoilt(status: &Status, by: &str) -> Status {
    fn spoil(value: &mut serde_json::Value, by: &str) {
        match value {
            serde_json::Value::String(text) => text.push_str(by),
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| spoil(value, by)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|value| spoil(value, by)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(status).unwrap();
    spoil(&mut value, by);
    serde_json::from_value(value).unwrap()
}

/// Joined and ready; nothing was ever sent.
pub(super) fn idle() -> Status {
    let starved = |name: &str, threads| StageStatus {
        name: name.to_owned(),
        threads,
        rate: 0.0,
        working: 0.001,
        starved: 0.999,
        blocked: 0.0,
        retrying: 0.0,
    };
    Status {
        version: "0.1.0 (586f667)".to_owned(),
        host: "billing-1.example".to_owned(),
        now_ms: NOW_MS,
        uptime_s: 62,
        alive: Verdict { is_ok: true, reasons: vec!["idle: nothing to read".to_owned()] },
        ready: Verdict { is_ok: true, reasons: vec![] },
        totals: Totals::default(),
        rates: Rates::default(),
        stages: vec![
            starved("poller", 1),
            starved("decoders", 2),
            starved("writers", 4),
            starved("committer", 1),
        ],
        queues: queues([0, 0], 0),
        partitions: (0..16).map(|number| partition(number, 0, 0)).collect(),
        latency: vec![],
        dedup: DedupStatus { entries: 0, entries_max: 4_000_000, bytes: 262_144, evictions: 0 },
        dead_letters: vec![],
        last_dead_letters: vec![],
        kafka: KafkaStatus {
            brokers: "kafka-1.example:9092,kafka-2.example:9092,kafka-3.example:9092".to_owned(),
            topic: "usage-events".to_owned(),
            group: "usage-processor-group".to_owned(),
            brokers_up: 3,
            brokers_known: 3,
            has_joined: true,
            rebalances: 1,
            is_paused: false,
        },
        database: DatabaseStatus {
            target: "usage at db.example:5432 as usage_processor".to_owned(),
            server: "TimescaleDB 2.28.3 on PostgreSQL 15.20".to_owned(),
            is_reachable: true,
            unreachable_since_ms: None,
            last_error: None,
            retries: 0,
            reconnects: 0,
            folded_until_ms: Some(NOW_MS - 6_000),
            table_bytes: Some(1_204_224),
        },
        settings: settings(),
    }
}

/// A good hour: 12,000 messages a second, some duplicates and dead letters, and a pause in the middle.
pub(crate) fn loaded() -> Status {
    let stage = |name: &str, threads, rate, working, blocked| StageStatus {
        name: name.to_owned(),
        threads,
        rate,
        working,
        starved: 1.0 - working - blocked,
        blocked,
        retrying: 0.0,
    };
    let in_flight = 4_211;
    let (written, memory_duplicates, database_duplicates, dead_letters, returned) =
        (43_180_377, 1_204_118, 388, 21_502, 12_000);
    Status {
        uptime_s: 446_400,
        alive: Verdict { is_ok: true, reasons: vec![] },
        totals: Totals {
            messages: written + memory_duplicates + database_duplicates + dead_letters + returned + in_flight,
            written,
            memory_duplicates,
            database_duplicates,
            dead_letters,
            returned,
            in_flight,
        },
        rates: Rates { messages: 12_340.2, written: 12_010.7, duplicates: 322.4, dead_letters: 4.1 },
        stages: vec![
            stage("poller", 1, 12_340.2, 0.31, 0.02),
            stage("decoders", 2, 12_338.0, 0.44, 0.0),
            stage("writers", 4, 12_010.7, 0.72, 0.0),
            stage("committer", 1, 0.0, 0.03, 0.0),
        ],
        queues: queues([3, 1], 14),
        partitions: (0..16)
            .map(|number| partition(number, 2_830_114, 40 + 61 * u64::from(number.unsigned_abs()) % 700))
            .collect(),
        latency: (0..90).filter(|point| !(40..46).contains(point)).map(point).collect(),
        dedup: DedupStatus { entries: 3_612_004, entries_max: 4_000_000, bytes: 166_152_184, evictions: 0 },
        dead_letters: reasons(),
        last_dead_letters: vec![
            letter(3_000, 4, "invalid_json", "expected `,` or `}` at byte 118 of 240"),
            letter(5_000, 11, "missing_field", "organization_id"),
            letter(
                62_000,
                4,
                "too_old",
                "2026-05-01T00:00:00Z is 207 days before its Kafka timestamp, and 90 days are allowed",
            ),
        ],
        database: DatabaseStatus {
            reconnects: 2,
            retries: 3,
            table_bytes: Some(48_318_382_080),
            ..idle().database
        },
        kafka: KafkaStatus { rebalances: 4, ..idle().kafka },
        ..idle()
    }
}

/// The database went away 84 seconds ago.
pub(super) fn broken() -> Status {
    let loaded = loaded();
    let stage = |name: &str, threads, shares: [f64; 4]| StageStatus {
        name: name.to_owned(),
        threads,
        rate: 0.0,
        working: shares[0],
        starved: shares[1],
        blocked: shares[2],
        retrying: shares[3],
    };
    let error = "connecting to db.example:5432: Connection refused (os error 111)";
    Status {
        alive: Verdict {
            is_ok: true,
            reasons: vec!["waiting for the database, which is no reason to restart".to_owned()],
        },
        ready: Verdict {
            is_ok: false,
            reasons: vec![format!("the database has not been reached for 84 s: {error}")],
        },
        rates: Rates::default(),
        stages: vec![
            stage("poller", 1, [0.01, 0.0, 0.99, 0.0]),
            stage("decoders", 2, [0.0, 0.0, 1.0, 0.0]),
            stage("writers", 4, [0.004, 0.0, 0.0, 0.996]),
            stage("committer", 1, [0.0, 1.0, 0.0, 0.0]),
        ],
        queues: queues([8, 8], 0),
        partitions: loaded
            .partitions
            .iter()
            .map(|of| partition(of.partition, of.watermark, 64_000 + 40 * of.lag))
            .collect(),
        latency: loaded.latency.iter().copied().filter(|point| point.at_ms < NOW_MS - 84_000).collect(),
        kafka: KafkaStatus { is_paused: true, ..loaded.kafka },
        database: DatabaseStatus {
            is_reachable: false,
            unreachable_since_ms: Some(NOW_MS - 84_000),
            last_error: Some(error.to_owned()),
            retries: 57,
            folded_until_ms: Some(NOW_MS - 91_000),
            ..loaded.database
        },
        ..loaded
    }
}

fn queues(decoders: [u64; 2], progress: u64) -> Vec<QueueStatus> {
    let queue = |name: &str, length, capacity| QueueStatus { name: name.to_owned(), length, capacity };
    vec![
        queue("decoder-0", decoders[0], 8),
        queue("decoder-1", decoders[1], 8),
        queue("progress", progress, 1_024),
    ]
}

fn partition(partition: Partition, watermark: Offset, lag: u64) -> PartitionStatus {
    let end = watermark + Offset::try_from(lag).unwrap();
    PartitionStatus {
        partition,
        watermark,
        committed: Some(watermark - watermark.min(900)),
        high_water_mark: Some(end),
        low_water_mark: Some(0),
        lag,
    }
}

fn reasons() -> Vec<ReasonCount> {
    [("invalid_json", 15_210), ("missing_field", 4_127), ("too_old", 1_733), ("conflict", 432)]
        .map(|(reason, count)| ReasonCount { reason: reason.to_owned(), count })
        .into()
}

/// Number `n` of the last 90, with a stall of seconds shortly after the gap.
fn point(n: i64) -> LatencyPoint {
    let wave = u64::try_from((n * 37) % 23).unwrap();
    let stall = if (46..49).contains(&n) { 40 } else { 1 };
    LatencyPoint {
        at_ms: NOW_MS - (89 - n) * 10_000 - 1_500,
        percentiles: Percentiles {
            count: 120_000 + 100 * wave,
            p50_micros: (17_200 + 120 * wave) * stall.min(6),
            p99_micros: (33_500 + 900 * wave) * stall.min(20),
            p999_micros: (58_000 + 4_100 * wave) * stall,
        },
    }
}

fn letter(ago_ms: i64, partition: Partition, reason: &str, detail: &str) -> LastDeadLetter {
    LastDeadLetter {
        at_ms: NOW_MS - ago_ms,
        partition,
        offset: 2_829_900 - ago_ms,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
    }
}

fn settings() -> Vec<Setting> {
    [
        ("KAFKA_BROKERS", "kafka-1.example:9092,kafka-2.example:9092,kafka-3.example:9092"),
        ("KAFKA_TOPIC", "usage-events"),
        ("KAFKA_GROUP_ID", "usage-processor-group"),
        ("DATABASE_URL", "usage at db.example:5432 as usage_processor"),
        ("BATCH_SIZE", "10000"),
        ("DEDUP_WINDOW", "5m"),
        ("  sasl.password", "(secret)  (KAFKA_OPTIONS)"),
    ]
    .map(|(name, value)| Setting { name: name.to_owned(), value: value.to_owned() })
    .into()
}
