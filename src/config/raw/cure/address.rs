//! Cures for addresses, hosts, origins, networks and paths.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The parts of a URL that matter here.
struct WrittenUrl<'a> {
    scheme: &'a str,
    /// Host and port, without user and password.
    authority: &'a str,
    /// Everything after it.
    rest: &'a str,
}

impl<'a> WrittenUrl<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end)?;
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        (!authority.is_empty()).then_some(Self {
            scheme,
            authority,
            rest,
        })
    }

    fn is_secure(&self) -> bool {
        ["https", "wss"]
            .iter()
            .any(|scheme| self.scheme.eq_ignore_ascii_case(scheme))
    }

    /// Host and port, with the default port of the scheme.
    fn address(&self) -> String {
        let port = if self.is_secure() { 443 } else { 80 };
        match port_in(self.authority) {
            Some(_) => self.authority.to_owned(),
            None => format!("{}:{port}", self.authority),
        }
    }
}

/// The port after a host.
fn port_in(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    let is_host = !host.contains(':') || host.ends_with(']');
    is_host.then_some(port)
}

fn host_in(authority: &str) -> &str {
    match port_in(authority) {
        Some(port) => authority
            .strip_suffix(port)
            .map_or(authority, |host| host.trim_end_matches(':')),
        None => authority,
    }
}

/// An IPv6 address without its brackets: `::1:9000`, `::1`.
fn in_brackets(text: &str, port: u16) -> Option<String> {
    let with_port = text.rsplit_once(':').filter(|(address, port)| {
        let port = port.parse::<u16>();
        address.parse::<Ipv6Addr>().is_ok() && port.is_ok_and(|port| port > 0)
    });
    if let Some((address, port)) = with_port {
        return Some(format!(
            "an IPv6 address is written in brackets: `[{address}]:{port}`"
        ));
    }
    text.parse::<Ipv6Addr>().ok().map(|_| {
        format!("an IPv6 address is written in brackets and with its port, e.g. `[{text}]:{port}`")
    })
}

