//! Trusted proxies of listeners, and access to routes.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use http::HeaderName;
use ipnet::IpNet;
use rustls::pki_types::CertificateDer;

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

/// A family of forwarding headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Client certificates.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// The file of the CA certificates.
    pub ca: PathBuf,
    /// The CA certificates that client certificates must be issued by; at least one.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Whether connections without a client certificate are refused.
    pub required: bool,
    /// The header that describes the certificate to endpoints.
    pub header: Option<HeaderName>,
}

/// Which clients may use a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Addresses that are allowed; empty for any.
    pub allow: Nets,
    /// Addresses that are denied, even if allowed.
    pub deny: Nets,
    /// Origins whose pages are allowed; empty for any.
    pub origins: Vec<Origin>,
    /// Whether a handshake must have an `Origin` header.
    pub origins_required: bool,
    /// Whether a client certificate is required.
    pub client_certificate: bool,
}

/// The origin of a page (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `null`, which browsers send for sandboxed pages and local files.
    Null,
    /// A scheme, host and port.
    Tuple {
        /// Whether it is `https` rather than `http`.
        secure: bool,
        /// The host in lower case; IPv6 in brackets.
        host: Box<str>,
        /// The port; the default of the scheme if none is written.
        port: u16,
    },
}

impl Origin {
    /// Parses an origin as browsers write it; `None` for anything else, such as one with a path.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, rest) = text.split_once("://")?;
        let secure = if scheme.eq_ignore_ascii_case("https") {
            true
        } else if scheme.eq_ignore_ascii_case("http") {
            false
        } else {
            return None;
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => {
                if secure {
                    443
                } else {
                    80
                }
            }
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        let host = host.to_ascii_lowercase();
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let valid = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.bytes().all(name),
        };
        valid.then(|| Self::Tuple {
            secure,
            host: host.into(),
            port,
        })
    }
}

/// Writes an origin as browsers do.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Tuple { secure, host, port } => {
                let (scheme, usual) = if *secure {
                    ("https", 443)
                } else {
                    ("http", 80)
                };
                write!(f, "{scheme}://{host}")?;
                if *port != usual {
                    write!(f, ":{port}")?;
                }
                Ok(())
            }
        }
    }
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

    #[test]
    fn origins_are_the_same_by_scheme_host_and_port() {
        let same =
            |one: &str, other: &str| Origin::parse(one).unwrap() == Origin::parse(other).unwrap();
        assert!(same(
            "https://Chat.example.com",
            "https://chat.example.com:443"
        ));
        assert!(same("http://a", "HTTP://a:80"));
        assert!(same(
            "https://[2001:db8::1]:8443",
            "https://[2001:DB8::1]:8443"
        ));
        for other in [
            "http://chat.example.com",
            "https://chat.example.com:8443",
            "https://chat.example.com.evil.com",
            "https://evil-chat.example.com",
            "null",
        ] {
            assert!(!same("https://chat.example.com", other), "{other}");
        }
        for written in ["https://a", "http://a:8080", "https://[::1]:80", "null"] {
            assert_eq!(Origin::parse(written).unwrap().to_string(), written);
        }
        for none in [
            "",
            "a",
            "https://",
            "https://a/",
            "https://a b",
            "ws://a",
            "https://a:",
            "https://a:b",
            "https://a:99999",
            "https://u@a",
            "https://[::1",
            "NULL",
            "https://a https://b",
        ] {
            // Browsers never write an empty port.
            let parsed = Origin::parse(none);
            assert_eq!(parsed, None, "{none}");
        }
    }
}
