//! The client's identity as trusted proxies state it, and as we state it to endpoints:
//! `X-Forwarded-*` and `Forwarded` (RFC 7239).
//!
//! Only one family of fields is trusted, and only from `trusted_proxies`. Whatever a request has
//! under any of these names is replaced.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::address_text::AddressText;
use super::forwarding_names::{FOR, FORWARDED, HOST, PORT, PROTO, is_forwarding};
use super::hop_by_hop;
use super::rejection::Rejection;
use super::target;
use crate::config::model::{Family, Nets, Trust};

/// What trusted proxies state about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The right-most address that is not a trusted proxy's; `None` if a proxy withholds it, or if
    /// the request came through a unix socket.
    pub client: Option<IpAddr>,
    is_hidden: bool,
    /// The trusted proxies between the client and us, the one next to the client first.
    pub proxies: Vec<IpAddr>,
    /// Whether the client used https.
    pub secure: Option<bool>,
    /// The host that the client requested.
    pub host: Option<Box<str>>,
    /// The port that the client connected to.
    pub port: Option<u16>,
}

impl Claim {
    /// Whether the client is known: a proxy may have withheld its address.
    pub fn is_known(&self) -> bool {
        !self.is_hidden
    }
}

/// What one proxy states about the peer that connected to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ForwardedHop {
    forwarded_for: ForwardedFor,
    secure: Option<bool>,
    host: Option<Box<str>>,
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum ForwardedFor {
    /// The proxy states nothing about the peer.
    #[default]
    Silent,
    /// `unknown`, an obfuscated name (`_hidden`), or a value that is not valid.
    Hidden,
    /// The peer's address.
    Address(IpAddr),
}

/// The claim in `headers` that came from `peer` (`None` for a unix socket); `None` if the peer is
/// not a trusted proxy.
///
/// # Errors
/// [`Rejection::BadForwarded`].
pub fn trusted_claim(
    headers: &HeaderMap,
    trust: &Trust,
    peer: Option<IpAddr>,
) -> Result<Option<Claim>, Rejection> {
    if !trust.proxies.contain(peer) {
        return Ok(None);
    }
    Ok(Some(match trust.family {
        Family::XForwarded => follow(x_forwarded(headers), &trust.proxies, peer),
        Family::Forwarded => {
            let hops = forwarded(headers).ok_or(Rejection::BadForwarded)?;
            follow(hops.into_iter().rev(), &trust.proxies, peer)
        }
    }))
}

/// Follows `hops` from our end: the first address that is not a trusted proxy's is the client's. A
/// proxy that does not state its peer ends the walk, because everything before it is unattributed.
fn follow(hops: impl Iterator<Item = ForwardedHop>, trusted: &Nets, peer: Option<IpAddr>) -> Claim {
    let mut claim = Claim {
        client: peer,
        is_hidden: false,
        proxies: Vec::new(),
        secure: None,
        host: None,
        port: None,
    };
    for hop in hops {
        // Scheme, host and port of the outermost trusted hop win: it is the one that saw what the
        // client used, the others saw the proxies before them.
        claim.secure = hop.secure.or(claim.secure);
        claim.host = hop.host.or(claim.host);
        claim.port = hop.port.or(claim.port);
        let address = match hop.forwarded_for {
            ForwardedFor::Silent => break,
            ForwardedFor::Hidden => None,
            ForwardedFor::Address(address) => Some(address),
        };
        claim.proxies.extend(claim.client);
        claim.client = address;
        claim.is_hidden = address.is_none();
        if address.is_none() || !trusted.contain(address) {
            break;
        }
    }
    claim.proxies.reverse();
    claim
}

/// The elements of all lines of a field, in order. An element that is not text counts, too, so that
/// a client cannot shift the positions of the elements that proxies append.
fn list(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .map(|element| std::str::from_utf8(element.trim_ascii()).unwrap_or("\u{fffd}"))
        .filter(|element| !element.is_empty())
        .collect()
}

