//! Authentication of a connection instead of a request: NTLM and Negotiate (RFC 4559).
//!
//! With these schemes, a server may take every later request on the same connection for one of the
//! authenticated user. So the connection must not carry requests of other clients.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName};

/// The schemes that authenticate a connection, in lower case.
const SCHEMES: [&str; 2] = ["ntlm", "negotiate"];

/// Whether a request authenticates its connection to the endpoint.
pub fn is_in_request(headers: &HeaderMap) -> bool {
    names_scheme(headers, AUTHORIZATION)
}

/// Whether a response asks for the authentication of its connection, or continues it.
pub fn is_in_response(headers: &HeaderMap) -> bool {
    names_scheme(headers, WWW_AUTHENTICATE)
}

/// Whether an element on any line of the field begins with one of the schemes. Commas in quoted strings
/// separate elements, too: to find a scheme where there is none only keeps a connection from being shared.
fn names_scheme(headers: &HeaderMap, field: HeaderName) -> bool {
    let lines = headers.get_all(field);
    let mut elements = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    elements.any(|element| {
        let element = element.trim_ascii();
        let end = element.iter().position(u8::is_ascii_whitespace);
        let scheme = &element[..end.unwrap_or(element.len())];
        SCHEMES
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(lines: &[&[u8]], expected: bool) {
        for field in [AUTHORIZATION, WWW_AUTHENTICATE] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&field, HeaderValue::from_bytes(line).unwrap());
            }
            let seen = match field {
                AUTHORIZATION => is_in_request(&headers),
                _ => is_in_response(&headers),
            };
            assert_eq!(seen, expected, "{field}: {lines:?}");
        }
    }

    #[test]
    fn the_scheme_is_found_in_any_case_on_any_line_and_in_any_place() {
        for lines in [
            &[&b"NTLM"[..]][..],
            &[b"ntlm TlRMTVNTUAAB"],
            &[b"Negotiate"],
            &[b"NEGOTIATE YII="],
            &[b"  Negotiate\tYII="],
            &[b"Basic realm=\"a\", NTLM"],
            &[b"Basic realm=\"a\",,Negotiate,NTLM"],
            &[b"Basic realm=\"a, b\"", b"Negotiate"],
            // A byte above 127 hides nothing.
            &[b"Basic realm=\"\xfc\", NTLM"],
        ] {
            check(lines, true);
        }
    }

    #[test]
    fn other_schemes_authenticate_requests() {
        for lines in [
            &[][..],
            &[&b""[..]],
            &[b"Basic TlRMTTo="],
            &[b"Bearer ntlm"],
            &[
                b"Digest realm=\"ntlm\", nonce=\"1\"",
                b"Basic realm=\"negotiate\"",
            ],
            &[b"NTLMv2 x", b"Negotiated"],
        ] {
            check(lines, false);
        }
    }
}
