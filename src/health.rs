//! Whether this process is alive and ready, for `/healthz`, `/readyz`, the status page and systemd: one
//! judgement, asked for by all of them.
//!
//! Alive means that stages progress, or wait for what they must wait for: an idle topic, a full pipeline and an outage
//! of either server are no reason to be killed. Ready means that the group has said which partitions are ours, were it
//! none, and that the database takes what we write.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::activity::Activity;
use crate::observe::database::SILENT_AFTER;
use crate::observe::instruments::Instruments;

/// Below the time that a batch is tried again, nobody needs to be told: a deadlock, or one restart of the database.
const RETRYING_MAX: Duration = Duration::from_secs(10);
/// With messages in flight, nobody at work, and a database that answers, a watermark moves within milliseconds. A
/// rebalance callback may hold the poller for longer than this, but nothing else.
const STANDSTILL_MAX: Duration = Duration::from_secs(120);

/// A yes, or a no with its reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether all is well.
    pub is_ok: bool,
    /// What is not, a sentence each; or, when all is well, what is worth knowing.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// Well if nothing is wrong, and then with what is worth knowing.
    fn of(wrong: Vec<String>, notes: Vec<String>) -> Self {
        if wrong.is_empty() {
            Self { is_ok: true, reasons: notes }
        } else {
            Self { is_ok: false, reasons: wrong }
        }
    }
}

/// The judge; clones share what it judges by.
#[derive(Debug, Clone)]
pub struct Health(Arc<Instruments>);

impl Health {
    /// Judges by these.
    pub fn new(instruments: Arc<Instruments>) -> Self {
        Self(instruments)
    }

    /// Whether stages progress.
    pub fn liveness(&self) -> Verdict {
        let Self(instruments) = self;
        let mut wrong = Vec::new();
        let failed_count = instruments.failed_stages.load(std::sync::atomic::Ordering::Acquire);
        if failed_count > 0 {
            wrong.push(format!("{failed_count} stage(s) have failed: the process is stopping"));
        }
        for thread in instruments.activities() {
            if let Some(silent) = thread.stuck_for() {
                let name = thread.name();
                wrong.push(format!("{name} has been at work for {} s without a sign", silent.as_secs()));
            }
        }
        wrong.extend(self.standstill(STANDSTILL_MAX));
        Verdict::of(wrong, self.waits())
    }

    /// Whether it can do its work now.
    pub fn readiness(&self) -> Verdict {
        let Self(instruments) = self;
        let mut wrong = Vec::new();
        if instruments.shutdown.is_requested() {
            wrong.push("stopping: what is in flight is being written and committed".to_owned());
        }
        if let Some(what) = instruments.waits_for() {
            wrong.push(what);
        } else if !instruments.poll.has_joined() {
            wrong.push(self.not_joined());
        }
        wrong.extend(self.outages());
        let mut notes = Vec::new();
        let kafka = instruments.poll.kafka();
        if kafka.is_rebalancing {
            notes.push("the group is being rebalanced; partitions that are kept go on".to_owned());
        }
        if kafka.brokers_up == 0 && kafka.brokers_known > 0 {
            notes.push("no Kafka broker is connected".to_owned());
        }
        if instruments.board.partition_count() == 0 {
            notes.push("no partition is assigned: other instances have them all".to_owned());
        }
        Verdict::of(wrong, notes)
    }

    /// Why the group has not said which partitions are ours, as far as that is known.
    fn not_joined(&self) -> String {
        let Self(instruments) = self;
        let said = "the group has not said yet which partitions are ours";
        // None is known either, before one has answered.
        if instruments.poll.kafka().brokers_up == 0 {
            format!(
                "{said}: no Kafka broker is connected (KAFKA_BROKERS={})",
                instruments.identity.kafka_brokers
            )
        } else if instruments.poll.lacks_topic() {
            format!("{said}: topic {} does not exist (yet)", instruments.identity.kafka_topic)
        } else {
            said.to_owned()
        }
    }

    /// What keeps the database from taking what we write.
    fn outages(&self) -> Vec<String> {
        let Self(instruments) = self;
        let mut outages = Vec::new();
        if let Some(trouble) = instruments.reach.trouble() {
            outages.push(format!("the database cannot be reached {}", trouble.describe()));
            return outages;
        }
        let waiting_since = instruments.database.lock().waiting_since;
        if let Some(waited) =
            waiting_since.map(|since| since.elapsed()).filter(|waited| *waited > SILENT_AFTER)
        {
            outages.push(format!("the database has not answered for {} s", waited.as_secs()));
        }
        for writer in &instruments.writers {
            if let Some(trouble) = writer.batch.trouble().filter(|t| t.since.elapsed() >= RETRYING_MAX) {
                let name = writer.activity.name();
                outages.push(format!("{name} tries to write a batch {}", trouble.describe()));
            }
        }
        outages
    }

    /// Something is in flight, nobody is at it, and nothing stands in the way.
    fn standstill(&self, standstill_max: Duration) -> Option<String> {
        let Self(instruments) = self;
        let stuck = instruments.board.stuck_for()?;
        let is_idle = |thread: &crate::observe::activity::StageActivity| {
            thread.read().current.is_none_or(|current| current == Activity::Starved)
        };
        let are_idle = instruments.activities().all(is_idle);
        (stuck > standstill_max && are_idle && instruments.reach.trouble().is_none()).then(|| {
            format!("no watermark has moved for {} s although messages are in flight", stuck.as_secs())
        })
    }

