//! Where a request goes: the scheme, host and port of its URL.

use std::net::IpAddr;

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;

/// Why a URL cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceUrlError {
    /// It is not absolute, or its scheme is another one.
    #[error("`{0}` is not an https URL")]
    Scheme(Box<str>),
    /// It has no valid host.
    #[error("`{0}` has no valid host")]
    Host(Box<str>),
    /// Its path is not valid.
    #[error("the URL has no valid path")]
    Target,
}

/// The scheme, host and port of a URL.
#[derive(Debug)]
pub(super) struct ServiceOrigin {
    /// The host, without brackets.
    pub(super) host: Box<str>,
    /// The address, if the host is one.
    pub(super) address: Option<IpAddr>,
    /// The port.
    pub(super) port: u16,
    /// The name to verify; `None` without TLS.
    pub(super) tls_name: Option<ServerName<'static>>,
    /// The value of `Host`.
    pub(super) authority: HeaderValue,
}

impl ServiceOrigin {
    pub(super) fn of(url: &Uri, is_plain_allowed: bool) -> Result<Self, ServiceUrlError> {
        let is_tls = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP && is_plain_allowed => false,
            _ => return Err(ServiceUrlError::Scheme(shown(url))),
        };
        let invalid = || ServiceUrlError::Host(shown(url));
        let authority = url.authority().ok_or_else(invalid)?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16();
        let tls_name = match is_tls {
            true => Some(ServerName::try_from(host.to_owned()).map_err(|_| invalid())?),
            false => None,
        };
        // Without user name and password, which a URL may have.
        let (_, written) = authority
            .as_str()
            .rsplit_once('@')
            .unwrap_or(("", authority.as_str()));
        Ok(Self {
            host: host.into(),
            address: host.parse().ok(),
            port: port.unwrap_or(if is_tls { 443 } else { 80 }),
            tls_name,
            authority: HeaderValue::from_str(written).map_err(|_| invalid())?,
        })
    }
}

/// The URL without what may be secret in it: user name, password and query.
fn shown(url: &Uri) -> Box<str> {
    let scheme = url
        .scheme_str()
        .map_or(String::new(), |scheme| format!("{scheme}://"));
    let host = url.host().unwrap_or_default();
    format!("{scheme}{host}{}", url.path()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_hosts_and_ports() {
        let of = |url: &str| {
            let origin = ServiceOrigin::of(&url.parse().unwrap(), true)?;
            let is_tls = origin.tls_name.is_some();
            let written = origin.authority.to_str().unwrap().to_owned();
            Ok::<_, ServiceUrlError>((origin.host.to_string(), origin.port, is_tls, written))
        };
        for (url, host, port, is_tls, written) in [
            (
                "https://ca.example/dir",
                "ca.example",
                443,
                true,
                "ca.example",
            ),
            (
                "https://ca.example:14000",
                "ca.example",
                14000,
                true,
                "ca.example:14000",
            ),
            (
                "http://dns.example/",
                "dns.example",
                80,
                false,
                "dns.example",
            ),
            ("https://[::1]:8443/a", "::1", 8443, true, "[::1]:8443"),
            ("https://127.0.0.1/", "127.0.0.1", 443, true, "127.0.0.1"),
            (
                "http://user:pass@dns.example/",
                "dns.example",
                80,
                false,
                "dns.example",
            ),
        ] {
            assert_eq!(
                of(url),
                Ok((host.into(), port, is_tls, written.into())),
                "{url}"
            );
        }
        for url in ["ftp://ca.example/", "/dir", "https://-/"] {
            assert!(of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn plain_text_is_allowed_or_not_and_secrets_are_not_shown() {
        let url: Uri = "http://user:pass@ca.example/dir?token=abc".parse().unwrap();
        assert!(ServiceOrigin::of(&url, true).is_ok());
        let error = ServiceOrigin::of(&url, false).unwrap_err().to_string();
        assert_eq!(error, "`http://ca.example/dir` is not an https URL");
    }
}
