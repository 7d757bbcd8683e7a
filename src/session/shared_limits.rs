//! The limits that a route shares with others: what the key of a request has in use.

use std::sync::atomic::Ordering;

use super::error::SessionError;
use crate::config::model::{MissingKey, RequestKey};
use crate::protocol::rejection::Rejection;
use crate::protocol::request_key::{KeyTraits, KeyValue};
use crate::protocol::retry_after::ClientWait;
use crate::quota::shared::{KeyPermit, KeySource, LimitExceeded, SharedLimits};
use crate::snapshot::{Route, RunningLimit};

/// Counts a request towards the limits of its route. A handshake gets the permits for its tunnel.
///
/// # Errors
/// The request exceeds a limit, or has no key where it must have one.
pub(super) fn count(
    shared: &SharedLimits,
    route: &Route,
    traits: &KeyTraits<'_>,
    is_handshake: bool,
) -> Result<Vec<KeyPermit>, SessionError> {
    let mut permits = Vec::new();
    for limit in &route.shared_limits {
        let refused = |rejection: Rejection| SessionError {
            detail: Some(format!("limit {}", limit.settings.name)),
            ..rejection.into()
        };
        let value = traits.value(&limit.settings.key);
        let source = source(limit, value.as_ref(), traits);
        let source = source.ok_or_else(|| {
            let missing = &limit.running.counters.missing;
            missing.fetch_add(1, Ordering::Relaxed);
            refused(Rejection::LimitKeyMissing)
        })?;
        let settings = &limit.settings;
        if !is_handshake && settings.requests.is_none() {
            continue;
        }
        let key = shared.hasher().key(source);
        let counted = match is_handshake {
            true => limit.running.handshake(&key, settings).map(Some),
            false => limit.running.request(&key, settings).map(|()| None),
        };
        permits.extend(counted.map_err(|exceeded| {
            let rate = match is_handshake {
                true => settings.handshakes,
                false => settings.requests,
            };
            let wait = rate.map(ClientWait::of_rate).unwrap_or_default();
            match exceeded {
                LimitExceeded::Tunnels => refused(Rejection::LimitFull),
                LimitExceeded::Rate => refused(Rejection::LimitRate).with_wait(wait),
            }
        })?);
    }
    Ok(permits)
}

/// What the request is counted under; `None` if it has to be refused.
fn source<'a>(
    limit: &RunningLimit,
    value: Option<&'a KeyValue<'_>>,
    traits: &KeyTraits<'_>,
) -> Option<KeySource<'a>> {
    let settings = &limit.settings;
    let address = || traits.client.map_or(KeySource::Unknown, KeySource::Address);
    Some(match (&settings.key, value) {
        (RequestKey::ClientIp, _) => address(),
        (key, Some(value)) if key.is_chosen_by_clients() => KeySource::Credential(value),
        (_, Some(value)) => KeySource::Part(value),
        (_, None) if settings.missing == MissingKey::Refuse => return None,
        (_, None) => address(),
    })
}
