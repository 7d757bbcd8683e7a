//! Access control: which requests a route admits, by address, certificate and origin.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::ORIGIN;

use super::certificate::ClientCertificate;
use super::rejection::Rejection;
use crate::config::model::{Access, Origin};

/// The facts about a request, apart from its header fields, that access depends on.
#[derive(Debug, Clone, Copy)]
pub struct AccessSubject<'a> {
    /// The client's address, as determined by `trusted_proxies`; `None` through a unix socket.
    pub address: Option<IpAddr>,
    /// Whether the client is known: a proxy may have withheld its address.
    pub is_known: bool,
    /// The certificate that the client has, if it is valid.
    pub certificate: Option<&'a ClientCertificate>,
    /// Whether the request is a WebSocket handshake.
    pub is_handshake: bool,
}

/// Checks whether a route admits a request.
///
/// # Errors
/// [`Rejection::AddressDenied`], [`Rejection::CertificateRequired`], [`Rejection::CertificateDenied`],
/// [`Rejection::OriginDenied`], [`Rejection::OriginMissing`].
pub fn check(
    access: &Access,
    subject: AccessSubject<'_>,
    headers: &HeaderMap,
) -> Result<(), Rejection> {
    let is_denied = access.deny.contain(subject.address);
    let is_allowed = access.allow.is_empty() || access.allow.contain(subject.address);
    // A client whose address a proxy withholds may be any client: it passes no list.
    let is_limited = !(access.deny.is_empty() && access.allow.is_empty());
    if is_denied || !is_allowed || (is_limited && !subject.is_known) {
        return Err(Rejection::AddressDenied);
    }
    if let Some(rule) = &access.client_certificate {
        let certificate = subject.certificate.ok_or(Rejection::CertificateRequired)?;
        if !certificate.satisfies(rule) {
            return Err(Rejection::CertificateDenied);
        }
    }
    check_origin(access, subject, headers)
}

