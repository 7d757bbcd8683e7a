//! What keys and responses make of the state, and what the screen shows then.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::{Value, json};
use tidegate::admin::api::tunnels::TunnelSort;

use super::change::TopChange;
use super::draw::{Palette, draw};
use super::keys::{KeyEffect, press};
use super::state::{MAX_TUNNELS, TopArrival, TopMode, TopState, TopView};
use crate::cli::operate::live::LiveTime;
use crate::cli::operate::live::listing::TunnelListing;
use crate::cli::operate::live::reading::{Reading, samples};

/// When the first reading was made, in milliseconds.
const BEGIN: u64 = 1_000_000;

/// This many milliseconds after it.
fn after(milliseconds: u64) -> LiveTime {
    LiveTime {
        at: BEGIN + milliseconds,
        running: milliseconds,
    }
}

/// The second process, which carries `messages`.
fn reading(messages: u64) -> Reading {
    samples::reading(2, messages)
}

/// After two readings, two seconds apart, with ten messages a second between them.
fn state() -> TopState {
    let mut state = TopState::default();
    state.read(Ok(reading(0)), after(0));
    state.read(Ok(reading(20)), after(2000));
    state
}

fn tunnel(id: &str, messages: f64) -> Value {
    json!({
        "id": id, "client": "192.0.2.1:4000", "listener": "public", "route": "chat", "upstream": "chat",
        "endpoint": "10.0.0.1:9000", "host": "chat.example.com", "path": "/a\u{1b}[2J",
        "age_seconds": 61.0, "idle_seconds": 1, "bytes_from_client": 0, "bytes_from_endpoint": 0,
        "messages_from_client": 0, "messages_from_endpoint": 0,
        "rates": {
            "bytes_from_client": 2048.0, "bytes_from_endpoint": 0.0,
            "messages_from_client": messages, "messages_from_endpoint": 0.0,
        },
    })
}

/// A listing of the process that serves, and those of older ones.
fn listed(sort: TunnelSort, serving: &Value, older: &[(u64, Value)]) -> TunnelListing {
    let parsed = |it: &Value| serde_json::from_value(it.clone()).unwrap();
    let older = older.iter().map(|(number, it)| (*number, parsed(it)));
    TunnelListing::merged(parsed(serving), older, sort, MAX_TUNNELS)
}

/// The tunnels that the state asks for, busiest first.
fn list(state: &mut TopState, tunnels: &[Value]) {
    let wanted = state.wanted_listing().unwrap();
    let listing = json!({ "tunnels": tunnels, "matched": 7 });
    let listed = Ok(listed(wanted.sort, &listing, &[]));
    let now = after(state.now.running + 1000);
    state.arrive(TopArrival::Listed(wanted.edition, listed), now);
}

fn screen_in_colour(
    state: &mut TopState,
    (width, height): (u16, u16),
    colour: bool,
) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, state, Palette::new(colour)))
        .unwrap();
    terminal.backend().clone()
}

/// The lines of the screen.
fn screen(state: &mut TopState, size: (u16, u16)) -> Vec<String> {
    let backend = screen_in_colour(state, size, true);
    let symbols: Vec<&str> = backend
        .buffer()
        .content()
        .iter()
        .map(|it| it.symbol())
        .collect();
    let lines = symbols.chunks(usize::from(size.0));
    lines
        .map(|line| line.concat().trim_end().to_owned())
        .collect()
}

fn key(state: &mut TopState, code: KeyCode) -> KeyEffect {
    press(state, KeyEvent::new(code, KeyModifiers::NONE))
}

fn typed(state: &mut TopState, text: &str) {
    for char in text.chars() {
        key(state, KeyCode::Char(char));
    }
}

#[test]
fn a_small_screen_shows_what_is_wrong_and_every_endpoint() {
    let lines = screen(&mut state(), (80, 24));
    let expected = [
        "tidegate 0.1.0 serving  process 42  generation 2  up 1m  1970-01-01T00:16:42Z",
        "WARNING  for 7s: 1 of 3 endpoints of upstream chat is out of rotation:",
        "         10.0.0.2:9000 is down (refused)",
        "Look at that backend; the others serve its clients.",
        "tunnels 9  handshakes 0.0/s  messages 10/s  1000B/s  endpoints 1 of 3 up",
        "[1 Upstreams] 2 Tunnels  3 Problems (1)   by state",
        "  UPSTREAM  ENDPOINT       STATE    TUNNELS  SHARE  MSG/S  BYTES/S  RESETS",
        "> chat      10.0.0.2:9000  down           0    0 %    0.0       0B       0",
        "  chat      10.0.0.3:9000  drained        1   33 %    0.0       0B       4",
        "  chat      one            up             8  267 %   10.0    1000B       0",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines[21], "1 of 3: refused, for 7s");
    let keys = "j/k row  Tab view  s sort  / filter  d drain  Enter tunnels  ? help  q quit";
    assert_eq!(lines[23], keys);
}

