//! What each key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::change::TopChange;
use super::state::{TopMode, TopState, TopView};

/// What is to be done besides drawing the state.
#[derive(Debug, PartialEq)]
pub(super) enum KeyEffect {
    Draw,
    Quit,
    Suspend,
    Change(TopChange),
}

/// Keys and what they do, for the help.
pub(super) const KEYS: [(&str, &str); 11] = [
    ("j k, arrows", "one row down or up"),
    ("PgDn PgUp", "ten rows down or up"),
    ("g G, Home End", "the first or the last row"),
    ("Tab, 1 2 3", "the next view; Upstreams, Tunnels, Problems"),
    ("s", "sort by the next column"),
    ("/", "filter; Enter keeps it, Esc drops it"),
    ("d", "drain the endpoint, or put it back"),
    ("x", "close the tunnel"),
    ("Enter", "the tunnels of the endpoint"),
    ("Ctrl-Z", "suspend; fg comes back"),
    ("q, Esc, Ctrl-C", "quit"),
];

/// Handles a key.
pub(super) fn press(state: &mut TopState, key: KeyEvent) -> KeyEffect {
    if key.kind == KeyEventKind::Release {
        return KeyEffect::Draw;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => KeyEffect::Quit,
            KeyCode::Char('z') => KeyEffect::Suspend,
            _ => KeyEffect::Draw,
        };
    }
    state.notice = None;
    match state.mode.clone() {
        TopMode::List => return in_list(state, key.code),
        TopMode::Help => state.mode = TopMode::List,
        TopMode::Filter(text) => in_filter(state, text, key.code),
        TopMode::Question(change) => {
            state.mode = TopMode::List;
            // No other key confirms: neither Enter nor one that was meant for the list.
            if key.code == KeyCode::Char('y') {
                state.notice = Some("asking…".to_owned());
                return KeyEffect::Change(change);
            }
            state.notice = Some("nothing was changed".to_owned());
        }
    }
    KeyEffect::Draw
}

fn in_filter(state: &mut TopState, mut text: String, code: KeyCode) {
    match code {
        KeyCode::Enter => return state.keep_filter(&text),
        KeyCode::Esc => return state.keep_filter(""),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(char) => text.push(char),
        _ => {}
    }
    state.mode = TopMode::Filter(text);
}

fn in_list(state: &mut TopState, code: KeyCode) -> KeyEffect {
    match code {
        KeyCode::Char('q') | KeyCode::Esc => return KeyEffect::Quit,
        KeyCode::Char('j') | KeyCode::Down => state.move_by(1),
        KeyCode::Char('k') | KeyCode::Up => state.move_by(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => state.move_by(10),
        KeyCode::PageUp => state.move_by(-10),
        KeyCode::Char('g') | KeyCode::Home => state.move_by(isize::MIN),
        KeyCode::Char('G') | KeyCode::End => state.move_by(isize::MAX),
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => state.view = state.view.next(),
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => {
            state.view = state.view.next().next();
        }
        KeyCode::Char('1') => state.view = TopView::Upstreams,
        KeyCode::Char('2') => state.view = TopView::Tunnels,
        KeyCode::Char('3') => state.view = TopView::Problems,
        KeyCode::Char('s') => state.sort_by_next(),
        KeyCode::Char('/') => state.begin_filter(),
        KeyCode::Char('?') => state.mode = TopMode::Help,
        KeyCode::Char('d') => state.ask_about_endpoint(),
        KeyCode::Char('x') => state.ask_about_tunnel(),
        KeyCode::Enter => state.show_tunnels_of_endpoint(),
        _ => {}
    }
    KeyEffect::Draw
}