    /// What is waited for, without being wrong.
    fn waits(&self) -> Vec<String> {
        let mut waits: Vec<_> = self.0.waits_for().into_iter().collect();
        if self.0.waits_for().is_none() {
            waits.extend(self.outages());
        }
        let (paused_count, _) = self.0.poll.pauses();
        if paused_count > 0 {
            waits.push(format!("the pipeline is full: {paused_count} partitions are paused"));
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use clap::Parser;

    use super::*;
    use crate::cli::PipelineArgs;
    use crate::commit::tally::Tally;
    use crate::config::Config;
    use crate::observe::activity::StageActivity;
    use crate::observe::counters::KafkaFigures;
    use crate::shutdown::Shutdown;
    use crate::status::PartitionStatus;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        pipeline: PipelineArgs,
    }

    const BRIEF: Duration = Duration::from_millis(2);

    fn instruments() -> Instruments {
        let arguments = ["test", "--database-url=postgresql://billing@db/usage", "--writer-threads=2"];
        let config = Config::from_args(&TestCli::parse_from(arguments).pipeline, 2).unwrap();
        let instruments = Instruments::new(&config, String::new(), Vec::new(), Shutdown::default()).unwrap();
        instruments.has_started();
        instruments.poll.set_joined(true);
        instruments
    }

    fn liveness(instruments: &Arc<Instruments>) -> Verdict {
        Health::new(Arc::clone(instruments)).liveness()
    }

    fn readiness(instruments: &Arc<Instruments>) -> Verdict {
        Health::new(Arc::clone(instruments)).readiness()
    }

    #[test]
    fn a_stage_at_work_without_a_sign_is_not_alive_and_one_that_waits_is() {
        let mut instruments = instruments();
        instruments.decoders[0].activity = StageActivity::new("decoder-0", BRIEF);
        let instruments = Arc::new(instruments);
        let activity = &instruments.decoders[0].activity;
        for waiting in [Activity::Starved, Activity::Blocked, Activity::Retrying] {
            activity.enter(waiting);
            thread::sleep(2 * BRIEF);
            assert!(liveness(&instruments).is_ok, "{waiting:?}");
        }
        activity.enter(Activity::Working);
        thread::sleep(2 * BRIEF);
        let verdict = liveness(&instruments);
        assert!(
            !verdict.is_ok && verdict.reasons[0].starts_with("decoder-0 has been at work"),
            "{verdict:?}"
        );
        assert!(readiness(&instruments).is_ok, "that is another question");
    }

    #[test]
    fn a_standstill_that_nothing_explains_is_not_alive() {
        let instruments = Arc::new(instruments());
        let health = Health::new(Arc::clone(&instruments));
        let publish = |tally, is_in_flight| {
            let status = PartitionStatus {
                partition: 0,
                watermark: 7,
                committed: None,
                high_water_mark: None,
                low_water_mark: None,
                lag: 0,
            };
            instruments.board.publish(tally, [(status, is_in_flight)].into_iter());
        };
        publish(Tally { messages: 1, ..Tally::default() }, true);
        thread::sleep(2 * BRIEF);
        assert_eq!(health.standstill(Duration::from_secs(60)), None, "it has not lasted");
        assert!(health.standstill(BRIEF).is_some());
        let writer = &instruments.writers[1];
        for busy in [Activity::Working, Activity::Blocked, Activity::Retrying] {
            writer.activity.enter(busy);
            assert_eq!(health.standstill(BRIEF), None, "{busy:?}");
        }
        writer.activity.enter(Activity::Starved);
        instruments.reach.failed("connection refused".to_owned());
        assert_eq!(health.standstill(BRIEF), None, "the database is away");
        instruments.reach.succeeded();
        assert!(health.standstill(BRIEF).is_some());
        publish(Tally { messages: 1, written: 1, ..Tally::default() }, false);
        assert_eq!(health.standstill(BRIEF), None, "nothing is in flight");
    }

    #[test]
    fn a_stage_that_failed_is_not_alive() {
        let instruments = Arc::new(instruments());
        instruments.failed_stages.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        assert!(!liveness(&instruments).is_ok);
    }

    #[test]
    fn whoever_was_thrown_out_of_the_group_is_not_ready() {
        let instruments = Arc::new(instruments());
        assert!(readiness(&instruments).is_ok);
        instruments.poll.set_joined(false);
        let verdict = readiness(&instruments);
        let [reason] = &verdict.reasons[..] else { panic!("{verdict:?}") };
        assert!(
            reason.starts_with("the group has not said yet which partitions are ours: no Kafka broker is"),
            "{reason}"
        );
        assert!(liveness(&instruments).is_ok);
        instruments.poll.set_kafka(KafkaFigures { brokers_up: 1, ..KafkaFigures::default() });
        assert_eq!(readiness(&instruments).reasons, ["the group has not said yet which partitions are ours"]);
        instruments.poll.found_no_topic();
        let verdict = readiness(&instruments);
        assert!(verdict.reasons[0].ends_with("ours: topic usage-events does not exist (yet)"), "{verdict:?}");
        instruments.poll.set_joined(true);
        instruments.poll.set_joined(false);
        assert!(!readiness(&instruments).reasons[0].contains("topic"), "it has been found since");
    }
}
