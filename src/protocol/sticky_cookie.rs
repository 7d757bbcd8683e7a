//! Cookies: one read out of a request, and the one that leads back to an endpoint.
//!
//! That one names its endpoint by a tag that only who has the key can make or understand, and is
//! signed, so that nobody can choose an endpoint or learn how many there are.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::config::model::{SameSite, Sticky};

/// Bytes of an endpoint's tag.
const TAG: usize = 8;

/// Bytes of the time that a cookie was made at: seconds since 1970, enough until 2106.
const TIME: usize = 4;

/// Bytes of the signature, of an HMAC-SHA-256.
const SIGNATURE: usize = 16;

/// The value of the first cookie of this name (RFC 6265 section 4.2.1).
pub fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(known, _)| known.trim() == name)
        .map(|(_, value)| value.trim())
}

/// What stands for an endpoint in cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointTag([u8; TAG]);

/// What a cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StickyCookie {
    /// The endpoint that it leads to.
    pub to: EndpointTag,
    /// Whether it is time for a new one.
    pub is_aging: bool,
}

/// Makes and reads the cookies of an upstream.
pub struct CookieSigner {
    key: hmac::Key,
    upstream: Box<str>,
}

impl fmt::Debug for CookieSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.upstream)
    }
}

impl CookieSigner {
    /// With this secret, for the cookies of `upstream`.
    pub fn new(secret: &[u8], upstream: &str) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            upstream: upstream.into(),
        }
    }

    /// The tag of the endpoint with this address: the same wherever the key is.
    pub fn tag(&self, address: &str) -> EndpointTag {
        let mut tag = [0; TAG];
        let made = self.sign(b"endpoint", address.as_bytes());
        tag.copy_from_slice(made.as_ref().get(..TAG).unwrap_or(&[0; TAG]));
        EndpointTag(tag)
    }

    fn sign(&self, purpose: &[u8], message: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // Names of upstreams have no zero bytes: no two parts can be taken for others.
        for part in [purpose, b"\0", self.upstream.as_bytes(), b"\0", message] {
            context.update(part);
        }
        context.sign()
    }

    /// The value of a cookie made at `now`, seconds since 1970.
    fn seal(&self, tag: EndpointTag, now: u64) -> String {
        let mut bytes = Vec::with_capacity(TAG + TIME + SIGNATURE);
        bytes.extend(tag.0);
        bytes.extend(u32::try_from(now).unwrap_or(u32::MAX).to_be_bytes());
        let signature = self.sign(b"cookie", &bytes);
        bytes.extend(signature.as_ref().iter().take(SIGNATURE));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The endpoint that a cookie leads to, if it is one of ours and has not outlived `settings.ttl`.
    pub fn read(&self, value: &str, settings: &Sticky, now: u64) -> Option<StickyCookie> {
        // Longer than any of ours: nothing that is worth decoding.
        if value.len() > 2 * (TAG + TIME + SIGNATURE) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (signed, signature) = bytes.split_at_checked(TAG + TIME)?;
        let expected = self.sign(b"cookie", signed);
        constant_time::verify_slices_are_equal(expected.as_ref().get(..SIGNATURE)?, signature)
            .ok()?;
        let (tag, made) = signed.split_first_chunk::<TAG>()?;
        let made = u64::from(u32::from_be_bytes(made.try_into().ok()?));
        let age = Duration::from_secs(now.saturating_sub(made));
        (age <= settings.ttl).then_some(StickyCookie {
            to: EndpointTag(*tag),
            is_aging: age > settings.ttl / 2,
        })
    }

    /// The `Set-Cookie` that leads back to `tag` (RFC 6265 section 4.1). `Secure` where the client
    /// speaks https: elsewhere browsers would not send it back.
    pub fn set(
        &self,
        tag: EndpointTag,
        settings: &Sticky,
        secure: bool,
        now: u64,
    ) -> Option<HeaderValue> {
        let Sticky {
            cookie, ttl, path, ..
        } = settings;
        let same_site = match settings.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let text = format!(
            "{cookie}={}; Path={path}; Max-Age={}; HttpOnly; SameSite={same_site}{}",
            self.seal(tag, now),
            ttl.as_secs(),
            if secure { "; Secure" } else { "" }
        );
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;

    fn settings() -> Sticky {
        Sticky {
            cookie: "tidegate".into(),
            ttl: Duration::from_secs(3600),
            path: "/chat".into(),
            same_site: SameSite::Lax,
            secret: None,
        }
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(cookie_value(&headers, "sid"), expected, "{lines:?}");
    }

    #[test]
    fn cookies_are_found_by_name() {
        check(&[], None);
        check(&["sid=1"], Some("1"));
        check(&["a=2; sid=1; b=3"], Some("1"));
        check(&["a=2;sid = 1"], Some("1"));
        check(&["a=2", "sid=1=2"], Some("1=2"));
        check(&["xsid=1; sidx=2; SID=3; sid"], None);
        check(&["sid=; sid=2"], Some(""));
    }

    #[test]
    fn a_cookie_leads_back_and_shows_no_address() {
        let signer = CookieSigner::new(&[7; 32], "chat");
        let tag = signer.tag("10.0.0.1:9000");
        let set = signer.set(tag, &settings(), true, NOW).unwrap();
        let set = set.to_str().unwrap();
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(
            attributes,
            "Path=/chat; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"
        );
        assert!(!set.contains("10.0.0.1"));
        let value = pair.strip_prefix("tidegate=").unwrap();
        let read = |signer: &CookieSigner, now| signer.read(value, &settings(), now);
        let led = |is_aging| Some(StickyCookie { to: tag, is_aging });
        assert_eq!(read(&signer, NOW), led(false));
        assert_eq!(read(&signer, NOW + 1801), led(true));
        assert_eq!(read(&signer, NOW + 3601), None, "it has outlived its time");
        // Another node with the same key understands it; nobody else does.
        assert_eq!(read(&CookieSigner::new(&[7; 32], "chat"), NOW), led(false));
        assert_eq!(read(&CookieSigner::new(&[8; 32], "chat"), NOW), None);
        assert_eq!(read(&CookieSigner::new(&[7; 32], "games"), NOW), None);
        assert_ne!(signer.tag("10.0.0.2:9000"), tag);
        let plain = signer.set(tag, &settings(), false, NOW).unwrap();
        assert!(!plain.to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn a_changed_cookie_is_none_of_ours() {
        let signer = CookieSigner::new(&[7; 32], "chat");
        let value = signer.seal(signer.tag("a:1"), NOW);
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(signer.read(&changed, &settings(), NOW), None, "{at}");
        }
        assert_eq!(signer.read(&value[..30], &settings(), NOW), None);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_panics(text in "\\PC{0,90}") {
            let signer = CookieSigner::new(&[7; 32], "chat");
            prop_assert_eq!(signer.read(&text, &settings(), NOW), None);
        }
    }
}
