//! What a good configuration may still not mean: habits that cost tunnels, or let strangers in.
//!
//! Everything here is a warning, told of files without errors only. A lint speaks up where the file
//! itself says that it matters; a default that nobody wrote down is not blamed.

use std::time::Duration;

use http::HeaderName;

use super::build::{Built, Places, RoutePlaces, UpstreamPlaces};
use super::check::{is_bound_to, upstream_of};
use super::descriptors;
use super::diagnostic::{Code, Diagnostic, Severity};
use super::model::{
    Bind, Config, LeadsTo, ListenerConfig, PathMatch, PlainHttp, Probe, RouteConfig, UpstreamConfig,
};

/// A tunnel that lives shorter is hardly worth its handshake.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// How long nginx and AWS' load balancers leave a quiet connection open by default; Cloudflare waits
/// for 100 s.
const OUTER_IDLE: Duration = Duration::from_secs(60);

/// What browsers send by themselves, and pages cannot choose for a handshake.
const FROM_BROWSERS: [HeaderName; 6] = [
    http::header::ACCEPT_ENCODING,
    http::header::ACCEPT_LANGUAGE,
    http::header::CACHE_CONTROL,
    http::header::COOKIE,
    http::header::PRAGMA,
    http::header::USER_AGENT,
];

/// Warns about everything.
pub(super) fn lint(built: &Built, found: &mut Vec<Diagnostic>) {
    let Built { config, places, .. } = built;
    // Of a file with errors, parts are missing in the model.
    if found.iter().any(|each| each.severity == Severity::Error) {
        return;
    }
    for (route, place) in config.routes.iter().zip(&places.routes) {
        lint_age(route, place, found);
        lint_ping(route, place, found);
        lint_idle(config, route, place, found);
        lint_origins(config, route, place, found);
    }
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        lint_sticky(config, upstream, place, found);
        lint_check(config, upstream, place, found);
    }
    lint_tickets(config, places, found);
    lint_admin(config, places, found);
    if let Some(most) = descriptors::most() {
        lint_descriptors(config, places, most, found);
    }
}

/// Whether something in front tells this listener who is asking: a load balancer, a CDN.
fn is_behind_something(listener: &ListenerConfig) -> bool {
    listener.trust.proxy_protocol || !listener.trust.proxies.is_empty()
}

/// The listeners that requests for `route` come in by.
fn listeners_of<'a>(
    config: &'a Config,
    route: &'a RouteConfig,
) -> impl Iterator<Item = &'a ListenerConfig> {
    let listeners = config.listeners.iter();
    listeners.filter(|listener| is_bound_to(route, listener))
}

/// The routes that lead to `upstream`.
fn routes_to<'a>(
    config: &'a Config,
    upstream: &'a UpstreamConfig,
) -> impl Iterator<Item = &'a RouteConfig> {
    let routes = config.routes.iter();
    routes.filter(|route| upstream_of(route) == Some(&upstream.name))
}

fn lint_admin(config: &Config, places: &Places, found: &mut Vec<Diagnostic>) {
    let Some(Bind::Tcp(address)) = &config.admin.bind else {
        return;
    };
    if let Some(span) = places
        .admin_bind
        .clone()
        .filter(|_| !address.ip().is_loopback())
    {
        let message = format!("whoever reaches `{address}` sees all clients and the configuration");
        let hint = "bind a unix socket, or a loopback address";
        found.push(Diagnostic::warning(Code::OpenAdmin, span, message).hint(hint));
    }
}

fn lint_age(route: &RouteConfig, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let Some(max_age) = route.limits.max_age else {
        return;
    };
    if let Some(span) = place.max_age.clone().filter(|_| max_age.age < LEAST_AGE) {
        let message = "every tunnel is closed within a minute, and comes back with a new handshake";
        let hint = "`idle` ends quiet tunnels; an age is for moving clients on, after hours";
        found.push(Diagnostic::warning(Code::ShortMaxAge, span, message).hint(hint));
    }
    let together = place.max_age_jitter.clone();
    if let Some(span) = together.filter(|_| max_age.jitter == 0) {
        let message = "tunnels that were opened together are closed together, and come back so";
        let hint = "leave it at 0.2: ages are spread over a fifth of `max_age`";
        found.push(Diagnostic::warning(Code::NoJitter, span, message).hint(hint));
    }
}

fn lint_ping(route: &RouteConfig, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let Some(ping) = &place.ping else {
        return;
    };
    let idle = route.limits.idle.filter(|_| place.idle.is_some());
    let (message, hint) = if ping.value >= OUTER_IDLE {
        (
            "what stands between the two ends may have dropped the tunnel by then",
            "nginx and AWS' load balancers wait for 60 s: write less",
        )
    } else if idle.is_some_and(|idle| ping.value >= idle / 2) {
        (
            "`idle` ends a quiet tunnel before a lost answer to a ping tells anything",
            "write less than half of `idle`",
        )
    } else {
        return;
    };
    found.push(Diagnostic::warning(Code::LatePing, ping.span.clone(), message).hint(hint));
}

/// The default of `idle` says nothing about how long somebody wants quiet tunnels to live.
fn lint_idle(
    config: &Config,
    route: &RouteConfig,
    place: &RoutePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let long = route.limits.idle.is_none_or(|idle| idle > OUTER_IDLE);
    let Some(span) = place.idle.clone().filter(|_| long && place.ping.is_none()) else {
        return;
    };
    if listeners_of(config, route).any(is_behind_something) {
        let message = "what is in front may end quiet tunnels sooner";
        let hint = "nginx and AWS' load balancers wait for 60 s, Cloudflare for 100 s: raise that \
                    (nginx: `proxy_read_timeout`), or have applications send something in time";
        found.push(Diagnostic::warning(Code::LongIdle, span, message).hint(hint));
    }
}

