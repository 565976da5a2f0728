//! Tables and colours for people: what commands print to a terminal, or to whoever reads along.
//!
//! Colours are written always, into [`out()`], which takes them out again where standard output is no terminal, or `NO_COLOR`
//! or `TERM=dumb` asks for that; `CLICOLOR_FORCE=1` keeps them. JSON goes to plain standard output.
//! Rows are printed as they come, so that a table of any length needs no memory.

use std::io::{self, StdoutLock, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

/// Well, or done.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// To be looked at.
pub const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
/// To be acted on.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Heads, and what is beside the point.
pub const HEAD: Style = Style::new().bold();
/// As it comes.
pub const PLAIN: Style = Style::new();

/// Standard output, where colours may be written.
pub fn out() -> AutoStream<StdoutLock<'static>> {
    anstream::stdout().lock()
}

/// A column: its head, and the room for what is in it. What is longer pushes the rest aside.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    head: &'static str,
    width: usize,
    is_number: bool,
}

impl Column {
    /// Of text.
    pub const fn text(head: &'static str, width: usize) -> Self {
        Self { head, width, is_number: false }
    }

    /// Of numbers, which stand at the right.
    pub const fn number(head: &'static str, width: usize) -> Self {
        Self { head, width, is_number: true }
    }
}

/// Prints the heads.
pub fn print_head<const N: usize>(out: &mut impl Write, columns: &[Column; N]) -> io::Result<()> {
    print_row(out, columns, &columns.map(|column| (HEAD, column.head.to_owned())))
}

/// Prints a row.
pub fn print_row<const N: usize>(
    out: &mut impl Write,
    columns: &[Column; N],
    cells: &[(Style, String); N],
) -> io::Result<()> {
    for (idx, (column, (style, text))) in columns.iter().zip(cells).enumerate() {
        let is_last = idx + 1 == N;
        let width = column.width.max(column.head.len());
        let room = if is_last && !column.is_number { 0 } else { width.saturating_sub(text.chars().count()) };
        let (before, behind) = if column.is_number { (room, 0) } else { (0, room) };
        write!(out, "{:before$}{style}{text}{style:#}{:behind$}", "", "")?;
        out.write_all(if is_last { b"\n" } else { b"  " })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::text("TOPIC", 8), Column::number("OFFSET", 7), Column::text("DETAIL", 6)];

    fn printed(choice: anstream::ColorChoice) -> String {
        let mut out = AutoStream::new(Vec::new(), choice);
        print_head(&mut out, &COLUMNS).unwrap();
        let cells = [(PLAIN, "orders".to_owned()), (PLAIN, "17".to_owned()), (BAD, "ü".to_owned())];
        print_row(&mut out, &COLUMNS, &cells).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn columns_line_up_with_and_without_colours() {
        let plain = "TOPIC      OFFSET  DETAIL\norders         17  ü\n";
        assert_eq!(printed(anstream::ColorChoice::Never), plain);
        let coloured = printed(anstream::ColorChoice::AlwaysAnsi);
        assert!(coloured.contains("\u{1b}[1m\u{1b}[31mü\u{1b}[0m\n"), "{coloured:?}");
    }
}
