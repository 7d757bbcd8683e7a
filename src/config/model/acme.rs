//! Certificates that tidegate obtains and renews by itself (ACME, RFC 8555).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{HostPattern, Roots, Secret, StoreConfig};

/// A certificate authority that issues certificates by ACME, and the account with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// The name, which is unique.
    pub name: Arc<str>,
    /// The `https` URL of the authority's directory.
    pub directory: Box<str>,
    /// The CA certificates that the authority's own certificate must be issued by.
    pub roots: Roots,
    /// The address that the authority writes to.
    pub email: Option<Box<str>>,
    /// The certificate profile to ask for; `None` for the authority's default.
    pub profile: Option<Box<str>>,
    /// The challenges that may be used, at least one, the preferred one first.
    pub challenges: Vec<ChallengeKind>,
    /// What publishes the DNS records of `dns-01`; set if that is one of the challenges.
    pub dns: Option<DnsPublisher>,
    /// The account with the authority that a new ACME account is bound to (RFC 8555 section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// The folder of accounts, keys and certificates.
    pub state: PathBuf,
    /// What listeners do while there is no certificate yet.
    pub until_issued: UntilIssued,
    /// The kind of keys.
    pub key_type: KeyType,
    /// The store that nodes share accounts, keys and certificates in; `None` if they are in `state` alone.
    pub shared: Option<Arc<StoreConfig>>,
}

/// A way to prove that a name is one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChallengeKind {
    /// A file at a well-known path, by plain HTTP on port 80 (RFC 8555 section 8.3).
    Http01,
    /// A certificate in a TLS handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// A TXT record (RFC 8555 section 8.4), which is the only way for wildcards.
    Dns01,
}

impl ChallengeKind {
    /// The name in RFC 8555, RFC 8737 and the configuration.
    pub fn token(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 => "dns-01",
        }
    }

    /// Whether it can prove a name of this kind.
    pub fn proves(self, name: &HostPattern) -> bool {
        match name {
            HostPattern::Exact(_) => true,
            HostPattern::Wildcard(_) => self == Self::Dns01,
        }
    }
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// What publishes TXT records, and removes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPublisher {
    /// How records are published.
    pub by: DnsMeans,
    /// How long after a record was published the authority is asked to look at it.
    pub propagation: Duration,
}

/// How TXT records are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsMeans {
    /// A program and its first arguments; `present` or `cleanup`, the name and the value follow.
    Hook(Box<[String]>),
    /// A service that follows the convention of lego's `httpreq` provider.
    Service {
        /// The URL, without user name and password.
        url: Box<str>,
        /// User name and password of that URL.
        credentials: Option<(Box<str>, Secret)>,
    },
}

/// An account with the authority outside ACME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The identifier of the key.
    pub id: Box<str>,
    /// The key, decoded.
    pub key: Secret,
}

/// What a listener does while a certificate has not been issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UntilIssued {
    /// It refuses TLS handshakes for these names.
    Refuse,
    /// It serves a self-signed certificate.
    SelfSigned,
}

/// The kind of a certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum KeyType {
    EcdsaP256,
    Rsa2048,
}

/// A certificate of a listener that tidegate obtains by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedCertificate {
    /// The names that it is for, at least one, in the order of the file.
    pub names: Vec<HostPattern>,
    /// The authority that issues it.
    pub authority: Arc<AcmeConfig>,
}

impl ManagedCertificate {
    /// What distinguishes it from all others: the authority's name and the names. The order of the names does
    /// not matter, so two listeners with the same ones share a certificate.
    pub fn id(&self) -> Arc<str> {
        let mut names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        names.dedup();
        format!("{}/{}", self.authority.name, names.join(",")).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_need_a_record() {
        let exact = HostPattern::Exact("chat.example.com".into());
        let wildcard = HostPattern::Wildcard("example.com".into());
        for (challenge, proves_wildcards) in [
            (ChallengeKind::Http01, false),
            (ChallengeKind::TlsAlpn01, false),
            (ChallengeKind::Dns01, true),
        ] {
            assert!(challenge.proves(&exact));
            assert_eq!(challenge.proves(&wildcard), proves_wildcards, "{challenge}");
        }
    }
}
