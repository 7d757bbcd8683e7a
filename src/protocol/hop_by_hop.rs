//! Hop-by-hop fields, which belong to one connection and are not forwarded (RFC 9110 section
//! 7.6.1), and the framing of bodies.

use std::collections::HashSet;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, ORIGIN, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarding_names::is_forwarding;
use super::token::{has_token, is_token, tokens};
use crate::config::model::same_variable;

/// Fields that are never forwarded, whether `Connection` names them or not.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Request fields that are not forwarded as received: credentials for a proxy, and an expectation, of which
/// there is only one that [can be passed on](expects_continue).
const REQUEST_ONLY: [HeaderName; 2] = [HeaderName::from_static("proxy-authorization"), EXPECT];

/// Which fields of a message are hop-by-hop, by their definition or because `Connection` names them.
/// A client cannot remove protected fields that way, such as `Host`, `Cookie` or forwarding headers.
///
/// `Connection` is read once for all fields of the message, and only names of fields that the message
/// has are kept: their number bounds the set, however long the list is.
#[derive(Debug)]
pub struct HopByHop {
    named: HashSet<HeaderName>,
}

impl HopByHop {
    /// Reads the `Connection` of a message.
    pub fn of(headers: &HeaderMap) -> Self {
        let names = tokens(headers, CONNECTION)
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            // What almost every message names costs no set.
            .filter(|name| !HOP_BY_HOP.contains(name));
        Self {
            named: names
                .filter(|name| headers.contains_key(name) && !is_protected(name))
                .collect(),
        }
    }

    /// Whether field `name` is not forwarded.
    pub fn contains(&self, name: &HeaderName) -> bool {
        HOP_BY_HOP.contains(name) || *name == TE || is_disguised(name) || self.named.contains(name)
    }
}