#[test]
fn a_wide_screen_has_the_reasons_in_the_rows() {
    let lines = screen(&mut state(), (200, 50));
    assert!(lines[3].contains("endpoints 1 of 3 up"), "{lines:#?}");
    let down = lines
        .iter()
        .find(|line| line.starts_with("> chat"))
        .unwrap();
    assert!(down.ends_with("refused, for 7s"), "{down}");
}

#[test]
fn no_size_is_too_small() {
    let mut state = state();
    for mode in [
        TopMode::List,
        TopMode::Help,
        TopMode::Filter("x".repeat(300)),
    ] {
        for view in [TopView::Upstreams, TopView::Tunnels, TopView::Problems] {
            for size in [(1, 1), (3, 2), (20, 6), (80, 5)] {
                (state.mode, state.view) = (mode.clone(), view);
                screen(&mut state, size);
            }
        }
    }
}

#[test]
fn colour_is_never_all_there_is() {
    let mut state = state();
    let colours = |backend: &TestBackend| {
        let cells = backend.buffer().content().iter();
        cells.filter(|cell| cell.fg != Color::Reset).count()
    };
    let painted = screen_in_colour(&mut state, (80, 24), true);
    let plain = screen_in_colour(&mut state, (80, 24), false);
    assert!(colours(&painted) > 0);
    assert_eq!(colours(&plain), 0);
    let symbols = |backend: &TestBackend| -> String {
        backend
            .buffer()
            .content()
            .iter()
            .map(|it| it.symbol())
            .collect()
    };
    assert_eq!(symbols(&painted), symbols(&plain));
}

#[test]
fn the_selection_stays_with_its_endpoint() {
    let mut state = state();
    key(&mut state, KeyCode::Char('j'));
    key(&mut state, KeyCode::Down);
    assert_eq!(state.selected_endpoint().unwrap().label(), "one");
    for _ in 0..5 {
        key(&mut state, KeyCode::Char('s'));
        assert_eq!(state.selected_endpoint().unwrap().label(), "one");
    }
    key(&mut state, KeyCode::Char('g'));
    assert_eq!(state.selected_endpoint().unwrap().address, "10.0.0.2:9000");
    // Filtered out, another one is selected.
    typed(&mut state, "/Drained");
    key(&mut state, KeyCode::Enter);
    assert_eq!(state.endpoints.len(), 1);
    assert_eq!(state.selected_endpoint().unwrap().address, "10.0.0.3:9000");
    typed(&mut state, "/none of these");
    key(&mut state, KeyCode::Enter);
    assert!(state.selected_endpoint().is_none());
    let lines = screen(&mut state, (80, 24));
    assert!(lines.iter().any(|it| it.contains("no endpoint matches")));
    typed(&mut state, "/");
    key(&mut state, KeyCode::Esc);
    assert_eq!(state.endpoints.len(), 3);
}

#[test]
fn nothing_is_changed_without_a_yes() {
    let mut state = state();
    // The first one is down, which does not mean drained.
    key(&mut state, KeyCode::Char('d'));
    let lines = screen(&mut state, (80, 24)).join("\n");
    assert!(
        lines.contains("Drain endpoint 10.0.0.2:9000 of upstream chat?"),
        "{lines}"
    );
    assert_eq!(key(&mut state, KeyCode::Enter), KeyEffect::Draw);
    assert_eq!(state.notice.as_deref(), Some("nothing was changed"));
    key(&mut state, KeyCode::Char('j'));
    key(&mut state, KeyCode::Char('d'));
    let effect = key(&mut state, KeyCode::Char('y'));
    let KeyEffect::Change(change @ TopChange::Endpoint { drain: false, .. }) = effect else {
        panic!("{effect:?}");
    };
    let body: Value = serde_json::from_slice(&change.body()).unwrap();
    assert_eq!(
        body,
        json!({ "endpoint": "10.0.0.3:9000", "upstream": "chat" })
    );
    state.arrive(
        TopArrival::Changed(Err("error: no\n  why".to_owned())),
        after(3000),
    );
    assert_eq!(state.notice.as_deref(), Some("error: no"));
    // The keys of another view change nothing.
    key(&mut state, KeyCode::Char('x'));
    assert_eq!(state.mode, TopMode::List);
}

