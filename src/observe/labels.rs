//! The values of metric labels, each set in a fixed order by which counters are indexed.

use crate::upstream::connect::ConnectError;

macro_rules! labels {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $each:literal])+ $variant:ident = $token:literal,)+ }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $each])+ $variant,)+ }

        impl $name {
            /// All values, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value in metrics.
            pub fn token(self) -> &'static str {
                match self { $(Self::$variant => $token,)+ }
            }
        }
    };
}

labels! {
    /// Why a connection was closed before a request.
    RefusedConnection {
        /// `limits.connections`.
        Connections = "connections",
        /// `limits.connections_per_ip`.
        ConnectionsPerIp = "connections-per-ip",
        /// The PROXY header was missing, invalid or too late.
        ProxyHeader = "proxy-header",
        /// Too many TLS handshakes were waiting already.
        TlsQueue = "tls-queue",
        /// The TLS handshake failed or took too long.
        Tls = "tls",
        /// The client disconnected before it had sent a byte, or sent none in time.
        Empty = "empty",
    }
}

labels! {
    /// Why tidegate ended a connection in HTTP/2, or reset a stream of one.
    Http2Reset {
        /// The client broke the protocol in a way that no other reason names.
        Protocol = "protocol-error",
        /// The client sent more than its credit allowed.
        FlowControl = "flow-control-error",
        /// The client sent a frame of a size that it must not have.
        FrameSize = "frame-size-error",
        /// The client's header compression is broken.
        Compression = "compression-error",
        /// The client sent too many frames that cost it nothing: empty or tiny ones, resets, pieces of a head.
        Flood = "enhance-your-calm",
        /// The client opened requests only to reset them.
        Unanswered = "unanswered-requests",
        /// The client gave no credit for its response within `response_body`.
        NoCredit = "slow-client",
        /// The endpoint's response broke off.
        BrokenBody = "broken-response",
        /// The client did not answer a PING.
        DeadClient = "dead-client",
    }
}

labels! {
    /// The outcome of a WebSocket handshake.
    HandshakeOutcome {
        /// The tunnel opened.
        Opened = "opened",
        /// The endpoint responded with something other than a 101.
        Declined = "declined",
        /// tidegate rejected it.
        Rejected = "rejected",
        /// The client disconnected before there was a response.
        Abandoned = "abandoned",
    }
}

labels! {
    /// What came of establishing the identity of a client.
    AuthResult {
        /// The client is known.
        Granted = "granted",
        /// The client is refused.
        Denied = "denied",
        /// The service has decided about the same lately, one way or the other.
        Cached = "cached",
        /// The service or the issuer does not respond, and the request is refused.
        Unavailable = "unavailable",
        /// The service does not respond, and the request passes because of `on_error`.
        Allowed = "allowed",
        /// As many requests wait for the service as may.
        Busy = "busy",
    }
}

labels! {
    /// Why connecting to an endpoint failed.
    ConnectFailure {
        /// It took too long.
        Timeout = "timeout",
        /// The name could not be resolved to an address.
        Resolve = "resolve",
        /// The endpoint or the network refused the connection.
        Refused = "refused",
        /// No local address has a port left for this endpoint.
        Ports = "ports",
        /// The process has no file descriptor left.
        Descriptors = "descriptors",
        /// The TLS handshake failed.
        Tls = "tls",
    }
}

impl ConnectFailure {
    pub(super) fn of(error: &ConnectError) -> Self {
        match error {
            ConnectError::Timeout(_) => Self::Timeout,
            ConnectError::Resolve(_) => Self::Resolve,
            ConnectError::Refused(_) => Self::Refused,
            ConnectError::Ports(_) => Self::Ports,
            ConnectError::Descriptors(_) => Self::Descriptors,
            ConnectError::Tls(_) | ConnectError::NoServerName => Self::Tls,
        }
    }
}

/// TLS versions, with and without resumption of a session.
pub const TLS: [(&str, bool); 4] = [
    ("TLSv1.2", false),
    ("TLSv1.2", true),
    ("TLSv1.3", false),
    ("TLSv1.3", true),
];

/// The values of close codes in metrics.
pub const CLOSE_CODES: [&str; 19] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011",
    "1012", "1013", "1014", "1015", "3xxx", "4xxx", "other",
];

pub(super) fn close_code_position(code: u16) -> usize {
    match code {
        1000..=1015 => usize::from(code) - 1000,
        3000..=3999 => 16,
        4000..=4999 => 17,
        _ => 18,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_of_applications_are_grouped() {
        for (code, shown) in [
            (1000, "1000"),
            (1015, "1015"),
            (3000, "3xxx"),
            (4999, "4xxx"),
            (1016, "other"),
            (0, "other"),
        ] {
            assert_eq!(CLOSE_CODES[close_code_position(code)], shown, "{code}");
        }
    }

    #[test]
    fn labels_are_in_the_order_of_their_counters() {
        assert!(
            RefusedConnection::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            HandshakeOutcome::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            ConnectFailure::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
    }
}
