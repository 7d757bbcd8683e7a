//! The scalar values of the file. The error of each parser says in one line what it expected.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::model::{
    Address, Bind, HostPattern, MAX_ENDPOINT_NAME, Net, Origin, OriginPattern, has_dot_segment,
    is_endpoint_name, normal_path,
};

/// Permission bits of unix sockets unless the file says otherwise.
pub(super) const SOCKET_MODE: u32 = 0o660;

/// `30s`, `5m`, `1h 30m`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("`{text}` is not a valid duration; use e.g. `250ms`, `30s`, `5m` or `1h 30m`")
    })
}

/// `64KiB`, `1MiB`, `500`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("`{text}` is not a valid size; use e.g. `512B`, `64KiB` or `1MiB`"))
}

/// Whether this can stand in a request as its path and query.
pub(super) fn is_sendable_path(text: &str) -> bool {
    let sendable = text.bytes().all(|byte| matches!(byte, b'!'..=b'~')) && !text.contains('#');
    text.starts_with('/') && sendable
}

/// `20/s`, `100/m`, `1000/h`: as a number per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let expected = || format!("`{text}` is not a valid rate; use e.g. `20/s`, `100/m` or `1000/h`");
    let (count, unit) = text.split_once('/').ok_or_else(expected)?;
    let per = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(expected()),
    };
    let count: u32 = count.trim().parse().map_err(|_| expected())?;
    Ok(f64::from(count) / per)
}

/// `0.0.0.0:443`, `[::]:443`, `unix:/run/tidegate/in.sock`, `systemd:web`.
pub(super) fn bind(text: &str) -> Result<Bind, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Bind::Unix {
            path: unix_path(path)?,
            mode: SOCKET_MODE,
        });
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return passed(name).map(Bind::Systemd);
    }
    text.parse().map(Bind::Tcp).map_err(|_| {
        format!(
            "`{text}` is not a valid listen address; use e.g. `0.0.0.0:443`, `[::]:443`, \
             `unix:/path` or `systemd:NAME`"
        )
    })
}

/// A name that systemd's `FileDescriptorName=` accepts.
fn passed(name: &str) -> Result<Box<str>, String> {
    let allowed = |b: u8| (b' '..0x7f).contains(&b) && b != b':';
    if (1..=255).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name.into())
    } else {
        Err(format!(
            "`{name}` is not a valid socket name; use the value of `FileDescriptorName=`, by default e.g. `tidegate.socket`"
        ))
    }
}

/// `10.0.0.1:9000`, `[::1]:9000`, `chat.internal:9000`, `unix:/run/chat.sock`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Unix(unix_path(path)?));
    }
    let expected = || {
        format!(
            "`{text}` is not a valid address; use e.g. `10.0.0.1:9000`, `name:9000` or `unix:/path`"
        )
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(expected())
        } else {
            Ok(Address::Ip(address))
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if port == 0 || host.is_empty() || !host.bytes().all(name) {
        return Err(expected());
    }
    Ok(Address::Name {
        host: host.to_ascii_lowercase().into(),
        port,
    })
}

fn unix_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        Err("`unix:` requires the path of the socket".into())
    } else {
        Ok(path.into())
    }
}

/// `chat.example.com`, `*.example.com`, `192.0.2.1`, `[2001:db8::1]`.
pub(super) fn host(text: &str) -> Result<HostPattern, String> {
    if !text.is_ascii() {
        return Err(format!(
            "`{text}` is not ASCII; write international names in their `xn--` form"
        ));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if let Some(address) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => Ok(HostPattern::Exact(name.into())),
            _ => Err(format!("`{text}` is not a valid IPv6 address in brackets")),
        };
    }
    if name.contains("://") {
        return Err(format!(
            "`{text}` is a URL; a host is written without scheme and path"
        ));
    }
    if name.contains(':') {
        return Err(format!(
            "`{text}` contains a port; a host is written without one, because the listener determines the port"
        ));
    }
    let (wildcard, rest) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name.as_str()),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if !rest.split('.').all(label) {
        return Err(format!(
            "`{text}` is not a valid host; use e.g. `chat.example.com` or `*.example.com`"
        ));
    }
    let rest = rest.into();
    Ok(if wildcard {
        HostPattern::Wildcard(rest)
    } else {
        HostPattern::Exact(rest)
    })
}

