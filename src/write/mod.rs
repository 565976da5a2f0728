//! Write: makes batches durable. M writer threads with one PostgreSQL connection each: COPY,
//! dead letters, COMMIT, and retry for as long as it takes.
//!
//! `writer.rs` does channels and time; `database.rs` is the real [`RowSink`](writer::RowSink), with
//! `session.rs` its connection, `row_order.rs` sorts, `placement.rs` the careful path for rows that exist or are refused,
//! `settlement.rs` its accounts, `dead_letters.rs` and `ledger.rs` a statement each; `sqlstate.rs`
//! and `error.rs` judge what an error asks for; `watchdog.rs` watches the writers wait;
//! `dead_letter_topic.rs` is the way to Kafka; `replay.rs` lends the careful path to a command.

pub mod database;
pub mod dead_letter_topic;
pub mod dead_letters;
pub mod error;
pub mod ledger;
mod placement;
pub mod refusal_window;
pub mod replay;
pub mod row_order;
pub mod session;
pub mod settlement;
pub mod sqlstate;
pub mod watchdog;
pub mod writer;
