//! The target of a request: host and path, accepted only if proxy and endpoint cannot disagree
//! about them (RFC 9112 section 3, RFC 3986).

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Uri, Version};

use super::rejection::Rejection;
use crate::config::model::{has_dot_segment, loose_path, normal_path};

/// The target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `None` for a request of HTTP/1.0 that names no host.
    authority: Option<Box<str>>,
    host: Box<str>,
    path: Box<str>,
    loose_path: Option<Box<str>>,
    origin_form: Box<str>,
}

impl Target {
    /// Reads the target of a request.
    ///
    /// # Errors
    /// [`Rejection::BadHost`], [`Rejection::HostMismatch`], [`Rejection::BadTarget`],
    /// [`Rejection::DotSegment`].
    pub fn of(parts: &Parts) -> Result<Self, Rejection> {
        let host = host_field(parts)?;
        let scheme = parts.uri.scheme();
        let named = parts.uri.authority();
        let named = named
            .map(|named| absolute_form(named, scheme))
            .transpose()?;
        if let (Some(named), Some(host)) = (&named, &host)
            && !named.agrees_with(host, scheme)
        {
            return Err(Rejection::HostMismatch);
        }
        let is_absolute = named.is_some();
        let authority = host.or(named);
        let origin_form = parts
            .uri
            .path_and_query()
            .map_or("", |whole| whole.as_str());
        if origin_form.starts_with('/') {
            Self::new(authority.as_ref(), origin_form)
        } else if is_absolute && matches!(origin_form.as_bytes(), [] | [b'?', ..]) {
            // `http://host` and `http://host?query` have the path `/`.
            Self::new(authority.as_ref(), &format!("/{origin_form}"))
        } else {
            Err(Rejection::BadTarget)
        }
    }

    fn new(authority: Option<&HostPort<'_>>, origin_form: &str) -> Result<Self, Rejection> {
        let (path, query) = match origin_form.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (origin_form, None),
        };
        if !path.bytes().all(may_be_in_path) || !query.is_none_or(is_query) {
            return Err(Rejection::BadTarget);
        }
        // The normalised path is for matching only. The endpoint gets the path as received: some
        // applications give `%2F` and `/` different meanings.
        let normal = normal_path(path).ok_or(Rejection::BadTarget)?;
        let loose = loose_path(&normal);
        if has_dot_segment(loose.as_deref().unwrap_or(&normal)) {
            return Err(Rejection::DotSegment);
        }
        Ok(Self {
            authority: authority.map(|authority| authority.text.into()),
            host: authority
                .map_or("", |authority| authority.host)
                .trim_end_matches('.')
                .to_ascii_lowercase()
                .into(),
            loose_path: loose.map(Into::into),
            path: normal.into(),
            origin_form: origin_form.into(),
        })
    }

    /// The same target without parts of its query.
    pub fn with_origin_form(&self, origin_form: &str) -> Self {
        Self {
            origin_form: origin_form.into(),
            ..self.clone()
        }
    }

    /// The `Host` header as received; `None` for a request of HTTP/1.0 that names no host.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The port behind the host, if there is one.
    pub fn port(&self) -> Option<u16> {
        // The last part of an IPv6 address is followed by a bracket.
        let (_, port) = self.authority()?.rsplit_once(':')?;
        port.parse().ok()
    }

    /// The host: lower case, no port, no trailing dot. Empty if the request names none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path for matching, in its normal form.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path as the loosest servers read it; `None` if that is the same.
    pub fn loose_path(&self) -> Option<&str> {
        self.loose_path.as_deref()
    }

    /// The query as received, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.origin_form.split_once('?').map(|(_, query)| query)
    }

    /// Path and query as received, for the endpoint.
    pub fn origin_form(&self) -> &str {
        &self.origin_form
    }
}

