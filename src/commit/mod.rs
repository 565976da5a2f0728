//! Commit: offsets follow durability. One committer thread keeps the watermark of every partition
//! and is the only one that commits to Kafka.
//!
//! `committer.rs` does channels and time; `watermarks.rs`, `confirmations.rs` and `tally.rs` are pure;
//! `offset_committer.rs` is the edge to Kafka.

pub mod committer;
mod confirmations;
pub mod offset_committer;
pub mod tally;
pub mod watermarks;