/// `chat.svc`, `_ws._tcp.chat.example.com.`: a name for DNS lookups.
pub(super) fn domain(text: &str) -> Result<(), String> {
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    let labels = text.strip_suffix('.').unwrap_or(text);
    if labels.len() < 254 && labels.split('.').all(label) && text.parse::<IpAddr>().is_err() {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is not a valid DNS name; use e.g. `chat.svc` or `_ws._tcp.chat.svc`"
        ))
    }
}

/// Whether objects in Kubernetes may have this name: a label of a DNS name, in lower case (RFC 1123).
pub(super) fn is_kubernetes_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A path as it is matched: from the first slash, no query, no dot segments.
pub(super) fn path(text: &str) -> Result<Box<str>, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "`{text}` is not a valid path; it must start with `/`"
        ));
    }
    if text.contains(['?', '#']) {
        return Err(format!(
            "`{text}` is not a valid path; it must not contain a query or a fragment"
        ));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%[]|^{}".contains(&b);
    if !text.bytes().all(allowed) {
        return Err(format!(
            "`{text}` contains characters that must be percent-encoded, e.g. a space as `%20`"
        ));
    }
    let normal = normal_path(text)
        .ok_or_else(|| format!("`{text}` contains a `%` without two hexadecimal digits"))?;
    if has_dot_segment(&normal) {
        return Err(format!(
            "`{text}` contains a dot segment; requests with such paths are always rejected"
        ));
    }
    Ok(text.into())
}

/// `0660`: permission bits in octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("`{text}` is not a valid mode; use permission bits such as `0660`"))
}

/// `https://chat.example.com`, `null`: an origin as browsers send it.
pub(super) fn origin(text: &str) -> Result<Origin, String> {
    Origin::parse(text).ok_or_else(|| {
        format!(
            "`{text}` is not a valid origin; use e.g. `https://chat.example.com`, without a path"
        )
    })
}

/// `https://chat.example.com`, `https://*.example.com`, `null`: the origins that a route allows.
pub(super) fn origin_pattern(text: &str) -> Result<OriginPattern, String> {
    OriginPattern::parse(text).ok_or_else(|| {
        format!(
            "`{text}` is not a valid origin; use e.g. `https://chat.example.com` or `https://*.example.com`, without a path"
        )
    })
}

/// `10.0.0.0/8`, `10.0.0.1`, `2001:db8::/32`, `unix:`.
pub(super) fn net(text: &str) -> Result<Net, String> {
    if text == "unix:" {
        return Ok(Net::Unix);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Net::Ip(address.to_canonical().into()));
    }
    let net: IpNet = text.parse().map_err(|_| {
        format!("`{text}` is not a valid address or network; use e.g. `10.0.0.0/8`")
    })?;
    if net.trunc() == net {
        Ok(Net::Ip(canonical(net)))
    } else {
        Err(format!(
            "`{text}` has bits set beyond the prefix length; use `{}` or `{}`",
            net.trunc(),
            net.addr()
        ))
    }
}

/// `10.0.0.2`, `2001:db8::2`.
pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a valid IP address; use e.g. `10.0.0.2`"))
}

/// `127.0.0.1:53`.
pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| {
            format!("`{text}` is not a valid IP address and port; use e.g. `127.0.0.1:53`")
        })
}

