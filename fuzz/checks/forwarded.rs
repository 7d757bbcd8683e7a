//! Any forwarding header: either the address that a trusted proxy has added at its end is the client, or
//! the header is refused.

use http::{HeaderMap, HeaderValue};
use tidegate::config::model::{Family, Net, Nets, Trust};
use tidegate::protocol::forwarded::{ForwardingFacts, for_each_field, trusted_claim};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let (peer, client) = ([10, 0, 0, 9].into(), [192, 0, 2, 1].into());
    let net = "10.0.0.0/8".parse().expect("it is a network");
    for (family, name, own) in [
        (Family::XForwarded, "x-forwarded-for", &b", 192.0.2.1"[..]),
        (Family::Forwarded, "forwarded", &b", for=192.0.2.1"[..]),
    ] {
        let trust = Trust {
            proxies: Nets::new(vec![Net::Ip(net)]),
            family,
            proxy_protocol: false,
        };
        let Ok(line) = HeaderValue::from_bytes(&[bytes, own].concat()) else {
            return;
        };
        let mut headers = HeaderMap::new();
        headers.append(name, line);
        assert_eq!(trusted_claim(&headers, &trust, Some(client)), Ok(None));
        let claim = match trusted_claim(&headers, &trust, Some(peer)) {
            Ok(claim) => claim.expect("it is trusted"),
            // An unclosed quotation mark, for example, hides which part the proxy has added.
            Err(_) if family == Family::Forwarded => continue,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            (claim.client, claim.is_known()),
            (Some(client), true),
            "{claim:?}"
        );
        let forwarding = ForwardingFacts {
            client: claim.client,
            is_known: claim.is_known(),
            proxies: &claim.proxies,
            secure: claim.secure == Some(true),
            host: claim.host.as_deref(),
            port: claim.port,
        };
        for_each_field(&forwarding, |_, value| {
            assert!(HeaderValue::from_str(value).is_ok())
        });
    }
}
