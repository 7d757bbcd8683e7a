//! Trusted proxies of listeners, and access to routes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{CertificateRule, ClaimRule, OriginPattern};

/// An address, a network of addresses, or all peers on a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// A network of addresses; a single address is a network of its own.
    Ip(IpNet),
    /// Peers on a unix socket.
    Unix,
}

impl Net {
    /// Whether it contains every address.
    pub fn is_everybody(&self) -> bool {
        matches!(self, Self::Ip(net) if net.prefix_len() == 0)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Ip(net) => net.fmt(f),
            Self::Unix => f.write_str("unix:"),
        }
    }
}

/// A list of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nets(Box<[Net]>);

impl Nets {
    /// A list of these networks.
    pub fn new(nets: Vec<Net>) -> Self {
        Self(nets.into())
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks.
    pub fn iter(&self) -> std::slice::Iter<'_, Net> {
        self.0.iter()
    }

    /// Whether one of them contains `address`; `None` stands for a peer on a unix socket.
    pub fn contain(&self, address: Option<IpAddr>) -> bool {
        // An IPv4-mapped IPv6 address is the same address (RFC 4291 section 2.5.5.2).
        let address = address.map(|address| address.to_canonical());
        self.0.iter().any(|net| match (net, address) {
            (Net::Ip(net), Some(address)) => net.contains(&address),
            (Net::Unix, None) => true,
            _ => false,
        })
    }
}

/// Which statements about the origin of connections and requests are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Peers whose PROXY and forwarding headers are trusted.
    pub proxies: Nets,
    /// The family of forwarding headers that is trusted.
    pub family: Family,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: bool,
}

impl Trust {
    /// The address of `peer`, if it stands for a single client: a trusted proxy has one address for all of its clients.
    pub fn single_client(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        peer.filter(|_| !self.proxies.contain(peer))
    }
}

/// A family of forwarding headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Which clients may use a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Addresses that are allowed; empty for any.
    pub allow: Nets,
    /// Addresses that are denied, even if allowed.
    pub deny: Nets,
    /// Origins whose pages are allowed; empty for any.
    pub origins: Vec<OriginPattern>,
    /// Whether a handshake must have an `Origin` header.
    pub origins_required: bool,
    /// Which client certificates are admitted; `None` if none is required.
    pub client_certificate: Option<CertificateRule>,
    /// The name of the authentication that establishes who the client is; `None` if the route has no `auth`.
    pub auth: Option<Arc<str>>,
    /// What is required of the claims of that identity.
    pub require: Vec<ClaimRule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_addresses_in_either_clothes() {
        let nets = Nets::new(vec![
            Net::Ip("10.0.0.0/8".parse().unwrap()),
            Net::Ip("2001:db8::/32".parse().unwrap()),
        ]);
        for (address, inside) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(
                nets.contain(Some(address.parse().unwrap())),
                inside,
                "{address}"
            );
        }
        assert!(!nets.contain(None) && Nets::new(vec![Net::Unix]).contain(None));
        assert!(!Nets::default().contain(None));
    }
}
