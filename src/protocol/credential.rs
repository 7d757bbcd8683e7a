//! The token that a request carries, and the request without it.
//!
//! Browsers cannot set `Authorization` on a WebSocket, so that tokens come in cookies, in queries and among the
//! subprotocols, too. A token in a query or among the subprotocols is for tidegate alone: logs of endpoints are full
//! of queries, and an endpoint that selects a subprotocol sends it back.

use std::borrow::Cow;
use std::fmt;

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};

use super::redaction::Redaction;
use super::sticky_cookie::cookie_values;
use super::token::tokens;
use crate::config::model::TokenSource;

/// The only scheme of `Authorization` that has a token (RFC 6750 section 2.1).
const BEARER: &[u8] = b"bearer";

/// The longest token that is considered, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The token of a request, not verified. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(Box<str>);

/// Why a request has no token that could be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// There are two different ones: tidegate and the endpoint might each believe another one.
    #[error("the request has two different tokens")]
    Conflict,
    /// It is longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
}

impl Credential {
    /// Finds the token of a request in any of these places; `None` if there is none. Empty ones do not count, and
    /// the same one may stand in several places.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn find(
        sources: &[TokenSource],
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Option<Self>, CredentialError> {
        let mut found: Option<Cow<'_, [u8]>> = None;
        let mut is_single = true;
        for source in sources {
            for_each_in(source, headers, query, |token| {
                if token.is_empty() {
                    return;
                }
                match &found {
                    Some(first) => is_single &= *first == token,
                    None => found = Some(token),
                }
            });
        }
        match found {
            _ if !is_single => Err(CredentialError::Conflict),
            Some(token) if token.len() > MAX_TOKEN_BYTES => Err(CredentialError::TooLong),
            // Bytes that are not UTF-8 are not a token that could be valid, whatever stands for them.
            found => Ok(found.map(|token| Self(String::from_utf8_lossy(&token).into()))),
        }
    }

    /// The token.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is removed from the request with this target and these headers before anything else sees it: the token in
    /// the query and among the subprotocols, and what marks it there. The mark is what the client may get as an
    /// answer; a subprotocol that has the token in it never is.
    pub fn redaction(
        &self,
        sources: &[TokenSource],
        headers: &HeaderMap,
        origin_form: &str,
    ) -> Redaction {
        redaction(Some(self), sources, headers, origin_form)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// What is removed from a request whose token is not verified: whatever is in these places.
pub fn redaction_unread(
    sources: &[TokenSource],
    headers: &HeaderMap,
    origin_form: &str,
) -> Redaction {
    redaction(None, sources, headers, origin_form)
}

fn redaction(
    credential: Option<&Credential>,
    sources: &[TokenSource],
    headers: &HeaderMap,
    origin_form: &str,
) -> Redaction {
    let (marker, kept) = public_offers(credential, sources, headers);
    let public = without_query(sources, origin_form);
    // Parts of valid texts are valid.
    let path_and_query = (public != origin_form).then(|| {
        PathAndQuery::try_from(&*public).unwrap_or_else(|_| PathAndQuery::from_static("/"))
    });
    Redaction {
        path_and_query,
        subprotocols: kept.map(|kept| {
            let kept = HeaderValue::from_bytes(&kept).ok();
            kept.filter(|kept| !kept.is_empty())
        }),
        marker: marker.map(Into::into),
    }
}

/// The mark, and the subprotocols without it and the token; `None` if neither is among them.
fn public_offers<'s>(
    credential: Option<&Credential>,
    sources: &'s [TokenSource],
    headers: &HeaderMap,
) -> (Option<&'s str>, Option<Vec<u8>>) {
    let is_credential = |offer: &[u8]| credential.is_some_and(|it| it.0.as_bytes() == offer);
    let mut marker = None;
    let mut kept = Vec::new();
    let mut has_any = false;
    let mut offers = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
    while let Some(offer) = offers.next() {
        if let Some(found) = sources.iter().find_map(|source| marked_by(source, offer)) {
            marker = marker.or(Some(found));
            has_any = true;
            // The token.
            offers.next();
        } else if is_credential(offer) || sources.iter().any(|it| has_prefix(it, offer)) {
            has_any = true;
        } else {
            kept.push(offer);
        }
    }
    (marker, has_any.then(|| kept.join(&b", "[..])))
}

/// Calls `note` with everything that stands in this place.
fn for_each_in<'a>(
    source: &TokenSource,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    mut note: impl FnMut(Cow<'a, [u8]>),
) {
    match source {
        TokenSource::Header(name) => {
            for line in headers.get_all(name) {
                let line = line.as_bytes().trim_ascii();
                match behind_bearer(line) {
                    Some(token) => note(token.into()),
                    // Another scheme: not a token.
                    None if *name == AUTHORIZATION => {}
                    None => note(line.into()),
                }
            }
        }
        TokenSource::Cookie(name) => {
            cookie_values(headers, name).for_each(|value| note(value.into()));
        }
        TokenSource::Query(name) => {
            let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
            for (_, value) in pairs.filter(|(known, _)| known == &**name) {
                note(match value {
                    Cow::Borrowed(value) => value.as_bytes().into(),
                    Cow::Owned(value) => value.into_bytes().into(),
                });
            }
        }
        TokenSource::SubprotocolAfter(marker) => {
            let mut offers = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
            while offers.any(|offer| offer == marker.as_bytes()) {
                note(offers.next().unwrap_or_default().into());
            }
        }
        TokenSource::SubprotocolPrefix(prefix) => {
            let offers = tokens(headers, SEC_WEBSOCKET_PROTOCOL);
            offers
                .filter_map(|offer| offer.strip_prefix(prefix.as_bytes()))
                .for_each(|token| note(token.into()));
        }
    }
}

/// What stands behind the scheme `Bearer`, in any case; `None` for another scheme.
fn behind_bearer(line: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = line.split_at_checked(BEARER.len())?;
    let ends = rest.first().is_none_or(u8::is_ascii_whitespace);
    (scheme.eq_ignore_ascii_case(BEARER) && ends).then(|| rest.trim_ascii())
}

/// The mark, if that is what is offered.
fn marked_by<'s>(source: &'s TokenSource, offer: &[u8]) -> Option<&'s str> {
    match source {
        TokenSource::SubprotocolAfter(marker) if marker.as_bytes() == offer => Some(marker),
        _ => None,
    }
}

