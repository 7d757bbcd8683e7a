//! The cookie with which an application sends a client to one endpoint, by its name.
//!
//! Its value is `NAME.EXPIRES.SIGNATURE`: the time in seconds since 1970, and the HMAC-SHA-256 of
//! `COOKIE=NAME.EXPIRES` in base64url without padding. An application makes one in a few lines of any language.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;

use super::sticky_cookie::{MAX_VERIFIED, cookie_values};
use crate::config::model::{MAX_ENDPOINT_NAME, is_endpoint_name};

/// The maximum length of a value: the longest name, the latest time, the signature, and two dots.
const MAX_LENGTH: usize = MAX_ENDPOINT_NAME + 20 + 43 + 2;

/// Signs and verifies the cookies of one name.
pub struct EndpointCookie {
    name: Box<str>,
    key: hmac::Key,
}

impl fmt::Debug for EndpointCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointCookie({})", self.name)
    }
}

impl EndpointCookie {
    /// The cookies of this name, which are signed with this secret.
    pub fn new(name: &str, secret: &[u8]) -> Self {
        Self {
            name: name.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The name of the cookies.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of a cookie that leads to `endpoint` until `expires`, in seconds since 1970.
    pub fn issue(&self, endpoint: &str, expires: u64) -> String {
        let claim = format!("{endpoint}.{expires}");
        let signature =
            URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, &self.signed(claim.as_bytes())));
        format!("{claim}.{signature}")
    }

    /// The endpoint that a request names at `now`: that of the valid cookie that expires last. A client that has
    /// got a new one may still send an older one, which was set for another domain or path.
    pub fn endpoint<'a>(&self, headers: &'a HeaderMap, now: u64) -> Option<&'a str> {
        let values = cookie_values(headers, &self.name).take(MAX_VERIFIED);
        let valid = values.filter_map(|value| self.verify(value, now));
        // The first one of those that expire together.
        let last = valid.reduce(|last, other| match other.1 > last.1 {
            true => other,
            false => last,
        });
        last.map(|(endpoint, _)| endpoint)
    }

    /// The endpoint that a value leads to, and until when. `None` if it is forged or has expired.
    pub fn verify<'a>(&self, value: &'a [u8], now: u64) -> Option<(&'a str, u64)> {
        // Without this, the work would be what the client decides.
        if value.len() > MAX_LENGTH {
            return None;
        }
        let (claim, signature) = split_last(value)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        // In constant time: the time of an ordinary comparison would reveal how many bytes of a forged signature
        // are right.
        hmac::verify(&self.key, &self.signed(claim), &signature).ok()?;
        let (endpoint, expires) = split_last(claim)?;
        let expires = str::from_utf8(expires).ok()?;
        let is_number = expires.bytes().all(|byte| byte.is_ascii_digit());
        let expires: u64 = expires.parse().ok().filter(|_| is_number)?;
        let endpoint = str::from_utf8(endpoint).ok()?;
        (now < expires && is_endpoint_name(endpoint)).then_some((endpoint, expires))
    }

    /// What is signed. The name of the cookie is in it, and no zero byte, which all that is signed for sticky cookies
    /// with the same secret has behind its first word: a signature is good for nothing else.
    fn signed(&self, claim: &[u8]) -> Vec<u8> {
        [self.name.as_bytes(), b"=", claim].concat()
    }
}

/// What is before and behind the last dot: there may be others in the name of an endpoint.
fn split_last(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = value.iter().rposition(|byte| *byte == b'.')?;
    Some((value.get(..dot)?, value.get(dot + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::COOKIE;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn cookie() -> EndpointCookie {
        EndpointCookie::new("server", &[7; 32])
    }

    /// The format must not change: applications write it.
    #[test]
    fn the_format_is_stable() {
        let cookie = EndpointCookie::new("server", b"0123456789abcdef0123456789abcdef");
        let value = "game-7.1800000600.gGqEP2OT0eGhPwNIl5ackQluBoi5j6Nm4vNQLUTPESE";
        assert_eq!(cookie.issue("game-7", NOW + 600), value);
    }

    #[test]
    fn a_cookie_leads_to_its_endpoint_until_it_expires() {
        for endpoint in ["game-7", "game-7.eu.example.com", "7", &"a".repeat(253)] {
            let value = cookie().issue(endpoint, NOW + 60);
            let verify = |by: &EndpointCookie, now| by.verify(value.as_bytes(), now).map(|it| it.0);
            assert_eq!(verify(&cookie(), NOW), Some(endpoint));
            assert_eq!(verify(&cookie(), NOW + 59), Some(endpoint));
            assert_eq!(verify(&cookie(), NOW + 60), None);
            assert_eq!(verify(&EndpointCookie::new("server", &[8; 32]), NOW), None);
            assert_eq!(verify(&EndpointCookie::new("other", &[7; 32]), NOW), None);
        }
    }

    #[test]
    fn a_changed_cookie_is_rejected() {
        let value = cookie().issue("game-7", NOW + 60);
        for at in 0..value.len() {
            let mut changed = value.clone().into_bytes();
            changed[at] ^= 1;
            assert_eq!(cookie().verify(&changed, NOW), None, "{at}");
            assert_eq!(cookie().verify(&value.as_bytes()[..at], NOW), None, "{at}");
        }
        for (endpoint, expires) in [
            ("10.0.0.1:9000", "1800000060"),
            ("", "1800000060"),
            ("game-7", "+1800000060"),
            ("game-7", "99999999999999999999"),
            ("game-7", ""),
        ] {
            let claim = format!("{endpoint}.{expires}");
            let signature = hmac::sign(&cookie().key, &cookie().signed(claim.as_bytes()));
            let value = format!("{claim}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert_eq!(cookie().verify(value.as_bytes(), NOW), None, "{value}");
        }
    }

    #[test]
    fn the_cookie_that_expires_last_decides() {
        let endpoint = |values: &[String]| {
            let pairs: Vec<String> = values.iter().map(|it| format!("server={it}")).collect();
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, pairs.join("; ").parse().unwrap());
            cookie().endpoint(&headers, NOW).map(str::to_owned)
        };
        let issue = |name: &str, left| cookie().issue(name, NOW + left);
        let (old, new) = (issue("a", 10), issue("b", 20));
        let forged = "a.1900000000.AAAA".to_owned();
        assert_eq!(endpoint(&[old.clone(), new.clone()]).as_deref(), Some("b"));
        assert_eq!(endpoint(&[new.clone(), old.clone()]).as_deref(), Some("b"));
        assert_eq!(endpoint(&[forged.clone(), old]).as_deref(), Some("a"));
        assert_eq!(endpoint(&["a".to_owned()]), None);
        let mut many = vec![forged; MAX_VERIFIED];
        many.push(new);
        assert_eq!(endpoint(&many), None);
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_that_was_not_signed(text in "\\PC{0,90}", expires in "[0-9]{0,12}") {
            let value = format!("{text}.{expires}.{text}");
            prop_assert_eq!(cookie().verify(value.as_bytes(), NOW), None);
            prop_assert_eq!(cookie().verify(text.as_bytes(), NOW), None);
        }
    }
}