/// The hops in `X-Forwarded-*`, from our end: each proxy appends to these lists. The other lists
/// may be shorter than that of addresses, because many proxies state scheme and host only once.
fn x_forwarded(headers: &HeaderMap) -> impl Iterator<Item = ForwardedHop> {
    let (addresses, protos) = (list(headers, FOR), list(headers, PROTO));
    let (hosts, ports) = (list(headers, HOST), list(headers, PORT));
    (0..addresses.len().max(1)).map(move |from_end| {
        let at = |list: &[&str]| {
            let text = list.get(list.len().saturating_sub(1 + from_end));
            text.map_or(String::new(), ToString::to_string)
        };
        ForwardedHop {
            forwarded_for: if addresses.is_empty() {
                ForwardedFor::Silent
            } else {
                parse_node(&at(&addresses))
            },
            secure: is_secure(&at(&protos)),
            host: Some(at(&hosts))
                .filter(|text| target::is_authority(text))
                .map(Into::into),
            port: at(&ports).parse().ok(),
        }
    })
}

/// The hops in `Forwarded`; `None` if it is not valid: a client that writes the beginning of a
/// line, such as an open quote, could otherwise swallow what a proxy appends.
fn forwarded(headers: &HeaderMap) -> Option<Vec<ForwardedHop>> {
    let mut hops = Vec::new();
    for line in headers.get_all(FORWARDED) {
        hops.append(&mut elements(line.to_str().ok()?)?);
    }
    Some(hops)
}

/// The hops in one line of `Forwarded` (RFC 7239 section 4). Empty elements are skipped (RFC 9110
/// section 5.6.1.2).
fn elements(line: &str) -> Option<Vec<ForwardedHop>> {
    const SPACE: [char; 2] = [' ', '\t'];
    let mut hops = Vec::new();
    let mut hop = None;
    let mut rest = line.trim_matches(SPACE);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(',') {
            hops.extend(hop.take());
            rest = after.trim_start_matches(SPACE);
            continue;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        let current = hop.get_or_insert_with(ForwardedHop::default);
        match name.trim_matches(SPACE).to_ascii_lowercase().as_str() {
            "for" => current.forwarded_for = parse_node(&value),
            "proto" => current.secure = is_secure(&value),
            "host" => current.host = target::is_authority(&value).then(|| value.into()),
            name if super::token::is_token(name) => {}
            _ => return None,
        }
        let after = after.trim_start_matches(SPACE);
        rest = match after.strip_prefix(';') {
            Some(after) => after.trim_start_matches(SPACE),
            None if after.is_empty() || after.starts_with(',') => after,
            None => return None,
        };
    }
    hops.extend(hop);
    Some(hops)
}

/// A token or quoted string at the beginning of `text`, and the rest.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',', ' ', '\t', '"']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return Some((value.to_owned(), after));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn parse_node(text: &str) -> ForwardedFor {
    address(text).map_or(ForwardedFor::Hidden, ForwardedFor::Address)
}

/// Parses `192.0.2.1`, `192.0.2.1:1234`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:1234`.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let plain = text.parse::<IpAddr>().ok().or_else(bracketed);
    let with_port = || text.parse::<SocketAddr>().ok().map(|at| at.ip());
    plain
        .or_else(with_port)
        .map(|address| address.to_canonical())
}

fn is_secure(proto: &str) -> Option<bool> {
    match proto.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(true),
        "http" | "ws" => Some(false),
        _ => None,
    }
}

/// The content of the forwarding fields that endpoints get.
#[derive(Debug, Clone, Copy)]
pub struct ForwardingFacts<'a> {
    /// The client's address; `None` through a unix socket.
    pub client: Option<IpAddr>,
    /// Whether it is known: a proxy may have kept it to itself.
    pub is_known: bool,
    /// The proxies between the client and us that we trust, the client's end first.
    pub proxies: &'a [IpAddr],
    /// Whether the client uses https.
    pub secure: bool,
    /// The host that the client requested; `None` if it named none.
    pub host: Option<&'a str>,
    /// The port that the client connected to.
    pub port: Option<u16>,
}

