//! Who may use the page: the browser that was opened with the printed address.
//!
//! The address has a secret that works once. It is exchanged for a cookie, which no script can read, and for a key,
//! which the page keeps in the storage of its own origin. A browser sends cookies to every port of a host, so that a
//! server of another user on this machine could receive the cookie: it does not receive the key. Requests for data need
//! both.

use std::io;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

/// The path that exchanges the secret.
pub(super) const ENTER: &str = "/enter";

/// The header field with the key.
pub(super) const KEY_FIELD: &str = "tidegate-dashboard";

/// Random bytes in a secret.
const SECRET_LENGTH: usize = 32;

/// Who may use the page.
pub(super) struct PageAccess {
    port: u16,
    /// `None` once it was exchanged.
    secret: Mutex<Option<String>>,
    cookie: String,
    key: String,
    run: String,
}

/// Why a request is refused: a status and a sentence for its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageRefusal {
    /// It may come from a page of another origin.
    Site,
    /// The browser fetches the address before its user has opened it.
    Early,
    /// A service worker that another site has left at this port fetches the address, and would see the key.
    Worker,
    /// The secret is wrong, or was exchanged before.
    Secret,
    /// The cookie is missing or wrong.
    Cookie,
    /// The key is missing or wrong.
    Key,
}

impl PageRefusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Site | Self::Secret => StatusCode::FORBIDDEN,
            Self::Early | Self::Worker => StatusCode::SERVICE_UNAVAILABLE,
            Self::Cookie | Self::Key => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Site => {
                "This request names another host, or comes from a page of another origin. Open the address as printed."
            }
            Self::Early => "Open this address in a tab.",
            Self::Worker => {
                "Another site that was at this port has left a service worker in this browser. It is being removed: open this address again."
            }
            Self::Secret => {
                "This address is not valid, or was opened before. Stop `tidegate dashboard` and start it again for a new one."
            }
            Self::Cookie | Self::Key => {
                "This browser was not opened with the address that `tidegate dashboard` printed. Stop the command and start it again for a new one."
            }
        }
    }
}

/// What a browser gets for the secret.
pub(super) struct PageCredentials<'a> {
    /// The value of `Set-Cookie`.
    pub(super) cookie: String,
    /// The key.
    pub(super) key: &'a str,
}

impl PageAccess {
    pub(super) fn new(port: u16) -> io::Result<Self> {
        Ok(Self {
            port,
            secret: Mutex::new(Some(random()?)),
            cookie: random()?,
            key: random()?,
            run: random()?,
        })
    }

    /// The address to print.
    pub(super) fn url(&self) -> String {
        let secret = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = secret.as_deref().unwrap_or_default();
        format!("http://127.0.0.1:{}{ENTER}?secret={secret}", self.port)
    }

    /// What the addresses of files have that no earlier site at this port can have known.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Refuses what a page of another origin, or one whose name resolves to this address, may have sent.
    pub(super) fn check_site(&self, parts: &Parts) -> Result<(), PageRefusal> {
        let host = only(&parts.headers, HOST.as_str()).ok_or(PageRefusal::Site)?;
        // Browsers leave out the port of the scheme.
        let bare = host.strip_suffix(&format!(":{}", self.port));
        let bare = bare.or((self.port == 80).then_some(host));
        if !matches!(bare, Some("127.0.0.1" | "localhost")) {
            return Err(PageRefusal::Site);
        }
        let has_origin = parts.headers.contains_key(ORIGIN);
        let origin = only(&parts.headers, ORIGIN.as_str());
        let is_own = origin.and_then(|it| it.strip_prefix("http://")) == Some(host);
        // A browser sends the origin with every POST.
        if !is_own && (has_origin || parts.method == Method::POST) {
            return Err(PageRefusal::Site);
        }
        let site = parts.headers.get("sec-fetch-site");
        match site.is_none_or(|site| site == "same-origin" || site == "none") {
            true => Ok(()),
            false => Err(PageRefusal::Site),
        }
    }

    /// Exchanges the secret.
    pub(super) fn enter(&self, parts: &Parts) -> Result<PageCredentials<'_>, PageRefusal> {
        let purpose = parts.headers.get("sec-purpose");
        if purpose.is_some_and(|it| it.as_bytes().starts_with(b"prefetch")) {
            return Err(PageRefusal::Early);
        }
        let destination = parts.headers.get("sec-fetch-dest");
        if destination.is_some_and(|it| it != "document") {
            return Err(PageRefusal::Worker);
        }
        let query = parts.uri.query().unwrap_or_default();
        let given = query.strip_prefix("secret=").ok_or(PageRefusal::Secret)?;
        let mut secret = self.secret.lock().unwrap_or_else(PoisonError::into_inner);
        if !secret.as_deref().is_some_and(|it| is_equal(given, it)) {
            return Err(PageRefusal::Secret);
        }
        *secret = None;
        let name = self.cookie_name();
        Ok(PageCredentials {
            cookie: format!("{name}={}; HttpOnly; SameSite=Strict; Path=/", self.cookie),
            key: &self.key,
        })
    }

    /// Refuses a browser that has not exchanged the secret.
    pub(super) fn check_cookie(&self, headers: &HeaderMap) -> Result<(), PageRefusal> {
        let name = self.cookie_name();
        let lines = headers.get_all(COOKIE).iter();
        let pairs = lines.filter_map(|line| line.to_str().ok());
        let pairs = pairs.flat_map(|line| line.split(';'));
        let mut given = pairs.filter_map(|pair| pair.trim().split_once('='));
        match given.any(|(each, value)| each == name && is_equal(value, &self.cookie)) {
            true => Ok(()),
            false => Err(PageRefusal::Cookie),
        }
    }

    /// Refuses a request without the key.
    pub(super) fn check_key(&self, headers: &HeaderMap) -> Result<(), PageRefusal> {
        match only(headers, KEY_FIELD).is_some_and(|given| is_equal(given, &self.key)) {
            true => Ok(()),
            false => Err(PageRefusal::Key),
        }
    }

    /// Ports share their cookies: another dashboard on this machine has its own name.
    fn cookie_name(&self) -> String {
        format!("tidegate-dashboard-{}", self.port)
    }
}

