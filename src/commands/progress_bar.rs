//! Progress bars, of whatever may take longer than two seconds, and the spinner of what waits for others. On standard error,
//! and hidden where that is no terminal; log lines are written above them.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{HumanFloatCount, ProgressBar, ProgressState, ProgressStyle};

use crate::logging;

/// One step may take minutes; the clock beside it goes on.
const TICK: Duration = Duration::from_millis(250);

/// A bar for that many messages: `run --stop-at-end`, `generate`, `demo`.
pub fn message_bar(message_count: u64) -> ProgressBar {
    count_bar(message_count, "messages")
}

/// A bar for that many of something.
pub fn count_bar(count: u64, things: &str) -> ProgressBar {
    bar(
        ProgressBar::new(count),
        &format!("{{elapsed_precise}} {{wide_bar}} {{human_pos}}/{{human_len}} {things} ({{rate}})"),
    )
}

/// A bar for a few steps, each of which is named by the bar's message when it begins.
pub fn step_bar(step_count: u64) -> ProgressBar {
    let bar = bar(ProgressBar::new(step_count), "{elapsed_precise} {bar:30} {pos}/{len} {wide_msg}");
    bar.enable_steady_tick(TICK);
    bar
}

/// Something that goes on, for nobody knows how long.
pub fn spinner(what: &'static str) -> ProgressBar {
    let bar = bar(ProgressBar::new_spinner(), "{elapsed_precise} {spinner} {wide_msg}").with_message(what);
    bar.enable_steady_tick(TICK);
    bar
}

fn bar(bar: ProgressBar, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = bar.with_style(style.with_key("rate", write_rate));
    logging::stay_above(&bar);
    bar
}

/// Whole things a second: indicatif's own key has four decimals.
fn write_rate(state: &ProgressState, out: &mut dyn Write) {
    if write!(out, "{:.0}/s", HumanFloatCount(state.per_sec())).is_err() {
        log::trace!("the progress bar could not be drawn");
    }
}
