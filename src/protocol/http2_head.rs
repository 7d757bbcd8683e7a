//! Heads of HTTP/2, and the heads of HTTP/1.1 that mean the same (RFC 9113 section 8, RFC 8441 section 5).
//!
//! Everything between client and endpoint, from routes to the request that an endpoint gets, knows only the latter: so
//! both versions have the same rules. h2 has already rejected what makes a head malformed by itself: upper case, connection
//! fields, pseudo-fields that are missing, repeated or out of place.

use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version};

use super::rejection::Rejection;
use super::target;
use super::token::is_token;

/// What a stream asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A WebSocket: an extended CONNECT.
    WebSocket,
    /// A request.
    Plain,
}

/// Turns a head into one of HTTP/1.1. A WebSocket gets `key` for its `Sec-WebSocket-Key`.
///
/// # Errors
/// [`Rejection::HeadTooLarge`] for more than `max_fields`, [`Rejection::ProtocolUnsupported`],
/// [`Rejection::BadRequest`], [`Rejection::BadHost`], [`Rejection::HostMismatch`].
pub fn to_http1(
    parts: &mut Parts,
    max_fields: usize,
    key: impl FnOnce() -> HeaderValue,
) -> Result<StreamKind, Rejection> {
    if parts.headers.len() > max_fields {
        return Err(Rejection::HeadTooLarge);
    }
    // Blanks around a value are not part of it in HTTP/1.1, and must not be there in HTTP/2 (RFC 9113 section 8.2.1).
    let is_bare = |value: &HeaderValue| value.as_bytes().trim_ascii() == value.as_bytes();
    if !parts.headers.values().all(is_bare) {
        return Err(Rejection::BadRequest);
    }
    // h2 knows one more byte in names than there are in those of HTTP: a quotation mark.
    if !parts.headers.keys().all(|name| is_token(name.as_str())) {
        return Err(Rejection::BadRequest);
    }
    let kind = match parts.extensions.remove::<Protocol>() {
        None => StreamKind::Plain,
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => {
            StreamKind::WebSocket
        }
        Some(_) => return Err(Rejection::ProtocolUnsupported),
    };
    parts.version = Version::HTTP_11;
    if kind == StreamKind::Plain && parts.method == Method::CONNECT {
        // It has neither scheme nor path, and is rejected for its method.
        return Ok(kind);
    }
    check_scheme(&parts.uri)?;
    set_host(parts)?;
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| PathAndQuery::from_static("/").into(), Uri::from);
    join_cookies(&mut parts.headers);
    if kind == StreamKind::WebSocket {
        parts.method = Method::GET;
        let upgrade = HeaderValue::from_static("Upgrade");
        parts.headers.insert(CONNECTION, upgrade);
        let websocket = HeaderValue::from_static("websocket");
        parts.headers.insert(UPGRADE, websocket);
        parts.headers.insert(SEC_WEBSOCKET_KEY, key());
    }
    Ok(kind)
}

/// Fields that a head in HTTP/2 must not have (RFC 9113 section 8.2.2).
const OF_CONNECTIONS: [HeaderName; 6] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes the fields that are about a connection of HTTP/1.1.
pub fn strip_connection(headers: &mut HeaderMap) {
    for name in OF_CONNECTIONS {
        headers.remove(name);
    }
}

/// The head at the beginning of `bytes`, which tidegate has written for a client of HTTP/1.1, and its length there;
/// `None` if there is none.
pub fn response(bytes: &[u8]) -> Option<(Response<()>, usize)> {
    let most = bytes.iter().filter(|byte| **byte == b'\n').count();
    let mut lines = vec![httparse::EMPTY_HEADER; most];
    let mut parsed = httparse::Response::new(&mut lines);
    let Ok(httparse::Status::Complete(length)) = parsed.parse(bytes) else {
        return None;
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(parsed.code?).ok()?;
    for line in parsed.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(line.value).ok()?;
        response.headers_mut().append(name, value);
    }
    strip_connection(response.headers_mut());
    Some((response, length))
}

