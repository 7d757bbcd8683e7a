//! Putting a stripped prefix back into what an endpoint says about its own paths.
//!
//! An endpoint behind `strip_prefix` does not know under which path its clients see it. Where its response
//! names one of its paths, the client would use it without the prefix, and never reach the endpoint.

use std::borrow::Cow;

use http::HeaderName;
use http::header::{CONTENT_LOCATION, LOCATION, SET_COOKIE};

use crate::config::model::Rewrite;

/// The prefix of a route that strips one, and how the endpoint and its client call the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrippedPrefix<'a> {
    strip: &'a str,
    /// The prefix that endpoints get in its place.
    add: Option<&'a str>,
    /// The authority that the client has requested; `None` for a request of HTTP/1.0 that names no host.
    client_host: Option<&'a str>,
    /// The `Host` that the endpoint has received.
    endpoint_host: Cow<'a, str>,
}

impl<'a> StrippedPrefix<'a> {
    /// The prefix that responses get back; `None` if the route strips none, or does not restore it.
    pub fn of(
        rewrite: &'a Rewrite,
        client_host: Option<&'a str>,
        endpoint_host: impl FnOnce() -> Cow<'a, str>,
    ) -> Option<Self> {
        Some(Self {
            strip: rewrite.strip.as_deref().filter(|_| rewrite.restore)?,
            add: rewrite.add.as_deref(),
            client_host,
            endpoint_host: endpoint_host(),
        })
    }

    /// The value of a response field as the client must see it; `None` if it stays as it is.
    pub fn restored(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        let is = |known: HeaderName| known.as_str().eq_ignore_ascii_case(name);
        if is(LOCATION) || is(CONTENT_LOCATION) {
            self.location(value)
        } else if is(SET_COOKIE) {
            self.cookie(value)
        } else {
            None
        }
    }

    /// A path as the client must see it. One that has the prefix already was made by an endpoint that knows
    /// it, and one outside of `add` cannot be reached through the route: both stay as they are.
    fn path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = match self.add {
            Some(add) => below(path, add.as_bytes())?,
            None if below(path, self.strip.as_bytes()).is_some() => return None,
            None => path,
        };
        Some([self.strip.as_bytes(), rest].concat())
    }

    /// A path, or a URL of this host.
    fn location(&self, value: &[u8]) -> Option<Vec<u8>> {
        let after_scheme = value
            .iter()
            .position(|byte| *byte == b':')
            .and_then(|at| value.split_at_checked(at + 1))
            .filter(|(scheme, _)| {
                scheme.eq_ignore_ascii_case(b"http:") || scheme.eq_ignore_ascii_case(b"https:")
            })
            .map_or(value, |(_, rest)| rest);
        let Some(rest) = after_scheme.strip_prefix(b"//") else {
            // Without a slash, it is relative to the path of the request, which has the prefix.
            let path = value.starts_with(b"/").then_some(value)?;
            return self.path(path);
        };
        let end = rest.iter().position(|byte| b"/?#".contains(byte));
        let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
        let path = match path.starts_with(b"/") {
            true => Cow::Borrowed(path),
            false => Cow::Owned([&b"/"[..], path].concat()),
        };
        let names = |host: &str| is_same_host(authority, host);
        let is_client_host = self.client_host.is_some_and(names);
        if !is_client_host && !names(&self.endpoint_host) {
            return None;
        }
        let path = self.path(&path)?;
        match is_client_host {
            true => {
                let front = value.len() - rest.len() + authority.len();
                Some([value.get(..front)?, &path].concat())
            }
            // The client cannot resolve the name by which the endpoint is known.
            false => Some(path),
        }
    }

    /// A `Set-Cookie` (RFC 6265 section 4.1). A cookie for `/` is for the whole host, and reaches the route
    /// as it is; other routes may need it, too.
    fn cookie(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut is_changed = false;
        let restored = value
            .split(|byte| *byte == b';')
            .enumerate()
            .map(|(at, part)| {
                let path = cookie_path(part).filter(|_| at > 0);
                match path.and_then(|path| self.cookie_path(path)) {
                    None => Cow::Borrowed(part),
                    Some(path) => {
                        is_changed = true;
                        Cow::Owned([&b" Path="[..], &path].concat())
                    }
                }
            });
        let restored = restored.collect::<Vec<_>>().join(&b';');
        is_changed.then_some(restored)
    }

    fn cookie_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        if path == b"/" {
            return None;
        }
        let folder = path.strip_suffix(b"/").unwrap_or(path);
        let rest = self.add.and_then(|add| below(add.as_bytes(), folder));
        // It covers everything that the endpoint gets from the route.
        match rest.is_some_and(|rest| !rest.is_empty()) {
            true => Some(self.strip.into()),
            false => self.path(path),
        }
    }
}

/// What follows `prefix` in a path that it begins with, by whole segments.
fn below<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(prefix)?;
    let ends_segment = rest.first().is_none_or(|next| b"/?#".contains(next));
    ends_segment.then_some(rest)
}

/// The value of a cookie's attribute `Path`, if it is one and names a path.
fn cookie_path(attribute: &[u8]) -> Option<&[u8]> {
    let equals = attribute.iter().position(|byte| *byte == b'=')?;
    let (name, value) = attribute.split_at(equals);
    let value = value.get(1..)?.trim_ascii();
    let is_path = name.trim_ascii().eq_ignore_ascii_case(b"path") && value.starts_with(b"/");
    is_path.then_some(value)
}