/// Whether `line` is the first line of the request with this method and target, and its target has a fragment
/// that `uri` lacks.
pub fn had_fragment(line: &[u8], method: &Method, uri: &Uri) -> bool {
    let mut words = line.trim_ascii().split(|b| *b == b' ');
    let (named, target, version) = (words.next(), words.next(), words.next());
    let Some(at) = target.and_then(|target| target.iter().position(|b| *b == b'#')) else {
        return false;
    };
    let before = target.and_then(|target| target.get(..at));
    let before = before.and_then(|before| Uri::try_from(before).ok());
    named == Some(method.as_str().as_bytes())
        && version.is_some_and(|version| version.starts_with(b"HTTP/1."))
        && words.next().is_none()
        && before.as_ref() == Some(uri)
}

/// The only `Host` field; `None` if HTTP/1.0 has none, which does not require one.
fn host_field(parts: &Parts) -> Result<Option<HostPort<'_>>, Rejection> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if parts.version == Version::HTTP_10 => return Ok(None),
        _ => return Err(Rejection::BadHost),
    };
    let host = host.to_str().ok().and_then(HostPort::parse);
    host.map(Some).ok_or(Rejection::BadHost)
}

/// Whether `text` is a host, perhaps with a port.
pub(super) fn is_authority(text: &str) -> bool {
    HostPort::parse(text).is_some()
}

/// The port in `text`, if it is a host with a port.
pub fn port_of(text: &str) -> Option<u16> {
    HostPort::parse(text)?.port
}

/// Checks that `:authority` of HTTP/2 and a `Host` beside it name the same (RFC 9113 section 8.3.1).
///
/// # Errors
/// [`Rejection::BadHost`], [`Rejection::HostMismatch`].
pub(super) fn check_agreement(
    authority: &str,
    host: &str,
    scheme: Option<&Scheme>,
) -> Result<(), Rejection> {
    let parse = |text| HostPort::parse(text).ok_or(Rejection::BadHost);
    match parse(authority)?.agrees_with(&parse(host)?, scheme) {
        true => Ok(()),
        false => Err(Rejection::HostMismatch),
    }
}

/// A host and perhaps a port (RFC 3986 section 3.2).
struct HostPort<'a> {
    text: &'a str,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> HostPort<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (text.get(..address.len() + 2)?, port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (host, port) = text.split_at(end);
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&b);
                if host.trim_end_matches('.').is_empty() || !host.bytes().all(allowed) {
                    return None;
                }
                (host, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            // An empty port means the default port (RFC 3986 section 3.2.3).
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { text, host, port })
    }

    fn agrees_with(&self, other: &Self, scheme: Option<&Scheme>) -> bool {
        let default = match scheme.map(Scheme::as_str) {
            Some("https" | "wss") => 443,
            _ => 80,
        };
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

fn absolute_form<'a>(
    named: &'a Authority,
    scheme: Option<&Scheme>,
) -> Result<HostPort<'a>, Rejection> {
    // Without a scheme this is the authority form, which is for CONNECT only (RFC 9112 section
    // 3.2.3).
    match scheme.map(Scheme::as_str) {
        Some("http" | "https" | "ws" | "wss") => {
            HostPort::parse(named.as_str()).ok_or(Rejection::BadTarget)
        }
        _ => Err(Rejection::BadTarget),
    }
}

/// Whether a byte is a slash or a `pchar` (RFC 3986 section 3.3), or one of those that browsers leave as
/// they are. A backslash is not among them: some servers read it as a slash. Escapes are checked later.
fn may_be_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/[]|^{}".contains(&byte)
}