/// Removes every field for which `drops` is true.
pub fn remove_where(headers: &mut HeaderMap, drops: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| drops(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Removes the fields of the client's connection from a request that is forwarded.
pub fn strip_request(headers: &mut HeaderMap) {
    // `TE` is hop-by-hop, so ours takes the place of the client's: trailers do pass through here
    // (RFC 9110 section 10.1.4).
    let trailers = has_token(headers, &TE, "trailers");
    strip_response(headers);
    for name in REQUEST_ONLY {
        headers.remove(name);
    }
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The only expectation that there is (RFC 9110 section 10.1.1).
pub const CONTINUE: HeaderValue = HeaderValue::from_static("100-continue");

/// Whether the client waits for a 100 before it sends the body. hyper takes the last of several lines, so only a
/// single one means the same to both.
pub fn expects_continue(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (Some(expectation), None) => expectation
            .as_bytes()
            .eq_ignore_ascii_case(CONTINUE.as_bytes()),
        _ => false,
    }
}

/// Removes the fields of the endpoint's connection from a response that is passed back.
pub fn strip_response(headers: &mut HeaderMap) {
    let hop_by_hop = HopByHop::of(headers);
    remove_where(headers, |name| *name != TE && hop_by_hop.contains(name));
}

/// Whether a body has no transfer coding, or only `chunked`, once. hyper decodes that, but would
/// pass on any coding before it as if it were content.
pub fn is_plain_or_chunked(headers: &HeaderMap) -> bool {
    let mut codings = tokens(headers, TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        // A field without a coding is not valid, and its reader might see something else in it.
        (None, _) => !headers.contains_key(TRANSFER_ENCODING),
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Why the framing of a response body is not acceptable, although hyper accepts it: the next reader
/// might use the other length (RFC 9112 section 6.3), or miss a coding.
pub fn framing_error(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING) {
        return Some("both Content-Length and Transfer-Encoding");
    }
    (!is_plain_or_chunked(headers)).then_some("a transfer coding other than chunked")
}

/// Writes the fields that frame a request's body, from our understanding of it and not as received:
/// endpoint and proxy cannot disagree about where it ends.
pub fn frame_request(headers: &mut HeaderMap, length: BodyLength) {
    let had_length = headers.remove(CONTENT_LENGTH).is_some();
    headers.remove(TRANSFER_ENCODING);
    match length {
        BodyLength::Nothing if had_length => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        BodyLength::Nothing => {}
        BodyLength::Known(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Stated explicitly, or hyper would send no body with a GET.
        BodyLength::Unknown => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// The length of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    Nothing,
    /// The number of bytes.
    Known(u64),
    /// Known only at the end of the body.
    Unknown,
}

/// Whether a field such as `Transfer_Encoding` frames a body only for servers that turn header
/// fields into variables, where dash and underscore are the same.
fn is_disguised(name: &HeaderName) -> bool {
    name.as_str().contains('_')
        && [CONTENT_LENGTH, TRANSFER_ENCODING]
            .iter()
            .any(|framing| same_variable(framing.as_str(), name.as_str()))
}

/// Whether a field must not be a trailer: it decides about framing, routing or authentication (RFC
/// 9110 section 6.5.1), or its name is one that h2 accepts and HTTP/1.1 does not have.
pub fn is_never_a_trailer(name: &HeaderName) -> bool {
    !is_token(name.as_str())
        || HOP_BY_HOP.contains(name)
        || REQUEST_ONLY.contains(name)
        || is_protected(name)
        || *name == TE
        || *name == AUTHORIZATION
        || *name == ORIGIN
}

/// Whether a client must not be able to remove a field by naming it in `Connection`: endpoints rely
/// on it for routing, for sessions or for the client's identity.
fn is_protected(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || *name == COOKIE
        || name.as_str().starts_with("sec-websocket-")
        || is_forwarding(name)
}

/// Whether a request field is never forwarded, in addition to hop-by-hop fields.
pub fn is_request_only(name: &HeaderName) -> bool {
    REQUEST_ONLY.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(strip: fn(&mut HeaderMap), before: &[(&str, &str)], after: &[(&str, &str)]) {
        let mut seen = headers(before);
        strip(&mut seen);
        assert_eq!(seen, headers(after));
        strip(&mut seen);
        assert_eq!(seen, headers(after), "a second time changes nothing");
    }

    #[test]
    fn a_body_is_framed_as_it_was_understood() {
        for (before, length, after) in [
            (&[][..], BodyLength::Nothing, &[][..]),
            (
                &[("content-length", "00")],
                BodyLength::Nothing,
                &[("content-length", "0")],
            ),
            (
                &[("content-length", "02"), ("content-length", "2")],
                BodyLength::Known(2),
                &[("content-length", "2")],
            ),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "2")],
                BodyLength::Unknown,
                &[("transfer-encoding", "chunked")],
            ),
        ] {
            let mut seen = headers(before);
            frame_request(&mut seen, length);
            assert_eq!(seen, headers(after));
        }
    }

    #[test]
    fn only_chunked_is_accepted_as_a_transfer_coding() {
        for (codings, simple) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked;q=1"], false),
            (&["gzip"], false),
            (&["caf\u{e9}"], false),
            (&["caf\u{e9}, chunked"], false),
            (&[","], false),
        ] {
            let lines: Vec<_> = codings
                .iter()
                .map(|each| ("transfer-encoding", *each))
                .collect();
            assert_eq!(is_plain_or_chunked(&headers(&lines)), simple, "{codings:?}");
            let fault = framing_error(&headers(&lines));
            assert_eq!(fault.is_none(), simple, "{codings:?}");
        }
        let both = headers(&[("transfer-encoding", "chunked"), ("content-length", "1")]);
        assert!(framing_error(&both).is_some());
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        check(
            strip_request,
            &[
                ("host", "a"),
                ("connection", "keep-alive, X-Mine"),
                ("connection", "upgrade, caf\u{e9}, x-other"),
                ("x-mine", "1"),
                ("x-other", "1"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABk"),
                ("proxy-connection", "close"),
                ("proxy-authorization", "x"),
                ("expect", "100-continue"),
                ("transfer-encoding", "chunked"),
                ("transfer_encoding", "chunked"),
                ("content_length", "9"),
                ("te", "gzip"),
                ("trailer", "x-sum"),
            ],
            &[("host", "a"), ("trailer", "x-sum")],
        );
        check(
            strip_response,
            &[
                ("connection", "close"),
                ("keep-alive", "timeout=5"),
                ("set-cookie", "a"),
            ],
            &[("set-cookie", "a")],
        );
    }

    #[test]
    fn only_one_expectation_can_be_passed_on() {
        for (lines, expects) in [
            (&[][..], false),
            (&["100-continue"], true),
            (&["100-Continue"], true),
            (&["100-continue", "100-continue"], false),
            (&["100-continue, x"], false),
            (&["x"], false),
        ] {
            let lines: Vec<_> = lines.iter().map(|each| ("expect", *each)).collect();
            assert_eq!(expects_continue(&headers(&lines)), expects, "{lines:?}");
        }
    }

    #[test]
    fn what_is_never_a_trailer() {
        let check = |name: &'static str, expected| {
            let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
            assert_eq!(is_never_a_trailer(&name), expected, "{name}");
        };
        for name in ["host", "te", "authorization", "content-length", "x\"a"] {
            check(name, true);
        }
        for name in ["x-checksum", "grpc-status", "server-timing"] {
            check(name, false);
        }
    }

    #[test]
    fn te_passes_for_trailers_only() {
        check(
            strip_request,
            &[("connection", "te"), ("te", "gzip, trailers")],
            &[("te", "trailers")],
        );
    }

    #[test]
    fn a_client_cannot_hide_what_the_endpoint_must_see() {
        let kept = [
            ("host", "a"),
            ("content-length", "3"),
            ("x-forwarded-for", "1"),
            ("cookie", "c"),
        ];
        let mut before = kept.to_vec();
        before.push((
            "connection",
            "host, content-length, x-forwarded-for, cookie",
        ));
        check(strip_request, &before, &kept);
    }

    proptest! {
        #[test]
        fn nothing_named_by_connection_survives(names in prop::collection::vec("x-[a-z]{1,4}", 0..6)) {
            let mut seen = headers(&[("connection", &names.join(", "))]);
            for name in &names {
                seen.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("1"));
            }
            strip_response(&mut seen);
            prop_assert!(seen.is_empty());
        }
    }
}
