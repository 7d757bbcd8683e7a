//! The list of each view: endpoints, tunnels, problems.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use tidegate::admin::api::tunnels::TunnelSort;
use tidegate::admin::api::upstreams::EndpointStatus;

use super::{Palette, age, level};
use crate::cli::operate::live::listing::ListedTunnel;
use crate::cli::operate::top::endpoints::EndpointRow;
use crate::cli::operate::top::state::{TopState, TopView};
use crate::cli::screen::{Screen, ScreenSize};
use crate::cli::table::{Cell, Column, harmless, short, table};

/// The marks before the rows: of the selected one, and of the others.
const MARKS: [&str; 2] = ["> ", "  "];

/// The width from which on the reasons are a column; below, only that of the selected row is shown.
pub(super) const WIDE: u16 = 120;

/// A list, and the line below it.
#[derive(Debug)]
pub(super) struct ShownList {
    pub(super) lines: Vec<Line<'static>>,
    pub(super) below: String,
}

/// The list of the current view, as much of it as there is room for.
pub(super) fn shown(state: &mut TopState, area: Rect, palette: Palette) -> ShownList {
    match state.view {
        TopView::Upstreams => endpoints(state, area, palette),
        TopView::Tunnels => tunnels(state, area, palette),
        TopView::Problems => problems(state, area, palette),
    }
}

/// The lines of a table: its header, and its rows.
fn lines_of(columns: &[Column], rows: &[Vec<Cell>], width: u16) -> (String, Vec<String>) {
    let room = usize::from(width).saturating_sub(MARKS[0].len());
    let size = ScreenSize {
        columns: room,
        rows: rows.len(),
    };
    let screen = Screen {
        colour: false,
        size: Some(size),
    };
    let text = table(columns, rows, screen);
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.collect())
}

/// A row with its mark; over the whole width, if it is selected.
fn row(text: &str, style: Style, is_selected: bool, width: u16, palette: Palette) -> Line<'static> {
    if !is_selected {
        return Line::styled(format!("{}{text}", MARKS[1]), style);
    }
    let width = usize::from(width);
    let text = format!("{:width$}", format!("{}{text}", MARKS[0]));
    Line::styled(text, palette.selected(style))
}

fn header(text: &str, palette: Palette) -> Line<'static> {
    Line::styled(format!("{}{text}", MARKS[1]), palette.title())
}

fn room_below_header(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(1))
}

fn nothing(text: &str) -> ShownList {
    ShownList {
        lines: vec![Line::raw(format!("{}{text}", MARKS[1]))],
        below: String::new(),
    }
}

fn endpoints(state: &mut TopState, area: Rect, palette: Palette) -> ShownList {
    if state.endpoints.is_empty() {
        return nothing(match state.endpoint_filter.is_empty() {
            true => "no endpoint is configured",
            false => "no endpoint matches the filter",
        });
    }
    let is_wide = area.width >= WIDE;
    let mut columns = vec![
        Column::dropped("UPSTREAM", 2),
        Column::kept("ENDPOINT"),
        Column::kept("STATE"),
        Column::kept("TUNNELS"),
        Column::dropped("SHARE", 3),
        Column::dropped("MSG/S", 5),
        Column::dropped("BYTES/S", 4),
        Column::dropped("RESETS", 6),
    ];
    if is_wide {
        columns.push(Column::cut("WHY"));
    }
    let cells: Vec<_> = state.endpoints.iter().map(endpoint_cells).collect();
    let (title, texts) = lines_of(&columns, &cells, area.width);
    let window = state
        .endpoint_cursor
        .window(texts.len(), room_below_header(area));
    let selected = state.endpoint_cursor.index;
    let mut lines = vec![header(&title, palette)];
    let rows = texts.iter().zip(&state.endpoints).enumerate();
    for (number, (text, endpoint)) in rows.skip(window.start).take(window.len()) {
        let style = endpoint_style(endpoint.status, palette);
        lines.push(row(text, style, number == selected, area.width, palette));
    }
    let place = format!("{} of {}", selected + 1, texts.len());
    let why = state.selected_endpoint().map(|it| it.why.as_str());
    let why = why.filter(|why| !why.is_empty());
    ShownList {
        lines,
        below: match why {
            Some(why) => format!("{place}: {}", harmless(why)),
            None => place,
        },
    }
}

fn endpoint_cells(row: &EndpointRow) -> Vec<Cell> {
    let dash = || Cell::number("-");
    let share = row.share.map(|it| format!("{:.0} %", it * 100.0));
    vec![
        Cell::text(&row.upstream),
        Cell::text(row.label()),
        Cell::text(&row.state),
        Cell::number(row.tunnels),
        share.map_or_else(dash, Cell::number),
        row.rates
            .map_or_else(dash, |it| Cell::number(format!("{:.1}", it.messages))),
        row.rates.map_or_else(dash, |it| Cell::bytes(it.bytes)),
        Cell::number(row.resets),
        Cell::text(&row.why),
    ]
}

fn endpoint_style(status: EndpointStatus, palette: Palette) -> Style {
    match status {
        EndpointStatus::Up => Style::new(),
        EndpointStatus::Down | EndpointStatus::Ejected | EndpointStatus::Unreachable => {
            palette.bad()
        }
        EndpointStatus::Full
        | EndpointStatus::Drained
        | EndpointStatus::DrainedByConfig
        | EndpointStatus::DrainedByReport
        | EndpointStatus::Terminating
        | EndpointStatus::NotReady => palette.warning(),
    }
}

/// The name of an order of tunnels.
pub(super) fn sort_name(sort: TunnelSort) -> &'static str {
    match sort {
        TunnelSort::Age => "age",
        TunnelSort::Idle => "idle time",
        TunnelSort::Bytes => "bytes per second",
        TunnelSort::Messages => "messages per second",
    }
}

