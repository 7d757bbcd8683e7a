//! Tables with aligned columns, for terminals.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    text: String,
    right: bool,
    style: Style,
}

/// What a cell means, as a colour. Its text says so, too: colour is never all there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Good,
    Bad,
    Warning,
}

impl Cell {
    /// A text, with control characters escaped: clients and files choose parts of it.
    pub(super) fn text(text: &str) -> Self {
        Self {
            text: harmless(text),
            ..Self::default()
        }
    }

    /// A number, or anything else that is aligned to the right.
    pub(super) fn number(number: impl std::fmt::Display) -> Self {
        Self {
            text: format!("{number}"),
            right: true,
            ..Self::default()
        }
    }

    /// A number of bytes, with a unit.
    pub(super) fn bytes(bytes: f64) -> Self {
        Self::number(ByteSize(bytes.round() as u64).display().iec_short())
    }

    /// A time, in its two greatest units.
    pub(super) fn time(seconds: u64) -> Self {
        Self::number(short(seconds))
    }

    pub(super) fn style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// `text` with control characters escaped, so that it cannot control the terminal.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A time in its two greatest units: `3h 12m`.
pub(super) fn short(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts: Vec<&str> = whole.split(' ').take(2).collect();
    parts.join(" ")
}

/// Rows under a header, without trailing space.
pub(super) fn table(header: &[&str], rows: &[Vec<Cell>], colour: bool) -> String {
    let header: Vec<Cell> = header
        .iter()
        .enumerate()
        .map(|(column, title)| Cell {
            right: rows
                .iter()
                .any(|row| row.get(column).is_some_and(|cell| cell.right)),
            ..Cell::text(title)
        })
        .collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let space = " ".repeat(width - cell.text.chars().count());
            let (before, after) = if cell.right {
                (&*space, "")
            } else {
                ("", &*space)
            };
            let _ = write!(line, "{before}{}{after}  ", painted(cell, colour));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn painted(cell: &Cell, colour: bool) -> String {
    let code = match cell.style {
        _ if !colour => return cell.text.clone(),
        Style::Plain => return cell.text.clone(),
        Style::Good => 32,
        Style::Bad => 31,
        Style::Warning => 33,
    };
    format!("\u{1b}[{code}m{}\u{1b}[0m", cell.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec![Cell::text("a"), Cell::number(5), Cell::text("x")],
            vec![Cell::text("longer"), Cell::number(1000), Cell::text("")],
        ];
        let text = table(&["NAME", "COUNT", "WHY"], &rows, false);
        assert_eq!(
            text,
            "NAME    COUNT  WHY\na           5  x\nlonger   1000\n"
        );
    }

    #[test]
    fn colour_is_never_all_there_is() {
        let rows = [vec![Cell::text("down").style(Style::Bad)]];
        let plain = table(&["STATE"], &rows, false);
        let painted = table(&["STATE"], &rows, true);
        assert_eq!(
            painted.replace("\u{1b}[31m", "").replace("\u{1b}[0m", ""),
            plain
        );
        assert!(plain.contains("down") && painted.contains("\u{1b}[31mdown"));
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(short(0), "0s");
        assert_eq!(short(3 * 3600 + 12 * 60 + 5), "3h 12m");
    }
}
