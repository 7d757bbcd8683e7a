//! What we tell endpoints about the client: `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! What came in under these names is never believed in this version: all of it is replaced.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// How a request came.
#[derive(Debug, Clone, Copy)]
pub struct Via<'a> {
    /// The client's address; `None` through a unix socket.
    pub client: Option<IpAddr>,
    /// Whether it came by TLS.
    pub secure: bool,
    /// The `Host` header as received.
    pub host: &'a str,
    /// The port that was connected to.
    pub port: Option<u16>,
}

/// Whether field `name` claims to tell about the client. Underscores count as dashes, because some
/// endpoints make the same variable of both.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is = |known: &str| {
        name.len() == known.len()
            && name
                .bytes()
                .zip(known.bytes())
                .all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    name.get(..11)
        .is_some_and(|start| matches!(start, "x-forwarded" | "x_forwarded"))
        || is("forwarded")
        || is("x-real-ip")
}

/// Replaces what is there.
pub fn write(headers: &mut HeaderMap, via: &Via<'_>) {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_forwarding(name))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    each(via, |name, value| {
        // Addresses, ports and a host that was a header before: always valid.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    });
}

/// Calls `field` with each name and value that we write.
pub fn each(via: &Via<'_>, mut field: impl FnMut(HeaderName, &str)) {
    let mut client = String::new();
    if let Some(address) = via.client {
        // Writing to a string does not fail.
        let _ = write!(client, "{address}");
        field(FOR, &client);
    }
    let proto = if via.secure { "https" } else { "http" };
    field(PROTO, proto);
    field(HOST, via.host);
    if let Some(port) = via.port {
        let mut text = String::with_capacity(5);
        let _ = write!(text, "{port}");
        field(PORT, &text);
    }
    let (before, client, after) = match via.client {
        Some(IpAddr::V4(_)) => ("for=", client.as_str(), ";host=\""),
        Some(IpAddr::V6(_)) => ("for=\"[", client.as_str(), "]\";host=\""),
        None => ("for=", "unknown", ";host=\""),
    };
    let value = [before, client, after, via.host, "\";proto=", proto].concat();
    field(FORWARDED, &value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(client: Option<&str>) -> Via<'static> {
        Via {
            client: client.map(|client| client.parse().unwrap()),
            secure: true,
            host: "chat.example.com:8443",
            port: Some(8443),
        }
    }

    #[track_caller]
    fn check(client: Option<&str>, expected: &[(&str, &str)]) {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-real-ip",
            "forwarded",
            "x-forwarded-anything",
        ] {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("6.6.6.6"),
            );
        }
        headers.append("x-other", HeaderValue::from_static("kept"));
        for _ in 0..2 {
            write(&mut headers, &via(client));
            let mut seen: Vec<(&str, &str)> = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
                .collect();
            seen.sort_unstable();
            let mut expected = expected.to_vec();
            expected.push(("x-other", "kept"));
            expected.sort_unstable();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn what_was_claimed_is_replaced() {
        check(
            Some("192.0.2.1"),
            &[
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "chat.example.com:8443"),
                ("x-forwarded-port", "8443"),
                (
                    "forwarded",
                    "for=192.0.2.1;host=\"chat.example.com:8443\";proto=https",
                ),
            ],
        );
    }

    #[test]
    fn ipv6_is_quoted_and_a_unix_socket_is_unknown() {
        let common = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "chat.example.com:8443"),
            ("x-forwarded-port", "8443"),
        ];
        let mut six = common.to_vec();
        six.push(("x-forwarded-for", "2001:db8::1"));
        six.push((
            "forwarded",
            "for=\"[2001:db8::1]\";host=\"chat.example.com:8443\";proto=https",
        ));
        check(Some("2001:db8::1"), &six);
        let mut unix = common.to_vec();
        unix.push((
            "forwarded",
            "for=unknown;host=\"chat.example.com:8443\";proto=https",
        ));
        check(None, &unix);
    }
}