fn tunnels(state: &mut TopState, area: Rect, palette: Palette) -> ShownList {
    let listing = match &state.tunnels {
        None => return nothing("the tunnels are being listed"),
        Some(Err(why)) => return nothing(&harmless(why.lines().next().unwrap_or_default())),
        Some(Ok(listing)) if listing.tunnels.is_empty() => {
            return nothing("no live tunnel matches");
        }
        Some(Ok(listing)) => listing,
    };
    let mut all = listing.tunnels.iter();
    let is_measured = all.any(|it| it.tunnel.rates.is_some());
    let (messages, bytes) = match is_measured {
        true => ("MSG/S", "BYTES/S"),
        false => ("MESSAGES", "BYTES"),
    };
    let columns = [
        Column::kept("ID"),
        Column::kept("CLIENT"),
        Column::dropped("ENDPOINT", 2),
        Column::dropped("ROUTE", 5),
        Column::kept(messages),
        Column::kept(bytes),
        Column::kept("AGE"),
        Column::dropped("IDLE", 4),
        Column::cut("HOST AND PATH"),
    ];
    let cells: Vec<_> = listing.tunnels.iter().map(tunnel_cells).collect();
    let (title, texts) = lines_of(&columns, &cells, area.width);
    let window = state
        .tunnel_cursor
        .window(texts.len(), room_below_header(area));
    let selected = state.tunnel_cursor.index;
    let mut lines = vec![header(&title, palette)];
    let rows = texts.iter().enumerate();
    for (number, text) in rows.skip(window.start).take(window.len()) {
        let style = Style::new();
        lines.push(row(text, style, number == selected, area.width, palette));
    }
    let matched = listing.matched;
    let listed = match matched > texts.len() {
        true => format!(", {} listed", texts.len()),
        false => String::new(),
    };
    let about = listing.tunnels.get(selected).map(|listed| {
        let tunnel = &listed.tunnel;
        let idle = short(tunnel.idle_seconds);
        let (endpoint, route) = (harmless(&tunnel.endpoint), harmless(&tunnel.route));
        let generation = listed.generation;
        let older = generation.map(|it| format!(", in generation {it}"));
        let older = older.unwrap_or_default();
        format!(": to {endpoint} by route {route}, idle for {idle}{older}")
    });
    ShownList {
        lines,
        below: format!(
            "{} of {matched}{listed}{}",
            selected + 1,
            about.unwrap_or_default()
        ),
    }
}

fn tunnel_cells(ListedTunnel { generation, tunnel }: &ListedTunnel) -> Vec<Cell> {
    let (messages, bytes) = match &tunnel.rates {
        Some(rates) => (
            Cell::number(format!(
                "{:.1}",
                rates.messages_from_client + rates.messages_from_endpoint
            )),
            Cell::bytes(rates.bytes_from_client + rates.bytes_from_endpoint),
        ),
        None => (
            Cell::number(tunnel.messages_from_client + tunnel.messages_from_endpoint),
            Cell::bytes((tunnel.bytes_from_client + tunnel.bytes_from_endpoint) as f64),
        ),
    };
    let endpoint = tunnel.endpoint_name.as_ref().unwrap_or(&tunnel.endpoint);
    let ending = tunnel.ending.as_ref();
    let ending = ending.map(|why| format!(" (closing: {why})"));
    let older = generation.map(|it| format!(" (generation {it})"));
    vec![
        Cell::text(&tunnel.id.to_string()),
        Cell::text(&tunnel.client),
        Cell::text(endpoint),
        Cell::text(&tunnel.route),
        messages,
        bytes,
        Cell::time(tunnel.age_seconds as u64),
        Cell::time(tunnel.idle_seconds),
        Cell::text(&format!(
            "{}{}{}{}",
            tunnel.host,
            tunnel.path,
            older.unwrap_or_default(),
            ending.unwrap_or_default()
        )),
    ]
}

/// Problems with what to do about each, then what is under way.
fn problems(state: &mut TopState, area: Rect, palette: Palette) -> ShownList {
    let count = state.problems.len() + state.under_way.len();
    if count == 0 {
        return nothing("nothing is wrong, and nothing is under way");
    }
    // Each takes two lines.
    let height = usize::from(area.height / 2);
    let window = state.problem_cursor.window(count, height);
    let selected = state.problem_cursor.index;
    let mut entries = Vec::new();
    for problem in &state.problems {
        let (word, style) = level(problem.level, palette);
        let since = age(state.now.at, problem.since);
        let what = format!("{word}  for {since}: {}", harmless(&problem.what));
        entries.push((what, problem.cure.clone(), style));
    }
    for progress in &state.under_way {
        let left = match progress.seconds_left {
            Some(seconds) if progress.left > 0 => format!(", about {} left", short(seconds)),
            _ => String::new(),
        };
        let (of, since) = (progress.from, age(state.now.at, progress.since));
        let what = format!("UNDER WAY  for {since}: {}", harmless(&progress.name));
        let how_far = format!("{} of {of} tunnels left{left}", progress.left);
        entries.push((what, how_far, Style::new()));
    }
    let mut lines = Vec::new();
    let visible = entries.iter().enumerate().skip(window.start);
    for (number, (what, next, style)) in visible.take(window.len()) {
        lines.push(row(what, *style, number == selected, area.width, palette));
        lines.push(Line::styled(format!("    {next}"), palette.quiet()));
    }
    let whole = entries.get(selected).map(|(what, ..)| what.clone());
    ShownList {
        lines,
        below: format!("{} of {count}: {}", selected + 1, whole.unwrap_or_default()),
    }
}
