//! The case of header names towards endpoints. Names are case-insensitive (RFC 9110 section 5.1),
//! but some endpoints compare them with case, so the client's case is kept where it is known.

use std::cmp::Ordering;

use http::HeaderName;

/// The most lines that a head may have for its names to be kept.
const MAX_LINES: usize = 100;

/// The header names in one head, in their original case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCase<'a> {
    /// Ordered without regard to case, because every name that is written is looked up. The first one
    /// of several that differ only in case comes first.
    names: Vec<&'a str>,
}

impl<'a> HeaderCase<'a> {
    /// Reads the names in the head at the beginning of `bytes`; `None` if the head is incomplete.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
        let mut head = httparse::Request::new(&mut lines);
        let httparse::Status::Complete(_) = head.parse(bytes).ok()? else {
            return None;
        };
        let mut names: Vec<_> = head.headers.iter().map(|line| line.name).collect();
        names.sort_by(|one, other| compare(one, other));
        Some(Self { names })
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        let at = self
            .names
            .partition_point(|known| compare(known, name).is_lt());
        let found = self.names.get(at).copied();
        found.filter(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The order of two names without regard to case. Comparing lengths first leaves little to compare
/// of names that begin alike.
fn compare(one: &str, other: &str) -> Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    one.len()
        .cmp(&other.len())
        .then_with(|| one.bytes().map(lower).cmp(other.bytes().map(lower)))
}

/// Names that occur in almost every handshake.
const OFTEN: [&str; 7] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "Forwarded",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
];

/// Writes the line of a field, with its name in its original case, or else in its usual case.
pub fn write_field(
    out: &mut Vec<u8>,
    name: &HeaderName,
    value: &[u8],
    header_case: Option<&HeaderCase<'_>>,
) {
    write_name(out, name, header_case);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_name(out: &mut Vec<u8>, name: &HeaderName, header_case: Option<&HeaderCase<'_>>) {
    match header_case.and_then(|header_case| header_case.find(name.as_str())) {
        Some(known) => out.extend_from_slice(known.as_bytes()),
        None => write_usual(out, name.as_str()),
    }
}

/// `sec-websocket-key` becomes `Sec-WebSocket-Key`, `x-request-id` becomes `X-Request-Id`.
fn write_usual(out: &mut Vec<u8>, name: &str) {
    // Names of every handshake are looked up, because to work out their case costs more.
    if let Some(known) = OFTEN.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        out.extend_from_slice(known.as_bytes());
        return;
    }
    for (position, word) in name.split('-').enumerate() {
        if position > 0 {
            out.push(b'-');
        }
        match word {
            "websocket" => out.extend_from_slice(b"WebSocket"),
            "www" | "te" | "dnt" => out.extend(word.bytes().map(|b| b.to_ascii_uppercase())),
            "etag" => out.extend_from_slice(b"ETag"),
            _ => {
                let mut bytes = word.bytes();
                out.extend(bytes.next().map(|b| b.to_ascii_uppercase()));
                out.extend(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: Option<&[u8]>, name: &str, expected: &str) {
        let header_case = head.and_then(HeaderCase::of);
        let mut out = Vec::new();
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        write_field(&mut out, &name, b"value", header_case.as_ref());
        let expected = format!("{expected}: value\r\n");
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn original_case_is_kept_where_it_is_known() {
        let head = b"GET / HTTP/1.1\r\nX-API-Key: 1\r\nhost: a\r\n\r\nearly bytes";
        check(Some(head), "x-api-key", "X-API-Key");
        check(Some(head), "host", "host");
        check(Some(head), "origin", "Origin");
        let twice = b"GET / HTTP/1.1\r\nX-Tag: 1\r\nhost: a\r\nx-TAG: 2\r\n\r\n";
        check(Some(twice), "x-tag", "X-Tag");
        check(None, "x-api-key", "X-Api-Key");
        check(None, "sec-websocket-protocol", "Sec-WebSocket-Protocol");
        check(None, "www-authenticate", "WWW-Authenticate");
        check(None, "etag", "ETag");
    }

    #[test]
    fn an_incomplete_head_has_no_case() {
        assert_eq!(HeaderCase::of(b"GET / HTTP/1.1\r\nX-API"), None);
        assert_eq!(HeaderCase::of(b"\x16\x03\x01"), None);
    }
}
