//! The key of a request: what distinguishes one client, room or user from another.

use std::fmt;

use http::HeaderName;

/// The part of a request that is its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKey {
    /// The client's address, from a trusted proxy if there is one.
    ClientIp,
    /// The path, normalised.
    Path,
    /// The TLS server name (SNI) that the client asked for.
    Sni,
    /// The claim of this name of the identity that `auth` has established; a dot leads into an object.
    Claim(Box<str>),
    /// The value of this header.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Box<str>),
    /// The value of this query parameter, decoded.
    Query(Box<str>),
}

impl RequestKey {
    /// Whether a client may choose any value for it, and a new one for each request.
    pub fn is_chosen_by_clients(&self) -> bool {
        matches!(self, Self::Header(_) | Self::Cookie(_) | Self::Query(_))
    }
}

/// The key in words: `client_ip`, `cookie sid`.
impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client_ip"),
            Self::Path => f.write_str("path"),
            Self::Sni => f.write_str("sni"),
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Cookie(name) => write!(f, "cookie {name}"),
            Self::Query(name) => write!(f, "query {name}"),
        }
    }
}
