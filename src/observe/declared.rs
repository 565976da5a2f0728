//! Every metric: name, type, labels and meaning, in the order in which they are listed in the README. Whatever is
//! exposed is declared here, and a test makes each of them move.

use prometheus::proto::MetricType;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// By the Prometheus conventions: `_total` for counters, base units.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// Bucket bounds of what takes from a millisecond to ten seconds: six a decade (the series E6), each about half as
/// much again as the one before, so that a quantile read from them is off by a fifth at most.
pub const LATENCY_BUCKETS: [f64; 25] = [
    0.001, 0.0015, 0.0022, 0.0033, 0.0047, 0.0068, 0.01, 0.015, 0.022, 0.033, 0.047, 0.068, 0.1, 0.15, 0.22,
    0.33, 0.47, 0.68, 1.0, 1.5, 2.2, 3.3, 4.7, 6.8, 10.0,
];

/// Of one transaction's parts: a COMMIT takes half a millisecond on a good disk, a COPY up to STATEMENT_TIMEOUT, a
/// minute by default.
pub const TRANSACTION_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// Rows of a transaction: BATCH_SIZE is 10,000 at most.
pub const ROW_BUCKETS: [f64; 12] =
    [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0, 10_000.0];

macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(#[doc = $help] pub const $constant: Metric = Metric {
            name: $name,
            kind: MetricType::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// All of them but `process_*`, which have the standard names and meanings.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    MESSAGES_CONSUMED: COUNTER "usage_messages_consumed_total" []
        "Messages read from Kafka and handed on: the sum of rows written, duplicates, dead letters, returned and in flight.";
    ROWS_WRITTEN: COUNTER "usage_rows_written_total" []
        "Rows inserted into usage_events.";
    DUPLICATES: COUNTER "usage_duplicates_total" ["found_by"]
        "Messages dropped as duplicates, by the dedup window in memory or by the database's unique key (redeliveries too).";
    DEAD_LETTERS: COUNTER "usage_dead_letters_total" ["reason"]
        "Messages stored as dead letters, by reason.";
    MESSAGES_RETURNED: COUNTER "usage_messages_returned_total" []
        "Messages not durable when their partition was given away: its next owner reads them again.";
    MESSAGES_IN_FLIGHT: GAUGE "usage_messages_in_flight" []
        "Messages handed on and not yet durable.";
    LATE_SPANS: COUNTER "usage_late_spans_total" []
        "Spans of offsets that became durable after their partition was given away.";
    LATE_EVENTS: COUNTER "usage_late_events_total" []
        "Accepted events whose time is an hour or more before their Kafka timestamp.";
    BATCH_ROWS: HISTOGRAM "usage_batch_rows" []
        "Rows of the batches handed to writers, one transaction each.";
    BATCHES: COUNTER "usage_batches_total" ["reason"]
        "Batches handed to writers, by why they left: a writer was free, the batch was full, BATCH_TIMEOUT, or the end.";
    QUEUE_LENGTH: GAUGE "usage_queue_length" ["queue"]
        "Batches (of progress: reports) waiting in a queue between two stages.";
    QUEUE_CAPACITY: GAUGE "usage_queue_capacity" ["queue"]
        "How many fit into the queue.";
    STAGE_SECONDS: COUNTER "usage_stage_seconds_total" ["thread", "activity"]
        "Seconds that a stage's thread was at work, starved of input, blocked by the next stage, or retrying.";
    DEAD_STAGES: GAUGE "usage_dead_stages" []
        "Stages that have failed: the process is stopping.";
    COPY_DURATION: HISTOGRAM "usage_copy_duration_seconds" []
        "Seconds of a transaction up to its COMMIT: ledger, COPY, dead letters. Of the attempt that succeeded.";
    COMMIT_DURATION: HISTOGRAM "usage_commit_duration_seconds" []
        "Seconds that a transaction's COMMIT took.";
    DURABLE_LATENCY: HISTOGRAM "usage_durable_latency_seconds" []
        "Seconds from each event's Kafka timestamp until it was durable.";
    WATERMARK: GAUGE "usage_partition_watermark_offset" ["partition"]
        "The offset below which everything is durable.";
    COMMITTED: GAUGE "usage_partition_committed_offset" ["partition"]
        "The offset that Kafka has confirmed as committed.";
    HIGH_WATER_MARK: GAUGE "usage_partition_high_water_mark_offset" ["partition"]
        "The end of the partition's log.";
    LOW_WATER_MARK: GAUGE "usage_partition_low_water_mark_offset" ["partition"]
        "The oldest offset that Kafka still has: what retention deletes before it is read is lost.";
    PARTITION_LAG: GAUGE "usage_partition_lag_messages" ["partition"]
        "Offsets between the watermark and the end of the log.";
    LAG: GAUGE "usage_lag_messages" []
        "The lag of all assigned partitions.";
    ASSIGNED: GAUGE "usage_assigned_partitions" []
        "Partitions assigned to this instance.";
    REBALANCES: COUNTER "usage_rebalances_total" []
        "Assignments and revocations by the group.";
    PAUSED: GAUGE "usage_paused_partitions" []
        "Partitions that are not read since the pipeline is full.";
    PAUSES: COUNTER "usage_pauses_total" []
        "Times that reading was paused since the pipeline was full for a second.";
    WRITE_RETRIES: COUNTER "usage_write_retries_total" ["sqlstate_class"]
        "Failed attempts to write a batch, each tried again, by the class of the SQLSTATE; none: no answer from the server.";
    WRITE_RETRYING: GAUGE "usage_write_retrying_seconds" []
        "For how long the batch that has been retried longest has been so; 0: none is.";
    RECONNECTS: COUNTER "usage_database_reconnects_total" []
        "Sessions that writers have opened anew.";
    DATABASE_UP: GAUGE "usage_database_up" []
        "1 if the last attempt to reach the database succeeded, by a writer or by whoever asks for its figures.";
    WATERMARK_STUCK: GAUGE "usage_watermark_stuck_seconds" []
        "Seconds since any watermark moved while messages are in flight; 0: none are.";
    DEDUP_ENTRIES: GAUGE "usage_dedup_entries" []
        "Copies of events remembered in the dedup windows.";
    DEDUP_ENTRIES_MAX: GAUGE "usage_dedup_entries_max" []
        "How many may be (DEDUP_MAX_ENTRIES).";
    DEDUP_BYTES: GAUGE "usage_dedup_bytes" []
        "Bytes allocated for the dedup windows.";
    DEDUP_EVICTIONS: COUNTER "usage_dedup_evictions_total" []
        "Identities that left the windows before their time, since DEDUP_MAX_ENTRIES was reached.";
    DEDUP_OLDEST: GAUGE "usage_dedup_oldest_seconds" []
        "How far before its partition's latest message the oldest copy remembered lies.";
    BUILD_INFO: GAUGE "usage_build_info" ["version", "commit"]
        "Always 1.";
    BROKERS_UP: GAUGE "usage_kafka_brokers_up" []
        "Brokers connected.";
    FETCH_QUEUE_MESSAGES: GAUGE "usage_kafka_fetch_queue_messages" []
        "Messages fetched by librdkafka and not polled yet.";
    FETCH_QUEUE_BYTES: GAUGE "usage_kafka_fetch_queue_bytes" []
        "Their bytes.";
    BROKER_RTT: GAUGE "usage_kafka_broker_rtt_seconds" ["broker"]
        "Mean round trip of the requests to a broker within the last second that had any.";
    KAFKA_RECEIVED_BYTES: COUNTER "usage_kafka_received_bytes_total" []
        "Bytes received from brokers.";
    KAFKA_RECEIVED_MESSAGES: COUNTER "usage_kafka_received_messages_total" []
        "Messages received from brokers, those that are thrown away by a pause too.";
    KAFKA_REQUEST_ERRORS: COUNTER "usage_kafka_request_errors_total" []
        "Errors that the Kafka client has reported: connections refused or lost, requests timed out or refused.";
    TABLE_BYTES: GAUGE "usage_database_table_bytes" []
        "Bytes of usage_events with its indexes.";
    CHUNKS: GAUGE "usage_database_chunks" []
        "Chunks (or partitions, without TimescaleDB) of usage_events.";
    UNCOMPRESSED_CHUNKS: GAUGE "usage_database_uncompressed_chunks_past_due" []
        "Chunks that the compression policy should have compressed a day ago or earlier.";
    JOB_FAILURES: COUNTER "usage_database_job_failures_total" []
        "Failures of TimescaleDB's jobs on usage_events, maintenance included.";
    FOLDED_UNTIL: GAUGE "usage_database_folded_until_timestamp_seconds" []
        "The figures hold every event before this time: their last refresh.";
    OLDEST_UNFOLDED: GAUGE "usage_database_oldest_unfolded_timestamp_seconds" []
        "From when on there are events that are not in the figures yet and are read one by one; 0: none wait.";
    RETAINED_SINCE: GAUGE "usage_database_retained_since_timestamp_seconds" []
        "Events before this time are refused: their rows are dropped.";
    LAST_ASKED: GAUGE "usage_database_last_asked_timestamp_seconds" []
        "When the database last answered all questions of which the other usage_database_ figures are the answers.";
    CERTIFICATE_EXPIRY: GAUGE "usage_certificate_expiry_timestamp_seconds" ["certificate"]
        "When a certificate in use is no longer valid.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Metric { name, kind, help, .. } in ALL {
            assert!(name.starts_with("usage_") && help.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricType::COUNTER, "{name}");
        }
    }
}