/// Browsers send `Origin` with every handshake (RFC 6455 section 10.2), and with plain requests
/// that another site may have caused.
fn check_origin(
    access: &Access,
    subject: AccessSubject<'_>,
    headers: &HeaderMap,
) -> Result<(), Rejection> {
    let mut lines = headers.get_all(ORIGIN).iter();
    let Some(line) = lines.next() else {
        let missing = access.origins_required && subject.is_handshake;
        return if missing {
            Err(Rejection::OriginMissing)
        } else {
            Ok(())
        };
    };
    if access.origins.is_empty() {
        return Ok(());
    }
    let is_single = lines.next().is_none();
    let origin = line.to_str().ok().and_then(Origin::parse);
    let is_listed = |origin: &Origin| access.origins.iter().any(|listed| listed.fits(origin));
    match origin.filter(|origin| is_single && is_listed(origin)) {
        Some(_) => Ok(()),
        None => Err(Rejection::OriginDenied),
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::config::model::{CertificateRule, NamePattern, Net, Nets, OriginPattern};
    use http::HeaderValue;

    const PAGE: AccessSubject<'_> = AccessSubject {
        address: None,
        is_known: true,
        certificate: None,
        is_handshake: true,
    };

    #[track_caller]
    fn origins(
        access: &Access,
        subject: AccessSubject<'_>,
        lines: &[&'static str],
    ) -> Result<(), Rejection> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ORIGIN, HeaderValue::from_static(line));
        }
        check(access, subject, &headers)
    }

    #[test]
    fn origins_are_exact() {
        let access = Access {
            origins: ["https://chat.example.com", "http://localhost:3000"]
                .map(|text| OriginPattern::parse(text).unwrap())
                .into(),
            ..Access::default()
        };
        for good in [
            "https://chat.example.com",
            "https://CHAT.example.com:443",
            "http://localhost:3000",
        ] {
            assert_eq!(origins(&access, PAGE, &[good]), Ok(()), "{good}");
        }
        for bad in [
            "http://chat.example.com",
            "https://chat.example.com:8443",
            "https://evil.chat.example.com",
            "https://chat.example.com.evil.com",
            "https://chat.example.com/",
            "https://chat.example.com@evil.com",
            "http://localhost",
            "null",
            "",
            "*",
        ] {
            assert_eq!(
                origins(&access, PAGE, &[bad]),
                Err(Rejection::OriginDenied),
                "{bad}"
            );
        }
        let twice = ["https://chat.example.com", "https://chat.example.com"];
        assert_eq!(origins(&access, PAGE, &twice), Err(Rejection::OriginDenied));
        let plain = AccessSubject {
            is_handshake: false,
            ..PAGE
        };
        assert_eq!(
            origins(&access, plain, &["https://evil.com"]),
            Err(Rejection::OriginDenied)
        );
        assert_eq!(origins(&access, PAGE, &[]), Ok(()), "no browser");
    }

    #[test]
    fn the_null_origin_passes_only_if_listed() {
        let access = Access {
            origins: vec![OriginPattern::Exact(Origin::Null)],
            ..Access::default()
        };
        assert_eq!(origins(&access, PAGE, &["null"]), Ok(()));
        assert_eq!(
            origins(&access, PAGE, &["https://a"]),
            Err(Rejection::OriginDenied)
        );
    }

    #[test]
    fn apps_and_subdomains_are_listed_like_pages() {
        let access = Access {
            origins: ["capacitor://localhost", "file://", "https://*.example.com"]
                .map(|text| OriginPattern::parse(text).unwrap())
                .into(),
            ..Access::default()
        };
        for (origin, passes) in [
            ("capacitor://localhost", true),
            ("file://", true),
            ("https://a.example.com", true),
            ("ionic://localhost", false),
            ("http://localhost", false),
            ("https://example.com", false),
            ("https://a.b.example.com", false),
            ("https://a.example.com.evil.com", false),
            ("https://*.example.com", false),
        ] {
            let seen = origins(&access, PAGE, &[origin]);
            assert_eq!(seen.is_ok(), passes, "{origin}");
        }
    }

    #[test]
    fn handshakes_need_an_origin_where_required() {
        let access = Access {
            origins_required: true,
            ..Access::default()
        };
        assert_eq!(origins(&access, PAGE, &[]), Err(Rejection::OriginMissing));
        assert_eq!(origins(&access, PAGE, &["https://any.example.com"]), Ok(()));
        let plain = AccessSubject {
            is_handshake: false,
            ..PAGE
        };
        assert_eq!(origins(&access, plain, &[]), Ok(()));
    }

    #[test]
    fn addresses_and_certificates_are_checked() {
        let nets = |nets: &[&str]| {
            let net = |text: &&str| Net::Ip(text.parse().unwrap());
            Nets::new(nets.iter().map(net).collect())
        };
        let access = Access {
            allow: nets(&["10.0.0.0/8"]),
            deny: nets(&["10.0.0.66/32"]),
            ..Access::default()
        };
        for (address, passes) in [
            (Some("10.0.0.1"), true),
            (Some("::ffff:10.0.0.1"), true),
            (Some("10.0.0.66"), false),
            (Some("::ffff:10.0.0.66"), false),
            (Some("192.0.2.1"), false),
            (None, false),
        ] {
            let subject = AccessSubject {
                address: address.map(|text| text.parse().unwrap()),
                ..PAGE
            };
            let result = check(&access, subject, &HeaderMap::new());
            assert_eq!(result.is_ok(), passes, "{address:?}");
            let hidden = AccessSubject {
                is_known: false,
                ..subject
            };
            assert!(check(&access, hidden, &HeaderMap::new()).is_err());
        }
        let spiffe = NamePattern::parse("spiffe://prod/*").unwrap();
        let rule = |names: &[NamePattern], subjects: &[&str]| CertificateRule {
            names: names.to_vec(),
            subjects: subjects.iter().map(|subject| (*subject).into()).collect(),
        };
        let certificate = client_certificate();
        let known = AccessSubject {
            certificate: Some(&certificate),
            ..PAGE
        };
        for (rule, expected) in [
            (rule(&[], &[]), Ok(())),
            (rule(from_ref(&spiffe), &[]), Ok(())),
            (rule(from_ref(&spiffe), &["CN=alice"]), Ok(())),
            (
                rule(from_ref(&spiffe), &["CN=bob"]),
                Err(Rejection::CertificateDenied),
            ),
            (
                rule(&[NamePattern::Exact("spiffe://test/chat".into())], &[]),
                Err(Rejection::CertificateDenied),
            ),
        ] {
            let access = Access {
                client_certificate: Some(rule),
                ..Access::default()
            };
            let required = Err(Rejection::CertificateRequired);
            assert_eq!(origins(&access, PAGE, &[]), required);
            assert_eq!(origins(&access, known, &[]), expected, "{access:?}");
        }
    }

    fn client_certificate() -> ClientCertificate {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "alice");
        let name = "spiffe://prod/chat".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(name)];
        let key = rcgen::KeyPair::generate().unwrap();
        ClientCertificate::parse(&[params.self_signed(&key).unwrap().der()]).unwrap()
    }
}
