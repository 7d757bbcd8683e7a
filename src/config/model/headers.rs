//! What becomes of a request's and a reply's head on their way through.

use std::fmt;

use http::{HeaderName, StatusCode};

/// A text with places for what is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

/// A part of it. Its `Debug` shows no text: what endpoints are told may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(Box<str>),
    /// What this is for the request.
    Variable(Variable),
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::Variable(variable) => variable.fmt(f),
        }
    }
}

macro_rules! variables {
    ($( $(#[doc = $doc:literal])+ $variable:ident = $name:literal; )+) => {
        /// What is known of a request. Empty where it has none.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variable {
            $( $(#[doc = $doc])+ $variable, )+
        }

        impl Variable {
            /// The names of all, as they are written.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The one of this name.
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
    /// The client's address, as far as it is believed.
    ClientAddress = "client_address";
    /// The host asked for, without a port.
    Host = "host";
    /// Path and query, as the client wrote them.
    Uri = "uri";
    /// `http` or `https`, as the client speaks.
    Scheme = "scheme";
    /// The request's id.
    RequestId = "request_id";
    /// The name of the listener.
    Listener = "listener";
    /// The name of the route.
    Route = "route";
    /// `TLSv1.3`, `TLSv1.2`.
    TlsVersion = "tls_version";
    /// The cipher suite.
    TlsCipher = "tls_cipher";
    /// The name that the client asked for by SNI.
    TlsServerName = "tls_server_name";
    /// The subject of the client's certificate (RFC 4514).
    ClientCertificateSubject = "client_certificate_subject";
    /// The SHA-256 of the client's certificate, in hexadecimal.
    ClientCertificateFingerprint = "client_certificate_fingerprint";
}

impl Template {
    /// Of these parts.
    pub fn new(pieces: Vec<Piece>) -> Self {
        Self(pieces.into())
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }
}

/// Changes to a head: first what is removed, then what is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Names and values; in place of what is there.
    pub set: Vec<(HeaderName, Template)>,
    /// Names.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    /// The names of all fields that are removed or replaced.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.set.iter().map(|(name, _)| name);
        set.chain(&self.remove)
    }

    /// Whether field `name` is one of them. Underscores count as dashes, because some endpoints make
    /// the same variable of both.
    pub fn drops(&self, name: &str) -> bool {
        self.names()
            .any(|dropped| same_variable(dropped.as_str(), name))
    }
}

/// Whether endpoints that turn names into variables (CGI, WSGI) may take both for the same one.
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

/// Whether field `name` claims to tell about the client, in whatever spelling.
pub fn claims_origin(name: &str) -> bool {
    name.get(..11)
        .is_some_and(|begin| same_variable(begin, "x-forwarded"))
        || same_variable(name, "forwarded")
        || same_variable(name, "x-real-ip")
}

/// What becomes of the path towards endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Taken off the front, whole segments; without a trailing slash.
    pub strip: Option<Box<str>>,
    /// Put on the front then; without a trailing slash.
    pub add: Option<Box<str>>,
}

/// Where plain requests are sent instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The `Location`.
    pub to: Template,
    /// 301, 302, 303, 307, or 308.
    pub status: StatusCode,
}
