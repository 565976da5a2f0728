//! The progress bar of everything that counts messages: `run --stop-at-end`, `generate`, `demo`.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use indicatif::{HumanFloatCount, ProgressBar, ProgressState, ProgressStyle};

const TEMPLATE: &str = "{elapsed_precise} {wide_bar} {human_pos}/{human_len} messages ({rate})";

/// A bar on standard error for that many messages; hidden where that is no terminal.
pub fn message_bar(message_count: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(message_count).with_style(style.with_key("rate", write_rate))
}

/// Whole messages a second: indicatif's own key has four decimals.
fn write_rate(state: &ProgressState, out: &mut dyn Write) {
    if write!(out, "{:.0}/s", HumanFloatCount(state.per_sec())).is_err() {
        log::trace!("the progress bar could not be drawn");
    }
}
