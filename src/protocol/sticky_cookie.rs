//! The sticky cookie, which leads a client back to its endpoint, and reading cookies from requests.
//!
//! A sticky cookie names its endpoint by a tag that can be computed only with the key, and it is
//! signed: clients can neither choose an endpoint nor learn how many there are.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::config::model::{SameSite, Sticky};

/// The length of an endpoint's tag in bytes.
const TAG: usize = 8;

/// The length in bytes of the time of issue: seconds since 1970, which is enough until 2106.
const TIME: usize = 4;

/// The length in bytes of the signature, a truncated HMAC-SHA-256 (RFC 2104 section 5).
const SIGNATURE: usize = 16;

/// How many cookies of one name are verified, which costs a signature each: the client decides how many it sends.
pub(super) const MAX_VERIFIED: usize = 8;

/// The value of the first cookie of this name (RFC 6265 section 4.2.1). It is bytes: browsers send
/// what a page has set, and another cookie that is not ASCII must not hide this one.
pub fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookie_values(headers, name).next()
}

/// The values of all cookies of this name: there may be one for the host and one for its domain, or several
/// with different paths (RFC 6265 section 5.4).
pub(super) fn cookie_values<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
        .filter_map(move |pair| {
            let equals = pair.iter().position(|b| *b == b'=')?;
            let (known, value) = pair.split_at_checked(equals)?;
            let is_known = known.trim_ascii() == name.as_bytes();
            is_known.then(|| value.get(1..).unwrap_or_default().trim_ascii())
        })
}

/// The tag that stands for an endpoint in cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointTag([u8; TAG]);

/// A valid sticky cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StickyCookie {
    /// The tag of the endpoint that it leads to.
    pub to: EndpointTag,
    /// When it was issued, in seconds since 1970.
    pub issued: u64,
    /// Whether the client should get a new one: more than half of its lifetime has passed, or another cookie is
    /// newer.
    pub is_aging: bool,
}

/// Issues the sticky cookies of an upstream with one key, and verifies those that were issued with any of several.
#[derive(Debug)]
pub struct CookieSigners {
    current: CookieSigner,
    /// Those that only verify.
    others: Vec<CookieSigner>,
}

impl CookieSigners {
    /// `current` issues and verifies, `others` verify.
    pub fn new(current: CookieSigner, others: Vec<CookieSigner>) -> Self {
        Self { current, others }
    }

    /// What issues cookies.
    pub fn current(&self) -> &CookieSigner {
        &self.current
    }

    /// The tags of the endpoint with this address, as cookies of any of the keys have them.
    pub fn tags(&self, address: &str) -> Box<[EndpointTag]> {
        self.all().map(|signer| signer.tag(address)).collect()
    }

    /// The newest valid cookie of a request. A client that has got a new one may still send an older one of the
    /// same name, which was set for another domain or path.
    pub fn newest(&self, headers: &HeaderMap, settings: &Sticky, now: u64) -> Option<StickyCookie> {
        let read = |value| {
            let mut signers = self.all();
            signers.find_map(|signer| signer.read(value, settings, now))
        };
        cookie_values(headers, &settings.cookie)
            .take(MAX_VERIFIED)
            .filter_map(read)
            .reduce(|newest, other| match other.issued > newest.issued {
                true => other,
                false => newest,
            })
    }

    fn all(&self) -> impl Iterator<Item = &CookieSigner> {
        std::iter::once(&self.current).chain(&self.others)
    }
}

/// Issues and verifies the sticky cookies of an upstream with one key.
pub struct CookieSigner {
    key: hmac::Key,
    upstream: Box<str>,
}

impl fmt::Debug for CookieSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieSigner({})", self.upstream)
    }
}

