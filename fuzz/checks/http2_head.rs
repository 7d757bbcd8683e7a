//! Any head that h2 lets through is turned into a head of HTTP/1.1 that is complete, names one host, and means the same
//! to a server that reads it from the wire.
//!
//! A head is written as lines here, one for each field: `:method: GET`, `:path: /`, `x-a: 1`.

use h2::ext::Protocol;
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use tidegate::config::model::TokenSource;
use tidegate::protocol::credential::Credential;
use tidegate::protocol::handshake::Intent;
use tidegate::protocol::hop_by_hop::{framing_error, strip_request};
use tidegate::protocol::http2_head::{StreamKind, of_switch, response, to_http1};
use tidegate::protocol::rejection::Rejection;
use tidegate::protocol::sticky_cookie::cookie_value;
use tidegate::protocol::target::Target;
use tidegate::protocol::trace_context::TraceContext;

const MAX_FIELDS: usize = 100;

/// What a WebSocket has more: its key and the two fields that ask for it.
const ADDED: usize = 4;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    check_responses(bytes);
    let Some(head) = head_of(bytes) else {
        return;
    };
    let mut parts = head.clone();
    let kind = match to_http1(&mut parts, MAX_FIELDS, || HeaderValue::from_static(KEY)) {
        Ok(kind) => kind,
        Err(rejected) => {
            let expected = [
                Rejection::HeadTooLarge,
                Rejection::ProtocolUnsupported,
                Rejection::BadRequest,
                Rejection::BadHost,
                Rejection::HostMismatch,
            ];
            assert!(expected.contains(&rejected), "{rejected:?}");
            return;
        }
    };
    assert_eq!(parts.version, Version::HTTP_11);
    if kind == StreamKind::Plain && parts.method == Method::CONNECT {
        assert!(matches!(Intent::of(&parts), Intent::Unsupported));
        return;
    }
    check_fields(kind, &head, &parts);
    check_on_the_wire(kind, &parts);
    check_cookies(&head.headers, &parts);
}

/// The head, unless h2 rejects it: what `h2::server` does with the fields of a HEADERS frame.
fn head_of(bytes: &[u8]) -> Option<Parts> {
    let mut pseudo: [Option<&[u8]>; 5] = [None; 5];
    let names = [":method", ":scheme", ":authority", ":path", ":protocol"];
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        if let Some(at) = names.iter().position(|known| known.as_bytes() == name) {
            if pseudo[at].replace(value).is_some() || !headers.is_empty() {
                return None;
            }
            continue;
        }
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        let is_of_connection = [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(&name)
            || ["keep-alive", "proxy-connection"].contains(&name.as_str());
        if is_of_connection || (name == TE && value != "trailers") {
            return None;
        }
        headers.append(name, value);
    }
    let [method, scheme, authority, path, protocol] = pseudo;
    let method = Method::from_bytes(method?).ok()?;
    let is_bare_connect = method == Method::CONNECT && protocol.is_none();
    let is_complete = scheme.is_some() && path.is_some_and(|path| !path.is_empty());
    let has_any = scheme.is_some() || path.is_some();
    if (is_bare_connect && has_any) || (!is_bare_connect && !is_complete) {
        return None;
    }
    if protocol.is_some() && method != Method::CONNECT {
        return None;
    }
    let mut target = uri::Parts::default();
    target.authority = match authority {
        Some(authority) => Some(Authority::try_from(authority).ok()?),
        None => None,
    };
    if let (Some(scheme), true) = (scheme, authority.is_some()) {
        target.scheme = Some(scheme.try_into().ok()?);
    }
    target.path_and_query = match path {
        Some(path) => Some(PathAndQuery::try_from(path).ok()?),
        None => None,
    };
    let mut request = Request::builder()
        .method(method)
        .version(Version::HTTP_2)
        .uri(Uri::from_parts(target).ok()?);
    if let Some(protocol) = protocol {
        let protocol = std::str::from_utf8(protocol).ok()?;
        request = request.extension(Protocol::from(protocol));
    }
    let (mut parts, ()) = request.body(()).ok()?.into_parts();
    parts.headers = headers;
    Some(parts)
}

