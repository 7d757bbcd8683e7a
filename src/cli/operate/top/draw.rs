//! How the state looks on a screen of any size. Colour is never all there is: words say the same.

mod lists;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use self::lists::ShownList;
use super::change::TopChange;
use super::filter::WORDS;
use super::keys::KEYS;
use super::state::{TopMode, TopState, TopView};
use crate::cli::operate::live::problems::ProblemLevel;
use crate::cli::table::{Cell, harmless, short, wrapped};

/// The width of a question and of the help.
const BOX_WIDTH: u16 = 68;

/// The styles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    colour: bool,
}

impl Palette {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn painted(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn good(self) -> Style {
        self.painted(Color::Green)
    }

    fn warning(self) -> Style {
        self.painted(Color::Yellow)
    }

    fn bad(self) -> Style {
        self.painted(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn selected(self, style: Style) -> Style {
        style.add_modifier(Modifier::REVERSED)
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut TopState, palette: Palette) {
    let health_text = health_lines(state, frame.area().width, palette);
    let older_text = older_lines(state);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(u16::try_from(health_text.len()).unwrap_or_default()),
        Constraint::Length(1),
        Constraint::Length(u16::try_from(older_text.len()).unwrap_or_default()),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(match state.view {
            TopView::Upstreams => 2,
            TopView::Tunnels => 1,
            TopView::Problems => 3,
        }),
        Constraint::Length(1),
    ];
    let [process, health, figures, older, tabs, list, detail, footer] =
        Layout::vertical(rows).areas(frame.area());
    frame.render_widget(process_line(state), process);
    frame.render_widget(Paragraph::new(health_text), health);
    frame.render_widget(figures_line(state, figures.width), figures);
    frame.render_widget(Paragraph::new(older_text), older);
    frame.render_widget(tabs_line(state, palette), tabs);
    let shown = lists::shown(state, list, palette);
    let ShownList { lines, below } = shown;
    frame.render_widget(Paragraph::new(lines), list);
    let below = Paragraph::new(below).style(palette.quiet());
    frame.render_widget(below.wrap(Wrap { trim: true }), detail);
    frame.render_widget(footer_line(state, palette), footer);
    match &state.mode {
        TopMode::Question(change) => question(frame, change, palette),
        TopMode::Help => help(frame, palette),
        TopMode::Filter(text) => {
            let typed = text.chars().count() + FILTER.len();
            let column = footer.x + u16::try_from(typed).unwrap_or(u16::MAX);
            let last = footer.right().saturating_sub(1);
            frame.set_cursor_position((column.min(last), footer.y));
        }
        TopMode::List => {}
    }
}

/// What stands before a filter that is typed.
const FILTER: &str = "filter: ";

fn process_line(state: &TopState) -> Line<'static> {
    let Some((reading, at)) = &state.reading else {
        return Line::default();
    };
    let status = &reading.status;
    let time = shown_date(at.at);
    let older = match status.generations.len() {
        0 | 1 => String::new(),
        all => format!(", {} older drain", all - 1),
    };
    Line::raw(format!(
        "tidegate {} {}  process {}  generation {}{older}  up {}  {time}",
        harmless(&status.version),
        harmless(&status.state),
        status.pid,
        status.generation,
        short(status.uptime_seconds),
    ))
}

/// The worst problem, in at most two lines, and what to do about it.
fn health_lines(state: &TopState, width: u16, palette: Palette) -> Vec<Line<'static>> {
    let Some(worst) = state.problems.first() else {
        let word = Span::styled("OK", palette.good().add_modifier(Modifier::BOLD));
        return vec![Line::from(vec![word, Span::raw("  nothing is wrong")])];
    };
    let (word, style) = level(worst.level, palette);
    let more = match state.problems.len() {
        1 => String::new(),
        all => format!(" (and {} more: 3)", all - 1),
    };
    let what = format!(
        "for {}{more}: {}",
        age(state.now.at, worst.since),
        harmless(&worst.what)
    );
    let room = usize::from(width).saturating_sub(word.len() + 2);
    let pieces = wrapped(&what, room).into_iter().take(2).enumerate();
    let mut lines: Vec<Line<'static>> = pieces
        .map(|(number, piece)| {
            let first = format!("{}  ", if number == 0 { word } else { "" });
            let first = format!("{first:width$}", width = word.len() + 2);
            Line::from(vec![Span::styled(first, style), Span::raw(piece)])
        })
        .collect();
    lines.push(Line::styled(worst.cure.clone(), palette.quiet()));
    lines
}

fn level(level: ProblemLevel, palette: Palette) -> (&'static str, Style) {
    match level {
        ProblemLevel::Critical => ("CRITICAL", palette.bad()),
        ProblemLevel::Warning => ("WARNING", palette.warning().add_modifier(Modifier::BOLD)),
    }
}

/// For how long it has been so.
fn age(now: u64, since: u64) -> String {
    short(now.saturating_sub(since) / 1000)
}

fn figures_line(state: &TopState, width: u16) -> Line<'static> {
    let Some((reading, _)) = &state.reading else {
        return Line::default();
    };
    let status = &reading.status;
    let rates = match state.rates.rates() {
        Some(rates) => format!(
            "handshakes {:.1}/s  messages {:.0}/s  {}/s",
            rates.handshakes,
            rates.traffic.messages,
            bytes(rates.traffic.bytes)
        ),
        None => "rates follow".to_owned(),
    };
    let connections = match width >= lists::WIDE {
        true => format!(
            "  connections {} of at most {}",
            status.connections, status.max_connections
        ),
        false => String::new(),
    };
    Line::raw(format!(
        "tunnels {}  {rates}  endpoints {} of {} up{connections}",
        reading.tunnels(),
        status.endpoints_up,
        status.endpoints
    ))
}

