//! The limits that a route shares with others: what the key of a request has in use.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use super::error::SessionError;
use crate::config::model::{MissingKey, RequestKey, SharedLimitConfig, WhenFull};
use crate::protocol::rejection::Rejection;
use crate::protocol::request_key::{KeyTraits, KeyValue};
use crate::protocol::retry_after::ClientWait;
use crate::quota::shared::{KeyPermit, KeySource, LimitExceeded, SharedLimits};
use crate::snapshot::{Route, RunningLimit};

/// Counts a request towards the limits of its route. A handshake gets the permits for its tunnel, and has to give way
/// to a newer one when `gives_way` is notified.
///
/// # Errors
/// The request exceeds a limit, or has no key where it must have one.
pub(super) fn count(
    shared: &SharedLimits,
    route: &Route,
    traits: &KeyTraits<'_>,
    gives_way: Option<&Arc<Notify>>,
) -> Result<Vec<KeyPermit>, SessionError> {
    let is_handshake = gives_way.is_some();
    let mut permits = Vec::with_capacity(route.shared_limits.len() * usize::from(is_handshake));
    // First those that can only refuse: a request that is refused must not have taken the place of another one.
    let displaces = |limit: &&RunningLimit| limit.settings.when_full == WhenFull::CloseOldest;
    let limits = route.shared_limits.iter();
    let refusing = limits.clone().filter(|limit| !displaces(limit));
    for limit in refusing.chain(limits.filter(displaces)) {
        let refused = |rejection: Rejection| SessionError {
            detail: Some(format!("limit {}", limit.settings.name)),
            ..rejection.into()
        };
        let value = traits.value(&limit.settings.key);
        let source = source(&limit.settings, value.as_ref(), traits.client);
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
        let counted = match gives_way {
            Some(gives_way) => limit.running.handshake(&key, settings, gives_way),
            None => limit.running.request(&key, settings).map(|()| None),
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
    settings: &SharedLimitConfig,
    value: Option<&'a KeyValue<'_>>,
    client: Option<IpAddr>,
) -> Option<KeySource<'a>> {
    let address = || client.map_or(KeySource::Unknown, KeySource::Address);
    Some(match (&settings.key, value) {
        (RequestKey::ClientIp, _) => address(),
        (key, Some(value)) if key.is_chosen_by_clients() => KeySource::Credential(value),
        (_, Some(value)) => KeySource::Part(value),
        (_, None) if settings.missing == MissingKey::Refuse => return None,
        (_, None) => address(),
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};
    use serde_json::json;

    use super::*;
    use crate::config::model::WhenFull;
    use crate::protocol::claims::Claims;
    use crate::protocol::target::Target;

    /// What a request with a cookie, a header and a claim counts under.
    fn counted(key: RequestKey, missing: MissingKey, client: Option<&str>) -> Option<String> {
        let settings = SharedLimitConfig {
            name: "user".into(),
            key,
            missing,
            tunnels: None,
            when_full: WhenFull::Refuse,
            handshakes: None,
            requests: None,
            keys: 9,
        };
        let request = Request::get("/room/7?room=blue")
            .header("host", "chat.example.com")
            .header("cookie", "sid=secret")
            .header("x-user", "bob");
        let parts = request.body(()).unwrap().into_parts().0;
        let target = Target::of(&parts).unwrap();
        let claims = json!({ "sub": "alice" }).as_object().cloned();
        let claims = Claims::new(claims.unwrap());
        let traits = KeyTraits {
            client: client.map(|client| client.parse().unwrap()),
            server_name: None,
            headers: &parts.headers,
            target: &target,
            claims: Some(&claims),
        };
        let value = traits.value(&settings.key);
        let source = source(&settings, value.as_ref(), traits.client)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some(match source {
            KeySource::Part(bytes) => text(bytes),
            KeySource::Credential(bytes) => format!("hidden {}", text(bytes)),
            KeySource::Address(address) => address.to_string(),
            KeySource::Unknown => "unknown".to_owned(),
        })
    }

    #[test]
    fn what_may_be_a_credential_is_hidden_and_a_missing_key_is_the_address() {
        use MissingKey::{ClientIp, Refuse};
        let claim = |name: &str| RequestKey::Claim(name.into());
        let client = Some("192.0.2.1");
        for (key, missing, client, expected) in [
            (RequestKey::ClientIp, Refuse, client, Some("192.0.2.1")),
            (RequestKey::ClientIp, Refuse, None, Some("unknown")),
            (claim("sub"), Refuse, client, Some("alice")),
            (claim("org"), ClientIp, client, Some("192.0.2.1")),
            (claim("org"), ClientIp, None, Some("unknown")),
            (claim("org"), Refuse, client, None),
            (RequestKey::Path, Refuse, client, Some("/room/7")),
            (RequestKey::Sni, Refuse, client, None),
            (
                RequestKey::Cookie("sid".into()),
                Refuse,
                client,
                Some("hidden secret"),
            ),
            (
                RequestKey::Query("room".into()),
                Refuse,
                client,
                Some("hidden blue"),
            ),
            (
                RequestKey::Header(HeaderName::from_static("x-user")),
                Refuse,
                client,
                Some("hidden bob"),
            ),
        ] {
            let counted = counted(key.clone(), missing, client);
            assert_eq!(counted.as_deref(), expected, "{key}");
        }
    }
}