/// Whether all bytes are among those that browsers leave as they are in a query (WHATWG URL), which is
/// every printable one but these.
fn is_query(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"<>#".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    fn parts(uri: &str, hosts: &[&str]) -> Option<Parts> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        Some(request.body(()).ok()?.into_parts().0)
    }

    #[track_caller]
    fn check(uri: &str, hosts: &[&str], expected: Result<(&str, &str, &str), Rejection>) {
        let target = Target::of(&parts(uri, hosts).unwrap());
        let seen = target
            .as_ref()
            .map(|t| (t.host(), t.path(), t.origin_form()))
            .map_err(|e| *e);
        assert_eq!(seen, expected, "{uri} {hosts:?}");
    }

    #[test]
    fn exactly_one_valid_host() {
        use Rejection::BadHost;
        check("/", &["Example.com:8080"], Ok(("example.com", "/", "/")));
        check("/", &["example.com."], Ok(("example.com", "/", "/")));
        check("/", &["[::1]:80"], Ok(("[::1]", "/", "/")));
        check("/", &["a:"], Ok(("a", "/", "/")));
        check("/", &[], Err(BadHost));
        check("/", &["a", "a"], Err(BadHost));
        for bad in [
            "", ".", ":80", "a b", "a/b", "a@b", "[::1", "[::1]x", "a:x", "a:99999", "a,b:1:2",
        ] {
            check("/", &[bad], Err(BadHost));
        }
    }

    #[test]
    fn absolute_form_becomes_origin_form_if_it_agrees() {
        check("http://a/x?y", &["a"], Ok(("a", "/x", "/x?y")));
        check("http://A:80/x", &["a"], Ok(("a", "/x", "/x")));
        check("wss://a/x", &["a:443"], Ok(("a", "/x", "/x")));
        check("http://a", &["a"], Ok(("a", "/", "/")));
        check("http://a?q", &["a"], Ok(("a", "/", "/?q")));
        check("http://b/x", &["a"], Err(Rejection::HostMismatch));
        check("http://a:81/x", &["a"], Err(Rejection::HostMismatch));
        check("http://u@a/x", &["a"], Err(Rejection::BadTarget));
        check("ftp://a/x", &["a"], Err(Rejection::BadTarget));
        check("*", &["a"], Err(Rejection::BadTarget));
        check("a:80", &["a"], Err(Rejection::BadTarget));
    }

    #[test]
    fn paths_are_matched_normalised_and_forwarded_as_received() {
        check(
            "/%7euser/%c3%a9?%7e",
            &["a"],
            Ok(("a", "/~user/%C3%A9", "/%7euser/%c3%a9?%7e")),
        );
        check("//x//", &["a"], Ok(("a", "//x//", "//x//")));
        check("/x?a=/../b", &["a"], Ok(("a", "/x", "/x?a=/../b")));
        check("/a..b/...", &["a"], Ok(("a", "/a..b/...", "/a..b/...")));
        check("/%zz", &["a"], Err(Rejection::BadTarget));
        check("/%4", &["a"], Err(Rejection::BadTarget));
        check("/%+1", &["a"], Err(Rejection::BadTarget));
        check("/a\"b", &["a"], Err(Rejection::BadTarget));
        check("/a\\b", &["a"], Err(Rejection::BadTarget));
        check("/é", &["a"], Err(Rejection::BadTarget));
        check("/?é", &["a"], Err(Rejection::BadTarget));
    }

    #[test]
    fn what_browsers_leave_as_it_is_passes() {
        let path = "/-._~!$&'()*+,;=:@[]|^{}";
        let normal = "/-._~!$&'()*+,;=:@%5B%5D%7C%5E%7B%7D";
        check(path, &["a"], Ok(("a", normal, path)));
        check(normal, &["a"], Ok(("a", normal, normal)));
        let all: String = (b'!'..=b'~').map(char::from).collect();
        let query = all.replace(['"', '<', '>', '#'], "");
        assert_eq!(query.len(), 90);
        let whole = format!("/?{query}");
        check(&whole, &["a"], Ok(("a", "/", &whole)));
        let target = Target::of(&parts("/?ids[]=1", &["a"]).unwrap()).unwrap();
        assert_eq!(target.query(), Some("ids[]=1"));
    }

    #[test]
    fn what_loose_servers_see_is_known() {
        let loose = |path| {
            let target = Target::of(&parts(path, &["a"]).unwrap()).unwrap();
            target.loose_path().map(str::to_owned)
        };
        assert_eq!(loose("/app/admin"), None);
        assert_eq!(loose("/%61pp%5cadmin").as_deref(), Some("/app/admin"));
        assert_eq!(loose("/app%252fadmin").as_deref(), Some("/app/admin"));
        assert_eq!(loose("/app;v=1//admin").as_deref(), Some("/app/admin"));
        assert_eq!(loose("/a?b%2Fc//;"), None);
    }

    #[test]
    fn only_http_1_0_may_name_no_host() {
        type Seen = Result<(Option<String>, String, String), Rejection>;
        let old = |uri: &str, hosts: &[&str]| -> Seen {
            let mut parts = parts(uri, hosts).unwrap();
            parts.version = Version::HTTP_10;
            let target = Target::of(&parts)?;
            let authority = target.authority().map(str::to_owned);
            Ok((
                authority,
                target.host().to_owned(),
                target.path().to_owned(),
            ))
        };
        let is = |authority: Option<&str>, host: &str| -> Seen {
            Ok((
                authority.map(str::to_owned),
                host.to_owned(),
                "/x".to_owned(),
            ))
        };
        assert_eq!(old("/x", &[]), is(None, ""));
        assert_eq!(old("/x", &["A:1"]), is(Some("A:1"), "a"));
        assert_eq!(old("http://a/x", &[]), is(Some("a"), "a"));
        assert_eq!(old("http://b/x", &["a"]), Err(Rejection::HostMismatch));
        assert_eq!(old("/x", &[""]), Err(Rejection::BadHost));
        assert_eq!(old("/x", &["a", "a"]), Err(Rejection::BadHost));
        check("/x", &[], Err(Rejection::BadHost));
        check("http://a/x", &[], Err(Rejection::BadHost));
    }

    #[test]
    fn fragments_are_found_in_the_target_only() {
        for (line, has) in [
            ("GET /a#b HTTP/1.1\r", true),
            ("GET /a# HTTP/1.0", true),
            ("GET /a HTTP/1.1", false),
            ("G#T /a HTTP/1.1", false),
            ("GET /a?%23 HTTP/1.1", false),
            // Lines of a body, or of another request.
            ("PUT /a#b HTTP/1.1", false),
            ("GET /b#b HTTP/1.1", false),
            ("GET #b HTTP/1.1", false),
            ("Referer: /a#b HTTP/1.1", false),
            ("GET /a#b HTTP/1.1 x", false),
            ("GET /a#b", false),
            ("", false),
        ] {
            let uri = Uri::from_static("/a");
            assert_eq!(
                had_fragment(line.as_bytes(), &Method::GET, &uri),
                has,
                "{line}"
            );
        }
        let uri = Uri::from_static("http://a/x");
        let line = b"GET http://a/x#b HTTP/1.1";
        assert!(had_fragment(line, &Method::GET, &uri));
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/x",
            "/%2E./x",
            "/.%2e",
            "/a%2f..%2fb",
            "/a%2F%2e%2e",
            "/a%5c..",
            "/..%5Cx",
            "/%252e%252e/",
            "/a%252f..",
            "/%25252e%25252e",
            "/..;x/y",
        ] {
            check(path, &["a"], Err(Rejection::DotSegment));
        }
    }

    #[test]
    fn paths_may_be_encoded_any_number_of_times() {
        let levels = |inner: &str| format!("/%{}{inner}", "25".repeat(8000));
        let deep = levels("41");
        check(&deep, &["a"], Ok(("a", &deep, &deep)));
        check(&levels("2e"), &["a"], Err(Rejection::DotSegment));
        check(&levels("2E./x"), &["a"], Err(Rejection::DotSegment));
    }

    proptest! {
        #[test]
        fn no_accepted_path_escapes_however_often_it_is_decoded(
            path in "/([a./\\\\\\[|]|%2e|%2E|%2f|%5c|%25|2e|2f){0,12}",
        ) {
            let Some(parts) = parts(&path, &["a"]) else { return Ok(()) };
            let Ok(target) = Target::of(&parts) else { return Ok(()) };
            let mut text = target.origin_form().to_owned();
            for _ in 0..6 {
                let dots = text.split(['/', '\\']).any(|segment| segment == "." || segment == "..");
                prop_assert!(!dots, "{path} became {text}");
                // Replacing is a cruder way to decode than the one under test.
                for (escape, plain) in [("%2e", "."), ("%2E", "."), ("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%25", "%")] {
                    text = text.replace(escape, plain);
                }
            }
        }

        #[test]
        fn nothing_panics(uri in "\\PC{0,40}", host in "[ -~]{0,30}") {
            if let Some(parts) = parts(&uri, &[&host]) {
                let _ = Target::of(&parts);
            }
        }
    }
}
