//! The protocol that a client speaks.

/// The protocol in which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientProtocol {
    /// HTTP/1.0 or HTTP/1.1: a tunnel has a connection of its own.
    Http1,
    /// HTTP/2: a tunnel is a stream of a connection.
    Http2,
}

impl ClientProtocol {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The stable token that logs, metrics and listings have: the name in ALPN (RFC 7301 section 6).
    pub fn token(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}
