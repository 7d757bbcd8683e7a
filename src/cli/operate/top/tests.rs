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
use super::state::{TopArrival, TopMode, TopState, TopView};
use crate::cli::operate::live::reading::Reading;

/// When the first reading was made, in milliseconds.
const BEGIN: u64 = 1_000_000;

fn endpoint(address: &str, tunnels: u64, more: &Value) -> Value {
    let mut endpoint = json!({
        "endpoint": address, "state": "up", "weight": 1, "weight_overridden": false, "backup": false,
        "in_flight": 0, "tunnels": tunnels, "ended": {}, "checks_passed": 0, "checks_failed": 0,
        "ejections": 0,
    });
    for (name, value) in more.as_object().unwrap() {
        endpoint[name] = value.clone();
    }
    endpoint
}

/// An upstream with three endpoints, of which one is down and one is drained, and that carries `messages`.
fn reading(messages: u64) -> Reading {
    let status = json!({
        "version": "0.1.0", "pid": 42, "generation": 2, "state": "serving",
        "started": "1970-01-01T00:00:00Z", "uptime_seconds": 60, "config": "config.toml",
        "config_loaded": "1970-01-01T00:00:00Z", "config_warnings": [], "needs_restart": [],
        "reloads": 0, "failed_reloads": 0, "reload_errors": [], "workers": 2, "connections": 12,
        "max_connections": 1000, "tunnels": 9, "tunnels_opened": 9, "requests": 0, "rejections": 0,
        "log_dropped": 0, "access_log_dropped": 0, "endpoints": 3, "endpoints_up": 1,
        "certificates": [], "jobs": [], "generations": [],
    });
    let down = json!({ "state": "down", "why": "refused", "down_seconds": 7 });
    let drained = json!({ "state": "drained", "ended": { "upstream-reset": 4 } });
    let upstreams = json!([{
        "name": "chat", "balance": "random", "discovery": "listed", "waiting": 0, "tunnels": 9,
        "endpoints": [
            endpoint("10.0.0.1:9000", 8, &json!({ "name": "one" })),
            endpoint("10.0.0.2:9000", 0, &down),
            endpoint("10.0.0.3:9000", 1, &drained),
        ],
    }]);
    let traffic = json!({
        "handshakes": { "ok": 9 }, "ended": {}, "links": [{
            "listener": "public", "route": "chat", "upstream": "chat", "endpoint": "10.0.0.1:9000",
            "tunnels": 8, "opened": 8, "handshake_seconds": 0.1, "connect_failures": 0, "resets": 0,
            "bytes_from_client": messages * 100, "bytes_from_endpoint": 0,
            "messages_from_client": messages, "messages_from_endpoint": 0,
        }],
    });
    Reading {
        status: serde_json::from_value(status).unwrap(),
        listeners: Vec::new(),
        upstreams: serde_json::from_value(upstreams).unwrap(),
        traffic: serde_json::from_value(traffic).unwrap(),
        members: String::new(),
    }
}

/// After two readings, two seconds apart, with ten messages a second between them.
fn state() -> TopState {
    let mut state = TopState::default();
    state.read(Ok(reading(0)), BEGIN);
    state.read(Ok(reading(20)), BEGIN + 2000);
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

/// The tunnels that the state asks for, busiest first.
fn list(state: &mut TopState, tunnels: &[Value]) {
    let wanted = state.wanted_listing().unwrap();
    let listing = json!({ "tunnels": tunnels, "matched": 7 });
    let listed = Ok(serde_json::from_value(listing).unwrap());
    let now = state.now + 1000;
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
        BEGIN,
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
    state.read(Ok(reading(30)), state.now + 2000);
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
    let listed = serde_json::from_value(json!({ "tunnels": [busy] })).unwrap();
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
    state.read(Err("error: no response\n  look".to_owned()), BEGIN + 5000);
    state.read(Err("error: no response\n  look".to_owned()), BEGIN + 9000);
    let lines = screen(&mut state, (80, 24));
    assert_eq!(lines[1], "CRITICAL  for 4s: no response");
    assert!(
        lines.iter().any(|it| it.starts_with("> chat")),
        "{lines:#?}"
    );
    state.read(Ok(reading(40)), BEGIN + 10_000);
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
    state.read(Ok(long), BEGIN + 3000);
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