fn unix_socket(text: &str) -> Option<String> {
    text.starts_with('/')
        .then(|| format!("a unix socket is written `unix:{text}`"))
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether `text` may be a host name or an IPv4 address.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

/// The address of an endpoint.
pub(super) fn of_endpoint(text: &str) -> Option<String> {
    if let Some(url) = WrittenUrl::parse(text) {
        let tls = match url.is_secure() {
            true => ", and add `tls = {}` to the upstream",
            false => "",
        };
        let path = match url.rest {
            "" | "/" => String::new(),
            rest => {
                let end = rest.find(['?', '#']).unwrap_or(rest.len());
                let path = rest.get(..end).unwrap_or_default();
                let path = path.trim_end_matches('/');
                format!("; for the path, add `rewrite.add_prefix = \"{path}\"` to the route")
            }
        };
        return Some(format!(
            "write the address alone: `{}`{tls}{path}",
            url.address()
        ));
    }
    if let Some(cure) = unix_socket(text).or_else(|| in_brackets(text, 9000)) {
        return Some(cure);
    }
    if is_port(text) {
        return Some(format!("add the host, e.g. `127.0.0.1:{text}`"));
    }
    match text.rsplit_once(':') {
        Some(("", port)) if is_port(port) => Some(format!("add the host, e.g. `127.0.0.1:{port}`")),
        Some((_, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !is_port(port) => {
            Some("a port is a number from 1 to 65535".to_owned())
        }
        None if is_name(text) => Some(format!("add the port, e.g. `{text}:9000`")),
        _ => None,
    }
}

/// An address to listen on.
pub(super) fn of_bind(text: &str) -> Option<String> {
    if let Some(url) = WrittenUrl::parse(text) {
        let address = url.address();
        return Some(match of_bind(&address) {
            Some(cure) => cure,
            None => format!("write the address alone: `{address}`"),
        });
    }
    if let Some(cure) = unix_socket(text).or_else(|| in_brackets(text, 443)) {
        return Some(cure);
    }
    if is_port(text) {
        return Some(format!(
            "add the address, e.g. `0.0.0.0:{text}` for all IPv4 addresses"
        ));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) if is_port(port) => Some(format!(
            "write `0.0.0.0:{port}` for all IPv4 addresses, and `[::]:{port}` for all IPv6 addresses"
        )),
        Some(("localhost", port)) if is_port(port) => Some(format!(
            "write `127.0.0.1:{port}`: a listener has an IP address, not a name"
        )),
        Some((name, port)) if is_port(port) && is_name(name) && name.parse::<IpAddr>().is_err() => {
            Some(format!(
                "write an IP address of this machine, or `0.0.0.0:{port}` for all; a name belongs in `hosts` of a route"
            ))
        }
        None if text.parse::<IpAddr>().is_ok() => Some(format!("add the port, e.g. `{text}:443`")),
        _ => None,
    }
}

/// A host of a route.
pub(super) fn of_host(key: &str, text: &str) -> Option<String> {
    if matches!(text, "*" | "_" | "") {
        return Some(format!("for any host, leave `{key}` out"));
    }
    let authority = match WrittenUrl::parse(text) {
        Some(url) => url.authority,
        None => text.split('/').next().unwrap_or_default(),
    };
    let host = host_in(authority);
    if host != text && is_name(host.trim_start_matches("*.")) {
        return Some(format!("write the host alone: `{host}`"));
    }
    let parent = text.strip_prefix('.').filter(|parent| is_name(parent))?;
    Some(format!(
        "write `*.{parent}` for all hosts one level below `{parent}`"
    ))
}

/// An origin of pages.
pub(super) fn of_origin(key: &str, text: &str) -> Option<String> {
    if text == "*" {
        return Some(format!("for any origin, leave `{key}` out"));
    }
    let Some(url) = WrittenUrl::parse(text) else {
        return is_name(host_in(text)).then(|| format!("an origin has a scheme: `https://{text}`"));
    };
    let scheme = match url.scheme.to_ascii_lowercase().as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        scheme => scheme.to_owned(),
    };
    let origin = format!("{scheme}://{}", url.authority);
    (origin != text).then(|| format!("write the origin as browsers send it: `{origin}`"))
}

/// A network of addresses.
pub(super) fn of_net(key: &str, text: &str) -> Option<String> {
    let is_any = matches!(text, "*" | "all" | "any" | "everybody" | "everyone");
    if is_any && key == "allow" {
        return Some(format!("to allow any client, leave `{key}` out"));
    }
    if text == "localhost" {
        return Some("write `127.0.0.1` and `::1`".to_owned());
    }
    let (address, mask) = text.split_once('/')?;
    let net = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
    Some(format!("write `{}`", net.trunc()))
}

/// A path of requests.
pub(super) fn of_path(text: &str) -> Option<String> {
    if text.starts_with(['^', '~', '=']) {
        return Some(
            "a path is not a regular expression: `path` matches one path, `path_prefix` matches it and all below it"
                .to_owned(),
        );
    }
    if let Some(url) = WrittenUrl::parse(text) {
        let path = url
            .rest
            .split(['?', '#'])
            .next()
            .filter(|path| !path.is_empty());
        return Some(format!("write the path alone: `{}`", path.unwrap_or("/")));
    }
    if let Some((path, query)) = text.split_once('?') {
        let (name, value) = query.split_once('=').unwrap_or((query, ""));
        let condition = match is_name(name) && (value.is_empty() || is_name(value)) {
            true => format!("query = {{ {name} = \"{value}\" }}"),
            false => "query = { version = \"2\" }".to_owned(),
        };
        return Some(format!(
            "write the path alone, `{path}`; a parameter of the query is matched by e.g. `{condition}`"
        ));
    }
    let is_plain = is_name(text.split('/').next().unwrap_or_default());
    is_plain.then(|| format!("write `/{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cure: impl Fn(&str) -> Option<String>, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            let cure = cure(text);
            match expected {
                Some(part) => assert!(
                    cure.as_ref().is_some_and(|cure| cure.contains(part)),
                    "{text}: {cure:?}"
                ),
                None => assert_eq!(cure, None, "{text}"),
            }
        }
    }

    #[test]
    fn endpoints() {
        check(
            of_endpoint,
            &[
                (
                    "https://a.internal",
                    Some("`a.internal:443`, and add `tls = {}`"),
                ),
                ("wss://a:9443/", Some("`a:9443`, and add `tls = {}`")),
                (
                    "http://10.0.0.1:9000/ws",
                    Some("`10.0.0.1:9000`; for the path, add `rewrite.add_prefix = \"/ws\"`"),
                ),
                ("ws://u:p@a", Some("`a:80`")),
                ("::1:9000", Some("`[::1]:9000`")),
                ("2001:db8::1", Some("`[2001:db8::1]:9000`")),
                ("/run/a.sock", Some("`unix:/run/a.sock`")),
                ("10.0.0.1", Some("`10.0.0.1:9000`")),
                ("9000", Some("`127.0.0.1:9000`")),
                (":9000", Some("`127.0.0.1:9000`")),
                ("a:70000", Some("1 to 65535")),
                ("a b:1", None),
                ("://", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn listen_addresses() {
        check(
            of_bind,
            &[
                ("https://0.0.0.0", Some("`0.0.0.0:443`")),
                ("http://localhost:80/", Some("`127.0.0.1:80`")),
                ("443", Some("`0.0.0.0:443`")),
                (":443", Some("`[::]:443`")),
                ("*:443", Some("`0.0.0.0:443`")),
                ("localhost:80", Some("`127.0.0.1:80`")),
                ("chat.example.com:80", Some("`hosts`")),
                ("0.0.0.0", Some("`0.0.0.0:443`")),
                ("::", Some("`[::]:443`")),
                (":::443", Some("`[::]:443`")),
                ("/run/a.sock", Some("`unix:/run/a.sock`")),
                ("0.0.0.0:http", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn hosts_origins_networks_and_paths() {
        check(
            |text| of_host("hosts", text),
            &[
                ("https://chat.example.com/", Some("`chat.example.com`")),
                ("chat.example.com:443", Some("`chat.example.com`")),
                ("chat.example.com/ws", Some("`chat.example.com`")),
                ("*", Some("leave `hosts` out")),
                (".example.com", Some("`*.example.com`")),
                ("a b", None),
            ],
        );
        check(
            |text| of_origin("origins", text),
            &[
                ("*", Some("leave `origins` out")),
                ("chat.example.com", Some("`https://chat.example.com`")),
                ("https://a/b", Some("`https://a`")),
                ("wss://a:1", Some("`https://a:1`")),
                ("a b", None),
            ],
        );
        check(
            |text| of_net("allow", text),
            &[
                ("10.0.0.0/255.0.0.0", Some("`10.0.0.0/8`")),
                ("all", Some("leave `allow` out")),
                ("localhost", Some("`127.0.0.1`")),
                ("10.0.0", None),
            ],
        );
        check(
            of_path,
            &[
                ("^/ws", Some("regular expression")),
                ("https://a/b?c", Some("`/b`")),
                ("https://a", Some("`/`")),
                ("chat", Some("`/chat`")),
                (
                    "/a?b",
                    Some(
                        "`/a`; a parameter of the query is matched by e.g. `query = { b = \"\" }`",
                    ),
                ),
                ("/a?v=2", Some("`query = { v = \"2\" }`")),
                ("/a?v=2&w=3", Some("`query = { version = \"2\" }`")),
                ("/a b", None),
            ],
        );
    }
}
