//! Affinity: which endpoint a client should get, by its hash key or by its sticky cookie.
//!
//! `tidegate explain` asks the same for requests that were never sent.

use std::net::IpAddr;
use std::time::SystemTime;

use ::http::HeaderMap;

use crate::config::model::HashKey;
use crate::protocol::sticky_cookie::{self, StickyCookie};
use crate::protocol::target::Target;
use crate::upstream::balance;
use crate::upstream::group::{Affinity, Upstream};

/// The time as sticky cookies count it: seconds since 1970.
pub(super) fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The parts of a request that affinity may depend on.
#[derive(Debug, Clone, Copy)]
pub struct AffinityTraits<'a> {
    /// The client's address, as determined by `trusted_proxies`.
    pub client: Option<IpAddr>,
    /// The server name that the client sent in its TLS handshake.
    pub server_name: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// Host, path and query.
    pub target: &'a Target,
}

/// The affinity of a request in `upstream`, and the valid sticky cookie that it carries.
pub fn of(upstream: &Upstream, traits: AffinityTraits<'_>) -> (Affinity, Option<StickyCookie>) {
    let sticky_cookie = upstream.sticky.as_ref().and_then(|sticky| {
        let value = sticky_cookie::cookie_value(traits.headers, &sticky.settings.cookie)?;
        sticky.signer.read(value, &sticky.settings, seconds())
    });
    let key = upstream.hash_key();
    let affinity = Affinity {
        hash: key.and_then(|key| hash_of(key, traits)),
        sticky: sticky_cookie.map(|sticky_cookie| sticky_cookie.to),
        reserved: None,
    };
    (affinity, sticky_cookie)
}

/// The hash of a request's key; `None` for a request without that key, or with an empty one: requests
/// that name no room are spread, and do not share one endpoint.
fn hash_of(key: &HashKey, traits: AffinityTraits<'_>) -> Option<u64> {
    let AffinityTraits {
        client,
        server_name,
        headers,
        target,
    } = traits;
    let hash = |key: &[u8]| (!key.is_empty()).then(|| balance::key_hash(key));
    match key {
        HashKey::ClientIp => match client? {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        },
        HashKey::Path => hash(target.path().as_bytes()),
        HashKey::Sni => hash(server_name?.as_bytes()),
        HashKey::Header(name) => hash(headers.get(name)?.as_bytes()),
        HashKey::Cookie(name) => hash(sticky_cookie::cookie_value(headers, name)?),
        HashKey::Query(name) => {
            let query = target.query().unwrap_or_default();
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            let (_, value) = pairs.find(|(known, _)| known == &**name)?;
            hash(value.as_bytes())
        }
    }
}
