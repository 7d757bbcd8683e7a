//! Client certificates: who issues them, which are revoked, and which of them a route admits.

use std::fmt;
use std::path::PathBuf;

use http::HeaderName;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

/// Client certificates.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// The file of the CA certificates.
    pub ca: PathBuf,
    /// The CA certificates that client certificates must be issued by; at least one.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Revocation lists; empty if nothing is checked for revocation.
    pub revocations: Revocations,
    /// Whether connections without a client certificate are refused.
    pub required: bool,
    /// The header that describes the certificate to endpoints.
    pub header: Option<HeaderName>,
}

/// Certificate revocation lists (RFC 5280 section 5).
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// The files of the lists.
    pub files: Vec<PathBuf>,
    /// The lists; if there are any, each certificate of a chain must be covered by one.
    pub lists: Vec<CertificateRevocationListDer<'static>>,
    /// Whether a list that has expired still counts.
    pub accept_expired: bool,
}

/// Which client certificates a route admits, of those that are valid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRule {
    /// One of the certificate's subject alternative names must match one of these; empty for any.
    pub names: Vec<NamePattern>,
    /// The subject must be one of these, in the form of RFC 4514; empty for any.
    pub subjects: Vec<Box<str>>,
}

/// A subject alternative name, or all that begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// All names that begin like this, and go on.
    Prefix(Box<str>),
}

impl NamePattern {
    /// Reads a name; a `*` at its end stands for anything.
    ///
    /// # Errors
    /// What is wrong, for operators.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err("`*` may only stand at the end of a name".to_owned());
        }
        if name.is_empty() {
            return Err("this would match any name: leave `san` out".to_owned());
        }
        Ok(match is_prefix {
            true => Self::Prefix(name.into()),
            false => Self::Exact(name.into()),
        })
    }

    /// Whether it matches `name`.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Prefix(prefix) => name.len() > prefix.len() && name.starts_with(&**prefix),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_rest_that_is_not_empty() {
        for (pattern, name, fits) in [
            ("spiffe://prod/*", "spiffe://prod/chat", true),
            ("spiffe://prod/*", "spiffe://prod/", false),
            ("spiffe://prod/*", "spiffe://production/chat", false),
            ("spiffe://prod/*", "spiffe://prod/../test", true),
            ("a.example.com", "a.example.com", true),
            ("a.example.com", "b.a.example.com", false),
        ] {
            assert_eq!(
                NamePattern::parse(pattern).unwrap().fits(name),
                fits,
                "{pattern} {name}"
            );
        }
        for bad in ["", "*", "*.example.com", "a*b", "a**"] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
