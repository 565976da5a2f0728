//! What a running process shows of itself: `/metrics`, `/status.json`, `/healthz`, `/readyz`.
//!
//! `instruments.rs` is what the stages write into, without a lock on an event's way (`counters.rs`), and `activity.rs` what their
//! threads are doing; `reach.rs` is whether the database answers. Beside the pipeline, two threads: `observer.rs` keeps
//! the last minutes, `database.rs` asks the database for what only that knows. `http.rs` is a third, from before the
//! database is reached: it takes requests (`connection.rs`), `routes.rs` answers them, from `declared.rs`
//! and `exposition.rs` (metrics), `report.rs` (the status) and `crate::health`.

pub mod activity;
mod connection;
pub mod counters;
pub mod database;
pub mod declared;
mod exposition;
pub mod http;
pub mod instruments;
pub mod observer;
pub mod reach;
mod report;
pub mod routes;