fn has_prefix(source: &TokenSource, offer: &[u8]) -> bool {
    matches!(source, TokenSource::SubprotocolPrefix(prefix) if offer.starts_with(prefix.as_bytes()))
}

/// Path and query without the parameters in which a token may be, whatever they contain. Everything else stays as it
/// is, byte for byte.
pub fn without_query<'a>(sources: &[TokenSource], origin_form: &'a str) -> Cow<'a, str> {
    let Some((path, query)) = origin_form.split_once('?') else {
        return origin_form.into();
    };
    let mut has_any = false;
    let kept = query.split('&').filter(|pair| {
        let is_token = is_token_parameter(sources, pair);
        has_any |= is_token;
        !is_token
    });
    let kept: Vec<&str> = kept.collect();
    match kept.as_slice() {
        _ if !has_any => origin_form.into(),
        [] => path.into(),
        kept => Cow::Owned([path, "?", &kept.join("&")].concat()),
    }
}

/// Whether a pair of a query has a name that stands for a token, in any of the spellings that are the same once
/// decoded.
fn is_token_parameter(sources: &[TokenSource], pair: &str) -> bool {
    let mut pairs = form_urlencoded::parse(pair.as_bytes());
    pairs.next().is_some_and(|(name, _)| {
        sources
            .iter()
            .any(|source| matches!(source, TokenSource::Query(known) if **known == *name))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn all_sources() -> Vec<TokenSource> {
        vec![
            TokenSource::Header(AUTHORIZATION),
            TokenSource::Header(HeaderName::from_static("x-token")),
            TokenSource::Cookie("jwt".into()),
            TokenSource::Query("token".into()),
            TokenSource::SubprotocolAfter("bearer".into()),
            TokenSource::SubprotocolPrefix("token.".into()),
        ]
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[track_caller]
    fn check(lines: &[(&'static str, &str)], query: Option<&str>, expected: Result<&str, ()>) {
        let found = Credential::find(&all_sources(), &headers(lines), query);
        let found = found.map(|found| found.map_or(String::new(), |it| it.as_str().to_owned()));
        assert_eq!(
            found.as_deref().map_err(|_| ()),
            expected,
            "{lines:?} {query:?}"
        );
    }

    #[test]
    fn a_token_is_found_in_every_place() {
        const PROTOCOL: &str = "sec-websocket-protocol";
        for (name, value, token) in [
            ("authorization", "Bearer a.b.c", "a.b.c"),
            ("authorization", "bEARER \t a.b.c ", "a.b.c"),
            ("authorization", "Bearer", ""),
            ("authorization", "Bearera", ""),
            ("authorization", "Basic a.b.c", ""),
            ("authorization", "a.b.c", ""),
            ("x-token", "a.b.c", "a.b.c"),
            ("x-token", "bearer a.b.c", "a.b.c"),
            ("x-token", "", ""),
            ("cookie", "a=1; jwt=a.b.c; b=2", "a.b.c"),
            ("cookie", "jwt=; JWT=x; jwt2=y", ""),
            (PROTOCOL, "chat, bearer, a.b.c", "a.b.c"),
            (PROTOCOL, "bearer,a.b.c, chat", "a.b.c"),
            (PROTOCOL, "bearer", ""),
            (PROTOCOL, "Bearer, a.b.c", ""),
            (PROTOCOL, "chat, token.a.b.c", "a.b.c"),
            (PROTOCOL, "token.", ""),
        ] {
            check(&[(name, value)], None, Ok(token));
        }
        for (query, token) in [
            ("token=a.b.c", "a.b.c"),
            ("x=1&%74oken=a%2Eb.c&y", "a.b.c"),
            ("token", ""),
            ("Token=a", ""),
            ("x=token=a", ""),
            ("token=a+b", "a b"),
        ] {
            check(&[], Some(query), Ok(token));
        }
        let lines = [(PROTOCOL, "chat, bearer"), (PROTOCOL, "a.b.c")];
        check(&lines, None, Ok("a.b.c"));
        check(&[], None, Ok(""));
    }

    #[test]
    fn two_different_tokens_are_refused_and_the_same_twice_is_not() {
        const PROTOCOL: &str = "sec-websocket-protocol";
        let bearer = ("authorization", "Bearer a");
        check(&[bearer, bearer], None, Ok("a"));
        check(&[bearer, ("authorization", "Basic b")], None, Ok("a"));
        check(&[bearer, ("cookie", "jwt=a")], Some("token=a"), Ok("a"));
        check(&[(PROTOCOL, "bearer, a, token.a")], None, Ok("a"));
        check(&[bearer, ("authorization", "Bearer b")], None, Err(()));
        check(&[bearer], Some("token=b"), Err(()));
        check(&[bearer], Some("%74%6fken=b"), Err(()));
        check(&[], Some("token=a&token=b"), Err(()));
        check(&[], Some("token=a&t%6Fken=b"), Err(()));
        check(&[("cookie", "jwt=a; jwt=b")], None, Err(()));
        check(&[("cookie", "jwt=a"), ("cookie", "jwt=b")], None, Err(()));
        check(&[("x-token", "a"), ("x-token", "b")], None, Err(()));
        check(&[(PROTOCOL, "bearer, a, bearer, b")], None, Err(()));
        check(&[(PROTOCOL, "bearer, a, token.b")], None, Err(()));
    }

    #[test]
    fn a_token_has_a_longest_length() {
        let sources = all_sources();
        let find = |length: usize| {
            let token = "a".repeat(length);
            Credential::find(&sources, &headers(&[("x-token", &token)]), None)
        };
        assert!(find(MAX_TOKEN_BYTES).unwrap().is_some());
        assert_eq!(find(MAX_TOKEN_BYTES + 1), Err(CredentialError::TooLong));
    }

    #[test]
    fn the_endpoint_gets_the_other_parameters_as_they_are() {
        for (from, to) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?x=%41&&y=+", "/a?x=%41&&y=+"),
            ("/a?token=t", "/a"),
            ("/a?token", "/a"),
            ("/a?x=1&%74oke%6E=t&token=u&y=%7e", "/a?x=1&y=%7e"),
            ("/a?token=t&x", "/a?x"),
            ("/a?&token=t&", "/a?&"),
            ("/token=t?Token=t", "/token=t?Token=t"),
            ("/a?x=token=t", "/a?x=token=t"),
            ("/a?b=?token=t", "/a?b=?token=t"),
        ] {
            assert_eq!(without_query(&all_sources(), from), to);
        }
        assert_eq!(without_query(&[], "/?token=t"), "/?token=t");
    }

    #[test]
    fn the_endpoint_gets_the_other_subprotocols_and_the_client_the_mark() {
        let check = |lines: &[&str], kept: Option<&str>, marker: Option<&str>| {
            let lines: Vec<_> = lines
                .iter()
                .map(|it| ("sec-websocket-protocol", *it))
                .collect();
            let redaction = Credential("t".into()).redaction(&all_sources(), &headers(&lines), "/");
            let left = redaction.subprotocols.as_ref();
            let left = left.map(|left| left.as_ref().map_or("", |left| left.to_str().unwrap()));
            assert_eq!(
                (left, redaction.marker.as_deref()),
                (kept, marker),
                "{lines:?}"
            );
            assert_eq!(redaction.path_and_query, None);
        };
        check(&["bearer, t"], Some(""), Some("bearer"));
        check(
            &["chat,bearer, t ,mqtt"],
            Some("chat, mqtt"),
            Some("bearer"),
        );
        check(
            &["chat, bearer", "t, mqtt"],
            Some("chat, mqtt"),
            Some("bearer"),
        );
        check(&["token.t"], Some(""), None);
        check(&["token.t, chat"], Some("chat"), None);
        check(&["t, chat, bearer, t"], Some("chat"), Some("bearer"));
        check(&["chat,  mqtt"], None, None);
        check(&[], None, None);
    }
}
