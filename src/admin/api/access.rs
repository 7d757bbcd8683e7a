//! Access to the interface. Over a unix socket the mode of the file decides, and every operation is
//! allowed. Over TCP changes need the token, and web pages of other sites are refused everything.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use crate::admin::error::ApiError;
use crate::config::model::Secret;

/// Accepts or refuses a request over TCP.
///
/// # Errors
/// [`ApiError`], with 401 or 403.
pub fn check(parts: &Parts, needs_token: bool, token: Option<&Secret>) -> Result<(), ApiError> {
    let forbidden = |error: &str| Err(ApiError::new(StatusCode::FORBIDDEN, error));
    // A name in `Host` may be an attacker's that resolves to this address (DNS rebinding): the browser
    // would take this for the attacker's own site, and let its pages read the responses.
    let Some(host) = only(&parts.headers, HOST.as_str()).filter(|host| is_address(host)) else {
        return forbidden("over TCP, use the IP address or `localhost` as the host");
    };
    if parts.headers.contains_key(ORIGIN) {
        let origin = only(&parts.headers, ORIGIN.as_str());
        if origin.and_then(|origin| origin.strip_prefix("http://")) != Some(host) {
            return forbidden("requests from pages of other origins are refused");
        }
    }
    // A page of another site cannot read the response without CORS, but its request still costs work
    // here.
    let site = parts.headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return forbidden("requests from pages of other origins are refused");
    }
    if !needs_token {
        return Ok(());
    }
    let Some(token) = token else {
        return forbidden("over TCP, changes require `admin.token_file` to be configured");
    };
    let given = only(&parts.headers, AUTHORIZATION.as_str());
    let given = given.and_then(|given| {
        let (scheme, token) = given.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let matches = given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.bytes()).is_ok()
    });
    match matches {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "over TCP, this operation requires the token: `Authorization: Bearer …`",
        )),
    }
}

/// The value of a header field that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line)
}

/// Whether the host of `authority` is an IP address or `localhost`.
fn is_address(authority: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok();
    let host = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((host, rest)) = rest.split_once(']') else {
                return false;
            };
            if !rest.is_empty() && !rest.strip_prefix(':').is_some_and(port) {
                return false;
            }
            host
        }
        None => match authority.split_once(':') {
            Some((host, rest)) if port(rest) => host,
            Some(_) => return false,
            None => authority,
        },
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use zeroize::Zeroizing;

    const SECRET: &str = "0123456789abcdef";

    fn status(headers: &[(&str, &str)], changes: bool, token: bool) -> u16 {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let token = token.then(|| Secret::new(Zeroizing::new(SECRET.into())));
        match check(&parts, changes, token.as_ref()) {
            Ok(()) => 200,
            Err(error) => error.status.as_u16(),
        }
    }

    #[test]
    fn names_are_not_served_and_pages_of_others_neither() {
        for host in [
            "127.0.0.1:9900",
            "127.0.0.1",
            "[::1]:9900",
            "localhost:9900",
        ] {
            assert_eq!(status(&[("host", host)], false, false), 200, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "[::1",
            "::1",
        ] {
            assert_eq!(status(&[("host", host)], false, false), 403, "{host}");
        }
        assert_eq!(status(&[], false, false), 403);
        let with = |origin| {
            status(
                &[("host", "127.0.0.1:9900"), ("origin", origin)],
                false,
                false,
            )
        };
        assert_eq!(with("http://127.0.0.1:9900"), 200);
        assert_eq!(with("http://127.0.0.1:8000"), 403);
        assert_eq!(with("https://evil.example"), 403);
        assert_eq!(with("null"), 403);
        let from = |site| {
            let host = ("host", "127.0.0.1:9900");
            status(&[host, ("sec-fetch-site", site)], false, false)
        };
        assert_eq!((from("cross-site"), from("none")), (403, 200));
    }

    #[test]
    fn changes_need_the_token() {
        let host = ("host", "127.0.0.1:9900");
        let bearer = format!("Bearer {SECRET}");
        assert_eq!(
            status(&[host, ("authorization", &bearer)], true, false),
            403
        );
        assert_eq!(status(&[host, ("authorization", &bearer)], true, true), 200);
        assert_eq!(status(&[host], true, true), 401);
        assert_eq!(
            status(&[host, ("authorization", "Bearer x")], true, true),
            401
        );
        assert_eq!(status(&[host, ("authorization", SECRET)], true, true), 401);
        let twice = [host, ("authorization", &bearer), ("authorization", &bearer)];
        assert_eq!(status(&twice, true, true), 401);
    }
}
