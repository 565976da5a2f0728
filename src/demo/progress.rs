//! Progress for people: a bar on a terminal, a plain line at every quarter elsewhere. On standard
//! error, as the processor's own.

use std::io::{self, IsTerminal, Write};

use indicatif::{HumanCount, ProgressBar};

use crate::commands::progress_bar::message_bar;

/// Plain lines for the whole way.
const PLAIN_LINES: u64 = 4;

/// The progress of one step.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    length: u64,
}

#[derive(Debug)]
enum Style {
    Bar(ProgressBar),
    Plain { lines_printed: u64 },
}

impl Progress {
    /// A step of that many messages.
    pub fn new(length: u64) -> Self {
        let style = if io::stderr().is_terminal() {
            Style::Bar(message_bar(length))
        } else {
            Style::Plain { lines_printed: 0 }
        };
        Self { style, length: length.max(1) }
    }

    /// That many are done.
    pub fn set(&mut self, position: u64) -> io::Result<()> {
        match &mut self.style {
            Style::Bar(bar) => bar.set_position(position),
            Style::Plain { lines_printed } => {
                let lines_due = position.saturating_mul(PLAIN_LINES) / self.length;
                if lines_due > *lines_printed {
                    *lines_printed = lines_due;
                    let (position, length) = (HumanCount(position), HumanCount(self.length));
                    writeln!(io::stderr().lock(), "  {position} of {length} messages")?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
    }
}
