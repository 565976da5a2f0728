//! The load generator: the picture of an API gateway, and the truth about what it sent.
//!
//! ```text
//! traffic (knobs, schedule) -> gateway (seeded stream) -> produce (Kafka)
//!                                        |
//!                                      truth (per organization and hour)
//! ```
//!
//! Everything is pure but `produce.rs` and `topic.rs`. This module uses no code of the pipeline, so
//! that what the pipeline must end up with is computed apart from it.

mod event;
mod gateway;
mod malformed;
mod population;
mod produce;
mod random;
mod share;
mod text;
mod topic;
mod traffic;
mod truth;

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use rdkafka::error::KafkaError;

pub use gateway::{DuplicateKind, Gateway, Message, MessageKind, Request};
pub use malformed::Malformation;
pub use produce::run;
pub use share::{ParseShareError, Share};
pub use text::Uuid;
pub use topic::create_topic;
pub use traffic::{LATE_UP_TO_MAX, Pace, Schedule, Traffic, TrafficError};
pub use truth::{Bookkeeper, Truth, TruthError, Usage};

/// What to generate, and where to.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Host and port of a broker or more, separated by commas.
    pub brokers: String,
    /// The topic, which must exist unless the broker creates topics by itself.
    pub topic: String,
    /// librdkafka properties (TLS, SASL, compression); those that the truth relies on cannot be changed.
    pub kafka_options: Vec<(String, String)>,
    /// How long a message may wait for others to be sent along with.
    pub linger: Duration,
    /// What the messages are like.
    pub traffic: Traffic,
    /// When they are sent.
    pub pace: Pace,
    /// When the first message claims to be published. Default: now, or so that a backlog ends now.
    pub start_time: Option<SystemTime>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Messages handed to the client.
    pub sent: u64,
    /// Messages that the broker has acknowledged.
    pub delivered: u64,
    /// Messages in all.
    pub message_count: u64,
    /// How late the newest message was handed over; always zero for a backlog.
    pub behind: Duration,
}

/// What a run did.
#[derive(Debug)]
pub struct Generated {
    /// What a correct pipeline must end up with.
    pub truth: Truth,
    /// From the first message to the last receipt.
    pub elapsed: Duration,
    /// The most that a message was handed over late.
    pub behind_max: Duration,
}

/// Why a run failed. What it has sent by then is in the topic, and without a truth.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The options contradict each other.
    #[error("checking the traffic")]
    Traffic(#[from] TrafficError),
    /// librdkafka refuses the configuration.
    #[error("configuring the Kafka client")]
    Configure {
        /// Which property, and why.
        source: KafkaError,
    },
    /// No broker answered.
    #[error("connecting to Kafka at {brokers}")]
    Connect {
        /// The brokers that were tried.
        brokers: String,
        /// What the client said.
        source: KafkaError,
    },
    /// The topic does not exist, or has partitions without a leader.
    #[error("topic {topic} at {brokers} does not exist or is not ready")]
    NoTopic {
        /// The brokers that were asked.
        brokers: String,
        /// The topic.
        topic: String,
    },
    /// The topic could not be created.
    #[error("creating topic {topic_at}")]
    CreateTopic {
        /// `TOPIC at BROKERS`.
        topic_at: String,
        /// What the broker said.
        source: KafkaError,
    },
    /// A message could not be queued.
    #[error("sending to topic {topic}")]
    Send {
        /// The topic.
        topic: String,
        /// What the client said.
        source: KafkaError,
    },
    /// The receipts could not be awaited.
    #[error("waiting for Kafka to acknowledge the last messages")]
    Flush {
        /// What the client said.
        source: KafkaError,
    },
    /// Messages did not arrive, so that no truth can be told.
    #[error("{failed} of {sent} messages were not delivered")]
    Undelivered {
        /// Messages that Kafka refused or did not acknowledge in time.
        failed: u64,
        /// Messages sent.
        sent: u64,
        /// The first failure.
        source: KafkaError,
    },
}