/// A browser lets any page open a WebSocket to any host, and sends its cookies along.
fn lint_origins(
    config: &Config,
    route: &RouteConfig,
    place: &RoutePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let access = &route.access;
    if !matches!(route.leads_to, LeadsTo::Upstream(_)) || !access.origins.is_empty() {
        return;
    }
    let changes = &route.request_headers;
    let cookies = changes.remove.iter();
    let mut cookies = cookies.chain(changes.set.iter().map(|(name, _)| name));
    let mut conditions = route.conditions.headers.iter();
    let for_programs = !access.allow.is_empty()
        || access.client_certificate
        || cookies.any(|name| name == http::header::COOKIE)
        || conditions.any(|(name, _)| !FROM_BROWSERS.contains(name));
    if !for_programs && listeners_of(config, route).any(takes_browsers) {
        let message = format!(
            "pages of any site may connect by route `{}`, with the cookies of whoever looks at them",
            route.name
        );
        found.push(
            Diagnostic::warning(Code::AnyOrigin, place.route.clone(), message).hint(
                "list yours in `origins`; where cookies mean nothing, `request_headers.remove` them",
            ),
        );
    }
}

/// Whether browsers on other machines get to it.
fn takes_browsers(listener: &ListenerConfig) -> bool {
    let tls = listener.tls.as_ref();
    let auth = tls.and_then(|tls| tls.client_auth.as_ref());
    let mut binds = listener.binds.iter();
    let open = binds.any(|bind| match bind {
        Bind::Tcp(address) => !address.ip().is_loopback(),
        Bind::Unix { .. } => false,
        // Where that is, only the socket unit knows; most are for everybody.
        Bind::Systemd(_) => true,
    });
    (open || is_behind_something(listener)) && !auth.is_some_and(|auth| auth.required)
}

fn lint_sticky(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    found: &mut Vec<Diagnostic>,
) {
    let alone = upstream.sticky.as_ref();
    let alone = alone.is_some_and(|sticky| sticky.secret.is_none());
    let Some(span) = place.sticky.clone().filter(|_| alone) else {
        return;
    };
    let mut routes = routes_to(config, upstream);
    if routes.any(|route| listeners_of(config, route).any(is_behind_something)) {
        let message = "only the process that sets these cookies understands them";
        let hint = "another node, or this one after a restart, does not: write `secret_file`";
        found.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
    }
}

/// Who speaks HTTP in front keeps its connections; who passes bytes spreads clients over nodes.
fn lint_tickets(config: &Config, places: &Places, found: &mut Vec<Diagnostic>) {
    for (listener, place) in config.listeners.iter().zip(&places.listeners) {
        let tls = listener.tls.as_ref();
        // Where certificates are asked for, there are no tickets.
        let alone = tls.is_some_and(|tls| tls.ticket_keys.is_none() && tls.client_auth.is_none());
        let alone = alone && listener.trust.proxy_protocol;
        if let Some(span) = place.tls.clone().filter(|_| alone) {
            let message = "only the process that makes TLS session tickets opens them";
            let hint =
                "another node behind the same load balancer does not: write `ticket_keys_file`";
            found.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
        }
    }
}

fn lint_check(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    found: &mut Vec<Diagnostic>,
) {
    /// What a WebSocket server says to plain requests.
    const REFUSALS: [u16; 2] = [400, 426];
    let Some(Probe::Http(probe)) = upstream.health.as_ref().map(|health| &health.probe) else {
        return;
    };
    let expects = |status| probe.expect.iter().any(|range| range.contains(&status));
    if REFUSALS.into_iter().any(expects) {
        return;
    }
    let path = probe.path.split('?').next().unwrap_or_default();
    let mut routes = routes_to(config, upstream).peekable();
    let reject = |route: &RouteConfig| route.http == PlainHttp::Reject;
    // Another path than those of WebSockets is there for checks.
    let is_tunnels = |route: &RouteConfig| match &route.path {
        PathMatch::Any => path == "/",
        PathMatch::Exact(own) | PathMatch::Prefix(own) => path == "/" || *path == **own,
    };
    let alike = routes.peek().is_some() && routes.all(|route| reject(route) && is_tunnels(route));
    if let Some(span) = place.http_check.clone().filter(|_| alike) {
        let message = "what speaks WebSocket only refuses plain requests, and will count as down";
        let hint = "check it by a handshake, `websocket = { path = \"…\" }`, or expect \"426\"";
        found.push(Diagnostic::warning(Code::HttpCheck, span, message).hint(hint));
    }
}

/// `most` is what the process may raise its limit to.
fn lint_descriptors(config: &Config, places: &Places, most: u64, found: &mut Vec<Diagnostic>) {
    let listeners = config.listeners.iter().zip(&places.listeners);
    let connections = listeners.map(|(listener, place)| {
        let wanted = listener.limits.connections;
        ("connections", wanted, &place.connections)
    });
    let tunnels = ("tunnels", config.server.max_tunnels, &places.max_tunnels);
    for (what, wanted, span) in connections.chain([tunnels]) {
        let (Some(wanted), Some(span)) = (wanted, span) else {
            continue;
        };
        let needed = descriptors::needed(wanted);
        if needed > most {
            let message =
                format!("{wanted} {what} take {needed} open files, and there may be {most} here");
            let hint = "raise `LimitNOFILE=` of the unit, or `ulimit -Hn`; where it runs, the limit \
                        may be another one than where it is checked";
            found.push(Diagnostic::warning(Code::Descriptors, span.clone(), message).hint(hint));
        }
    }
}

#[cfg(test)]
mod tests;