/// The response to an extended CONNECT, from the 101 that a client of HTTP/1.1 would get: a 200 without a length, and
/// without the answer to a key that the client does not have.
pub fn of_switch(head: &[u8]) -> Option<Response<()>> {
    let (mut response, _) = response(head)?;
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    response.headers_mut().remove(CONTENT_LENGTH);
    Some(response)
}

fn check_scheme(uri: &Uri) -> Result<(), Rejection> {
    match uri.scheme_str() {
        None | Some("https" | "http") => Ok(()),
        Some(_) => Err(Rejection::BadRequest),
    }
}

/// Gives the head the one `Host` that it must have, from `:authority`.
fn set_host(parts: &mut Parts) -> Result<(), Rejection> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else {
        return Err(Rejection::BadHost);
    };
    let Some(authority) = parts.uri.authority() else {
        return host.map(|_| ()).ok_or(Rejection::BadHost);
    };
    let authority = authority.as_str();
    if let Some(host) = host {
        let host = host.to_str().map_err(|_| Rejection::BadHost)?;
        target::check_agreement(authority, host, parts.uri.scheme())?;
    }
    let host = HeaderValue::from_str(authority).map_err(|_| Rejection::BadHost)?;
    parts.headers.insert(HOST, host);
    Ok(())
}

