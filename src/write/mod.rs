//! Write: makes batches durable. M writer threads with one PostgreSQL connection each: COPY,
//! dead letters, COMMIT, and retry for as long as it takes.
//!
//! `writer.rs` does channels and time; `database.rs` is the real [`RowSink`](writer::RowSink);
//! `sqlstate.rs` is the pure judgement of what an error asks for.

pub mod database;
pub mod dead_letters;
pub mod sqlstate;
pub mod writer;
