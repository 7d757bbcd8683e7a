//! Event streams: where one event ends and the next one has not begun (HTML, section 9.2.6, "interpreting an event
//! stream").
//!
//! A stream may be ended there without harm: the client has every event whole, and reconnects. Inside an event the
//! client would drop what it has of it.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

const EVENT_STREAM: &str = "text/event-stream";

/// Whether the body of a response with these headers is an event stream that can be followed: compressed bytes
/// cannot.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let is_type = content_type.is_some_and(|value| {
        let mut parts = value.split(|byte| *byte == b';');
        let essence = parts.next().unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
    });
    let is_plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    is_type && headers.get_all(CONTENT_ENCODING).iter().all(is_plain)
}

/// The position in an event stream, after the bytes that it has been given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventPosition {
    line: Line,
    /// Whether a field has come since the last blank line: an event has begun.
    in_event: bool,
}

/// The position in a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    /// At its beginning.
    #[default]
    Start,
    /// At its beginning, behind a CR: an LF that comes now belongs to the end of the previous line.
    AfterCr,
    /// In a comment, which belongs to no event.
    Comment,
    /// In a field.
    Field,
}

impl EventPosition {
    /// Whether no event has begun that has not ended.
    pub fn is_between_events(self) -> bool {
        matches!(self.line, Line::Start | Line::AfterCr) && !self.in_event
    }

    /// Goes over `bytes`.
    pub fn advance(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    /// Goes over `bytes` up to the first position between two events. Returns how many bytes lie before it;
    /// `None` if there is none, also not behind the last byte.
    pub fn advance_to_end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        for (position, byte) in bytes.iter().enumerate() {
            if self.is_between_events() {
                return Some(position);
            }
            self.step(*byte);
        }
        self.is_between_events().then_some(bytes.len())
    }

    fn step(&mut self, byte: u8) {
        self.line = match (self.line, byte) {
            // The LF of a CR LF.
            (Line::AfterCr, b'\n') => Line::Start,
            (Line::Start | Line::AfterCr, b'\n' | b'\r') => {
                // A blank line: it ends the event.
                self.in_event = false;
                Self::behind(byte)
            }
            (_, b'\n' | b'\r') => Self::behind(byte),
            (Line::Start | Line::AfterCr, b':') => Line::Comment,
            (Line::Comment, _) => Line::Comment,
            _ => {
                self.in_event = true;
                Line::Field
            }
        };
    }

    fn behind(end_of_line: u8) -> Line {
        match end_of_line {
            b'\r' => Line::AfterCr,
            _ => Line::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn after(text: &str) -> EventPosition {
        let mut position = EventPosition::default();
        position.advance(text.as_bytes());
        position
    }

    #[test]
    fn events_end_with_a_blank_line() {
        for (text, is_between) in [
            ("", true),
            ("data: 1", false),
            ("data: 1\n", false),
            ("data: 1\n\n", true),
            ("data: 1\r\n", false),
            ("data: 1\r\n\r", true),
            ("data: 1\r\n\r\n", true),
            ("data: 1\r", false),
            ("data: 1\r\r", true),
            ("data: 1\n\r", true),
            ("data: 1\n\r\n", true),
            ("data: 1\r\r\n", true),
            ("data: 1\r\ndata: 2", false),
            ("data: 1\n\nid", false),
            // A comment alone is not an event, with or without a blank line.
            (":", false),
            (": ping\n", true),
            (": ping\n\n", true),
            ("data: 1\n: ping\n", false),
            ("\n\n\n", true),
        ] {
            assert_eq!(after(text).is_between_events(), is_between, "{text:?}");
        }
    }

    #[test]
    fn the_end_of_an_event_is_found_in_the_middle_of_a_piece() {
        let mut position = after("data: 1");
        assert_eq!(position.advance_to_end_of_event(b"2\n"), None);
        assert_eq!(position.advance_to_end_of_event(b"\ndata: 2\n\n"), Some(1));
        let mut position = after("data: 1");
        assert_eq!(position.advance_to_end_of_event(b"\r\n\r\n"), Some(3));
        let mut position = EventPosition::default();
        assert_eq!(position.advance_to_end_of_event(b"data"), Some(0));
    }

    #[test]
    fn an_event_stream_is_known_by_its_type_unless_it_is_compressed() {
        for (content_type, coding, expected) in [
            ("text/event-stream", None, true),
            ("Text/Event-Stream ; charset=utf-8", None, true),
            ("text/event-stream", Some("identity"), true),
            ("text/event-stream", Some("gzip"), false),
            ("text/event-streams", None, false),
            ("application/json", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            if let Some(coding) = coding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            assert_eq!(is_event_stream(&headers), expected, "{content_type}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
    }

    /// The slow way: lines by their ends, and whether a field stands behind the last blank one.
    fn is_between(text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text)
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        let (complete, last) = text.rsplit_once('\n').unwrap_or(("", &text));
        let has_lines = text.contains('\n');
        let lines = complete.split('\n').filter(|_| has_lines);
        let in_event = lines.fold(false, |in_event, line| match line {
            "" => false,
            line => in_event || !line.starts_with(':'),
        });
        last.is_empty() && !in_event
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\r\n\r\n:ab".to_vec()), 0..60)
    }

    proptest! {
        #[test]
        fn the_position_depends_on_the_bytes_and_not_on_their_pieces(
            text in texts(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let (mut position, mut begin) = (EventPosition::default(), 0);
            for cut in cuts {
                position.advance(&text[begin..cut]);
                begin = cut;
                prop_assert_eq!(position.is_between_events(), is_between(&text[..cut]));
            }
        }

        #[test]
        fn the_first_end_of_an_event_is_found(before in texts(), text in texts()) {
            let mut position = EventPosition::default();
            position.advance(&before);
            let all = [&before[..], &text].concat();
            let first = (before.len()..=all.len()).find(|at| is_between(&all[..*at]));
            let found = position.advance_to_end_of_event(&text);
            prop_assert_eq!(found, first.map(|at| at - before.len()));
        }
    }
}
