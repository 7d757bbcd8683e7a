//! Changes to the heads of requests and responses.

use std::fmt;

use http::{HeaderName, StatusCode};

/// A text with variables that stand for properties of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

/// A part of a template. Its `Debug` shows no text, because header values may be secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// Literal text.
    Text(Box<str>),
    /// The value of this variable for the request.
    Variable(Variable),
    /// The claim of this name, of the identity that `auth` has established.
    Claim(Box<str>),
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Variable(variable) => variable.fmt(f),
            Self::Claim(name) => f.debug_tuple("Claim").field(name).finish(),
        }
    }
}

macro_rules! variables {
    ($( $(#[doc = $doc:literal])+ $variable:ident = $name:literal; )+) => {
        /// A property of a request; empty if the request does not have it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variable {
            $( $(#[doc = $doc])+ $variable, )+
        }

        impl Variable {
            /// The names of all variables, as they are written.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The variable with this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $( $name => Some(Self::$variable), )+
                    _ => None,
                }
            }
        }
    };
}

variables! {
    /// The client's address, from a trusted proxy if there is one.
    ClientAddress = "client_address";
    /// The requested host, without a port.
    Host = "host";
    /// Path and query, as the client sent them.
    Uri = "uri";
    /// The scheme that the client uses, `http` or `https`.
    Scheme = "scheme";
    /// The request's id.
    RequestId = "request_id";
    /// The name of the listener.
    Listener = "listener";
    /// The name of the route.
    Route = "route";
    /// The TLS version: `TLSv1.3` or `TLSv1.2`.
    TlsVersion = "tls_version";
    /// The TLS cipher suite.
    TlsCipher = "tls_cipher";
    /// The server name (SNI) that the client asked for.
    TlsServerName = "tls_server_name";
    /// The subject of the client's certificate (RFC 4514).
    ClientCertificateSubject = "client_certificate_subject";
    /// The SHA-256 of the client's certificate, in hexadecimal.
    ClientCertificateFingerprint = "client_certificate_fingerprint";
}

impl Template {
    /// A template of these parts.
    pub fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces.into())
    }

    /// The parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Whether it contains this variable.
    pub fn has(&self, variable: Variable) -> bool {
        self.0.contains(&Piece::Variable(variable))
    }
}

/// Changes to a head: headers are removed first, and set then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Headers to set, in place of existing ones.
    pub set: Vec<(HeaderName, Template)>,
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// The names of all headers that are removed or replaced.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.set.iter().map(|(name, _)| name);
        set.chain(&self.remove)
    }

    /// Whether header `name` is removed or replaced. Underscores count as dashes, because some endpoints
    /// map both to the same variable.
    pub fn drops(&self, name: &str) -> bool {
        self.names()
            .any(|dropped| same_variable(dropped.as_str(), name))
    }
}

/// Whether endpoints that turn header names into variables (CGI, WSGI) may map both to the same one.
pub fn same_variable(one: &str, other: &str) -> bool {
    let dashed = |b: u8| {
        if b == b'_' {
            b'-'
        } else {
            b.to_ascii_lowercase()
        }
    };
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

/// Whether header `name`, in any spelling, claims something about the client.
pub fn claims_origin(name: &str) -> bool {
    name.get(..11)
        .is_some_and(|begin| same_variable(begin, "x-forwarded"))
        || same_variable(name, "forwarded")
        || same_variable(name, "x-real-ip")
}

/// Changes to the path that endpoints receive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The prefix to remove, by whole segments; without a trailing slash.
    pub strip: Option<Box<str>>,
    /// The prefix to add after that; without a trailing slash.
    pub add: Option<Box<str>>,
    /// Whether responses get the removed prefix back where they name a path.
    pub restore: bool,
}

/// A redirect of plain requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The `Location`.
    pub to: Template,
    /// The status code: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}