#[test]
fn tunnels_are_listed_as_chosen_and_closed_after_a_question() {
    let mut state = state();
    assert!(state.wanted_listing().is_none());
    key(&mut state, KeyCode::Tab);
    let busy = tunnel("00000000000000aa", 9.5);
    list(&mut state, &[busy.clone(), tunnel("00000000000000bb", 1.0)]);
    let lines = screen(&mut state, (80, 24));
    let shown = lines.iter().find(|it| it.starts_with("> 00000000000000aa"));
    let shown = shown.unwrap_or_else(|| panic!("{lines:#?}"));
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(cells[2..6], ["192.0.2.1:4000", "9.5", "2.0K", "1m"]);
    assert!(lines.iter().all(|it| !it.contains('\u{1b}')));
    let below = "1 of 7, 2 listed: to 10.0.0.1:9000 by route chat, idle for 1s";
    assert_eq!(lines[22], below);
    // Not again at once.
    assert!(state.wanted_listing().is_none());
    let now = after(state.now.running + 2000);
    state.read(Ok(reading(30)), now);
    let late = state.wanted_listing().unwrap();
    assert!(late.layout.rate_window.is_some());
    // Sorted otherwise, an answer that was under way comes too late.
    key(&mut state, KeyCode::Char('s'));
    key(&mut state, KeyCode::Char('s'));
    let wanted = state.wanted_listing().unwrap();
    assert_eq!(wanted.layout.sort, Some(TunnelSort::Age));
    assert!(wanted.layout.rate_window.is_none());
    let now = state.now;
    state.arrive(
        TopArrival::Listed(late.edition, Err("late".to_owned())),
        now,
    );
    assert!(state.tunnels.is_none());
    let listed = listed(wanted.sort, &json!({ "tunnels": [busy] }), &[]);
    state.arrive(TopArrival::Listed(wanted.edition, Ok(listed)), now);
    key(&mut state, KeyCode::Char('x'));
    let KeyEffect::Change(change) = key(&mut state, KeyCode::Char('y')) else {
        panic!("{:?}", state.mode);
    };
    let body: Value = serde_json::from_slice(&change.body()).unwrap();
    assert_eq!(body["filter"], json!({ "id": "00000000000000aa" }));
    assert_eq!(body["code"], 1008);
}

#[test]
fn after_an_upgrade_the_tunnels_of_both_processes_are_shown_and_closed_where_they_are() {
    let mut state = state();
    let mut upgraded = samples::reading(3, 5);
    upgraded.older = vec![samples::older(2, 25)];
    state.read(Ok(upgraded), after(3000));
    let lines = screen(&mut state, (80, 24));
    // Of the last three seconds: 25 of the old process, 5 of the new one.
    let figures = "tunnels 18  handshakes 3.0/s  messages 10/s  1000B/s  endpoints 1 of 3 up";
    let older = "of these, 9 in process 42 (generation 2), which drains until 00:30:00Z";
    assert_eq!(lines[4..6], [figures, older]);
    let one = lines.iter().find(|it| it.contains(" one ")).unwrap();
    assert!(one.contains("16  267 %   10.0 "), "{one}");
    typed(&mut state, "2");
    let wanted = state.wanted_listing().unwrap();
    let serving = json!({ "tunnels": [tunnel("00000000000000aa", 1.0)], "matched": 1 });
    let older = json!({ "tunnels": [tunnel("00000000000000bb", 9.0)], "matched": 4 });
    let listing = listed(wanted.sort, &serving, &[(2, older)]);
    let arrival = TopArrival::Listed(wanted.edition, Ok(listing));
    state.arrive(arrival, after(4000));
    let lines = screen(&mut state, (80, 24));
    assert!(lines.iter().any(|it| it.starts_with("> 00000000000000bb")));
    assert!(lines[22].starts_with("1 of 5, 2 listed: "), "{}", lines[22]);
    assert!(lines[22].ends_with(", in generation 2"), "{}", lines[22]);
    key(&mut state, KeyCode::Char('x'));
    let KeyEffect::Change(change) = key(&mut state, KeyCode::Char('y')) else {
        panic!("{:?}", state.mode);
    };
    assert_eq!(change.generation(), Some(2));
}

