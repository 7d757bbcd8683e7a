//! Splits that would tear clients apart.

use std::sync::Arc;

use crate::config::build::RoutePlaces;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, LeadsTo, PlainHttp, RequestKind, RouteConfig};

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
    let serves_plain =
        route.http == PlainHttp::Proxy && route.conditions.only != Some(RequestKind::Handshake);
    let remembers = |name: &Arc<str>| {
        let mut upstreams = config.upstreams.iter();
        let upstream = upstreams.find(|upstream| upstream.name == *name);
        upstream.is_some_and(|upstream| upstream.sticky.is_some())
    };
    let is_remembered = route.leads_to.upstreams().all(remembers);
    if serves_plain && split.by.is_none() && !is_remembered {
        let message = "chance decides about each plain request by itself, so polling fallbacks (Socket.IO, SockJS) are torn apart";
        let hint = "add `split_by`, or `sticky` to every upstream of the split; for WebSockets alone, add `only = \"handshakes\"`";
        let warning = Diagnostic::warning(Code::TornSessions, place.leads_to.clone(), message);
        diagnostics.push(warning.hint(hint));
    }
}
