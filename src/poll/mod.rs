//! Poll: the one thread that polls Kafka. Messages in; polled batches to the decoders and issued
//! spans to the committer out.
//!
//! `poller.rs` does channels and time, `rebalance.rs` the consumer's callbacks; `intake.rs` (who
//! gets which message, in which span), `start_position.rs` and `history.rs` are pure.

pub mod consumer_config;
pub mod error;
pub mod history;
pub mod idle;
pub mod intake;
pub mod poller;
pub mod rebalance;
pub mod start_position;
pub mod statistics;
