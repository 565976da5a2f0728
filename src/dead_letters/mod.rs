//! What can be done with stored dead letters: looked at, exported, replayed, purged. Used by the
//! command `dead-letters`; runs on its thread, with a connection of its own, beside a running
//! pipeline.
//!
//! It promises bounded memory, however many letters there are, and that every letter stays
//! accounted for: a replay marks it in the transaction that writes its row, a purge counts it.

pub mod filter;
pub mod letter;
pub mod purge;
pub mod replay;
