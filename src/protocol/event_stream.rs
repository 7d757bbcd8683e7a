//! Event streams: where one event ends and the next one has not begun (HTML, section 9.2.6, "interpreting an event
//! stream").
//!
//! A stream may be ended there without harm: the client has every event whole, and reconnects. Inside an event the
//! client would drop what it has of it. Comments, fields that a client ignores, and `retry`, which takes effect at the end
//! of its line, are in no event.

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
    /// Whether a field of an event has come since the last blank line: an event has begun.
    in_event: bool,
}

/// The fields of an event.
const EVENT_FIELDS: [&[u8]; 3] = [b"data", b"event", b"id"];

/// A byte order mark in UTF-8: a stream may begin with one, which is ignored.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The position in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// At the beginning of the stream, behind this number of bytes of a byte order mark.
    First(u8),
    /// At its beginning.
    Start,
    /// At its beginning, behind a CR: an LF that comes now belongs to the end of the previous line.
    AfterCr,
    /// In the name of a field, of which these bytes have come.
    Name(FieldName),
    /// In the value of a field that belongs to an event.
    EventField,
    /// In a comment or a field that belongs to no event.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::First(0)
    }
}

/// The beginning of the name of a field, as far as it can be the name of one of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FieldName {
    bytes: [u8; 5],
    length: u8,
}

impl FieldName {
    fn of(byte: u8) -> Self {
        let mut bytes = [0; 5];
        bytes[0] = byte;
        Self { bytes, length: 1 }
    }

    /// With one more byte; `None` if it is too long for a field of an event.
    fn with(mut self, byte: u8) -> Option<Self> {
        *self.bytes.get_mut(usize::from(self.length))? = byte;
        self.length += 1;
        Some(self)
    }

    fn is_of_event(self) -> bool {
        let name = self.bytes.get(..usize::from(self.length));
        name.is_some_and(|name| EVENT_FIELDS.contains(&name))
    }
}

impl EventPosition {
    /// Whether no event has begun that has not ended.
    pub fn is_between_events(self) -> bool {
        let is_at_start = matches!(self.line, Line::First(0) | Line::Start | Line::AfterCr);
        is_at_start && !self.in_event
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
            (Line::First(0) | Line::Start | Line::AfterCr, b'\n' | b'\r') => {
                // A blank line: it ends the event.
                self.in_event = false;
                Self::behind(byte)
            }
            (line, b'\n' | b'\r') => {
                // A field without a value is one, too.
                self.in_event |= match line {
                    Line::Name(name) => name.is_of_event(),
                    line => line == Line::EventField,
                };
                Self::behind(byte)
            }
            (Line::First(seen), byte) if BYTE_ORDER_MARK.get(usize::from(seen)) == Some(&byte) => {
                match seen {
                    2 => Line::Start,
                    _ => Line::First(seen + 1),
                }
            }
            (Line::First(0) | Line::Start | Line::AfterCr, b':') => Line::Other,
            (Line::First(0) | Line::Start | Line::AfterCr, byte) => Line::Name(FieldName::of(byte)),
            (Line::Name(name), b':') => match name.is_of_event() {
                true => Line::EventField,
                false => Line::Other,
            },
            (Line::Name(name), byte) => name.with(byte).map_or(Line::Other, Line::Name),
            // Also half a byte order mark, which is part of a name that no field of an event has.
            (Line::First(_) | Line::Other, _) => Line::Other,
            (Line::EventField, _) => Line::EventField,
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
            // What takes effect with its line, or never, begins no event.
            ("retry: 1000", false),
            ("retry: 1000\n", true),
            ("retry: 1000\r\n: ping\r\n", true),
            ("retry: 1000\ndata: 1\n", false),
            ("data: 1\nretry: 1000\n", false),
            ("dat: 1\n", true),
            ("datas: 1\n", true),
            ("events: 1\n", true),
            ("Data: 1\n", true),
            (" data: 1\n", true),
            ("event\n", false),
            ("event: a\n", false),
            ("id\n", false),
            ("data:\n", false),
            // A byte order mark, once and at the beginning.
            ("\u{feff}", true),
            ("\u{feff}: ping\n", true),
            ("\u{feff}data: 1\n", false),
            ("\u{feff}data: 1\n\n", true),
            ("\u{feff}\u{feff}data: 1\n", true),
            ("\n\u{feff}data: 1\n", true),
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
        let mut position = EventPosition::default();
        position.advance(&BYTE_ORDER_MARK[..2]);
        assert!(!position.is_between_events());
        assert_eq!(position.advance_to_end_of_event(b"\xbfdata"), Some(1));
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

    /// The slow way: lines by their ends, and whether a field of an event stands behind the last blank one.
    fn is_between(text: &[u8]) -> bool {
        let text = text.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(text);
        let text = String::from_utf8_lossy(text)
            .replace("\r\n", "\n")
            .replace('\r', "\n");
        let (complete, last) = text.rsplit_once('\n').unwrap_or(("", &text));
        let has_lines = text.contains('\n');
        let lines = complete.split('\n').filter(|_| has_lines);
        let in_event = lines.fold(false, |in_event, line| match line {
            "" => false,
            line => {
                let name = line.split(':').next().unwrap_or_default();
                in_event || ["data", "event", "id"].contains(&name)
            }
        });
        last.is_empty() && !in_event
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let pieces: &[&[u8]] = &[
            b"\r",
            b"\n",
            b"\r",
            b"\n",
            b":",
            b"id",
            b"i",
            b"d",
            b"event",
            b"data",
            b"s",
            &BYTE_ORDER_MARK,
            &BYTE_ORDER_MARK[..1],
        ];
        let texts = prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..60);
        texts.prop_map(|pieces| pieces.concat())
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
