//! Tunnels whose clients or endpoints may be gone without anything that finds out.

use super::{is_behind_something, listeners_of};
use crate::config::build::{Places, RoutePlaces};
use crate::config::check::is_bound_to;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Bind, Config, RouteConfig};
use crate::config::sources::Span;

/// What ends a tunnel whose client is gone: a Ping, or TCP keepalive if nothing between the two ends keeps
/// the connection open. `idle` does not, where the backend keeps sending.
pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    const HINT: &str = "add e.g. `timeouts.ping = \"25s\"` to the route: a side that does not answer a Ping is closed";
    for (route, place) in config.routes.iter().zip(&places.routes) {
        // `long-idle` warns of what a proxy in front does to quiet tunnels, and has the same cure.
        if !is_blind(route) || listeners_of(config, route).any(is_behind_something) {
            continue;
        }
        if let Some(span) = quiet_for_ever(route, place) {
            let message = "the tunnel of a client that is gone may stay open for ever: `idle` is off, and so is `ping`";
            diagnostics.push(Diagnostic::warning(Code::NoLiveness, span, message).hint(HINT));
        }
    }
    for (listener, place) in config.listeners.iter().zip(&places.listeners) {
        let is_tcp = |bind: &Bind| !matches!(bind, Bind::Unix { .. });
        if listener.keepalive.is_some() || !listener.binds.iter().any(is_tcp) {
            continue;
        }
        let mut routes = config.routes.iter();
        let route = routes.find(|route| is_blind(route) && is_bound_to(route, listener));
        if let (Some(span), Some(route)) = (&place.keepalive, route) {
            let message = format!(
                "nothing notices that a client of route `{}` is gone while its backend keeps sending: `keepalive` is off, and so is `ping`",
                route.name
            );
            let warning = Diagnostic::warning(Code::NoLiveness, span.clone(), message);
            diagnostics.push(warning.hint(HINT));
        }
    }
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        if upstream.reach.keepalive.is_some() {
            continue;
        }
        let mut routes = config.routes_to(&upstream.name);
        let route = routes.find(|route| is_blind(route) && route.limits.idle.is_none());
        if let (Some(span), Some(route)) = (&place.keepalive, route) {
            let message = format!(
                "nothing notices that an endpoint of route `{}` is gone: `keepalive`, `idle` and `ping` are off",
                route.name
            );
            let warning = Diagnostic::warning(Code::NoLiveness, span.clone(), message);
            diagnostics.push(warning.hint(HINT));
        }
    }
}

/// A route whose tunnels nothing asks for a sign of life, and that have no maximum age.
fn is_blind(route: &RouteConfig) -> bool {
    let limits = &route.limits;
    route.leads_to.forwards() && limits.ping.is_none() && limits.max_age.is_none()
}

/// The place of `idle`, if it is off.
fn quiet_for_ever(route: &RouteConfig, place: &RoutePlaces) -> Option<Span> {
    place.idle.clone().filter(|_| route.limits.idle.is_none())
}
