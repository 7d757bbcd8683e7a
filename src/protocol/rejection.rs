//! Every refusal that tidegate answers itself: status, stable token, words.

use std::fmt;

use http::header::{ALLOW, CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderName, HeaderValue, StatusCode};

macro_rules! rejections {
    ($( $(#[doc = $doc:literal])+ $name:ident = $status:ident, $token:literal, $text:literal; )+) => {
        /// A refusal that we answer ourselves.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rejection {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl Rejection {
            /// Every refusal there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The status code of the answer.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)+ }
            }

            /// The stable token: in `tidegate-reason`, in logs and in metrics.
            pub fn token(self) -> &'static str {
                match self { $(Self::$name => $token,)+ }
            }

            /// The body of the answer: one sentence for a person.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($text, "\n"),)+ }
            }
        }
    };
}

rejections! {
    /// hyper found the request malformed and said so itself.
    BadRequest = BAD_REQUEST, "bad-request", "The request is malformed.";
    /// hyper found the head too large and said so itself.
    HeadTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large",
        "The header of the request is too large.";
    /// No `Host`, several, or one that is none (RFC 9112 section 3.2).
    BadHost = BAD_REQUEST, "bad-host", "The request must have exactly one valid Host header.";
    /// The authority of an absolute target differs from `Host` (RFC 9112 section 3.2.2).
    HostMismatch = BAD_REQUEST, "host-mismatch",
        "The host in the request's target differs from its Host header.";
    /// The target has characters that RFC 3986 does not allow, or a form that fits no request here.
    BadTarget = BAD_REQUEST, "bad-target", "The request's target is malformed.";
    /// A dot segment in the path, plain or encoded: what it means depends on who reads it.
    DotSegment = BAD_REQUEST, "dot-segment", "The path of the request must not have dot segments.";
    /// CONNECT or TRACE.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "This method is not served here.";
    /// A handshake for another version (RFC 6455 section 4.2.2).
    VersionUnsupported = UPGRADE_REQUIRED, "websocket-version",
        "Only version 13 of the WebSocket protocol is spoken here.";
    /// No `Sec-WebSocket-Key`, several, or one that is none (RFC 6455 section 4.2.1).
    KeyInvalid = BAD_REQUEST, "websocket-key",
        "The handshake must have exactly one Sec-WebSocket-Key of 16 bytes in base64.";
    /// A handshake with a body.
    HandshakeBody = BAD_REQUEST, "websocket-body", "A WebSocket handshake must not have a body.";
    /// Plain HTTP on a route with `http = "reject"`.
    WebSocketRequired = UPGRADE_REQUIRED, "websocket-required",
        "Only WebSocket connections are served here.";
    /// `Forwarded`, which is believed here, is not valid: nobody can tell what of it a proxy wrote.
    BadForwarded = BAD_REQUEST, "bad-forwarded", "The Forwarded header of the request is malformed.";
    /// The path does not begin with what is to be taken off it as it is written.
    PathPrefix = BAD_REQUEST, "path-prefix",
        "The beginning of the path must be written without escapes.";
    /// A handshake without TLS where https is asked for.
    HttpsRequired = FORBIDDEN, "https-required",
        "Only wss:// is served here: WebSocket handshakes are not redirected.";
    /// A handshake on a route that redirects.
    RedirectOnly = FORBIDDEN, "redirect-only",
        "This address has moved, and WebSocket handshakes are not redirected.";
    /// The client's address is denied, or not allowed.
    AddressDenied = FORBIDDEN, "address-denied", "Your address is not allowed here.";
    /// No client certificate on a route that requires one.
    CertificateRequired = FORBIDDEN, "client-certificate",
        "A client certificate is required here.";
    /// The origin is not listed, or there are several.
    OriginDenied = FORBIDDEN, "origin-denied", "Pages of this origin are not allowed here.";
    /// No origin where there must be one.
    OriginMissing = FORBIDDEN, "origin-missing", "The handshake must have an Origin header.";
    /// No route fits.
    NoRoute = NOT_FOUND, "no-route", "Nothing is served under this host and path.";
    /// The client did not go on sending the body of its request.
    RequestBodyTimeout = REQUEST_TIMEOUT, "request-body-timeout",
        "The body of the request did not come in time.";
    /// A transfer coding besides `chunked` (RFC 9112 section 6.1).
    TransferCoding = NOT_IMPLEMENTED, "transfer-coding",
        "Bodies of requests are taken chunked, and in no other transfer coding.";
    /// The endpoint closed, or what it sent is not HTTP.
    BadAnswer = BAD_GATEWAY, "bad-answer", "The backend gave no valid answer.";
    /// The endpoint's 101 breaks the rules (RFC 6455 section 4.1).
    BadSwitch = BAD_GATEWAY, "bad-switch", "The backend's WebSocket handshake is not valid.";
    /// A 101 that nobody asked for.
    UnexpectedSwitch = BAD_GATEWAY, "unexpected-switch",
        "The backend switched protocols without being asked to.";
    /// More handshakes of one client address than `limits.handshakes_per_ip`.
    AddressRate = TOO_MANY_REQUESTS, "address-rate",
        "Too many handshakes from your address. Please try again soon.";
    /// More handshakes than the listener's `limits.handshakes_per_second`.
    HandshakeRate = SERVICE_UNAVAILABLE, "handshake-rate",
        "Too many handshakes at the moment. Please try again soon.";
    /// As many tunnels as `server.max_tunnels`.
    TunnelsFull = SERVICE_UNAVAILABLE, "tunnels-full",
        "Too many connections at the moment. Please try again soon.";
    /// As many tunnels as the route's `limits.tunnels`.
    RouteFull = SERVICE_UNAVAILABLE, "route-full",
        "Too many connections at the moment. Please try again soon.";
    /// Every endpoint has as many tunnels as its `max_tunnels`.
    EndpointsFull = SERVICE_UNAVAILABLE, "endpoints-full",
        "Every backend is full. Please try again soon.";
    /// No endpoint is ready.
    NoEndpoint = SERVICE_UNAVAILABLE, "no-endpoint", "No backend is ready. Please try again soon.";
    /// Every endpoint that was tried refused the connection.
    ConnectFailed = SERVICE_UNAVAILABLE, "connect-failed",
        "No backend could be reached. Please try again soon.";
    /// This process has no descriptor left.
    DescriptorsExhausted = SERVICE_UNAVAILABLE, "descriptors-exhausted",
        "Too many connections at the moment. Please try again soon.";
    /// No connection to an endpoint in time.
    ConnectTimeout = GATEWAY_TIMEOUT, "connect-timeout", "No backend could be reached in time.";
    /// No answer to the handshake in time.
    HandshakeTimeout = GATEWAY_TIMEOUT, "handshake-timeout",
        "The backend did not answer the WebSocket handshake in time.";
    /// No head of a plain reply in time.
    ResponseTimeout = GATEWAY_TIMEOUT, "response-timeout", "The backend did not answer in time.";
}

impl Rejection {
    /// Whether the connection is closed afterwards: after our own 400s, where it is doubtful what
    /// comes next, and after a body that did not come or was not looked at.
    pub fn closes(self) -> bool {
        matches!(
            self.status(),
            StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT | StatusCode::NOT_IMPLEMENTED
        )
    }

    /// Header fields that the answer has besides those every answer has.
    pub fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let fixed = HeaderValue::from_static;
        match self.status() {
            StatusCode::UPGRADE_REQUIRED => vec![
                (SEC_WEBSOCKET_VERSION, fixed("13")),
                (UPGRADE, fixed("websocket")),
                (CONNECTION, fixed("Upgrade")),
            ],
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                vec![(RETRY_AFTER, fixed("1"))]
            }
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
    fn tokens_are_unique_and_speakable_and_all_is_in_order() {
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
        assert_eq!(names(Rejection::NoEndpoint), [RETRY_AFTER]);
        assert!(names(Rejection::KeyInvalid).is_empty());
    }
}