#[test]
fn a_date_that_is_set_back_stops_no_listing() {
    let mut state = state();
    key(&mut state, KeyCode::Tab);
    list(&mut state, &[tunnel("00000000000000aa", 9.5)]);
    assert!(state.wanted_listing().is_none());
    let set_back = LiveTime {
        at: 0,
        running: 20_000,
    };
    state.read(Ok(reading(30)), set_back);
    assert!(state.wanted_listing().is_some());
}

#[test]
fn a_filter_that_is_not_valid_stays_to_be_corrected() {
    let mut state = state();
    typed(&mut state, "2/nonsense");
    key(&mut state, KeyCode::Enter);
    assert_eq!(state.mode, TopMode::Filter("nonsense".to_owned()));
    assert!(state.notice.as_deref().unwrap().contains("nonsense"));
    for _ in 0..8 {
        key(&mut state, KeyCode::Backspace);
    }
    typed(&mut state, "host=a.example");
    key(&mut state, KeyCode::Enter);
    let wanted = state.wanted_listing().unwrap();
    assert_eq!(wanted.filter.host.as_deref(), Some("a.example"));
    // From an endpoint to its tunnels.
    typed(&mut state, "1G");
    key(&mut state, KeyCode::Enter);
    let wanted = state.wanted_listing().unwrap();
    assert_eq!(wanted.filter.endpoint.as_deref(), Some("10.0.0.1:9000"));
}

#[test]
fn without_a_response_the_last_figures_stay_and_the_reason_is_first() {
    let mut state = state();
    state.read(Err("error: no response\n  look".to_owned()), after(5000));
    state.read(Err("error: no response\n  look".to_owned()), after(9000));
    let lines = screen(&mut state, (80, 24));
    assert_eq!(lines[1], "CRITICAL  for 4s: no response");
    assert!(
        lines.iter().any(|it| it.starts_with("> chat")),
        "{lines:#?}"
    );
    state.read(Ok(reading(40)), after(10_000));
    assert!(screen(&mut state, (80, 24))[1].starts_with("WARNING"));
}

#[test]
fn a_long_list_moves_with_the_selection() {
    let mut state = state();
    let mut long = reading(0);
    let upstream = &mut long.upstreams[0];
    let first = upstream.endpoints[0].clone();
    upstream.endpoints = (0..100)
        .map(|number| {
            let mut endpoint = first.clone();
            endpoint.endpoint = format!("10.1.0.{number}:9000");
            endpoint.name = None;
            endpoint
        })
        .collect();
    state.read(Ok(long), after(3000));
    key(&mut state, KeyCode::Char('G'));
    let lines = screen(&mut state, (80, 24));
    let selected = |lines: &[String]| lines.iter().position(|it| it.starts_with("> ")).unwrap();
    let last = selected(&lines);
    assert!(lines[last].contains("10.1.0.99:9000"), "{lines:#?}");
    key(&mut state, KeyCode::Char('k'));
    let lines = screen(&mut state, (80, 24));
    assert_eq!(selected(&lines), last - 1);
    key(&mut state, KeyCode::Char('g'));
    let lines = screen(&mut state, (80, 24));
    assert!(lines[selected(&lines)].contains("10.1.0.0:9000"));
}

#[test]
fn problems_come_with_what_to_do() {
    let mut state = state();
    typed(&mut state, "3");
    let lines = screen(&mut state, (80, 24)).join("\n");
    assert!(lines.contains("> WARNING  for 7s: 1 of 3"), "{lines}");
    assert!(lines.contains("Look at that backend"), "{lines}");
    assert!(lines.contains("UNDER WAY"), "{lines}");
    assert!(lines.contains("1 of 1 tunnels left"), "{lines}");
    typed(&mut state, "?");
    let lines = screen(&mut state, (80, 24)).join("\n");
    assert!(lines.contains("close the tunnel"), "{lines}");
    assert_eq!(key(&mut state, KeyCode::Esc), KeyEffect::Draw);
    assert_eq!(key(&mut state, KeyCode::Esc), KeyEffect::Quit);
    let control = |code| KeyEvent::new(KeyCode::Char(code), KeyModifiers::CONTROL);
    assert_eq!(press(&mut state, control('c')), KeyEffect::Quit);
    assert_eq!(press(&mut state, control('z')), KeyEffect::Suspend);
}
