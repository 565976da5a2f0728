//! Sends the stream to Kafka: due message by due message, or as fast as Kafka takes them. Runs on
//! the caller's thread; librdkafka's threads transmit and one of rdkafka's collects the receipts.
//!
//! A message's Kafka timestamp and its event's `time` are the instant at which it was *due*: when
//! the sender or the broker falls behind, the delay shows in every latency measured from them
//! instead of being left out (coordinated omission).

use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::gateway::{Gateway, Message};
use super::topic::{await_topic, client_config, log_client_error};
use super::traffic::{Pace, Schedule, TrafficError};
use super::truth::Bookkeeper;
use super::{GenerateError, GenerateOptions, Generated, Progress};

/// The least time to sleep for: what comes due in half a millisecond is sent at once, since a
/// timer costs about as much as five messages and is no more precise than 60 µs anyway.
const SLICE: Duration = Duration::from_micros(500);
/// How long to leave a full queue alone: at 300,000 messages/s, 300 of its 100,000 places.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);
/// How long to wait for receipts at a time; the client waits for all of it, even if the last one has come.
const FLUSH_SLICE: Duration = Duration::from_millis(10);
/// How often the caller hears of the progress.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// How long the client may take for its producer id: it asks again only every half second, and sends nothing before.
const PRODUCER_ID_PATIENCE: Duration = Duration::from_secs(5);

/// Receipts. A message without one is not known to be in the topic.
#[derive(Debug, Default)]
struct Receipts {
    has_producer_id: AtomicBool,
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<KafkaError>,
}

impl ClientContext for Receipts {
    fn error(&self, error: KafkaError, reason: &str) {
        log_client_error(&error, reason);
    }