/// Replaces all forwarding fields in `headers`.
pub fn write(headers: &mut HeaderMap, forwarding: &ForwardingFacts<'_>) {
    hop_by_hop::remove_where(headers, is_forwarding);
    for_each_field(forwarding, |name, value| {
        // Addresses, ports and a host that was a header before: always valid.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    });
}

/// Calls `field` with the name and value of each forwarding field that we write.
pub fn for_each_field(forwarding: &ForwardingFacts<'_>, mut field: impl FnMut(HeaderName, &str)) {
    let mut list = String::new();
    if !forwarding.is_known {
        list.push_str("unknown");
    }
    for address in forwarding.client.iter().chain(forwarding.proxies) {
        let comma = if list.is_empty() { "" } else { ", " };
        list.push_str(comma);
        list.push_str(AddressText::of(*address).as_str());
    }
    if !list.is_empty() {
        field(FOR, &list);
    }
    let proto = if forwarding.secure { "https" } else { "http" };
    field(PROTO, proto);
    if let Some(host) = forwarding.host {
        field(HOST, host);
    }
    if let Some(port) = forwarding.port {
        field(PORT, AddressText::of_port(port).as_str());
    }
    let mut value = String::with_capacity(96);
    node(&mut value, forwarding.client);
    if let Some(host) = forwarding.host {
        value.push_str(";host=\"");
        value.push_str(host);
        value.push('"');
    }
    value.push_str(";proto=");
    value.push_str(proto);
    for proxy in forwarding.proxies {
        value.push_str(", ");
        node(&mut value, Some(*proxy));
    }
    field(FORWARDED, &value);
}

fn node(value: &mut String, address: Option<IpAddr>) {
    let text = address.map(AddressText::of);
    let text = text.as_ref().map_or("unknown", AddressText::as_str);
    let (begin, end) = match address {
        Some(IpAddr::V6(_)) => ("for=\"[", "]\""),
        Some(IpAddr::V4(_)) | None => ("for=", ""),
    };
    for part in [begin, text, end] {
        value.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Net;
    use proptest::prelude::*;

    fn forwarding(client: Option<&str>) -> ForwardingFacts<'static> {
        ForwardingFacts {
            client: client.map(|client| client.parse().unwrap()),
            is_known: true,
            proxies: &[],
            secure: true,
            host: Some("chat.example.com:8443"),
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
            write(&mut headers, &forwarding(client));
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
    fn claimed_fields_are_replaced() {
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

    #[test]
    fn a_host_that_was_not_named_is_not_stated() {
        let mut forwarding = forwarding(Some("192.0.2.1"));
        forwarding.host = None;
        let mut seen = Vec::new();
        for_each_field(&forwarding, |name, value| {
            seen.push(format!("{name}: {value}"))
        });
        let expected = [
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-proto: https",
            "x-forwarded-port: 8443",
            "forwarded: for=192.0.2.1;proto=https",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn proxies_are_listed_behind_the_client() {
        let proxies = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let mut forwarding = forwarding(Some("192.0.2.1"));
        forwarding.proxies = &proxies;
        let mut seen = Vec::new();
        for_each_field(&forwarding, |name, value| {
            seen.push((name, value.to_owned()))
        });
        assert_eq!(seen[0].1, "192.0.2.1, 10.0.0.1, fd00::1");
        assert_eq!(
            seen[4].1,
            "for=192.0.2.1;host=\"chat.example.com:8443\";proto=https, for=10.0.0.1, \
             for=\"[fd00::1]\""
        );
    }

    fn trust(family: Family) -> Trust {
        Trust {
            proxies: Nets::new(vec![
                Net::Ip("10.0.0.0/8".parse().unwrap()),
                Net::Ip("fd00::/8".parse().unwrap()),
            ]),
            family,
            proxy_protocol: false,
        }
    }

    fn claim(family: Family, lines: &[(&'static str, &str)], peer: &str) -> Option<Claim> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        trusted_claim(&headers, &trust(family), Some(peer.parse().unwrap())).unwrap()
    }

    /// The client and the trusted proxies, as one list.
    fn chain(claim: &Claim) -> String {
        let client = claim
            .client
            .map_or("?".to_owned(), |client| client.to_string());
        let proxies = claim.proxies.iter().map(ToString::to_string);
        let texts: Vec<String> = std::iter::once(client).chain(proxies).collect();
        texts.join(" ")
    }

    #[test]
    fn only_trusted_proxies_are_trusted() {
        for family in [Family::XForwarded, Family::Forwarded] {
            let lines = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=1.1.1.1")];
            assert_eq!(claim(family, &lines, "192.0.2.9"), None);
            assert_eq!(claim(family, &lines, "::ffff:192.0.2.9"), None);
            assert!(claim(family, &lines, "::ffff:10.0.0.1").is_some());
        }
    }

    #[test]
    fn the_right_most_hop_that_is_not_trusted_is_the_client() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1 10.0.0.9"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1 10.0.0.9"),
            (
                "192.0.2.1, 10.0.0.1, 10.0.0.2",
                "192.0.2.1 10.0.0.1 10.0.0.2 10.0.0.9",
            ),
            ("10.0.0.5, 10.0.0.6", "10.0.0.5 10.0.0.6 10.0.0.9"),
            ("6.6.6.6, unknown", "? 10.0.0.9"),
            ("é, 192.0.2.1", "192.0.2.1 10.0.0.9"),
            ("6.6.6.6, é", "? 10.0.0.9"),
            ("6.6.6.6, 192.0.2.1, ,", "192.0.2.1 10.0.0.9"),
            ("6.6.6.6, _hidden, 10.0.0.1", "? 10.0.0.1 10.0.0.9"),
            ("192.0.2.1:4711", "192.0.2.1 10.0.0.9"),
            ("[2001:db8::1]:4711", "2001:db8::1 10.0.0.9"),
            ("2001:db8::1", "2001:db8::1 10.0.0.9"),
            ("::ffff:192.0.2.1", "192.0.2.1 10.0.0.9"),
            ("", "10.0.0.9"),
        ] {
            let seen = claim(
                Family::XForwarded,
                &[("x-forwarded-for", value)],
                "10.0.0.9",
            );
            assert_eq!(chain(&seen.unwrap()), expected, "{value}");
        }
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "192.0.2.1"),
        ];
        let seen = claim(Family::XForwarded, &lines, "10.0.0.9").unwrap();
        assert_eq!(chain(&seen), "192.0.2.1 10.0.0.9");
    }

    #[test]
    fn scheme_and_host_are_what_the_outermost_trusted_proxy_saw() {
        let seen = |lines: &[(&'static str, &str)]| {
            let claim = claim(Family::XForwarded, lines, "10.0.0.9").unwrap();
            (claim.secure, claim.host.map(String::from), claim.port)
        };
        let list = ("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.1");
        assert_eq!(seen(&[list, ("x-forwarded-proto", "https")]).0, Some(true));
        assert_eq!(seen(&[list, ("x-forwarded-proto", "wss")]).0, Some(true));
        // The client claims http, the first proxy saw https, and the second one http.
        assert_eq!(
            seen(&[list, ("x-forwarded-proto", "http, https, http")]).0,
            Some(true)
        );
        assert_eq!(seen(&[list, ("x-forwarded-proto", "gopher")]).0, None);
        assert_eq!(
            seen(&[list, ("x-forwarded-host", "a.example.com")])
                .1
                .as_deref(),
            Some("a.example.com")
        );
        assert_eq!(seen(&[list, ("x-forwarded-host", "a b")]).1, None);
        assert_eq!(seen(&[list, ("x-forwarded-port", "8443")]).2, Some(8443));
        assert_eq!(seen(&[("x-forwarded-proto", "https")]).0, Some(true));
        // Without as many addresses, what stands on the left may be the client's own.
        let one = ("x-forwarded-for", "192.0.2.1");
        for addresses in [&[one][..], &[]] {
            let proto = |list| seen(&[addresses, &[("x-forwarded-proto", list)]].concat()).0;
            assert_eq!(proto("https, http"), Some(false));
            assert_eq!(proto("http, https"), Some(true));
        }
    }

    #[test]
    fn only_the_configured_family_is_read() {
        let lines = [
            ("x-forwarded-for", "192.0.2.1"),
            (
                "forwarded",
                "for=192.0.2.2;proto=https;host=\"b.example.com\"",
            ),
        ];
        let seen = claim(Family::Forwarded, &lines, "10.0.0.9").unwrap();
        assert_eq!(chain(&seen), "192.0.2.2 10.0.0.9");
        assert_eq!(
            (seen.secure, seen.host.as_deref()),
            (Some(true), Some("b.example.com"))
        );
        let seen = claim(Family::XForwarded, &lines, "10.0.0.9").unwrap();
        assert_eq!(
            (chain(&seen).as_str(), seen.secure),
            ("192.0.2.1 10.0.0.9", None)
        );
    }

    #[test]
    fn forwarded_follows_rfc_7239() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1 10.0.0.9"),
            ("For=\"192.0.2.1:4711\"; Proto=https", "192.0.2.1 10.0.0.9"),
            ("for=\"[2001:db8::1]\"", "2001:db8::1 10.0.0.9"),
            (
                "for=6.6.6.6, for=192.0.2.1;by=10.0.0.1 , for=10.0.0.1",
                "192.0.2.1 10.0.0.1 10.0.0.9",
            ),
            (
                "for=6.6.6.6;x=\"a, b\\\" ;\", for=192.0.2.1",
                "192.0.2.1 10.0.0.9",
            ),
            ("for=6.6.6.6, for=_hidden", "? 10.0.0.9"),
            ("for=6.6.6.6, , for=192.0.2.1,", "192.0.2.1 10.0.0.9"),
            ("for=6.6.6.6,, proto=https", "10.0.0.9"),
            ("proto=https", "10.0.0.9"),
        ] {
            let seen = claim(Family::Forwarded, &[("forwarded", value)], "10.0.0.9").unwrap();
            assert_eq!(chain(&seen), expected, "{value}");
        }
    }

    #[test]
    fn malformed_forwarded_cannot_swallow_what_a_proxy_appends() {
        for begin in [
            "for=6.6.6.6;x=\"",
            "for=\"",
            "for=6.6.6.6;x=\"\\",
            "for",
            "for=6.6.6.6 x",
            "é",
        ] {
            for own in [
                "for=192.0.2.1",
                "for=\"[2001:db8::1]\"",
                "for=192.0.2.1;host=\"a\"",
            ] {
                let mut headers = HeaderMap::new();
                let line = HeaderValue::from_str(&format!("{begin}, {own}")).unwrap();
                headers.append(FORWARDED, line);
                let trust = trust(Family::Forwarded);
                let peer = Some("10.0.0.9".parse().unwrap());
                let refused = Err(Rejection::BadForwarded);
                assert_eq!(trusted_claim(&headers, &trust, peer), refused, "{begin}");
                assert_eq!(
                    trusted_claim(&headers, &trust, Some([1, 1, 1, 1].into())),
                    Ok(None)
                );
            }
        }
    }

    proptest! {
        /// Whatever a client writes first, the address that the trusted proxy appends is the
        /// client.
        #[test]
        fn what_comes_first_changes_nothing(junk in "[ -~\\u{e9}]{0,60}") {
            for (family, name, own) in [
                (Family::XForwarded, FOR, "192.0.2.1"),
                (Family::Forwarded, FORWARDED, "for=192.0.2.1"),
            ] {
                let line = HeaderValue::from_str(&format!("{junk}, {own}")).unwrap();
                let mut headers = HeaderMap::new();
                headers.append(name, line);
                match trusted_claim(&headers, &trust(family), Some([10, 0, 0, 9].into())) {
                    Ok(claim) => prop_assert_eq!(chain(&claim.unwrap()), "192.0.2.1 10.0.0.9"),
                    Err(_) => prop_assert_eq!(family, Family::Forwarded),
                }
            }
        }
    }
}
