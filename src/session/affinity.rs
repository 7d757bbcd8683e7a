//! Affinity: which endpoint a client should get, by its hash key or by its sticky cookie.
//!
//! `tidegate explain` asks the same for requests that were never sent.

use std::time::SystemTime;

use crate::protocol::request_key::KeyTraits;
use crate::protocol::sticky_cookie::StickyCookie;
use crate::upstream::balance;
use crate::upstream::group::{Affinity, Upstream};

/// The time as sticky cookies count it: seconds since 1970.
pub(super) fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The affinity of a request in `upstream`, and the valid sticky cookie that it carries.
pub fn of(upstream: &Upstream, traits: KeyTraits<'_>) -> (Affinity, Option<StickyCookie>) {
    let sticky_cookie = upstream.sticky.as_ref().and_then(|sticky| {
        let signers = sticky.signers();
        signers.newest(traits.headers, &sticky.settings, seconds())
    });
    let key = upstream.hash_key();
    let key = key.and_then(|key| traits.value(key));
    let affinity = Affinity {
        named: None,
        hash: key.map(|key| balance::key_hash(&key)),
        sticky: sticky_cookie.map(|sticky_cookie| sticky_cookie.to),
        reserved: None,
    };
    (affinity, sticky_cookie)
}