/// `200-299, 404`: status codes.
pub(super) fn statuses(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    let expected =
        || format!("`{text}` is not a valid list of status codes; use e.g. `200-299, 404`");
    let code = |text: &str| {
        let code = text.trim().parse().ok();
        code.filter(|code| (100..=599).contains(code))
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = code(first)?..=code(last)?;
        (!range.is_empty()).then_some(range)
    };
    text.split(',')
        .map(|text| range(text).ok_or_else(expected))
        .collect()
}

/// IPv4-mapped IPv6 networks become IPv4 networks, as their addresses do (RFC 4291 section 2.5.5.2).
fn canonical(net: IpNet) -> IpNet {
    let mapped = match net.addr().to_canonical() {
        IpAddr::V4(address) if matches!(net, IpNet::V6(_)) => net
            .prefix_len()
            .checked_sub(96)
            .and_then(|length| IpNet::new(address.into(), length).ok()),
        _ => None,
    };
    mapped.unwrap_or(net)
}

/// The name of a header that the configuration may decide about. tidegate itself writes those that
/// frame messages and make up handshakes.
pub(super) fn header(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| format!("`{text}` is not a valid header name"))?;
    // CGI and WSGI endpoints map dashes and underscores to the same variable: `transfer_encoding`
    // must be no way around this list.
    let dashed = name.as_str().replace('_', "-");
    let hint = match dashed.as_str() {
        "host" => "; use `host` or `preserve_host` to choose which one endpoints receive",
        "connection" | "upgrade" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "content-length" | "expect" | "http2-settings" => "",
        name if name.starts_with("sec-websocket-") => "",
        _ => return Ok(name),
    };
    Err(format!("`{text}` is written by tidegate itself{hint}"))
}

/// `GET`, `POST`: methods are case-sensitive (RFC 9110 section 9.1).
pub(super) fn method(text: &str) -> Result<Method, String> {
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => Err(format!(
            "`{text}` is never allowed; tidegate rejects it with 405"
        )),
        Ok(method) if upper == text => Ok(method),
        Ok(_) => Err(format!(
            "`{text}` is not a valid method; methods are case-sensitive, use `{upper}`"
        )),
        Err(_) => Err(format!("`{text}` is not a valid method; use e.g. `GET`")),
    }
}

/// `graphql-transport-ws`.
pub(super) fn token(text: &str) -> Result<(), String> {
    // Header names have exactly the syntax of tokens, so their parser decides.
    if HeaderName::from_bytes(text.as_bytes()).is_ok() {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is not a valid token; it must not contain spaces, commas or quotes"
        ))
    }
}

