//! Programs of others that only some tests need.

use std::io::Write as _;

/// What a test does when its tool is not here: it says so past the capture of output, and passes. Fails it with `CI=true`,
/// where `tests/servers/install test` must have brought the tool.
#[track_caller]
pub(crate) fn tool_is_missing(tool: &str, untested: &str) {
    let line = format!("NO {tool} HERE: {untested}; `tests/servers/install test` brings it");
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{line}");
    std::io::stderr().lock().write_all(format!("\n*** {line} ***\n\n").as_bytes()).unwrap();
}