    /// Some 50 kB of JSON, of which one field counts, and that until it is set.
    fn stats_raw(&self, statistics: &[u8]) {
        const ASSIGNED: &[u8] = b"\"idemp_state\":\"Assigned\"";
        if !self.has_producer_id.load(Ordering::Relaxed)
            && statistics.windows(ASSIGNED.len()).any(|window| window == ASSIGNED)
        {
            self.has_producer_id.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Receipts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.delivered.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                self.first_failure.get_or_init(|| error.clone());
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

/// Produces the traffic and returns the truth about it, once every message has its receipt.
///
/// `report` is called about ten times a second; [`ControlFlow::Break`] ends the stream early, and
/// the truth is then about what was sent.
pub fn run(
    options: &GenerateOptions,
    report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Generated, GenerateError> {
    options.traffic.check(options.pace)?;
    let producer = connect(options)?;
    // Only now: connecting takes time that the first messages must not be late by.
    let start = start_time(options)?;
    let schedule = Schedule::new(start, options.pace, options.traffic.message_count);
    let mut sender = Sender {
        options,
        producer,
        started: Instant::now(),
        reported: Instant::now(),
        sent: 0,
        behind: Duration::ZERO,
        behind_max: Duration::ZERO,
        books: Bookkeeper::default(),
        report,
    };
    sender.send_all(&mut Gateway::new(&options.traffic, schedule))?;
    sender.await_receipts()?;
    Ok(Generated {
        elapsed: sender.started.elapsed(),
        behind_max: sender.behind_max,
        truth: sender.books.close(options.traffic.seed),
    })
}

fn connect(options: &GenerateOptions) -> Result<ThreadedProducer<Receipts>, GenerateError> {
    let mut config = client_config(&options.brokers, &options.kafka_options);
    config
        .set("linger.ms", options.linger.as_millis().to_string())
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536")
        // As Java clients place keys, so that several producers agree about an organization's partition.
        .set("partitioner", "murmur2_random")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("statistics.interval.ms", "100");
    let producer: ThreadedProducer<Receipts> = config
        .create_with_context(Receipts::default())
        .map_err(|source| GenerateError::Configure { source })?;
    await_topic(producer.client(), &options.brokers, &options.topic)?;
    let deadline = Instant::now() + PRODUCER_ID_PATIENCE;
    while !producer.context().has_producer_id.load(Ordering::Relaxed) && Instant::now() < deadline {
        thread::sleep(SLICE);
    }
    Ok(producer)
}

/// A backlog ends now unless its start is given; a steady stream starts now.
fn start_time(options: &GenerateOptions) -> Result<SystemTime, GenerateError> {
    let now = SystemTime::now();
    let span = match options.pace {
        Pace::Backlog { spread } => spread,
        Pace::Steady { .. } => Duration::ZERO,
    };
    let start = options.start_time.or_else(|| now.checked_sub(span)).unwrap_or(SystemTime::UNIX_EPOCH);
    if start.checked_add(span).is_none_or(|end| end > now) {
        return Err(TrafficError::InTheFuture.into());
    }
    Ok(start)
}

/// The state of one run.
struct Sender<'a> {
    options: &'a GenerateOptions,
    producer: ThreadedProducer<Receipts>,
    started: Instant,
    reported: Instant,
    sent: u64,
    behind: Duration,
    behind_max: Duration,
    books: Bookkeeper,
    report: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
}

impl Sender<'_> {
    fn send_all(&mut self, gateway: &mut Gateway) -> Result<(), GenerateError> {
        let is_paced = matches!(self.options.pace, Pace::Steady { .. });
        loop {
            if self.report_if_due().is_break() {
                return Ok(());
            }
            if is_paced && !self.await_due(gateway.next_offset()) {
                continue;
            }
            let Some(message) = gateway.next_message() else { return Ok(()) };
            if self.send(&message)?.is_break() {
                return Ok(());
            }
        }
    }

    /// True if the message is due; else sleeps until then, but not for longer than the caller should
    /// wait to hear from us.
    fn await_due(&mut self, offset: Duration) -> bool {
        let elapsed = self.started.elapsed();
        if elapsed < offset {
            thread::sleep((offset - elapsed).clamp(SLICE, REPORT_INTERVAL));
            return false;
        }
        self.behind = elapsed - offset;
        self.behind_max = self.behind_max.max(self.behind);
        true
    }

    /// Queues the message, however long that takes, unless the caller wants to end first.
    fn send(&mut self, message: &Message<'_>) -> Result<ControlFlow<()>, GenerateError> {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.options.topic)
            .key(message.key)
            .timestamp(message.published_at_micros.div_euclid(1_000));
        record.payload = message.payload;
        while let Err((error, returned)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(GenerateError::Send { topic: self.options.topic.clone(), source: error });
            }
            if self.report_if_due().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            thread::sleep(QUEUE_FULL_PAUSE);
            record = returned;
        }
        self.books.enter(&message.kind);
        self.sent += 1;
        Ok(ControlFlow::Continue(()))
    }

    /// Waits until each message is either in the topic or has failed, which librdkafka decides
    /// within `message.timeout.ms`. Who wants to end early has to wait all the same: the truth needs them.
    fn await_receipts(&mut self) -> Result<(), GenerateError> {
        while let Err(error) = self.producer.flush(FLUSH_SLICE) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::OperationTimedOut) {
                return Err(GenerateError::Flush { source: error });
            }
            let _wish = self.report_if_due();
        }
        let _wish = self.report_progress();
        let receipts = self.producer.client().context();
        match receipts.first_failure.get() {
            None => Ok(()),
            Some(source) => Err(GenerateError::Undelivered {
                failed: receipts.failed.load(Ordering::Relaxed),
                sent: self.sent,
                source: source.clone(),
            }),
        }
    }

    fn report_if_due(&mut self) -> ControlFlow<()> {
        if self.reported.elapsed() < REPORT_INTERVAL {
            return ControlFlow::Continue(());
        }
        self.report_progress()
    }

    fn report_progress(&mut self) -> ControlFlow<()> {
        self.reported = Instant::now();
        (self.report)(Progress {
            sent: self.sent,
            delivered: self.producer.client().context().delivered.load(Ordering::Relaxed),
            message_count: self.options.traffic.message_count,
            behind: self.behind,
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::super::{Share, Traffic};
    use super::*;

    const PARTITIONS: u16 = 4;

    fn cluster(topic: &str) -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(topic, PARTITIONS.into(), 1).unwrap();
        cluster
    }

    fn options(brokers: String, message_count: u64, pace: Pace) -> GenerateOptions {
        GenerateOptions {
            brokers,
            topic: "usage-events".to_owned(),
            kafka_options: Vec::new(),
            linger: Duration::from_millis(5),
            traffic: Traffic {
                seed: 1,
                message_count,
                organization_count: 20,
                duplicates: Share::from_parts_per_million(10_000),
                retimed: Share::NONE,
                malformed: Share::from_parts_per_million(10_000),
                late: Share::NONE,
                late_up_to: Duration::from_secs(60),
                padding_bytes: 0,
            },
            pace,
            start_time: None,
        }
    }

    fn steady(rate: u32) -> Pace {
        Pace::Steady { rate: rate.try_into().unwrap() }
    }

    fn messages_in_topic(brokers: &str) -> u64 {
        let consumer: BaseConsumer = client_config(brokers, &[]).create().unwrap();
        let end = |partition| {
            consumer.fetch_watermarks("usage-events", partition, Duration::from_secs(10)).unwrap().1
        };
        (0..i32::from(PARTITIONS)).map(|partition| u64::try_from(end(partition)).unwrap()).sum()
    }

    #[test]
    fn a_backlog_arrives_whole_and_is_accounted_for() {
        let cluster = cluster("usage-events");
        let pace = Pace::Backlog { spread: Duration::from_secs(10) };
        let options = options(cluster.bootstrap_servers(), 5_000, pace);
        let mut delivered = 0;
        let generated = run(&options, &mut |progress| {
            delivered = progress.delivered;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((generated.truth.messages, delivered), (5_000, 5_000));
        assert_eq!(messages_in_topic(&options.brokers), 5_000);
    }

    #[test]
    fn a_steady_stream_takes_its_time() {
        let cluster = cluster("usage-events");
        let generated =
            run(
                &options(cluster.bootstrap_servers(), 500, steady(1_000)),
                &mut |_| ControlFlow::Continue(()),
            );
        let elapsed = generated.unwrap().elapsed;
        assert!(elapsed >= Duration::from_millis(499), "{elapsed:?}");
    }

    #[test]
    fn a_stream_broken_off_leaves_the_truth_about_what_was_sent() {
        let cluster = cluster("usage-events");
        let options = options(cluster.bootstrap_servers(), 1_000_000, steady(2_000));
        let generated = run(&options, &mut |_| ControlFlow::Break(())).unwrap();
        assert!((1..100_000).contains(&generated.truth.messages));
        assert_eq!(messages_in_topic(&options.brokers), generated.truth.messages);
    }

    #[test]
    fn what_kafka_refuses_is_an_error_at_the_end() {
        let cluster = cluster("usage-events");
        let mut options = options(cluster.bootstrap_servers(), 100, steady(1_000));
        options.kafka_options = vec![("message.timeout.ms".to_owned(), "1000".to_owned())];
        let mut report = |_| {
            cluster.broker_down(1).unwrap();
            ControlFlow::Continue(())
        };
        options.traffic.message_count = 500; // Half a second: the report comes in between.
        let error = run(&options, &mut report).unwrap_err();
        assert!(matches!(error, GenerateError::Undelivered { sent: 500, failed: 1.., .. }), "{error:?}");
    }

    #[test]
    fn messages_of_the_future_are_refused() {
        let cluster = cluster("usage-events");
        let mut options = options(cluster.bootstrap_servers(), 1, steady(1));
        options.start_time = Some(SystemTime::now() + Duration::from_secs(60));
        let error = run(&options, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, GenerateError::Traffic(TrafficError::InTheFuture)));
    }
}
