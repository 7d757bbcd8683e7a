//! Tables with aligned columns, for terminals.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;

use super::screen::Screen;

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

    /// Its text, to be shown outside a table.
    #[cfg(feature = "top")]
    pub(super) fn into_text(self) -> String {
        self.text
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

/// A column of a table: its title, and what happens to it if the terminal is too narrow for the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    narrowing: Narrowing,
}

/// What happens to a column if the terminal is too narrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Narrowing {
    /// It stays as it is.
    Kept,
    /// Its texts continue on further lines.
    Wrapped,
    /// Its texts are cut off.
    Cut,
    /// It is left out; the column with the greatest number goes first.
    Dropped(u8),
}

impl Column {
    /// A column that stays.
    pub(super) const fn kept(title: &'static str) -> Self {
        let narrowing = Narrowing::Kept;
        Self { title, narrowing }
    }

    /// A column of long texts, which continue on further lines.
    pub(super) const fn wrapped(title: &'static str) -> Self {
        let narrowing = Narrowing::Wrapped;
        Self { title, narrowing }
    }

    /// A column of long texts, which are cut off.
    pub(super) const fn cut(title: &'static str) -> Self {
        let narrowing = Narrowing::Cut;
        Self { title, narrowing }
    }

    /// A column that is left out; the one with the greatest number goes first.
    pub(super) const fn dropped(title: &'static str, turn: u8) -> Self {
        let narrowing = Narrowing::Dropped(turn);
        Self { title, narrowing }
    }

    /// The width that is enough if the longest text takes `natural`.
    fn enough(self, natural: usize) -> usize {
        let least = match self.narrowing {
            Narrowing::Kept | Narrowing::Dropped(_) => return natural,
            Narrowing::Wrapped => LEAST_WRAPPED,
            Narrowing::Cut => LEAST_CUT,
        };
        natural.min(least.max(self.title.len()))
    }
}

/// The least width of a column whose texts continue on further lines.
const LEAST_WRAPPED: usize = 20;

/// The least width of a column whose texts are cut off.
const LEAST_CUT: usize = 12;

/// The space between two columns.
const GAP: &str = "  ";

/// A column as shown.
#[derive(Debug, Clone, Copy)]
struct FittedColumn {
    column: Column,
    /// Its position in the rows.
    at: usize,
    /// The width of its longest text.
    natural: usize,
    width: usize,
}

impl FittedColumn {
    /// When it is left out; never if that is 0.
    fn turn(&self) -> u8 {
        match self.column.narrowing {
            Narrowing::Dropped(turn) => turn,
            _ => 0,
        }
    }
}

/// Rows under a header, without trailing space; nothing if there are no rows. On a terminal that is too narrow,
/// the columns change as they are declared.
pub(super) fn table(columns: &[Column], rows: &[Vec<Cell>], screen: Screen) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let title = |(at, column): (usize, &Column)| Cell {
        right: rows
            .iter()
            .any(|row| row.get(at).is_some_and(|cell| cell.right)),
        ..Cell::text(column.title)
    };
    let header: Vec<Cell> = columns.iter().enumerate().map(title).collect();
    let all: Vec<&Vec<Cell>> = std::iter::once(&header).chain(rows).collect();
    let unfitted = |(at, column): (usize, &Column)| {
        let cells = all.iter().filter_map(|row| row.get(at));
        let natural = cells.map(|cell| width(&cell.text)).max();
        let natural = natural.unwrap_or_default();
        FittedColumn {
            column: *column,
            at,
            natural,
            width: column.enough(natural),
        }
    };
    let unfitted = columns.iter().enumerate().map(unfitted).collect();
    let limit = screen.size.map_or(usize::MAX, |size| size.columns);
    let fitted = fit(unfitted, limit);
    all.iter()
        .map(|row| lines(row, &fitted, screen.colour))
        .collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The columns that `limit` characters have room for, with the widths that they get.
fn fit(mut fitted: Vec<FittedColumn>, limit: usize) -> Vec<FittedColumn> {
    let total = |fitted: &[FittedColumn]| {
        let widths: usize = fitted.iter().map(|it| it.width).sum();
        widths + GAP.len() * fitted.len().saturating_sub(1)
    };
    let first = |fitted: &[FittedColumn]| fitted.iter().map(FittedColumn::turn).max();
    while total(&fitted) > limit
        && let Some(first) = first(&fitted).filter(|turn| *turn > 0)
    {
        fitted.retain(|it| it.turn() != first);
    }
    // What is left goes to the columns of long texts, one after the other.
    let mut room = limit.saturating_sub(total(&fitted));
    for it in &mut fitted {
        let more = (it.natural - it.width).min(room);
        it.width += more;
        room -= more;
    }
    // Nothing else helps: the widest texts are cut, but no title.
    while total(&fitted) > limit {
        let narrowable = |it: &&mut FittedColumn| it.width > it.column.title.len();
        let widest = fitted.iter_mut().filter(narrowable);
        let Some(widest) = widest.max_by_key(|it| it.width) else {
            break;
        };
        widest.width -= 1;
    }
    fitted
}