impl CookieSigner {
    /// A signer with this secret, for the cookies of `upstream`.
    pub fn new(secret: &[u8], upstream: &str) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            upstream: upstream.into(),
        }
    }

    /// The tag of the endpoint with this address: the same in every process with the same key.
    pub fn tag(&self, address: &str) -> EndpointTag {
        let mut tag = [0; TAG];
        let made = self.sign(b"endpoint", address.as_bytes());
        tag.copy_from_slice(made.as_ref().get(..TAG).unwrap_or(&[0; TAG]));
        EndpointTag(tag)
    }

    fn sign(&self, purpose: &[u8], message: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        // Names of upstreams have no zero bytes, so no two lists of parts give the same bytes. With
        // the purpose and the upstream in them, a signature is good for nothing else.
        for part in [purpose, b"\0", self.upstream.as_bytes(), b"\0", message] {
            context.update(part);
        }
        context.sign()
    }

    /// The value of a cookie that is issued at `now`, in seconds since 1970.
    fn seal(&self, tag: EndpointTag, now: u64) -> String {
        let mut bytes = Vec::with_capacity(TAG + TIME + SIGNATURE);
        bytes.extend(tag.0);
        bytes.extend(u32::try_from(now).unwrap_or(u32::MAX).to_be_bytes());
        let signature = self.sign(b"cookie", &bytes);
        bytes.extend(signature.as_ref().iter().take(SIGNATURE));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Verifies a cookie's value: `None` if it is not one of ours, or older than `settings.ttl`.
    fn read(&self, value: &[u8], settings: &Sticky, now: u64) -> Option<StickyCookie> {
        // Longer than any of ours. Without this, decoding would cost what the client decides.
        if value.len() > 2 * (TAG + TIME + SIGNATURE) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (signed, signature) = bytes.split_at_checked(TAG + TIME)?;
        let expected = self.sign(b"cookie", signed);
        // In constant time: the time of an ordinary comparison would reveal how many bytes of a
        // forged signature are right.
        constant_time::verify_slices_are_equal(expected.as_ref().get(..SIGNATURE)?, signature)
            .ok()?;
        let (tag, made) = signed.split_first_chunk::<TAG>()?;
        let made = u64::from(u32::from_be_bytes(made.try_into().ok()?));
        let age = Duration::from_secs(now.saturating_sub(made));
        (age <= settings.ttl).then_some(StickyCookie {
            to: EndpointTag(*tag),
            issued: made,
            is_aging: age > settings.ttl / 2,
        })
    }

    /// The `Set-Cookie` that leads back to `tag` (RFC 6265 section 4.1). It has `Secure` only if
    /// the client uses https: otherwise browsers would not send the cookie back. `Partitioned` requires
    /// `Secure`.
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
        let domain = settings.domain.as_deref();
        let domain = domain.map_or_else(String::new, |domain| format!("; Domain={domain}"));
        let same_site = match settings.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let text = format!(
            "{cookie}={}{domain}; Path={path}; Max-Age={}; HttpOnly; SameSite={same_site}{}",
            self.seal(tag, now),
            ttl.as_secs(),
            match (secure, settings.partitioned) {
                (true, true) => "; Secure; Partitioned",
                (true, false) => "; Secure",
                (false, _) => "",
            }
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
            domain: None,
            path: "/chat".into(),
            same_site: SameSite::Lax,
            partitioned: false,
            secret: None,
        }
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<&str>) {
        let expected = expected.map(str::as_bytes);
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
        check(&["name=J\u{f6}rg; sid=1"], Some("1"));
        check(&["sid=J\u{f6}rg"], Some("J\u{f6}rg"));
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
        let read = |signer: &CookieSigner, now| signer.read(value.as_bytes(), &settings(), now);
        let led = |is_aging| {
            Some(StickyCookie {
                to: tag,
                issued: NOW,
                is_aging,
            })
        };
        assert_eq!(read(&signer, NOW), led(false));
        assert_eq!(read(&signer, NOW + 1801), led(true));
        assert_eq!(read(&signer, NOW + 3601), None, "it has outlived its time");
        // Another node with the same key accepts the cookie; one with another key does not.
        assert_eq!(read(&CookieSigner::new(&[7; 32], "chat"), NOW), led(false));
        assert_eq!(read(&CookieSigner::new(&[8; 32], "chat"), NOW), None);
        assert_eq!(read(&CookieSigner::new(&[7; 32], "games"), NOW), None);
        assert_ne!(signer.tag("10.0.0.2:9000"), tag);
        let plain = signer.set(tag, &settings(), false, NOW).unwrap();
        assert!(!plain.to_str().unwrap().contains("Secure"));
        let everywhere = Sticky {
            domain: Some("example.com".into()),
            same_site: SameSite::None,
            partitioned: true,
            ..settings()
        };
        for (secure, end) in [(true, "; Secure; Partitioned"), (false, "")] {
            let set = signer.set(tag, &everywhere, secure, NOW).unwrap();
            let (_, attributes) = set.to_str().unwrap().split_once("; ").unwrap();
            let expected = "Domain=example.com; Path=/chat; Max-Age=3600; HttpOnly; SameSite=None";
            assert_eq!(attributes, format!("{expected}{end}"));
        }
    }

    #[test]
    fn the_newest_of_several_cookies_decides() {
        let signer = CookieSigner::new(&[7; 32], "chat");
        let sealed = |address: &str, age| signer.seal(signer.tag(address), NOW - age);
        let (old, new) = (sealed("a:1", 20), sealed("b:1", 10));
        let (expired, forged) = (sealed("c:1", 4000), "A".repeat(38));
        let newest = |values: &[&String]| {
            let pairs: Vec<String> = values.iter().map(|it| format!("tidegate={it}")).collect();
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, pairs.join("; ").parse().unwrap());
            let signers = CookieSigners::new(CookieSigner::new(&[7; 32], "chat"), Vec::new());
            let newest = signers.newest(&headers, &settings(), NOW);
            newest.map(|it| it.to)
        };
        let leads_to = |address: &str| Some(signer.tag(address));
        assert_eq!(newest(&[&old, &new]), leads_to("b:1"));
        assert_eq!(newest(&[&new, &old]), leads_to("b:1"));
        assert_eq!(newest(&[&expired, &old]), leads_to("a:1"));
        assert_eq!(newest(&[&forged, &old, &forged]), leads_to("a:1"));
        assert_eq!(newest(&[&expired, &forged]), None);
        let mut many = vec![&forged; MAX_VERIFIED];
        many.push(&new);
        assert_eq!(newest(&many), None);
    }

    /// The format must not change: browsers keep cookies of the version before. This one was made by another program,
    /// as 0.1.0 makes them.
    #[test]
    fn the_format_is_stable() {
        let signer = CookieSigner::new(b"0123456789abcdef0123456789abcdef", "chat");
        let value = "C6O3n_4q2ilrSdIA_b-WLpVq_NlCSM2sohBNlw";
        let tag = signer.tag("10.0.0.11:9000");
        assert_eq!(signer.seal(tag, NOW), value);
        let read = signer.read(value.as_bytes(), &settings(), NOW);
        assert_eq!(read.map(|it| (it.to, it.issued)), Some((tag, NOW)));
    }

    #[test]
    fn cookies_of_earlier_and_coming_keys_lead_to_the_same_endpoint() {
        let signer = |fill: u8| CookieSigner::new(&[fill; 32], "chat");
        let signers = CookieSigners::new(signer(2), vec![signer(1), signer(3)]);
        let tags = signers.tags("a:1");
        assert_eq!(tags[0], signers.current().tag("a:1"));
        let newest = |signer: &CookieSigner| {
            let value = signer.seal(signer.tag("a:1"), NOW);
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("tidegate={value}").parse().unwrap());
            signers.newest(&headers, &settings(), NOW)
        };
        for (fill, at) in [(2, 0), (1, 1), (3, 2)] {
            assert_eq!(newest(&signer(fill)).map(|it| it.to), Some(tags[at]));
        }
        assert_eq!(newest(&signer(4)), None);
        assert_ne!(tags[0], tags[1]);
    }

    #[test]
    fn a_changed_cookie_is_rejected() {
        let signer = CookieSigner::new(&[7; 32], "chat");
        let value = signer.seal(signer.tag("a:1"), NOW);
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(
                signer.read(changed.as_bytes(), &settings(), NOW),
                None,
                "{at}"
            );
        }
        assert_eq!(signer.read(&value.as_bytes()[..30], &settings(), NOW), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,90}") {
            let signer = CookieSigner::new(&[7; 32], "chat");
            prop_assert_eq!(signer.read(text.as_bytes(), &settings(), NOW), None);
        }
    }
}
