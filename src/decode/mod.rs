//! Decode: from messages to rows. One decoder thread per group of partitions; JSON to a validated
//! event, the dedup window, COPY tuples, and the batch that a writer takes.
//!
//! `decoder.rs` does channels and time; the files beside it are pure. Another wire format would
//! enter as a sibling of `json.rs`: bytes in, [`UsageEvent`](crate::usage_event::UsageEvent) or
//! [`Rejection`](crate::usage_event::Rejection) out; nothing behind it would notice.

pub mod circuit_breaker;
pub mod decoder;
pub mod dedup;
pub mod identity;
pub mod json;
pub mod rfc3339;
pub mod sift;
pub mod uuid;
pub mod write_batch;