/// A row, which takes several lines if a text is wrapped.
fn lines(row: &[Cell], fitted: &[FittedColumn], colour: bool) -> String {
    let pieces = |it: &FittedColumn| {
        let cell = row.get(it.at)?;
        let pieces = match it.column.narrowing {
            Narrowing::Wrapped => wrapped(&cell.text, it.width),
            _ => vec![cut(&cell.text, it.width)],
        };
        Some((cell, pieces))
    };
    let cells: Vec<_> = fitted.iter().map(|it| (it.width, pieces(it))).collect();
    let heights = cells.iter().flat_map(|(_, cell)| cell);
    let height = heights.map(|(_, pieces)| pieces.len()).max();
    let mut text = String::new();
    for number in 0..height.unwrap_or_default() {
        let mut line = String::new();
        for (column, cell) in &cells {
            let piece = cell.as_ref().and_then(|(_, pieces)| pieces.get(number));
            let piece = piece.map_or("", String::as_str);
            let space = " ".repeat(column.saturating_sub(width(piece)));
            let (before, after) = match cell {
                Some((cell, _)) if cell.right => (&*space, ""),
                _ => ("", &*space),
            };
            let style = cell.as_ref().map_or(Style::Plain, |(cell, _)| cell.style);
            let piece = painted(piece, style, colour);
            let _ = write!(line, "{before}{piece}{after}{GAP}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The beginning of `text`, with a mark if it is longer than `limit` characters.
fn cut(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let begin = text.chars().take(limit.saturating_sub(1));
    begin.chain(std::iter::once('…')).collect()
}

/// `text` in lines of at most `limit` characters, broken at spaces where there are any.
pub(super) fn wrapped(text: &str, limit: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        let taken = lines.last().map_or(0, |line| width(line));
        if taken > 0 && taken + 1 + word.len() <= limit {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.extend(word);
            }
            continue;
        }
        if taken > 0 {
            lines.push(String::new());
        }
        while word.len() > limit.max(1) {
            let rest = word.split_off(limit.max(1));
            if let Some(line) = lines.last_mut() {
                line.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            line.extend(word);
        }
    }
    lines
}

fn painted(text: &str, style: Style, colour: bool) -> String {
    let code = match style {
        _ if !colour || text.is_empty() => return text.to_owned(),
        Style::Plain => return text.to_owned(),
        Style::Good => 32,
        Style::Bad => 31,
        Style::Warning => 33,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::ScreenSize;

    const NAME: Column = Column::kept("NAME");

    fn columns(columns: usize) -> Screen {
        let rows = 24;
        Screen {
            colour: false,
            size: Some(ScreenSize { columns, rows }),
        }
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let shown = [
            NAME,
            Column::dropped("WEIGHT", 1),
            Column::dropped("IN FLIGHT", 2),
            Column::wrapped("WHY"),
        ];
        let why = "checks fail: connection refused";
        let rows = [vec![
            Cell::text("chat"),
            Cell::number(1),
            Cell::number(30),
            Cell::text(why),
        ]];
        let at = |width: usize| {
            let text = table(&shown, &rows, columns(width));
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{width}: {text}");
            text
        };
        let whole = format!("NAME  WEIGHT  IN FLIGHT  WHY\nchat       1         30  {why}\n");
        assert_eq!(at(80), whole);
        assert_eq!(table(&shown, &rows, Screen::default()), whole);
        // First a long text continues below, then columns go.
        let (first, second) = ("checks fail:", "connection refused");
        let wrapped = format!(
            "NAME  WEIGHT  IN FLIGHT  WHY\nchat       1         30  {first}\n{:25}{second}\n",
            ""
        );
        assert_eq!(at(46), wrapped);
        let fewer = format!(
            "NAME  WEIGHT  WHY\nchat       1  {first}\n{:14}{second}\n",
            ""
        );
        assert_eq!(at(35), fewer);
        assert_eq!(at(30).lines().next(), Some("NAME  WHY"));
        assert_eq!(at(12).lines().next(), Some("NAME  WHY"));
    }

    #[test]
    fn a_text_that_cannot_be_wrapped_is_cut() {
        let shown = [NAME, Column::cut("PATH")];
        let rows = [vec![
            Cell::text("chat"),
            Cell::text("/a/very/long/path/of/a/client"),
        ]];
        let text = table(&shown, &rows, columns(20));
        assert_eq!(text, "NAME  PATH\nchat  /a/very/long/…\n");
        assert_eq!(wrapped("aaaaaaaa bb c", 5), ["aaaaa", "aaa", "bb c"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn an_empty_table_has_no_header() {
        assert_eq!(table(&[NAME], &[], Screen::default()), "");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec![Cell::text("a"), Cell::number(5), Cell::text("x")],
            vec![Cell::text("longer"), Cell::number(1000), Cell::text("")],
        ];
        let columns = [NAME, Column::kept("COUNT"), Column::wrapped("WHY")];
        let text = table(&columns, &rows, Screen::default());
        assert_eq!(
            text,
            "NAME    COUNT  WHY\na           5  x\nlonger   1000\n"
        );
    }

    #[test]
    fn colour_is_never_all_there_is() {
        let rows = [vec![Cell::text("down").style(Style::Bad)]];
        let colour = |colour| Screen { colour, size: None };
        let plain = table(&[Column::kept("STATE")], &rows, colour(false));
        let painted = table(&[Column::kept("STATE")], &rows, colour(true));
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
