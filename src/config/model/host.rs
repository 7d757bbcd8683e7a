//! Host names as routes, certificates and origins have them.

use std::fmt;

/// A host name, or one level of wildcard below it. Lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name (or IP address, IPv6 in brackets) and no other.
    Exact(Box<str>),
    /// `*.example.com`, kept as `example.com`. It matches `a.example.com`, but neither `example.com`
    /// itself nor `a.b.example.com` (RFC 6125 section 6.4.3).
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Whether `host` (lower case, no port) matches.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(parent) => Self::parent(host) == Some(&**parent),
        }
    }

    /// The parent of the wildcard that `host` matches: `example.com` for `a.example.com`.
    pub fn parent(host: &str) -> Option<&str> {
        let (label, parent) = host.split_once('.')?;
        (!label.is_empty()).then_some(parent)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}
