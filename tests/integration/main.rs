//! The integration tests, one binary, on a real PostgreSQL and a real Kafka broker.
//!
//! `make test` starts both servers once and runs this beside them. Each test has a database and a
//! topic of its own, so that all can run at the same time; `support` gives them those, the process
//! under test, and further private servers that a test may break.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a helper that fails must fail its test, and clippy exempts only the test functions themselves"
)]

mod audit;
mod cases;
mod closing;
mod control;
mod corpus;
mod database;
mod docker;
mod figures;
mod harness;
mod ledger;
mod maintain;
mod migrating;
mod migrations;
mod monitoring;
mod observed;
mod package;
mod partitions;
mod pipeline;
mod readers;
mod readme;
mod secondary_indexes;
mod shell;
mod support;
mod tidy;
mod tls;
mod units;
mod wasm;
mod writing;
