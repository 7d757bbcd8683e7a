//! The same output again and again: in place on a terminal, one after the other elsewhere.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, SystemTime};

use super::in_lines;
use crate::cli::client::ClientError;
use crate::cli::screen::{Screen, ScreenSize};
use crate::cli::table::wrapped;
use crate::cli::{err, try_out};

/// Moves the cursor to the first character of a terminal.
const TO_START: &str = "\u{1b}[H";

/// Clears the rest of a line.
const CLEAR_LINE: &str = "\u{1b}[K";

/// Clears all lines below.
const CLEAR_REST: &str = "\u{1b}[J";

/// The shortest time to wait for a response.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for a response: a process that hangs is to be noticed soon.
pub(super) fn patience(interval: Duration) -> Duration {
    interval.saturating_mul(3).max(LEAST_PATIENCE)
}

/// What a terminal shows: the time, and the latest output, under the reason why there is no newer one.
#[derive(Debug)]
struct WatchedPage {
    latest: String,
    at: SystemTime,
}

impl WatchedPage {
    fn text(&mut self, output: Result<String, ClientError>, now: SystemTime) -> String {
        let time = humantime::format_rfc3339_seconds;
        match output {
            Ok(text) => {
                (self.latest, self.at) = (text, now);
                format!("{}\n{}", time(now), self.latest)
            }
            Err(failure) => format!(
                "{}  no response since {}\n{}\n{}",
                time(now),
                time(self.at),
                in_lines(&failure),
                self.latest
            ),
        }
    }
}

/// Prints what `shown` returns, until the reader goes away. A failure ends this only at the beginning: later,
/// the process may be about to come back.
pub(super) fn watch(
    interval: Duration,
    in_place: bool,
    mut shown: impl FnMut(Screen) -> Result<String, ClientError>,
) -> Result<(), ClientError> {
    let mut screen = Screen::of_output();
    let mut output = Ok(shown(screen)?);
    let mut page = WatchedPage {
        latest: String::new(),
        at: SystemTime::now(),
    };
    loop {
        let text = match (output, screen.size.filter(|_| in_place)) {
            (Ok(text), None) => text,
            (Err(failure), None) => {
                err(&in_lines(&failure));
                String::new()
            }
            (output, Some(size)) => drawn(&page.text(output, SystemTime::now()), size),
        };
        if try_out(&text).is_err() {
            return Ok(());
        }
        thread::sleep(interval);
        // The terminal may have another size now.
        screen = Screen::of_output();
        output = shown(screen);
    }
}

/// `text` in place of what is on a terminal of this size. Lines that it has no room for are left out.
fn drawn(text: &str, size: ScreenSize) -> String {
    // Lines with colours belong to tables, which fit already.
    let fitted = |line: &str| match line.contains('\u{1b}') {
        true => vec![line.to_owned()],
        false if line.chars().count() <= size.columns => vec![line.to_owned()],
        false => wrapped(line, size.columns),
    };
    let mut lines: Vec<String> = text.lines().flat_map(fitted).collect();
    // The cursor stands below the last line.
    let room = size.rows.saturating_sub(1);
    if lines.len() > room {
        let left_out = lines.len() - room.saturating_sub(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(format!("… and {left_out} more lines"));
    }
    let mut drawn = TO_START.to_owned();
    for line in lines {
        let _ = writeln!(drawn, "{line}{CLEAR_LINE}");
    }
    drawn + CLEAR_REST
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::unreached::Unreached;

    #[test]
    fn without_a_response_the_latest_output_stays_and_its_time_is_shown() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut page = WatchedPage {
            latest: String::new(),
            at: at(0),
        };
        let shown = page.text(Ok("serving\n".to_owned()), at(1));
        assert_eq!(shown, "1970-01-01T00:00:01Z\nserving\n");
        let why = || ClientError::Unreached(Unreached::checking("it hangs".to_owned()));
        page.text(Err(why()), at(3));
        let shown = page.text(Err(why()), at(5));
        let first =
            "1970-01-01T00:00:05Z  no response since 1970-01-01T00:00:01Z\nerror: it hangs\n";
        assert!(shown.starts_with(first), "{shown}");
        assert!(shown.ends_with("\n\nserving\n"), "{shown}");
        assert_eq!(patience(Duration::from_millis(100)), LEAST_PATIENCE);
        assert_eq!(patience(Duration::from_secs(5)), Duration::from_secs(15));
    }

    #[test]
    fn a_terminal_is_drawn_from_its_first_line_and_never_scrolls() {
        let size = ScreenSize {
            columns: 8,
            rows: 4,
        };
        let lines = |text: &str| -> Vec<String> {
            let drawn = drawn(text, size);
            let inner = drawn.strip_prefix(TO_START).unwrap();
            let inner = inner.strip_suffix(CLEAR_REST).unwrap();
            let lines = inner.lines();
            lines
                .map(|line| line.strip_suffix(CLEAR_LINE).unwrap().to_owned())
                .collect()
        };
        assert_eq!(lines("one\n\ntwo\n"), ["one", "", "two"]);
        assert_eq!(lines("a b\nc\nd\ne\n"), ["a b", "c", "… and 2 more lines"]);
        assert_eq!(lines("alpha beta\n"), ["alpha", "beta"]);
        let red = "\u{1b}[31mdown\u{1b}[0m up";
        assert_eq!(lines(red), [red]);
    }
}
