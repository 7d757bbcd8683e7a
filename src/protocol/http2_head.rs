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
    let authority = authority.as_str().as_bytes();
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority)) {
        return Err(Rejection::HostMismatch);
    }
    let host = HeaderValue::from_bytes(authority).map_err(|_| Rejection::BadHost)?;
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
    use crate::protocol::handshake::Intent;
    use crate::protocol::target::Target;
    use http::Request;

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
            request = request.header(*name, *value);
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
        assert_eq!(plain(&[("host", "A.example")]), Ok(StreamKind::Plain));
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
    }
}
