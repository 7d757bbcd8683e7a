//! Origins of pages and of apps that are built like pages.

use std::fmt;
use std::net::Ipv6Addr;

use super::HostPattern;

/// The origin of a page (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `null`, which browsers send for sandboxed pages and local files.
    Null,
    /// A scheme, host and port.
    Tuple {
        /// The scheme in lower case: `https`, or that of an app, such as `capacitor` or `chrome-extension`.
        scheme: Box<str>,
        /// The host in lower case; IPv6 in brackets. Only apps have origins without a host: `file://`.
        host: Box<str>,
        /// The port; `None` for the default of the scheme.
        port: Option<u16>,
    },
}

impl Origin {
    /// Parses an origin as browsers write it; `None` for anything else, such as one with a path.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let usual_port = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            // These are schemes of connections. The origin of the page that opens one is `http` or `https`.
            "ws" | "wss" => return None,
            _ => None,
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        let host = host.to_ascii_lowercase();
        let is_valid = is_scheme(&scheme)
            && is_host(&host)
            && (!host.is_empty() || (usual_port.is_none() && port.is_none()));
        is_valid.then(|| Self::Tuple {
            scheme: scheme.into(),
            host: host.into(),
            port: port.filter(|port| Some(*port) != usual_port),
        })
    }
}

/// Whether `text` is a scheme (RFC 3986 section 3.1).
fn is_scheme(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(allowed)
}

/// Whether `text` may be the host of an origin. `app://.` has a dot as its host.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    }
}

/// Writes an origin as browsers do.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Tuple { scheme, host, port } => write_tuple(f, scheme, host, *port),
        }
    }
}

fn write_tuple(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    host: &dyn fmt::Display,
    port: Option<u16>,
) -> fmt::Result {
    write!(f, "{scheme}://{host}")?;
    match port {
        Some(port) => write!(f, ":{port}"),
        None => Ok(()),
    }
}

/// The origins that an entry of `origins` allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// This origin and no other.
    Exact(Origin),
    /// `https://*.example.com`: these hosts, with this scheme and port.
    Subdomains {
        /// The scheme.
        scheme: Box<str>,
        /// The hosts, by a wildcard as in `hosts`.
        hosts: HostPattern,
        /// The port; `None` for the default of the scheme.
        port: Option<u16>,
    },
}

impl OriginPattern {
    /// Parses an entry of `origins`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((scheme, parent)) = text.split_once("://*.") else {
            return Origin::parse(text).map(Self::Exact);
        };
        match Origin::parse(&format!("{scheme}://{parent}"))? {
            Origin::Tuple { scheme, host, port }
                if host.split('.').all(|label| !label.is_empty()) && !host.starts_with('[') =>
            {
                Some(Self::Subdomains {
                    scheme,
                    hosts: HostPattern::Wildcard(host),
                    port,
                })
            }
            _ => None,
        }
    }

    /// Whether the pattern allows `origin`.
    pub fn fits(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Exact(one), origin) => one == origin,
            (Self::Subdomains { .. }, Origin::Null) => false,
            (
                Self::Subdomains {
                    scheme,
                    hosts,
                    port,
                },
                Origin::Tuple {
                    scheme: of,
                    host,
                    port: at,
                },
            ) => hosts.fits(host) && scheme == of && port == at,
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(origin) => origin.fmt(f),
            Self::Subdomains {
                scheme,
                hosts,
                port,
            } => write_tuple(f, scheme, hosts, *port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "capacitor://chat.example.com",
            "null",
        ] {
            assert!(!same("https://chat.example.com", other), "{other}");
        }
        assert!(!same("http://a:443", "https://a"));
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for written in [
            "https://a",
            "http://a:8080",
            "https://[::1]:80",
            "http://a:443",
            "null",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "file://",
            "app://.",
            "app://obsidian.md",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
        ] {
            assert_eq!(Origin::parse(written).unwrap().to_string(), written);
        }
        for none in [
            "",
            "a",
            "https://",
            "http://:80",
            "https://a/",
            "https://a b",
            "ws://a",
            "wss://a",
            // Browsers never write an empty port.
            "https://a:",
            "https://a:b",
            "https://a:99999",
            "https://u@a",
            "https://[::1",
            "NULL",
            "https://a https://b",
            "file:///",
            "file://:80",
            "://a",
            "1a://b",
            "a b://c",
            "*",
            "https://*.example.com",
        ] {
            let parsed = Origin::parse(none);
            assert_eq!(parsed, None, "{none}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let pattern = OriginPattern::parse("https://*.Example.com").unwrap();
        assert_eq!(pattern.to_string(), "https://*.example.com");
        for (origin, fits) in [
            ("https://a.example.com", true),
            ("https://A.example.com:443", true),
            ("https://a.b.example.com", false),
            ("https://example.com", false),
            ("https://aexample.com", false),
            ("https://.example.com", false),
            ("https://a.example.com.evil.com", false),
            ("https://a.example.com:8443", false),
            ("http://a.example.com", false),
            ("null", false),
        ] {
            assert_eq!(
                pattern.fits(&Origin::parse(origin).unwrap()),
                fits,
                "{origin}"
            );
        }
        let other = OriginPattern::parse("http://*.localhost:3000").unwrap();
        assert!(other.fits(&Origin::parse("http://a.localhost:3000").unwrap()));
        for none in [
            "*",
            "https://*",
            "https://*.",
            "https://*..a",
            "https://*.a.",
            "https://a.*.b",
            "https://*.*.b",
            "https://*a.b",
            "https://*.[::1]",
            "*.example.com",
            "wss://*.example.com",
        ] {
            assert_eq!(OriginPattern::parse(none), None, "{none}");
        }
    }
}