/// One host, one key, one line of cookies, the two fields that ask for a WebSocket, and everything else as it was.
fn check_fields(kind: StreamKind, head: &Parts, parts: &Parts) {
    let count = |name: &HeaderName| parts.headers.get_all(name).iter().count();
    assert_eq!(count(&HOST), 1);
    assert!(count(&COOKIE) <= 1);
    assert!(parts.uri.scheme().is_none() && parts.uri.authority().is_none());
    let mut ours = vec![HOST, COOKIE];
    let asks = [CONNECTION, UPGRADE];
    match kind {
        StreamKind::Plain => assert_eq!(asks.map(|name| count(&name)), [0, 0]),
        StreamKind::WebSocket => {
            assert_eq!(parts.method, Method::GET);
            assert_eq!(asks.each_ref().map(count), [1, 1]);
            assert_eq!(count(&SEC_WEBSOCKET_KEY), 1);
            assert_eq!(parts.headers[SEC_WEBSOCKET_KEY], KEY);
            ours.extend([SEC_WEBSOCKET_KEY, CONNECTION, UPGRADE]);
        }
    }
    let others = |headers: &HeaderMap| {
        let mut headers = headers.clone();
        ours.iter().for_each(|name| drop(headers.remove(name)));
        headers
    };
    assert_eq!(others(&parts.headers), others(&head.headers));
    if let Some(authority) = head.uri.authority() {
        assert_eq!(parts.headers[HOST], authority.as_str());
    }
}

/// Whoever reads the head as HTTP/1.1 finds the same fields, the same intent and the same target.
fn check_on_the_wire(kind: StreamKind, parts: &Parts) {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let mut wire = format!("{} {path} HTTP/1.1\r\n", parts.method).into_bytes();
    for (name, value) in &parts.headers {
        wire.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    wire.extend(b"\r\n");
    let target = Target::of(parts);
    if !path.starts_with('/') {
        // In a first line it might mean something else: a host, or all of them.
        assert!(target.is_err(), "{path}");
        return;
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS + ADDED];
    let mut parsed = httparse::Request::new(&mut lines);
    let complete = parsed.parse(&wire);
    assert_eq!(complete, Ok(httparse::Status::Complete(wire.len())));
    let mut request = Request::builder()
        .method(parsed.method.expect("it is complete"))
        .uri(parsed.path.expect("it is complete"));
    for line in parsed.headers.iter() {
        request = request.header(line.name, line.value);
    }
    let (read, ()) = request.body(()).expect("it is valid").into_parts();
    // As text: h2 may leave an empty path, which is `/`, where a `#` was cut off.
    assert_eq!(read.uri.path_and_query().map(|it| it.as_str()), Some(path));
    assert_eq!(
        (&read.method, &read.headers),
        (&parts.method, &parts.headers)
    );
    assert_eq!(Target::of(&read), target);
    assert_eq!(meaning(&read), meaning(parts));
    let is_upgrade = matches!(Intent::of(&read), Intent::WebSocket(_));
    assert_eq!(is_upgrade, kind == StreamKind::WebSocket);
    assert_eq!(framing_error(&read.headers), None);
    let mut forwarded = parts.headers.clone();
    strip_request(&mut forwarded);
    assert!(!forwarded.contains_key(UPGRADE) && !forwarded.contains_key(CONNECTION));
}

/// What a request asks for, without the fields that it borrows.
fn meaning(parts: &Parts) -> Result<Option<(String, usize, usize)>, Rejection> {
    let handshake = Intent::of(parts).handshake()?;
    Ok(handshake.map(|handshake| {
        let subprotocols = handshake.subprotocols().count();
        let extensions = handshake.extensions().count();
        (handshake.accept(), subprotocols, extensions)
    }))
}

/// Cookies mean the same in one line as in several, and so does every place of a token.
fn check_cookies(before: &HeaderMap, parts: &Parts) {
    for name in ["jwt", "sid"] {
        assert_eq!(
            cookie_value(before, name),
            cookie_value(&parts.headers, name)
        );
    }
    let sources = [
        TokenSource::Header(AUTHORIZATION),
        TokenSource::Cookie("jwt".into()),
        TokenSource::Query("token".into()),
        TokenSource::SubprotocolAfter("bearer".into()),
        TokenSource::SubprotocolPrefix("token.".into()),
    ];
    let query = parts.uri.query();
    let found = Credential::find(&sources, &parts.headers, query);
    assert_eq!(found, Credential::find(&sources, before, query));
    let trace = |headers| TraceContext::of(headers).map(|it| it.trace.to_string());
    assert_eq!(trace(before), trace(&parts.headers));
}

/// The other way: a head of ours has nothing of a connection of HTTP/1.1.
fn check_responses(bytes: &[u8]) {
    let Some((head, length)) = response(bytes) else {
        assert!(of_switch(bytes).is_none());
        return;
    };
    assert!((1..=bytes.len()).contains(&length));
    let switched = of_switch(bytes).expect("it is one");
    assert_eq!(switched.status(), 200);
    for name in [
        "connection",
        "upgrade",
        "te",
        "transfer-encoding",
        "keep-alive",
    ] {
        assert!(!head.headers().contains_key(name) && !switched.headers().contains_key(name));
    }
    for name in ["sec-websocket-accept", "content-length"] {
        assert!(!switched.headers().contains_key(name));
    }
}
