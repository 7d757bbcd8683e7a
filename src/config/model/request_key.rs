//! The key of a request: what distinguishes one client, room or user from another.

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