/// Whether an authority is this host. The default port of either scheme may be missing: an endpoint does not
/// always know which scheme its clients use.
fn is_same_host(authority: &[u8], host: &str) -> bool {
    fn without_port(authority: &[u8]) -> &[u8] {
        let mut ports = [&b":80"[..], b":443"].into_iter();
        let bare = ports.find_map(|port| authority.strip_suffix(port));
        bare.unwrap_or(authority)
    }
    without_port(authority).eq_ignore_ascii_case(without_port(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(add: &str, name: &HeaderName, value: &str, expected: &str) {
        let rewrite = Rewrite {
            strip: Some("/api".into()),
            add: (!add.is_empty()).then(|| add.into()),
            restore: true,
        };
        let host = || Cow::Borrowed("10.0.0.1:9000");
        let prefix = StrippedPrefix::of(&rewrite, Some("chat.example.com"), host).unwrap();
        let restored = prefix.restored(name.as_str(), value.as_bytes());
        let restored = restored.map(|value| String::from_utf8(value).unwrap());
        assert_eq!(restored.as_deref().unwrap_or(value), expected);
        assert!(restored.is_none() || expected != value, "{value}");
    }

    #[test]
    fn locations_get_the_prefix_back() {
        for (add, value, expected) in [
            ("", "/login?next=/a#b", "/api/login?next=/a#b"),
            ("", "/", "/api/"),
            ("", "/?a", "/api/?a"),
            ("", "/apis", "/api/apis"),
            ("", "//chat.example.com/a", "//chat.example.com/api/a"),
            (
                "",
                "http://chat.example.com/a",
                "http://chat.example.com/api/a",
            ),
            (
                "",
                "HTTPS://Chat.example.com:443/a",
                "HTTPS://Chat.example.com:443/api/a",
            ),
            (
                "",
                "https://chat.example.com",
                "https://chat.example.com/api/",
            ),
            (
                "",
                "https://chat.example.com?a",
                "https://chat.example.com/api/?a",
            ),
            ("", "http://10.0.0.1:9000/a", "/api/a"),
            ("/v1", "/v1/login", "/api/login"),
            ("/v1", "/v1", "/api"),
            ("/api/v1", "/api/v1/login", "/api/login"),
        ] {
            check(add, &LOCATION, value, expected);
            check(add, &CONTENT_LOCATION, value, expected);
        }
        for (add, value) in [
            // The endpoint knows the prefix.
            ("", "/api"),
            ("", "/api/login"),
            ("", "https://chat.example.com/api?a"),
            // Relative to the path that the client has requested.
            ("", "login"),
            ("", "../a"),
            ("", "?a"),
            ("", "http:a"),
            // Other hosts and schemes.
            ("", "https://other.example.com/login"),
            ("", "https://chat.example.com.evil.example/"),
            ("", "https://user@chat.example.com/"),
            ("", "https://chat.example.com:8443/"),
            ("", "//other.example.com/login"),
            ("", "mailto:a@chat.example.com"),
            // Not within what the endpoint gets from this route.
            ("/v1", "/login"),
            ("/v1", "/v1x"),
            ("", ""),
        ] {
            check(add, &LOCATION, value, value);
        }
    }

    #[test]
    fn a_client_that_names_no_host_has_none_in_locations() {
        let rewrite = Rewrite {
            strip: Some("/api".into()),
            add: None,
            restore: true,
        };
        let prefix = StrippedPrefix::of(&rewrite, None, || Cow::Borrowed("b")).unwrap();
        for (value, restored) in [
            ("http:///a", None),
            ("///a", None),
            ("http://:80/a", None),
            ("http://b/a", Some("/api/a")),
            ("/a", Some("/api/a")),
        ] {
            let seen = prefix.restored("Location", value.as_bytes());
            assert_eq!(seen.as_deref(), restored.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn cookie_paths_get_the_prefix_back() {
        for (add, value, expected) in [
            ("", "a=1; Path=/rooms", "a=1; Path=/api/rooms"),
            (
                "",
                "a=1;path = /rooms/ ;Secure",
                "a=1; Path=/api/rooms/;Secure",
            ),
            ("/v1", "a=1; Path=/v1; HttpOnly", "a=1; Path=/api; HttpOnly"),
            ("/v1", "a=1; Path=/v1/rooms", "a=1; Path=/api/rooms"),
            // It covers everything that the endpoint gets from the route.
            ("/v1/chat", "a=1; Path=/v1", "a=1; Path=/api"),
            ("/v1/chat", "a=1; Path=/v1/", "a=1; Path=/api"),
        ] {
            check(add, &SET_COOKIE, value, expected);
        }
        for (add, value) in [
            ("", "a=1"),
            ("", "a=1; Path=/"),
            ("/v1", "a=1; Path=/"),
            ("", "__Host-a=1; Path=/; Secure"),
            ("", "a=1; Path=/api/rooms"),
            ("", "a=1; Path="),
            ("", "a=1; Path=rooms"),
            ("/v1", "a=1; Path=/rooms"),
            // The name and the value of the cookie itself.
            ("", "path=/rooms"),
            ("", "a=\"Path=/rooms\""),
        ] {
            check(add, &SET_COOKIE, value, value);
        }
    }

    #[test]
    fn only_a_route_that_strips_and_restores_changes_responses() {
        let with = |strip: Option<&str>, restore| Rewrite {
            strip: strip.map(Into::into),
            add: None,
            restore,
        };
        let is_restored = |rewrite: &Rewrite| {
            let host = || Cow::Borrowed("b");
            StrippedPrefix::of(rewrite, Some("a"), host).is_some()
        };
        assert!(is_restored(&with(Some("/api"), true)));
        assert!(!is_restored(&with(Some("/api"), false)));
        assert!(!is_restored(&with(None, true)));
    }
}