/// `game-7`, `game-7.eu.example.com`: the name of an endpoint. It has no colon, which every address has, so that
/// no name is taken for an address.
pub(super) fn endpoint_name(text: &str) -> Result<Box<str>, String> {
    if is_endpoint_name(text) {
        Ok(text.into())
    } else {
        Err(format!(
            "`{text}` is not a valid name of an endpoint; it must have 1 to {MAX_ENDPOINT_NAME} letters, digits, `.`, `_` and `-`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("30").is_err() && duration("-1s").is_err() && duration("").is_err());
        assert_eq!(size("64KiB"), Ok(65536));
        assert!(size("lots").is_err());
        assert_eq!(rate("120/m"), Ok(2.0));
        assert!(rate("5").is_err() && rate("5/d").is_err());
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("999").is_err() && mode("01000").is_err());
    }

    #[test]
    fn status_codes() {
        assert_eq!(statuses("200-299, 404"), Ok(vec![200..=299, 404..=404]));
        for text in ["", "abc", "299-200", "99", "600", "200-", "200,"] {
            assert!(statuses(text).is_err(), "{text}");
        }
        assert!(socket("127.0.0.1:0").is_err() && socket("[::1]:53").is_ok());
        assert!(ip("10.0.0").is_err() && ip("::1").is_ok());
    }

    #[test]
    fn addresses() {
        for text in [
            "10.0.0.1:9000",
            "[::1]:9000",
            "chat.internal:9000",
            "unix:/run/a.sock",
        ] {
            assert_eq!(
                address(text).map(|address| address.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "10.0.0.1",
            "10.0.0.1:0",
            ":9000",
            "a b:1",
            "http://a:1",
            "unix:",
            "a:70000",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        assert!(bind("127.0.0.1:0").is_ok() && bind("localhost:80").is_err());
        assert_eq!(bind("systemd:web"), Ok(Bind::Systemd("web".into())));
        for text in ["systemd:", "systemd:a:b", "systemd:a\nb", "systemd:ä"] {
            assert!(bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts() {
        assert_eq!(
            host("Chat.Example.com."),
            Ok(HostPattern::Exact("chat.example.com".into()))
        );
        assert_eq!(
            host("*.example.com"),
            Ok(HostPattern::Wildcard("example.com".into()))
        );
        assert!(host("[2001:db8::1]").is_ok() && host("192.0.2.1").is_ok());
        for text in [
            "",
            "*",
            "a.*.b",
            "a:80",
            "a..b",
            "münchen.de",
            "[192.0.2.1]",
            "a/b",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_to_look_up() {
        for text in [
            "chat",
            "chat.svc",
            "_ws._tcp.chat.svc.",
            "xn--mnchen-3ya.de",
        ] {
            assert!(domain(text).is_ok(), "{text}");
        }
        let long = "a.".repeat(130);
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a:80",
            "10.0.0.1",
            "münchen.de",
            &long,
        ] {
            assert!(domain(text).is_err(), "{text}");
        }
        assert!(domain(&"a".repeat(64)).is_err() && domain(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn paths_and_origins() {
        assert!(path("/a/b/").is_ok());
        assert!(path("/ids[]").is_ok() && path("/{a}|b^c").is_ok());
        for text in [
            "",
            "a",
            "/a?b",
            "/a#b",
            "/a/../b",
            "/a/%2e./b",
            "/a b",
            "/é",
            "/a\nb",
            "/a\\b",
            "/a`",
            "/100%",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
        assert!(origin("https://a:8443").is_ok() && origin("null").is_ok());
        assert!(origin("a").is_err() && origin("https://a/").is_err() && origin("ws://a").is_err());
        assert!(origin("https://*.a").is_err() && origin_pattern("https://*.a").is_ok());
        assert!(origin_pattern("https://*").is_err());
    }

    #[test]
    fn names_of_endpoints_are_never_addresses() {
        for text in [
            "game-7",
            "a",
            "game_7.eu.example.com",
            "7",
            &"a".repeat(253),
        ] {
            assert_eq!(endpoint_name(text).as_deref(), Ok(text));
            assert!(address(text).is_err(), "{text}");
        }
        for text in [
            "",
            "a:1",
            "a b",
            "a/b",
            "\u{e4}",
            "a=b",
            "a#b",
            &"a".repeat(254),
        ] {
            assert!(endpoint_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nets_headers_methods_and_tokens() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.66/128", "10.0.0.66"),
            ("unix:", "unix:"),
        ] {
            assert_eq!(net(text).map(|net| net.to_string()), Ok(shown.to_owned()));
        }
        assert!(
            net("10.0.0.1/8")
                .unwrap_err()
                .contains("`10.0.0.0/8` or `10.0.0.1`")
        );
        assert!(net("10.0.0").is_err() && net("10.0.0.0/33").is_err());
        assert_eq!(header("X-Tenant").unwrap(), "x-tenant");
        for text in [
            "Host",
            "Connection",
            "Sec-WebSocket-Key",
            "sec_websocket_key",
            "a b",
            "",
            "content-length",
        ] {
            assert!(header(text).is_err(), "{text}");
        }
        assert!(method("get").unwrap_err().contains("use `GET`"));
        assert!(method("PATCH").is_ok() && method("CONNECT").is_err() && method("").is_err());
        assert!(token("graphql-ws").is_ok() && token("a, b").is_err() && token("").is_err());
    }
}
