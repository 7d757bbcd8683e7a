//! The store that nodes share, and the fleet.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;

use super::{EndpointTls, HostPattern, Nets, Secret};

/// The store that nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where it is.
    pub place: StorePlace,
    /// What seals keys and certificates in it: the first one seals, all of them open. Without one, neither is
    /// shared.
    pub secrets: Vec<Secret>,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In etcd.
    Etcd(Arc<EtcdConfig>),
    /// In this folder.
    Files(PathBuf),
}

/// How etcd is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The URLs of its members, at least one: a scheme, a host and perhaps a port. All have the same scheme.
    pub members: Vec<Uri>,
    /// What all keys begin with; it begins and ends with `/`.
    pub prefix: Box<str>,
    /// Who tidegate is there; `None` where etcd asks for nothing, or for a client certificate.
    pub login: Option<EtcdLogin>,
    /// TLS of the connections; `None` for plain text.
    pub tls: Option<EndpointTls>,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Its name.
    pub user: Box<str>,
    /// Its password.
    pub password: Secret,
}

/// What this node shares with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// The name of this node.
    pub node: Arc<str>,
    /// What is shared.
    pub share: SharedThings,
    /// The URL of this node's admin interface for commands on others; `None` if they cannot reach it.
    pub admin_url: Option<Box<str>>,
    /// The nodes that commands on this one send tokens to.
    pub trusted: TrustedMembers,
}

/// What nodes share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedThings {
    /// The list of nodes.
    pub members: bool,
    /// Certificates that tidegate obtains.
    pub certificates: bool,
    /// Keys of TLS sessions and sticky cookies.
    pub keys: bool,
}

impl SharedThings {
    /// Whether anything is shared that has to be sealed.
    pub fn has_secrets(self) -> bool {
        self.certificates || self.keys
    }

    /// Whether nothing is shared.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// The members of the fleet that may receive a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedMembers {
    /// The hosts of their URLs.
    pub names: Vec<HostPattern>,
    /// The networks of their addresses.
    pub networks: Nets,
}

impl TrustedMembers {
    /// Whether a member with this host in its URL is one of them. IPv6 addresses are in brackets.
    pub fn contain(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            // A wildcard does not match the parts of an address.
            Ok(address) => {
                let is_named =
                    |name: &HostPattern| matches!(name, HostPattern::Exact(it) if **it == *host);
                self.networks.contain(Some(address)) || self.names.iter().any(is_named)
            }
            Err(_) => self.names.iter().any(|name| name.fits(&host)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Net;
    use super::*;

    #[test]
    fn a_member_is_trusted_by_its_name_or_its_address() {
        let trusted = TrustedMembers {
            names: vec![
                HostPattern::Exact("edge-1.internal".into()),
                HostPattern::Wildcard("edge.internal".into()),
                HostPattern::Wildcard("0.0.7".into()),
                HostPattern::Exact("192.0.2.9".into()),
            ],
            networks: Nets::new(vec![
                Net::Ip("10.0.0.0/24".parse().unwrap()),
                Net::Ip("2001:db8::/64".parse().unwrap()),
            ]),
        };
        for (host, expected) in [
            ("edge-1.internal", true),
            ("EDGE-1.Internal", true),
            ("a.edge.internal", true),
            ("a.b.edge.internal", false),
            ("edge.internal", false),
            ("edge-1.internal.evil.example", false),
            ("10.0.0.200", true),
            ("10.0.1.200", false),
            ("10.0.0.7", true),
            ("11.0.0.7", false),
            ("192.0.2.9", true),
            ("[2001:db8::7]", true),
            ("[2001:db9::7]", false),
            // A name, although it looks like an address in one of the networks.
            ("10.0.0.7.evil.example", false),
            ("", false),
        ] {
            assert_eq!(trusted.contain(host), expected, "{host}");
        }
    }
}
