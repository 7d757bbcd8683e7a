//! Splits and hashes that would tear clients apart.

use crate::config::build::{RoutePlaces, UpstreamPlaces};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    Balance, Config, Discovery, LeadsTo, PlainHttp, RequestKey, RequestKind, RouteConfig,
    UpstreamConfig,
};

/// A fallback transport sends many plain requests, and all of them have to reach the same server. Chance
/// decides about each of them by itself, unless a cookie remembers.
pub(super) fn lint_torn(
    config: &Config,
    route: &RouteConfig,
    place: &RoutePlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let LeadsTo::Split(split) = &route.leads_to else {
        return;
    };
    let mut upstreams = route
        .leads_to
        .upstreams()
        .filter_map(|name| config.upstream(name));
    let is_remembered = upstreams.all(|upstream| upstream.sticky.is_some());
    if !serves_plain(route) || is_remembered {
        return;
    }
    let (message, hint) = match &split.by {
        None => (
            "an upstream is chosen for each plain request at random, so the requests of one polling client (Socket.IO, SockJS) reach different upstreams".to_owned(),
            "add `split_by`, or `sticky` to every upstream of the split; for WebSockets alone, add `only = \"handshakes\"`",
        ),
        Some(key) => match session_id(key) {
            Some(id) => (
                format!("the first request of a Socket.IO client has no `{id}` yet, so it may reach another upstream than the following ones"),
                "use a key that every request has, such as `\"client_ip\"`, or add `sticky` to every upstream of the split",
            ),
            None => return,
        },
    };
    let warning = Diagnostic::warning(Code::TornSessions, place.leads_to.clone(), message);
    diagnostics.push(warning.hint(hint));
}

/// The first request of a fallback transport lacks the session id, so the hash of it leads the following ones
/// elsewhere, unless a cookie remembers.
pub(super) fn lint_torn_hash(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Balance::Hash(hash) = &upstream.picking.balance else {
        return;
    };
    let is_single = upstream.discovery == Discovery::Listed && upstream.endpoints.len() < 2;
    let is_plain = config.routes_to(&upstream.name).any(serves_plain);
    if let (Some(id), Some(span)) = (session_id(&hash.key), place.hash.clone())
        && is_plain
        && !is_single
        && upstream.sticky.is_none()
    {
        let message = format!(
            "the first request of a Socket.IO client has no `{id}` yet, so it may reach another endpoint than the following ones"
        );
        let hint = "use a key that every request has, such as `\"client_ip\"`, or add `sticky`; for WebSockets alone, add `only = \"handshakes\"` to the routes";
        diagnostics.push(Diagnostic::warning(Code::TornSessions, span, message).hint(hint));
    }
}

fn serves_plain(route: &RouteConfig) -> bool {
    route.http == PlainHttp::Proxy && route.conditions.only != Some(RequestKind::Handshake)
}

/// The name of the session id of Socket.IO, if it is the key. The response to the first request determines it.
fn session_id(key: &RequestKey) -> Option<&str> {
    match key {
        RequestKey::Query(name) => Some(&**name).filter(|name| *name == "sid"),
        RequestKey::Cookie(name) => Some(&**name).filter(|name| *name == "io"),
        _ => None,
    }
}
