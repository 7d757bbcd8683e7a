//! The opening handshake: the client's request, and the request that we send to the endpoint (RFC
//! 6455 section 4).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};

use super::edit::Edit;
use super::extensions;
use super::forwarded::{self, ForwardingFacts};
use super::forwarding_names;
use super::header_case::{HeaderCase, write_field};
use super::hop_by_hop::{self, HopByHop};
use super::rejection::Rejection;
use super::token::{has_token, tokens};

/// The constant that is appended to the key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
pub enum Intent<'a> {
    /// A WebSocket connection. The handshake must be valid: it is rejected otherwise, and never forwarded as
    /// plain HTTP without its `Upgrade`, which the client would not understand.
    WebSocket(Result<Handshake<'a>, Rejection>),
    /// Plain HTTP. Other upgrades that the request may offer are ignored.
    Plain,
    /// What a reverse proxy does not serve: CONNECT or TRACE.
    Unsupported,
}

impl<'a> Intent<'a> {
    /// Determines what a request asks for.
    pub fn of(parts: &'a Parts) -> Self {
        let headers = &parts.headers;
        match parts.method {
            Method::CONNECT | Method::TRACE => Self::Unsupported,
            Method::GET
                if parts.version == Version::HTTP_11
                    && has_token(headers, &UPGRADE, "websocket")
                    && has_token(headers, &CONNECTION, "upgrade") =>
            {
                Self::WebSocket(Handshake::new(headers))
            }
            _ => Self::Plain,
        }
    }

    /// The handshake; `None` for plain HTTP.
    ///
    /// # Errors
    /// [`Rejection::MethodNotAllowed`], [`Rejection::VersionUnsupported`],
    /// [`Rejection::KeyInvalid`], [`Rejection::HandshakeBody`].
    pub fn handshake(self) -> Result<Option<Handshake<'a>>, Rejection> {
        match self {
            Self::WebSocket(handshake) => handshake.map(Some),
            Self::Plain => Ok(None),
            Self::Unsupported => Err(Rejection::MethodNotAllowed),
        }
    }
}

/// A valid opening handshake.
#[derive(Debug, Clone, Copy)]
pub struct Handshake<'a> {
    headers: &'a HeaderMap,
    key: &'a str,
    /// Whether compression offers reach the endpoint.
    compression: bool,
    /// The subprotocol that the client gets if the endpoint selects none.
    answer: Option<&'a str>,
}

impl<'a> Handshake<'a> {
    fn new(headers: &'a HeaderMap) -> Result<Self, Rejection> {
        if only(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(Rejection::VersionUnsupported);
        }
        let key = only(headers, &SEC_WEBSOCKET_KEY)
            .filter(|key| is_key(key))
            .ok_or(Rejection::KeyInvalid)?;
        let no_length = headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .all(|length| length.as_bytes() == b"0");
        if !no_length || headers.contains_key(TRANSFER_ENCODING) {
            return Err(Rejection::HandshakeBody);
        }
        Ok(Self {
            headers,
            key,
            compression: true,
            answer: None,
        })
    }

    /// The same handshake, as if the client had not offered compression.
    pub fn without_compression(self) -> Self {
        Self {
            compression: false,
            ..self
        }
    }

    /// The same handshake, in which the client has offered `marker` for tidegate alone, to mark a token. It gets this
    /// as its subprotocol if the endpoint selects none: browsers fail a connection if nothing of what they have
    /// offered is selected.
    pub fn answered_with(self, marker: Option<&'a str>) -> Self {
        Self {
            answer: marker,
            ..self
        }
    }

    /// The subprotocol that the client gets if the endpoint selects none.
    pub(super) fn answer(&self) -> Option<&'a str> {
        self.answer
    }

    /// The `Sec-WebSocket-Accept` that proves that an endpoint understood the handshake (RFC 6455
    /// section 4.2.2).
    pub fn accept(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(self.key.as_bytes());
        hash.update(GUID);
        STANDARD.encode(hash.finish())
    }

    /// The subprotocols that the client offered. Case matters (RFC 6455 section 4.1).
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        tokens(self.headers, SEC_WEBSOCKET_PROTOCOL)
    }

    /// The names of the extensions that the endpoint was offered, with any parameters and in any case.
    pub fn extensions(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let compression = self.compression;
        self.headers
            .get_all(SEC_WEBSOCKET_EXTENSIONS)
            .iter()
            .flat_map(|line| extensions::names(line.as_bytes()))
            .filter(move |name| compression || !extensions::compresses(name))
    }
}

/// The value of a field that must be present exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => line
            .to_str()
            .ok()
            .map(|text| text.trim_matches([' ', '\t'])),
        _ => None,
    }
}

/// Whether `text` is the base64 of 16 bytes. The unused bits of the last digit are not checked,
/// because some clients do not clear them.
fn is_key(text: &str) -> bool {
    text.len() == 24
        && text.strip_suffix("==").is_some_and(|digits| {
            digits
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        })
}