/// Joins the pieces that a client may split its cookies into, so that they compress better: HTTP/1.1 has one line of
/// them (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    if let (Some(_), Some(_)) = (lines.next(), lines.next()) {
        let lines: Vec<&[u8]> = headers
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            // An empty one at the end would leave a blank there.
            .filter(|line| !line.is_empty())
            .collect();
        // Made of valid values, it is one.
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::TokenSource;
    use crate::protocol::credential::{Credential, CredentialError};
    use crate::protocol::handshake::Intent;
    use crate::protocol::target::Target;
    use http::Request;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn translated(
        method: &str,
        uri: &str,
        protocol: Option<&'static str>,
        fields: &[(&str, &str)],
    ) -> Result<(Parts, StreamKind), Rejection> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .version(Version::HTTP_2);
        for (name, value) in fields {
            // As h2 reads it.
            let name = HeaderName::from_lowercase(name.as_bytes()).unwrap();
            request = request.header(name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        if let Some(protocol) = protocol {
            parts.extensions.insert(Protocol::from_static(protocol));
        }
        let kind = to_http1(&mut parts, 10, || HeaderValue::from_static(KEY))?;
        Ok((parts, kind))
    }

    #[test]
    fn an_extended_connect_is_a_handshake() {
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
            (
                "sec-websocket-key",
                "of the client, which means nothing here",
            ),
        ];
        let (parts, kind) = translated(
            "CONNECT",
            "https://a.example/c?q=1",
            Some("websocket"),
            &fields,
        )
        .unwrap();
        assert_eq!(kind, StreamKind::WebSocket);
        let handshake = Intent::of(&parts).handshake().unwrap().unwrap();
        assert_eq!(handshake.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.subprotocols().collect::<Vec<_>>(), [b"chat"]);
        let target = Target::of(&parts).unwrap();
        assert_eq!(
            (target.host(), target.origin_form()),
            ("a.example", "/c?q=1")
        );
    }

    #[test]
    fn what_http1_would_read_differently_is_rejected() {
        let plain = |fields: &[(&str, &str)]| {
            translated("GET", "https://a.example/", None, fields).map(|(_, kind)| kind)
        };
        for same in ["A.example", "a.example:443", "a.example:"] {
            assert_eq!(plain(&[("host", same)]), Ok(StreamKind::Plain), "{same}");
        }
        assert_eq!(
            plain(&[("host", "a.example:80")]),
            Err(Rejection::HostMismatch)
        );
        assert_eq!(plain(&[("host", "u@a.example")]), Err(Rejection::BadHost));
        assert_eq!(
            plain(&[("host", "b.example")]),
            Err(Rejection::HostMismatch)
        );
        let twice = [("host", "a.example"), ("host", "a.example")];
        assert_eq!(plain(&twice), Err(Rejection::BadHost));
        for value in [" x", "x\t", " "] {
            assert_eq!(
                plain(&[("x-a", value)]),
                Err(Rejection::BadRequest),
                "{value:?}"
            );
        }
        assert_eq!(plain(&[("x\"a", "1")]), Err(Rejection::BadRequest));
        let many: Vec<_> = (0..11).map(|_| ("x-a", "1")).collect();
        assert_eq!(plain(&many), Err(Rejection::HeadTooLarge));
        let other = translated("CONNECT", "https://a.example/", Some("connect-udp"), &[]);
        assert_eq!(other.map(|_| ()), Err(Rejection::ProtocolUnsupported));
    }

    #[test]
    fn a_connect_without_a_protocol_is_rejected_for_its_method() {
        let (parts, _) = translated("CONNECT", "a.example:443", None, &[]).unwrap();
        let rejected = Intent::of(&parts).handshake().map(|_| ());
        assert_eq!(rejected, Err(Rejection::MethodNotAllowed));
    }

    #[test]
    fn a_101_becomes_a_200() {
        let head =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nearly bytes";
        let response = of_switch(head).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let fields: Vec<(&str, &[u8])> = response
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let cookies: [(&str, &[u8]); 2] = [("set-cookie", b"a=1"), ("set-cookie", b"b=2")];
        assert_eq!(fields, cookies);
        let (interim, length) =
            super::response(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nmore").unwrap();
        assert_eq!((interim.status().as_u16(), length), (103, 40));
        assert!(super::response(b"").is_none());
    }

    #[test]
    fn cookies_are_one_line() {
        let fields = [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2; c=3")];
        let (parts, _) = translated("GET", "https://a.example/", None, &fields).unwrap();
        let lines: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(lines, ["a=1; b=2; c=3"]);
        let fields = [("cookie", ""), ("cookie", "a=1"), ("cookie", "")];
        let (parts, _) = translated("GET", "https://a.example/", None, &fields).unwrap();
        assert_eq!(parts.headers[COOKIE], "a=1");
    }

    /// A request that both versions can express.
    #[derive(Debug, Clone)]
    struct AnyRequest {
        /// `None` for a WebSocket.
        method: Option<&'static str>,
        scheme: &'static str,
        authority: Option<&'static str>,
        host: Option<&'static str>,
        path: &'static str,
        fields: Vec<(&'static str, &'static str)>,
    }

    impl AnyRequest {
        fn parts(&self, method: &str, uri: &str, host: Option<&str>) -> Option<Parts> {
            let mut request = Request::builder().method(method).uri(uri);
            for (name, value) in host.map(|host| ("host", host)).iter().chain(&self.fields) {
                request = request.header(*name, *value);
            }
            Some(request.body(()).ok()?.into_parts().0)
        }

        fn uri(&self) -> String {
            let absolute = |named| format!("{}://{named}{}", self.scheme, self.path);
            self.authority
                .map_or_else(|| self.path.to_owned(), absolute)
        }

        /// As a client of HTTP/2 sends it.
        fn as_http2(&self) -> Option<Parts> {
            let method = self.method.unwrap_or("CONNECT");
            let mut parts = self.parts(method, &self.uri(), self.host)?;
            if self.method.is_none() {
                parts.extensions.insert(Protocol::from_static("websocket"));
            }
            Some(parts)
        }

        /// As a client of HTTP/1.1 sends it: with a whole URI if it names its host twice.
        fn as_http1(&self) -> Option<Parts> {
            let method = self.method.unwrap_or("GET");
            let mut parts = match (self.authority, self.host) {
                (Some(_), Some(_)) => self.parts(method, &self.uri(), self.host)?,
                (authority, host) => self.parts(method, self.path, authority.or(host))?,
            };
            if self.method.is_none() {
                for (name, value) in [
                    (CONNECTION, "Upgrade"),
                    (UPGRADE, "websocket"),
                    (SEC_WEBSOCKET_KEY, KEY),
                ] {
                    parts.headers.insert(name, HeaderValue::from_static(value));
                }
            }
            Some(parts)
        }
    }

    fn any_request() -> impl Strategy<Value = AnyRequest> {
        let hosts = [
            "a.example",
            "A.Example",
            "a.example:443",
            "a.example:80",
            "a.example:",
            "a.example.",
            "b.example",
            "[::1]",
            "u@a.example",
            "a.example:99999",
        ];
        let methods = ["GET", "HEAD", "POST", "OPTIONS", "TRACE", "QUERY"];
        let paths = [
            "/",
            "/a?token=t",
            "/a?token=t&token=u",
            "//b.example/c",
            "/%2e%2e/a",
            "/a/../b",
            "/a%2fb",
            "/a;b",
            "/a?b\"",
            "/a\"",
            "/%zz",
            "/a?%zz",
        ];
        let fields = [
            ("sec-websocket-version", "13"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "x"),
            ("sec-websocket-protocol", "chat, bearer, t"),
            ("sec-websocket-protocol", "token.u"),
            ("content-length", "0"),
            ("content-length", "5"),
            ("te", "trailers"),
            ("cookie", "jwt=t"),
            ("cookie", "a=1; jwt=\"t"),
            ("cookie", ";"),
            ("cookie", ""),
            ("authorization", "Bearer t"),
            ("expect", "100-continue"),
            ("x-a", "\"a\tb"),
        ];
        (
            option::of(select(methods.to_vec())),
            select(vec!["http", "https"]),
            option::of(select(hosts.to_vec())),
            option::of(select(hosts.to_vec())),
            select(paths.to_vec()),
            vec(select(fields.to_vec()), 0..5),
        )
            .prop_map(
                |(method, scheme, authority, host, path, fields)| AnyRequest {
                    method,
                    scheme,
                    authority,
                    host,
                    path,
                    fields,
                },
            )
    }

    /// What a session finds in a head.
    #[derive(Debug, PartialEq)]
    struct Verdict {
        is_handshake: bool,
        subprotocols: usize,
        host: String,
        origin_form: String,
        token: Result<Option<Credential>, CredentialError>,
    }

    /// The verdict, or all reasons for which the head is rejected.
    fn verdict(parts: &Parts) -> Result<Verdict, Vec<Rejection>> {
        match (Intent::of(parts).handshake(), Target::of(parts)) {
            (Ok(handshake), Ok(target)) => {
                let sources = [
                    TokenSource::Header(http::header::AUTHORIZATION),
                    TokenSource::Cookie("jwt".into()),
                    TokenSource::Query("token".into()),
                    TokenSource::SubprotocolAfter("bearer".into()),
                    TokenSource::SubprotocolPrefix("token.".into()),
                ];
                Ok(Verdict {
                    is_handshake: handshake.is_some(),
                    subprotocols: handshake.map_or(0, |it| it.subprotocols().count()),
                    host: target.host().to_owned(),
                    origin_form: target.origin_form().to_owned(),
                    token: Credential::find(&sources, &parts.headers, target.query()),
                })
            }
            (handshake, target) => {
                let reasons = [handshake.err(), target.err()];
                Err(reasons.into_iter().flatten().collect())
            }
        }
    }

    proptest! {
        #[test]
        fn both_versions_have_the_same_verdict(request in any_request()) {
            let (Some(mut parts), Some(one)) = (request.as_http2(), request.as_http1()) else {
                return Ok(());
            };
            let two = to_http1(&mut parts, 10, || HeaderValue::from_static(KEY))
                .map_err(|rejection| vec![rejection])
                .and_then(|_| verdict(&parts));
            match (two, verdict(&one)) {
                (Err(two), Err(one)) => {
                    // A whole URI is a target, and `:authority` a host.
                    let in_one = |reason: &Rejection| match reason {
                        Rejection::BadHost => {
                            one.contains(reason) || one.contains(&Rejection::BadTarget)
                        }
                        _ => one.contains(reason),
                    };
                    prop_assert!(two.iter().all(in_one), "{two:?} {one:?}");
                }
                (two, one) => prop_assert_eq!(two, one),
            }
        }
    }
}