fn random() -> io::Result<String> {
    let mut bytes = [0; SECRET_LENGTH];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| io::Error::other("no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn is_equal(given: &str, expected: &str) -> bool {
    verify_slices_are_equal(given.as_bytes(), expected.as_bytes()).is_ok()
}

/// The value of a header field that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: Method, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_the_own_origin_may_ask() {
        let access = PageAccess::new(9000).unwrap();
        let check = |method: &Method, fields: &[(&str, &str)]| {
            access
                .check_site(&parts(method.clone(), "/", fields))
                .is_ok()
        };
        let own = ("host", "127.0.0.1:9000");
        let origin = ("origin", "http://127.0.0.1:9000");
        let (get, post) = (Method::GET, Method::POST);
        assert!(check(&get, &[own]));
        assert!(check(&get, &[("host", "localhost:9000")]));
        assert!(check(&post, &[own, origin]));
        for fields in [
            vec![],
            vec![("host", "127.0.0.1")],
            vec![("host", "127.0.0.1:9001")],
            vec![("host", "evil.example:9000")],
            vec![own, own],
            vec![own, ("origin", "http://evil.example")],
            vec![own, ("origin", "null")],
            vec![own, ("origin", "http://localhost:9000")],
            vec![own, ("origin", "https://127.0.0.1:9000")],
            vec![own, origin, origin],
            vec![own, ("sec-fetch-site", "cross-site")],
            vec![own, ("sec-fetch-site", "same-site")],
        ] {
            assert!(!check(&get, &fields), "{fields:?}");
        }
        assert!(!check(&post, &[own]), "a browser would send its origin");
        let access = PageAccess::new(80).unwrap();
        let of_port_80 = [("host", "127.0.0.1"), ("origin", "http://127.0.0.1")];
        assert!(access.check_site(&parts(post, "/", &of_port_80)).is_ok());
    }

    #[test]
    fn the_secret_works_once_and_not_early() {
        let access = PageAccess::new(9000).unwrap();
        let url = access.url();
        let enter = |uri: &str, fields: &[(&str, &str)]| {
            let credentials = access.enter(&parts(Method::GET, uri, fields));
            credentials.map(|it| (it.cookie, it.key.to_owned()))
        };
        let wrong = "/enter?secret=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(enter(wrong, &[]), Err(PageRefusal::Secret));
        assert_eq!(enter("/enter?secret=", &[]), Err(PageRefusal::Secret));
        assert_eq!(enter("/enter", &[]), Err(PageRefusal::Secret));
        let early = [("sec-purpose", "prefetch;prerender")];
        assert_eq!(enter(&url, &early), Err(PageRefusal::Early));
        let by_worker = [("sec-fetch-dest", "empty")];
        assert_eq!(enter(&url, &by_worker), Err(PageRefusal::Worker));
        let (cookie, key) = enter(&url, &[]).unwrap();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"));
        assert_eq!(enter(&url, &[]), Err(PageRefusal::Secret));
        assert_eq!(enter("/enter?secret=", &[]), Err(PageRefusal::Secret));

        let pair = cookie.split(';').next().unwrap();
        let headers = |fields: &[(&str, &str)]| parts(Method::GET, "/", fields).headers;
        let several = format!("a=b; {pair}; c=d");
        assert!(access.check_cookie(&headers(&[("cookie", pair)])).is_ok());
        assert!(
            access
                .check_cookie(&headers(&[("cookie", &several)]))
                .is_ok()
        );
        let another = pair.replace("-9000", "-9001");
        for wrong in [
            "",
            "tidegate-dashboard-9000=",
            &another,
            &pair[..pair.len() - 1],
        ] {
            assert!(
                access.check_cookie(&headers(&[("cookie", wrong)])).is_err(),
                "{wrong}"
            );
        }
        assert!(access.check_key(&headers(&[(KEY_FIELD, &key)])).is_ok());
        assert!(
            access
                .check_key(&headers(&[(KEY_FIELD, &key[1..])]))
                .is_err()
        );
        assert!(access.check_key(&headers(&[])).is_err());
    }
}
