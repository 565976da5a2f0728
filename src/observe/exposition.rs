//! The metrics as Prometheus reads them, put together at each scrape. The library does the text; the values are
//! read from the instruments, those that must agree from one snapshot of the books.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Sample, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use super::activity::Activity;
use super::declared::{self as metric, LATENCY_BUCKETS, Metric};
use super::instruments::Instruments;
use crate::latency::Stage;
use crate::status::PartitionStatus;
use crate::usage_event::RejectReason;

/// All metrics, in the text format.
pub(super) fn text(instruments: &Instruments) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = Families::default();
    families.books(instruments);
    families.batches(instruments);
    families.stages(instruments);
    families.partitions(instruments);
    families.writing(instruments);
    families.dedup(instruments);
    families.kafka(instruments);
    families.database(instruments);
    families.gauge(&metric::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), env!("USAGE_PROCESSOR_COMMIT")], 1.0);
    for (name, seconds) in (instruments.certificates.0)() {
        families.gauge(&metric::CERTIFICATE_EXPIRY, &[&name], float(seconds));
    }
    families.0.extend(ProcessCollector::for_self().collect());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families.0, &mut text)?;
    Ok(text)
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counter(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(float(value));
        self.sample(metric, labels, |sample| sample.set_counter(counter));
    }

    fn seconds_counter(&mut self, metric: &Metric, labels: &[&str], nanos: u64) {
        let mut counter = Counter::default();
        counter.set_value(float(nanos) / 1e9);
        self.sample(metric, labels, |sample| sample.set_counter(counter));
    }

    fn gauge(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.sample(metric, labels, |sample| sample.set_gauge(gauge));
    }

    fn count(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        self.gauge(metric, labels, float(value));
    }

    /// Samples of a metric come one after the other.
    fn sample(&mut self, metric: &Metric, labels: &[&str], set: impl FnOnce(&mut Sample)) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let labels = metric.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut sample = Sample::from_label(labels.collect());
        set(&mut sample);
        if self.0.last().is_none_or(|last| last.name() != metric.name) {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(metric.kind);
            self.0.push(family);
        }
        if let Some(family) = self.0.last_mut() {
            family.mut_metric().push(sample);
        }
    }

    fn books(&mut self, instruments: &Instruments) {
        let tally = instruments.board.snapshot();
        self.counter(&metric::MESSAGES_CONSUMED, &[], tally.messages);
        self.counter(&metric::ROWS_WRITTEN, &[], tally.written);
        self.counter(&metric::DUPLICATES, &["memory"], tally.duplicates);
        self.counter(&metric::DUPLICATES, &["database"], tally.database_duplicates);
        for reason in RejectReason::ALL {
            self.counter(&metric::DEAD_LETTERS, &[reason.as_str()], tally.by_reason[reason as usize]);
        }
        self.counter(&metric::MESSAGES_RETURNED, &[], tally.returned);
        self.count(&metric::MESSAGES_IN_FLIGHT, &[], tally.in_flight());
        self.counter(&metric::LATE_SPANS, &[], tally.late_spans);
        self.count(&metric::LAG, &[], tally.lag);
    }

    fn batches(&mut self, instruments: &Instruments) {
        if let Some(decoder) = instruments.decoders.first() {
            let counters = &decoder.counters;
            self.counter(&metric::LATE_EVENTS, &[], counters.late_events.get());
            self.0.extend(counters.batch_rows.collect());
            for (reason, count) in counters.batches() {
                self.counter(&metric::BATCHES, &[reason], count);
            }
        }
        for queue in instruments.queues() {
            self.count(&metric::QUEUE_LENGTH, &[&queue.name], queue.seen().0);
        }
        for queue in instruments.queues() {
            self.count(&metric::QUEUE_CAPACITY, &[&queue.name], queue.seen().1);
        }
    }

    fn stages(&mut self, instruments: &Instruments) {
        for thread in instruments.activities() {
            for (activity, nanos) in Activity::ALL.iter().zip(thread.read().nanos) {
                self.seconds_counter(&metric::STAGE_SECONDS, &[thread.name(), activity.as_str()], nanos);
            }
        }
        let failed_count = instruments.failed_stages.load(std::sync::atomic::Ordering::Acquire);
        self.count(&metric::DEAD_STAGES, &[], failed_count as u64);
    }

    fn partitions(&mut self, instruments: &Instruments) {
        let partitions = instruments.board.partitions();
        let mut each = |metric: &Metric, value: fn(&PartitionStatus) -> Option<i64>| {
            for status in &partitions {
                if let Some(value) = value(status) {
                    self.gauge(metric, &[&status.partition.to_string()], float(value));
                }
            }
        };
        each(&metric::WATERMARK, |status| Some(status.watermark));
        each(&metric::COMMITTED, |status| status.committed);
        each(&metric::HIGH_WATER_MARK, |status| status.high_water_mark);
        each(&metric::LOW_WATER_MARK, |status| status.low_water_mark);
        each(&metric::PARTITION_LAG, |status| i64::try_from(status.lag).ok());
        self.count(&metric::ASSIGNED, &[], partitions.len() as u64);
        self.counter(&metric::REBALANCES, &[], instruments.poll.rebalances());
        let (paused_count, pauses) = instruments.poll.pauses();
        self.count(&metric::PAUSED, &[], paused_count);
        self.counter(&metric::PAUSES, &[], pauses);
        let stuck = instruments.board.stuck_for().unwrap_or_default();
        self.gauge(&metric::WATERMARK_STUCK, &[], stuck.as_secs_f64());
    }

    fn writing(&mut self, instruments: &Instruments) {
        let troubles = instruments.writers.iter().filter_map(|writer| writer.batch.trouble());
        let longest = troubles.map(|trouble| trouble.since.elapsed()).max().unwrap_or_default();
        self.gauge(&metric::WRITE_RETRYING, &[], longest.as_secs_f64());
        if let Some(writer) = instruments.writers.first() {
            let counters = &writer.counters;
            self.0.extend(counters.copy_seconds.collect());
            self.0.extend(counters.commit_seconds.collect());
            let mut classes = counters.sqlstate_classes();
            classes.sort_unstable();
            for (class, count) in classes {
                self.counter(&metric::WRITE_RETRIES, &[&class], count);
            }
            self.counter(&metric::RECONNECTS, &[], counters.reconnects.get());
        }
        self.count(&metric::DATABASE_UP, &[], u64::from(super::report::is_database_up(instruments)));
        self.durable_latency(instruments);
    }

    /// Counted by HdrHistogram's finer buckets; each falls into the one here that holds its lower end.
    fn durable_latency(&mut self, instruments: &Instruments) {
        let Ok(recorded) = instruments.latencies.since_start(Stage::Durable) else { return };
        let (mut counts, mut sum) = ([0; LATENCY_BUCKETS.len()], 0.0);
        for step in recorded.iter_recorded() {
            let seconds = float(recorded.lowest_equivalent(step.value_iterated_to())) / 1e9;
            sum += seconds * float(step.count_at_value());
            if let Some(bucket) = LATENCY_BUCKETS.iter().position(|bound| seconds <= *bound) {
                counts[bucket] += step.count_at_value();
            }
        }
        let mut cumulative_count = 0;
        let buckets = LATENCY_BUCKETS.iter().zip(counts).map(|(bound, count)| {
            cumulative_count += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative_count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(recorded.len());
        histogram.set_sample_sum(sum);
        debug_assert_eq!(metric::DURABLE_LATENCY.kind, MetricType::HISTOGRAM);
        self.sample(&metric::DURABLE_LATENCY, &[], |sample| sample.set_histogram(histogram));
    }

    fn dedup(&mut self, instruments: &Instruments) {
        let sum = |value: fn(&crate::decode::dedup::DedupBudget) -> usize| {
            instruments.budgets.iter().map(value).sum::<usize>() as u64
        };
        self.count(&metric::DEDUP_ENTRIES, &[], sum(|budget| budget.record_count()));
        self.count(&metric::DEDUP_ENTRIES_MAX, &[], instruments.identity.dedup_entries_max as u64);
        self.count(&metric::DEDUP_BYTES, &[], sum(|budget| budget.bytes()));
        self.counter(&metric::DEDUP_EVICTIONS, &[], sum(|budget| budget.evictions()));
        let oldest = instruments.budgets.iter().map(|budget| budget.oldest()).max().unwrap_or_default();
        self.gauge(&metric::DEDUP_OLDEST, &[], oldest.as_secs_f64());
    }

    fn kafka(&mut self, instruments: &Instruments) {
        let kafka = instruments.poll.kafka();
        self.count(&metric::BROKERS_UP, &[], kafka.brokers_up);
        self.count(&metric::FETCH_QUEUE_MESSAGES, &[], kafka.fetch_queue_messages);
        self.count(&metric::FETCH_QUEUE_BYTES, &[], kafka.fetch_queue_bytes);
        for (broker, seconds) in &kafka.round_trips {
            self.gauge(&metric::BROKER_RTT, &[broker], *seconds);
        }
        self.counter(&metric::KAFKA_RECEIVED_BYTES, &[], kafka.received_bytes);
        self.counter(&metric::KAFKA_RECEIVED_MESSAGES, &[], kafka.received_messages);
        self.counter(&metric::KAFKA_REQUEST_ERRORS, &[], instruments.poll.kafka_errors());
    }

    fn database(&mut self, instruments: &Instruments) {
        let figures = instruments.database.lock().clone();
        let mut gauge = |metric: &Metric, value: Option<f64>| {
            if let Some(value) = value {
                self.gauge(metric, &[], value);
            }
        };
        gauge(&metric::TABLE_BYTES, figures.table_bytes.map(float));
        gauge(&metric::CHUNKS, figures.chunks.map(float));
        gauge(&metric::UNCOMPRESSED_CHUNKS, figures.uncompressed_past_due.map(float));
        gauge(&metric::FOLDED_UNTIL, figures.folded_until);
        gauge(&metric::OLDEST_UNFOLDED, figures.oldest_unfolded);
        gauge(&metric::RETAINED_SINCE, figures.retained_since);
        gauge(&metric::LAST_ASKED, figures.asked_at_ms.map(|ms| float(ms) / 1e3));
        if let Some(failures) = figures.job_failures.and_then(|count| u64::try_from(count).ok()) {
            self.counter(&metric::JOB_FAILURES, &[], failures);
        }
    }
}

/// Prometheus has no other number; what is counted here is far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float<T: TryInto<i64>>(value: T) -> f64 {
    value.try_into().unwrap_or(i64::MAX) as f64
}
