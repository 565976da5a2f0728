//! What a running processor shows of itself: metrics, health, status, and the server that they come from.

mod health;
mod metrics;
mod server;
