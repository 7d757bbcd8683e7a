//! The URL of a probe.

use std::net::{IpAddr, SocketAddr};

use http::Uri;

/// A WebSocket URL (RFC 6455 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// The URL as it was written.
    pub(super) text: Box<str>,
    /// Whether the scheme is `wss`.
    pub(super) secure: bool,
    /// The host: a name or an address, without brackets.
    pub(super) host: Box<str>,
    /// The port: the default of the scheme, if none is written.
    pub(super) port: u16,
    /// The value of the `Host` header.
    pub(super) authority: Box<str>,
    /// The path and query.
    pub(super) path: Box<str>,
}

impl Url {
    /// Reads a URL. The error says how to write it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.is_ascii() {
            return Err(
                "write international names in their `xn--` form, and other characters as %XX"
                    .into(),
            );
        }
        if text.contains('#') {
            return Err("a WebSocket URL must not have a fragment (`#`)".into());
        }
        let expected = "use ws://HOST[:PORT][/PATH], or wss:// for TLS";
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{error}; {expected}"))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            Some("http") => return Err("a WebSocket URL begins with ws://".into()),
            Some("https") => return Err("a WebSocket URL begins with wss://".into()),
            _ => return Err(expected.into()),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(
                "browsers do not send the credentials of a WebSocket URL: use `--header authorization:…`"
                    .into(),
            );
        }
        let host = uri.host().unwrap_or_default();
        // `Uri` ignores a port that is not valid, so it is read from the text.
        let after = authority.strip_prefix(host).unwrap_or_default();
        let port = match after.strip_prefix(':') {
            None if secure => 443,
            None => 80,
            Some(digits) => match digits.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("`{digits}` is not a valid port")),
            },
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            text: text.into(),
            secure,
            host: host.trim_matches(['[', ']']).into(),
            port,
            authority: authority.into(),
            path: format!("{slash}{path}").into(),
        })
    }
}

/// `192.0.2.1`, `192.0.2.1:8443`, `::1`, `[::1]:8443`.
pub(super) fn address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip(), Some(address.port())));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match bare.parse() {
        Ok(address) => Ok((address, None)),
        Err(_) => Err("use e.g. `192.0.2.1`, `192.0.2.1:8443` or `[2001:db8::1]:8443`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(bool, &str, u16, &str, &str), &str>) {
        let read = Url::parse(text);
        match (&read, expected) {
            (Ok(url), Ok(expected)) => {
                let url = (
                    url.secure,
                    &*url.host,
                    url.port,
                    &*url.authority,
                    &*url.path,
                );
                assert_eq!(url, expected);
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            _ => panic!("{text}: {read:?}"),
        }
    }

    #[test]
    fn a_url_is_read_as_browsers_read_it() {
        check("ws://a", Ok((false, "a", 80, "a", "/")));
        check("wss://a?x=1", Ok((true, "a", 443, "a", "/?x=1")));
        let path = "/realtime?room=1&x=%20";
        let text = format!("wss://chat.example.com:8443{path}");
        let authority = "chat.example.com:8443";
        check(&text, Ok((true, "chat.example.com", 8443, authority, path)));
        check(
            "ws://[::1]:9000/",
            Ok((false, "::1", 9000, "[::1]:9000", "/")),
        );
    }

    #[test]
    fn what_is_no_websocket_url_is_told_how_to_be_one() {
        for (text, expected) in [
            ("", "use ws://HOST"),
            ("chat.example.com/x", "use ws://HOST"),
            ("chat.example.com", "use ws://HOST"),
            ("/x", "use ws://HOST"),
            ("https://a/x", "begins with wss://"),
            ("ws://a/x#y", "fragment"),
            ("ws://me:secret@a/", "--header"),
            ("ws://a:0/", "is not a valid port"),
            ("ws://a:99999/", "is not a valid port"),
            ("ws://b\u{fc}cher.example/", "xn--"),
        ] {
            check(text, Err(expected));
        }
    }

    #[test]
    fn an_address_may_have_a_port() {
        for (text, address, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:8443", "192.0.2.1", Some(8443)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:8443", "::1", Some(8443)),
        ] {
            assert_eq!(super::address(text), Ok((address.parse().unwrap(), port)));
        }
        assert!(address("chat.internal:9000").is_err());
    }
}