/// Which of the tunnels are in older processes, a line for each process.
fn older_lines(state: &TopState) -> Vec<Line<'static>> {
    let now = shown_date(state.now.at);
    let older = state.older().iter().map(|it| {
        let (generation, pid) = (it.generation(), it.info.identity.pid);
        let until = match &it.info.drain_ends {
            // Of today, the time is enough.
            Some(end) => match (end.split_once('T'), now.split_once('T')) {
                (Some((day, time)), Some((today, _))) if day == today => {
                    format!("which drains until {}", harmless(time))
                }
                _ => format!("which drains until {}", harmless(end)),
            },
            None => "until the last one has ended".to_owned(),
        };
        let tunnels = it.info.tunnels;
        Line::raw(format!(
            "of these, {tunnels} in process {pid} (generation {generation}), {until}"
        ))
    });
    older.collect()
}

/// A date in RFC 3339, from milliseconds since 1970.
fn shown_date(at: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A number of bytes with a unit.
fn bytes(bytes: f64) -> String {
    Cell::bytes(bytes).into_text()
}

fn tabs_line(state: &TopState, palette: Palette) -> Line<'static> {
    let tab = |view, name: &str| match state.view == view {
        true => Span::styled(format!("[{name}]"), palette.title()),
        false => Span::raw(format!(" {name} ")),
    };
    let problems = format!("3 Problems ({})", state.problems.len());
    let mut spans = vec![
        tab(TopView::Upstreams, "1 Upstreams"),
        tab(TopView::Tunnels, "2 Tunnels"),
        tab(TopView::Problems, &problems),
    ];
    let (sort, filter) = match state.view {
        TopView::Upstreams => (state.endpoint_sort.name(), &state.endpoint_filter),
        TopView::Tunnels => (lists::sort_name(state.tunnel_sort()), &state.tunnel_filter),
        TopView::Problems => return Line::from(spans),
    };
    spans.push(Span::raw(format!("  by {sort}")));
    if !filter.is_empty() {
        let filter = format!("  filter: {}", harmless(filter));
        spans.push(Span::styled(filter, palette.title()));
    }
    Line::from(spans)
}

fn footer_line(state: &TopState, palette: Palette) -> Line<'static> {
    if let TopMode::Filter(text) = &state.mode
        && state.notice.is_none()
    {
        return Line::raw(format!("{FILTER}{}", harmless(text)));
    }
    if let Some(notice) = &state.notice {
        return Line::styled(harmless(notice), palette.title());
    }
    let keys = match state.view {
        TopView::Upstreams => "j/k row  Tab view  s sort  / filter  d drain  Enter tunnels",
        TopView::Tunnels => "j/k row  Tab view  s sort  / filter  x close",
        TopView::Problems => "j/k row  Tab view",
    };
    Line::styled(format!("{keys}  ? help  q quit"), palette.quiet())
}

fn question(frame: &mut Frame<'_>, change: &TopChange, palette: Palette) {
    let [asked, meaning] = change.question();
    let lines = vec![
        Line::styled(asked, palette.title()),
        Line::raw(meaning),
        Line::default(),
        Line::raw("y  yes      any other key  no"),
    ];
    over(frame, "Confirm", lines, 8);
}

fn help(frame: &mut Frame<'_>, palette: Palette) {
    let key = |(keys, what): &(&'static str, &'static str)| {
        let keys = Span::styled(format!("{keys:15}"), palette.title());
        Line::from(vec![keys, Span::raw(*what)])
    };
    let mut lines: Vec<Line<'_>> = KEYS.iter().map(key).collect();
    lines.push(Line::default());
    lines.push(Line::raw(
        "Filter of upstreams: words in their names, addresses and states.",
    ));
    lines.push(Line::raw(format!("Filter of tunnels: {WORDS}.")));
    over(frame, "Keys", lines, 19);
}

/// Draws a box in the middle of the screen.
fn over(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>, height: u16) {
    let screen = frame.area();
    let (width, height) = (BOX_WIDTH.min(screen.width), height.min(screen.height));
    let area = Rect {
        x: screen.x + (screen.width - width) / 2,
        y: screen.y + (screen.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered().title(format!(" {title} "));
    let text = Paragraph::new(lines).wrap(Wrap { trim: true }).block(block);
    frame.render_widget(Clear, area);
    frame.render_widget(text, area);
}
