//! usage-processor: API usage events from Apache Kafka into TimescaleDB, each counted once.
//!
//! ```text
//! Kafka topic
//!    |  poll       1 thread     polls, routes by partition, never blocks on a full pipeline
//!    |               PolledBatch
//!    |  decode     N threads    JSON, validation, dedup window, COPY tuples
//!    |               WriteBatch
//!    |  write      M threads    one PostgreSQL connection each: COPY, dead letters, COMMIT
//!    |               Progress
//!    |  commit     1 thread     watermark per partition, offset commits
//!    v
//! Kafka offsets, usage_events
//! ```
//!
//! [`pipeline`] puts the stages together; the stages do not know each other and speak through
//! [`messages`]. Modules are listed in reading order.

pub mod offsets;
pub mod usage_event;
pub mod messages;

pub mod poll;
pub mod decode;
pub mod copy_tuple;
pub mod write;
pub mod commit;
pub mod ledger;
pub mod folder;
pub mod maintenance;
pub mod secondary_indexes;

pub mod database_target;
pub mod kafka_problem;
pub mod health;
pub mod observe;
pub mod status;
pub mod systemd_notify;
pub mod shutdown;
pub mod stage;
pub mod latency;
pub mod plot;
pub mod rejection_ratio;
pub mod clock;
pub mod crash_point;
pub mod error_chain;
pub mod logging;
pub mod pipeline;
pub mod dead_letters;
pub mod smoke;

pub mod cli;
pub mod config;
pub mod kafka_options;
pub mod kafka_group;
pub mod migrations;
pub mod generate;
pub mod demo;
pub mod commands;
