//! The rejections: every refusal that tidegate answers itself, with status, stable token and text.

use std::fmt;

use http::header::{ALLOW, CONNECTION, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

macro_rules! rejections {
    ($( $(#[doc = $doc:literal])+ $name:ident = $status:ident, $token:literal, $text:literal; )+) => {
        /// A request that tidegate refuses by itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rejection {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Rejection {
            /// All rejections.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The status code of the response.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// The stable token that `tidegate-reason`, logs and metrics have.
            pub fn token(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// The body of the response: one sentence for a person.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($text, "\n"),)+ }
            }
        }
    };
}

rejections! {
    /// The request is not valid HTTP.
    BadRequest = BAD_REQUEST, "bad-request", "The request is malformed.";
    /// The request head is too large.
    HeadTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large",
        "The request headers are too large.";
    /// `Host` is missing, repeated or not valid (RFC 9112 section 3.2).
    BadHost = BAD_REQUEST, "bad-host", "The request must have exactly one valid Host header.";
    /// The authority of an absolute target differs from `Host` (RFC 9112 section 3.2.2).
    HostMismatch = BAD_REQUEST, "host-mismatch",
        "The host in the request target differs from the Host header.";
    /// The target has characters that must be encoded, or a form that is not served.
    BadTarget = BAD_REQUEST, "bad-target", "The request target is malformed.";
    /// The path has a dot segment, plain or encoded: different servers resolve these differently.
    DotSegment = BAD_REQUEST, "dot-segment", "The request path must not contain dot segments.";
    /// As some servers read it, with slashes decoded or parameters cut off, the path matches another route.
    EncodedSlash = BAD_REQUEST, "encoded-slash",
        "The request path is ambiguous: some servers would read it as a different path.";
    /// The method is CONNECT or TRACE.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "This method is not supported.";
    /// An extended CONNECT asks for a protocol other than WebSocket (RFC 9220 section 3).
    ProtocolUnsupported = NOT_IMPLEMENTED, "protocol-unsupported",
        "Only WebSocket connections can be opened with an extended CONNECT.";
    /// The handshake is for a version other than 13 (RFC 6455 section 4.2.2).
    VersionUnsupported = UPGRADE_REQUIRED, "websocket-version",
        "Only version 13 of the WebSocket protocol is supported.";
    /// `Sec-WebSocket-Key` is missing, repeated or not valid (RFC 6455 section 4.2.1).
    KeyInvalid = BAD_REQUEST, "websocket-key",
        "The handshake must have exactly one Sec-WebSocket-Key: 16 bytes in base64.";
    /// The handshake has a body.
    HandshakeBody = BAD_REQUEST, "websocket-body", "A WebSocket handshake must not have a body.";
    /// The request is plain HTTP, and the route has `http = "reject"`.
    WebSocketRequired = UPGRADE_REQUIRED, "websocket-required",
        "Only WebSocket connections are served here.";
    /// `Forwarded` from a trusted proxy is not valid, so its end cannot be attributed to the proxy.
    BadForwarded = BAD_REQUEST, "bad-forwarded", "The Forwarded header is malformed.";
    /// The path does not literally begin with the route's `strip_prefix`.
    PathPrefix = BAD_REQUEST, "path-prefix",
        "The beginning of the path must not be percent-encoded.";
    /// The handshake came without TLS, and the listener redirects to https.
    HttpsRequired = FORBIDDEN, "https-required",
        "A wss:// address is required: WebSocket handshakes are not redirected.";
    /// The request is a handshake, and the route redirects.
    RedirectOnly = FORBIDDEN, "redirect-only",
        "This address has moved, and WebSocket handshakes are not redirected.";
    /// The client's address is in `deny`, or not in `allow`.
    AddressDenied = FORBIDDEN, "address-denied", "Connections from your address are not allowed.";
    /// The client has no certificate, and the route requires one.
    CertificateRequired = FORBIDDEN, "client-certificate",
        "A client certificate is required.";
    /// The client's certificate is not one of those that the route admits.
    CertificateDenied = FORBIDDEN, "certificate-denied",
        "Connections with this client certificate are not allowed.";
    /// `Origin` is not in `origins`, or is repeated.
    OriginDenied = FORBIDDEN, "origin-denied", "Connections from this origin are not allowed.";
    /// The handshake has no `Origin`, and the route has `origins_required`.
    OriginMissing = FORBIDDEN, "origin-missing", "The handshake must have an Origin header.";
    /// The request has no token in any of the places in which the route looks for one.
    CredentialMissing = UNAUTHORIZED, "credential-missing", "A token is required.";
    /// The request has two different tokens.
    CredentialConflict = BAD_REQUEST, "credential-conflict",
        "The request must not have two different tokens.";
    /// The token is not signed by its issuer, or does not say what it must.
    CredentialInvalid = UNAUTHORIZED, "credential-invalid", "The token is not valid.";
    /// The token has expired.
    CredentialExpired = UNAUTHORIZED, "credential-expired", "The token has expired.";
    /// The claims of the client do not have what the route requires.
    ClaimDenied = FORBIDDEN, "claim-denied", "You are not allowed to connect here.";
    /// The service that decides about requests has refused this one. The client gets its response, with its status.
    AuthDenied = FORBIDDEN, "auth-denied", "The authentication service has refused the request.";
    /// As many requests wait for the service that decides as may.
    AuthBusy = SERVICE_UNAVAILABLE, "auth-busy",
        "Too many clients log in at the moment. Please try again soon.";
    /// Who the client is cannot be established: the issuer or the service that decides does not respond.
    AuthUnavailable = SERVICE_UNAVAILABLE, "auth-unavailable",
        "Who you are cannot be established at the moment. Please try again soon.";
    /// The credential was issued before its subject was revoked.
    CredentialRevoked = UNAUTHORIZED, "credential-revoked",
        "Your credential was revoked. Please sign in again.";
    /// The request has no key for a limit of the route, and the limit has `missing = "refuse"`.
    LimitKeyMissing = FORBIDDEN, "limit-key-missing",
        "The request lacks what it is counted by.";
    /// No route matches.
    NoRoute = NOT_FOUND, "no-route", "Nothing is served at this host and path.";
    /// The request names no endpoint of the route, which has `endpoint`.
    EndpointUnknown = NOT_FOUND, "endpoint-unknown",
        "The request names no backend that is known here.";
    /// The client stopped sending the request body.
    RequestBodyTimeout = REQUEST_TIMEOUT, "request-body-timeout",
        "The request body was not received in time.";
    /// The body is larger than the route's `limits.body_bytes`.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "The request body is too large.";
    /// The body has a transfer coding other than `chunked` (RFC 9112 section 6.1).
    TransferCoding = NOT_IMPLEMENTED, "transfer-coding",
        "Request bodies must not have a transfer coding other than chunked.";
    /// The endpoint closed the connection, or its response is not valid HTTP.
    BadAnswer = BAD_GATEWAY, "bad-answer", "The backend did not send a valid response.";
    /// The endpoint's 101 violates RFC 6455 section 4.1.
    BadSwitch = BAD_GATEWAY, "bad-switch",
        "The backend's response to the WebSocket handshake is not valid.";
    /// The endpoint sent a 101 that was not requested.
    UnexpectedSwitch = BAD_GATEWAY, "unexpected-switch",
        "The backend switched protocols without being asked to.";
    /// The client's address exceeds `limits.handshakes_per_ip`.
    AddressRate = TOO_MANY_REQUESTS, "address-rate",
        "Too many handshakes from your address. Please try again soon.";
    /// The client's address exceeds `limits.requests_per_ip`.
    RequestRate = TOO_MANY_REQUESTS, "request-rate",
        "Too many requests from your address. Please try again soon.";
    /// The key of the request exceeds a rate of a limit that the route shares.
    LimitRate = TOO_MANY_REQUESTS, "limit-rate", "Too many requests. Please try again soon.";
    /// The key of the request has all the tunnels that a limit of the route allows.
    LimitFull = TOO_MANY_REQUESTS, "limit-full",
        "Too many connections. Please close another one first.";
    /// The client's address has as many connections and HTTP/2 tunnels as `limits.connections_per_ip`.
    AddressFull = TOO_MANY_REQUESTS, "address-full",
        "Too many connections from your address. Please close another one first.";
    /// The listener has as many connections and HTTP/2 tunnels as `limits.connections`.
    ListenerFull = SERVICE_UNAVAILABLE, "listener-full",
        "Too many connections at the moment. Please try again soon.";
    /// The handshake came on an HTTP/2 connection whose tunnels are being closed by a drain.
    Draining = SERVICE_UNAVAILABLE, "draining",
        "This connection is about to be closed. Please open another one.";
    /// The listener exceeds `limits.handshakes_per_second`.
    HandshakeRate = SERVICE_UNAVAILABLE, "handshake-rate",
        "Too many handshakes at the moment. Please try again soon.";
    /// The memory of the process is nearly used up: see `server.memory`.
    MemoryFull = SERVICE_UNAVAILABLE, "memory-full",
        "Too many connections at the moment. Please try again soon.";
    /// The process has as many tunnels as `server.max_tunnels`.
    TunnelsFull = SERVICE_UNAVAILABLE, "tunnels-full",
        "Too many connections at the moment. Please try again soon.";
    /// The route has as many tunnels as its `limits.tunnels`.
    RouteFull = SERVICE_UNAVAILABLE, "route-full",
        "Too many connections at the moment. Please try again soon.";
    /// Every endpoint has as many tunnels as its `max_tunnels`.
    EndpointsFull = SERVICE_UNAVAILABLE, "endpoints-full",
        "All backends are at capacity. Please try again soon.";
    /// No endpoint is in rotation, or none is left to try.
    NoEndpoint = SERVICE_UNAVAILABLE, "no-endpoint",
        "No backend is available. Please try again soon.";
    /// The connection to the last endpoint that was tried failed, but not by a timeout.
    ConnectFailed = SERVICE_UNAVAILABLE, "connect-failed",
        "No backend could be reached. Please try again soon.";
    /// The name of the last endpoint that was tried could not be resolved.
    NameUnresolved = SERVICE_UNAVAILABLE, "name-unresolved",
        "No backend could be found. Please try again soon.";
    /// The process has no file descriptor left.
    DescriptorsExhausted = SERVICE_UNAVAILABLE, "descriptors-exhausted",
        "Too many connections at the moment. Please try again soon.";
    /// tidegate ended a plain request that lasted, before the endpoint had responded: a long poll or an upload.
    StreamEnded = SERVICE_UNAVAILABLE, "stream-ended",
        "The request was ended before there was a response. Please try again soon.";
    /// The connection to an endpoint timed out.
    ConnectTimeout = GATEWAY_TIMEOUT, "connect-timeout", "No backend could be reached in time.";
    /// The endpoint's response to the handshake timed out.
    HandshakeTimeout = GATEWAY_TIMEOUT, "handshake-timeout",
        "The backend did not respond to the WebSocket handshake in time.";
    /// The endpoint's response to a plain request timed out.
    ResponseTimeout = GATEWAY_TIMEOUT, "response-timeout", "The backend did not respond in time.";
}

impl Rejection {
    /// Whether the connection is closed afterwards: after our own 400s, because it is doubtful
    /// where the next request begins, after a head that was not read to its end, and after a body that
    /// was not received or not read.
    pub fn closes(self) -> bool {
        matches!(
            self.status(),
            StatusCode::BAD_REQUEST
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                | StatusCode::NOT_IMPLEMENTED
        )
    }

    /// Whether a client, or all together, have sent more requests than a rate allows.
    pub fn is_rate(self) -> bool {
        matches!(
            self,
            Self::AddressRate | Self::RequestRate | Self::LimitRate | Self::HandshakeRate
        )
    }

    /// Header fields that this response has in addition to those of every rejection, but for
    /// [`Retry-After`](super::retry_after).
    pub fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let fixed = HeaderValue::from_static;
        match self {
            // RFC 6750 section 3.
            Self::CredentialMissing => return vec![(WWW_AUTHENTICATE, fixed("Bearer"))],
            Self::CredentialInvalid | Self::CredentialExpired | Self::CredentialRevoked => {
                let challenge = fixed("Bearer error=\"invalid_token\"");
                return vec![(WWW_AUTHENTICATE, challenge)];
            }
            _ => {}
        }
        match self.status() {
            StatusCode::UPGRADE_REQUIRED => vec![
                (SEC_WEBSOCKET_VERSION, fixed("13")),
                (UPGRADE, fixed("websocket")),
                (CONNECTION, fixed("Upgrade")),
            ],
            StatusCode::METHOD_NOT_ALLOWED => {
                vec![(ALLOW, fixed("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))]
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_readable_and_in_order() {
        for (position, rejection) in Rejection::ALL.iter().enumerate() {
            assert_eq!(*rejection as usize, position, "counters are indexed by it");
            let token = rejection.token();
            assert!(
                token.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{token}"
            );
            assert_eq!(
                Rejection::ALL
                    .iter()
                    .filter(|other| other.token() == token)
                    .count(),
                1
            );
            assert!(rejection.text().ends_with(".\n"), "{token}");
            assert!(rejection.status().is_client_error() || rejection.status().is_server_error());
        }
    }

    #[test]
    fn each_status_has_the_headers_it_must_have() {
        let names = |rejection: Rejection| -> Vec<HeaderName> {
            rejection
                .headers()
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(
            names(Rejection::VersionUnsupported),
            [SEC_WEBSOCKET_VERSION, UPGRADE, CONNECTION]
        );
        assert_eq!(names(Rejection::MethodNotAllowed), [ALLOW]);
        // RFC 9110 section 15.5.2.
        let mut unauthorized = Rejection::ALL.iter().copied();
        assert!(unauthorized.all(|it| {
            it.status() != StatusCode::UNAUTHORIZED || names(it) == [WWW_AUTHENTICATE]
        }));
        assert!(names(Rejection::KeyInvalid).is_empty());
    }
}
