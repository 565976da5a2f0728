//! What every integration test needs: a database, a topic, the process under test, servers to break.
//!
//! All of it is removed when it is dropped, after a panic too. Whoever waits here waits with a
//! deadline, and says at its end what it was waiting for.

mod authority;
mod database;
mod http;
mod processor;
mod proxy;
mod servers;
mod small_disk;
mod tools;
mod topic;

pub(crate) use authority::{Authority, Issued};
pub(crate) use database::{TestDatabase, server_client};
pub(crate) use http::{exchange, get};
pub(crate) use processor::{Processor, ProcessorBuilder};
pub(crate) use proxy::Proxy;
pub(crate) use servers::{PrivateBroker, PrivatePostgres};
pub(crate) use small_disk::SmallDisk;
pub(crate) use tools::tool_is_missing;
pub(crate) use topic::{Record, TestTopic};

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a call to a healthy server may take before the test fails. Generous: a loaded CI
/// machine with two cores is slow, and only a failing test waits this long.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Tries until `attempt` succeeds; at the deadline fails the test with its last error.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if started.elapsed() >= deadline => {
                panic!("not within {deadline:?}: {what}; at last: {error:?}")
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

/// The address of a server that `make test` has started.
#[track_caller]
fn server_address(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: start the servers with `make test`, or run \
             `tests/servers/with cargo test --test integration`"
        )
    })
}

/// `PREFIX_TEST_N`, different on every call, fit for a database, a topic and a group. The name of
/// the test is in it, so that what a server's log says can be traced to a test.
fn unique_name(prefix: &str) -> String {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let thread = thread::current();
    let path = thread.name().unwrap_or("unnamed");
    let test: String = path
        .rsplit("::")
        .next()
        .unwrap_or(path)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(40) // A PostgreSQL identifier has 63 bytes.
        .collect();
    format!("{prefix}_{test}_{}_{call}", std::process::id())
}