/// The request that we send to an endpoint for a client's handshake.
#[derive(Debug)]
pub struct HandshakeRequest<'a> {
    /// The client's request.
    pub parts: &'a Parts,
    /// Path and query.
    pub origin_form: &'a str,
    /// The `Host` field.
    pub host: &'a str,
    /// The forwarding fields.
    pub forwarding: ForwardingFacts<'a>,
    /// The configured changes.
    pub edit: &'a Edit<'a>,
    /// Whether compression offers are passed on.
    pub compression: bool,
    /// The case of the client's header names, if known.
    pub header_case: Option<HeaderCase<'a>>,
}

impl HandshakeRequest<'_> {
    /// Writes the request head. Key, version and offers are the client's own, so that the
    /// endpoint's response answers the client's handshake.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.origin_form.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        let headers = &self.parts.headers;
        let hop_by_hop = HopByHop::of(headers);
        for (name, value) in headers {
            if is_rewritten(name) || hop_by_hop.contains(name) || self.edit.drops(name.as_str()) {
                continue;
            }
            // These are written as in RFC 6455, whatever the client wrote: some servers compare
            // them with case.
            let ours = name.as_str().starts_with("sec-websocket-");
            let header_case = self.header_case.as_ref().filter(|_| !ours);
            if !self.compression && *name == SEC_WEBSOCKET_EXTENSIONS {
                if let Some(kept) = extensions::without_compression(value.as_bytes()) {
                    write_field(out, name, &kept, header_case);
                }
                continue;
            }
            write_field(out, name, value.as_bytes(), header_case);
        }
        forwarded::for_each_field(&self.forwarding, |name, value| {
            if !self.edit.overrides(&name) {
                write_field(out, &name, value.as_bytes(), None);
            }
        });
        for (name, value) in self.edit.added() {
            write_field(out, name, value.as_bytes(), None);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields of the client's request that are rewritten or dropped.
fn is_rewritten(name: &HeaderName) -> bool {
    *name == HOST
        || *name == CONTENT_LENGTH
        || hop_by_hop::is_request_only(name)
        || forwarding_names::is_forwarding(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HeaderChanges;
    use crate::protocol::edit;
    use proptest::prelude::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn parts(method: &str, version: Version, lines: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder()
            .method(method)
            .uri("/chat")
            .version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// A good handshake, with some fields replaced (`None` removes).
    fn handshake(changes: &[(&'static str, Option<&'static str>)]) -> Parts {
        let mut lines = vec![
            ("host", "chat.example.com"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ];
        for (name, value) in changes {
            lines.retain(|(known, _)| known != name);
            lines.extend(value.map(|value| (*name, value)));
        }
        parts("GET", Version::HTTP_11, &lines)
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Seen {
        Handshake,
        Plain,
        Refused(Rejection),
    }

    #[track_caller]
    fn check(parts: &Parts, expected: Seen) {
        let seen = match Intent::of(parts).handshake() {
            Ok(Some(_)) => Seen::Handshake,
            Ok(None) => Seen::Plain,
            Err(rejection) => Seen::Refused(rejection),
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_is_a_handshake() {
        check(&handshake(&[]), Seen::Handshake);
        check(
            &handshake(&[("upgrade", Some("WebSocket"))]),
            Seen::Handshake,
        );
        check(
            &handshake(&[("upgrade", Some("h2c, websocket"))]),
            Seen::Handshake,
        );
        check(
            &handshake(&[("connection", Some("keep-alive, upgrade"))]),
            Seen::Handshake,
        );
        check(&handshake(&[("upgrade", None)]), Seen::Plain);
        check(&handshake(&[("upgrade", Some("h2c"))]), Seen::Plain);
        check(
            &handshake(&[("connection", Some("keep-alive"))]),
            Seen::Plain,
        );
        check(&handshake(&[("connection", None)]), Seen::Plain);
    }

    #[test]
    fn other_methods_and_http_1_0_never_upgrade() {
        let lines = [("upgrade", "websocket"), ("connection", "upgrade")];
        for method in ["POST", "HEAD", "OPTIONS"] {
            check(&parts(method, Version::HTTP_11, &lines), Seen::Plain);
        }
        check(&parts("GET", Version::HTTP_10, &lines), Seen::Plain);
        for method in ["CONNECT", "TRACE"] {
            check(
                &parts(method, Version::HTTP_11, &lines),
                Seen::Refused(Rejection::MethodNotAllowed),
            );
        }
    }

    /// The first of the published smuggling attacks: the endpoint refuses the version, a lax proxy
    /// relays all the same, and what the client sends next reaches the endpoint as a request.
    #[test]
    fn a_refused_version_never_becomes_a_tunnel() {
        for version in [None, Some("1337"), Some("8"), Some("13, 8"), Some("")] {
            check(
                &handshake(&[("sec-websocket-version", version)]),
                Seen::Refused(Rejection::VersionUnsupported),
            );
        }
    }

    #[test]
    fn one_valid_key() {
        let refused = || Seen::Refused(Rejection::KeyInvalid);
        check(&handshake(&[("sec-websocket-key", None)]), refused());
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZQ=a",
            "dGhlIHNhbXBsZSBub25j-Q==",
        ] {
            check(&handshake(&[("sec-websocket-key", Some(key))]), refused());
        }
        check(
            &handshake(&[("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZ/=="))]),
            Seen::Handshake,
        );
        let twice = [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-key", KEY),
        ];
        check(&parts("GET", Version::HTTP_11, &twice), refused());
    }

    #[test]
    fn no_body() {
        check(
            &handshake(&[("content-length", Some("0"))]),
            Seen::Handshake,
        );
        for (name, value) in [("content-length", "5"), ("transfer-encoding", "chunked")] {
            check(
                &handshake(&[(name, Some(value))]),
                Seen::Refused(Rejection::HandshakeBody),
            );
        }
    }

    fn valid(parts: &Parts) -> Handshake<'_> {
        Intent::of(parts).handshake().unwrap().unwrap()
    }

    #[test]
    fn accept_is_that_of_rfc_6455() {
        assert_eq!(
            valid(&handshake(&[])).accept(),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn offers_are_read_as_lists() {
        let parts = handshake(&[
            ("sec-websocket-protocol", Some("graphql-ws, chat")),
            (
                "sec-websocket-extensions",
                Some("foo; x=\"a, b\u{e4}r\", permessage-deflate; y"),
            ),
        ]);
        let handshake = valid(&parts);
        let subprotocols: Vec<_> = handshake.subprotocols().collect();
        assert_eq!(subprotocols, [&b"graphql-ws"[..], b"chat"]);
        let extensions: Vec<_> = handshake.extensions().collect();
        assert_eq!(extensions, [&b"foo"[..], b"permessage-deflate"]);
        let extensions: Vec<_> = handshake.without_compression().extensions().collect();
        assert_eq!(extensions, [&b"foo"[..]]);
    }

    #[test]
    fn the_request_to_the_endpoint() {
        let parts = handshake(&[
            ("connection", Some("keep-alive, Upgrade, X-Hop")),
            ("x-hop", Some("gone")),
            ("x-api-key", Some("k")),
            ("x-forwarded-for", Some("6.6.6.6")),
            ("expect", Some("100-continue")),
            ("cookie", Some("a=b")),
        ]);
        let changes = HeaderChanges::default();
        let edit = Edit::new(&changes, &[], &edit::tests::values());
        let request = HandshakeRequest {
            parts: &parts,
            origin_form: "/chat?x",
            host: "chat.example.com",
            edit: &edit,
            compression: true,
            forwarding: ForwardingFacts {
                client: None,
                is_known: true,
                proxies: &[],
                secure: false,
                host: Some("chat.example.com"),
                port: None,
            },
            header_case: HeaderCase::of(b"GET / HTTP/1.1\r\nX-API-Key: k\r\nCOOKIE: a=b\r\n\r\n"),
        };
        let mut out = Vec::new();
        request.write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /chat?x HTTP/1.1\r\n\
             Host: chat.example.com\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\
             X-API-Key: k\r\n\
             COOKIE: a=b\r\n\
             X-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: chat.example.com\r\n\
             Forwarded: for=unknown;host=\"chat.example.com\";proto=http\r\n\
             \r\n"
        );
    }

    proptest! {
        /// Whatever a client sends, the endpoint gets one handshake with one of each.
        #[test]
        fn the_endpoint_gets_one_unambiguous_head(
            extra in prop::collection::vec(("[a-z_-]{1,12}", "[ -~]{0,16}"), 0..8),
        ) {
            let mut parts = handshake(&[]);
            for (name, value) in &extra {
                let (Ok(name), Ok(value)) = (
                    HeaderName::from_bytes(name.as_bytes()),
                    http::HeaderValue::from_str(value),
                ) else { continue };
                parts.headers.append(name, value);
            }
            let Intent::WebSocket(Ok(_)) = Intent::of(&parts) else { return Ok(()) };
            let forwarding = ForwardingFacts { client: None, is_known: true, proxies: &[], secure: false, host: Some("a"), port: None };
            let changes = HeaderChanges::default();
            let edit = Edit::new(&changes, &[], &edit::tests::values());
            let request = HandshakeRequest {
                parts: &parts, origin_form: "/", host: "a", forwarding, edit: &edit, compression: true,
                header_case: None,
            };
            let mut out = Vec::new();
            request.write(&mut out);
            let mut lines = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut lines);
            prop_assert_eq!(head.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
            for name in ["host", "upgrade", "connection", "sec-websocket-key", "x-forwarded-proto"] {
                let count =
                    head.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).count();
                prop_assert_eq!(count, 1, "{}", name);
            }
            let framing = head.headers.iter().any(|line| {
                line.name.eq_ignore_ascii_case("content-length")
                    || line.name.eq_ignore_ascii_case("transfer-encoding")
            });
            prop_assert!(!framing);
        }
    }
}
