//! Warnings about valid configurations that are probably not intended: settings that cost tunnels, or
//! that let strangers in.
//!
//! Warnings are reported for files without errors only. A lint warns where the file itself shows that
//! it matters; it does not warn about defaults that were not written.

mod acme;
mod admin;
mod listeners;
mod liveness;
mod shared_limits;
mod split;
mod store;

use std::time::Duration;

use http::HeaderName;

use super::build::{Built, Places, RoutePlaces, UpstreamPlaces};
use super::check::is_bound_to;
use super::descriptor_budget;
use super::diagnostic::{Code, Diagnostic, Severity};
use super::model::{
    Bind, Config, Discovery, DisplacementPolicy, HostPattern, ListenerConfig, PathMatch, PlainHttp,
    Probe, RequestKind, RouteConfig, UpstreamConfig,
};

/// A shorter `max_age` is hardly worth the handshakes that it costs.
const MIN_AGE: Duration = Duration::from_secs(60);

/// The default idle timeout of nginx and of AWS load balancers; that of Cloudflare is 100 s.
const OUTER_IDLE: Duration = Duration::from_secs(60);

/// Headers that browsers send by themselves: a route that depends on them is open to any page.
const FROM_BROWSERS: [HeaderName; 6] = [
    http::header::ACCEPT_ENCODING,
    http::header::ACCEPT_LANGUAGE,
    http::header::CACHE_CONTROL,
    http::header::COOKIE,
    http::header::PRAGMA,
    http::header::USER_AGENT,
];

/// Adds all warnings to `found`.
pub(super) fn lint(built: &Built, diagnostics: &mut Vec<Diagnostic>) {
    let Built { config, places, .. } = built;
    // The model of a file with errors is incomplete, so lints would report what is not there.
    if diagnostics
        .iter()
        .any(|each| each.severity == Severity::Error)
    {
        return;
    }
    for (route, place) in config.routes.iter().zip(&places.routes) {
        lint_age(route, place, diagnostics);
        lint_ping(route, place, diagnostics);
        lint_idle(config, route, place, diagnostics);
        lint_origins(config, route, place, diagnostics);
        split::lint_torn(config, route, place, diagnostics);
        lint_path(route, place, diagnostics);
    }
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        lint_sticky(config, upstream, place, diagnostics);
        split::lint_torn_hash(config, upstream, place, diagnostics);
        lint_cookie_domain(config, upstream, place, diagnostics);
        lint_check(config, upstream, place, diagnostics);
        lint_slow_check(upstream, place, diagnostics);
        lint_unchecked(upstream, place, diagnostics);
        lint_grace_period(upstream, place, diagnostics);
    }
    acme::lint(config, places, diagnostics);
    listeners::lint(config, places, diagnostics);
    liveness::lint(config, places, diagnostics);
    shared_limits::lint(config, places, diagnostics);
    lint_tickets(config, places, diagnostics);
    admin::lint(config, places, diagnostics);
    store::lint(config, places, diagnostics);
    if let Some(max) = descriptor_budget::hard_limit() {
        lint_descriptors(config, places, max, diagnostics);
    }
}

/// Whether a load balancer or a CDN in front of the listener states client addresses.
fn is_behind_something(listener: &ListenerConfig) -> bool {
    listener.trust.proxy_protocol || !listener.trust.proxies.is_empty()
}

/// The listeners whose requests `route` applies to.
fn listeners_of<'a>(
    config: &'a Config,
    route: &'a RouteConfig,
) -> impl Iterator<Item = &'a ListenerConfig> {
    let listeners = config.listeners.iter();
    listeners.filter(|listener| is_bound_to(route, listener))
}

/// The routes that apply to requests on `listener`, and their places.
fn routes_of<'a>(
    config: &'a Config,
    places: &'a Places,
    listener: &'a ListenerConfig,
) -> impl Iterator<Item = (&'a RouteConfig, &'a RoutePlaces)> {
    let routes = config.routes.iter().zip(&places.routes);
    routes.filter(|(route, _)| is_bound_to(route, listener))
}

fn lint_age(route: &RouteConfig, place: &RoutePlaces, diagnostics: &mut Vec<Diagnostic>) {
    let Some(max_age) = route.limits.max_age else {
        return;
    };
    if let Some(span) = place.max_age.clone().filter(|_| max_age.age < MIN_AGE) {
        let message = "every tunnel is closed within a minute, and its client reconnects with a new handshake";
        let hint = "use `idle` to close quiet tunnels; `max_age` is for moving clients to other endpoints after hours";
        diagnostics.push(Diagnostic::warning(Code::ShortMaxAge, span, message).hint(hint));
    }
    let together = place.max_age_jitter.clone();
    if let Some(span) = together.filter(|_| max_age.jitter == 0) {
        let message = "tunnels that were opened together are closed together, and their clients reconnect together";
        let hint = "use e.g. 0.2, the default, which spreads ages over a fifth of `max_age`";
        diagnostics.push(Diagnostic::warning(Code::NoJitter, span, message).hint(hint));
    }
}

fn lint_ping(route: &RouteConfig, place: &RoutePlaces, diagnostics: &mut Vec<Diagnostic>) {
    let Some(ping) = &place.ping else {
        return;
    };
    let idle = route.limits.idle.filter(|_| place.idle.is_some());
    let (message, hint) = if ping.value >= OUTER_IDLE {
        (
            "a device between the two ends may have dropped the tunnel before the first Ping",
            "use less than 60s, the default idle timeout of nginx and of AWS load balancers",
        )
    } else if idle.is_some_and(|idle| ping.value >= idle / 2) {
        (
            "`idle` closes a quiet tunnel before a missing Pong can be noticed",
            "use less than half of `idle`",
        )
    } else {
        return;
    };
    diagnostics.push(Diagnostic::warning(Code::LatePing, ping.span.clone(), message).hint(hint));
}

/// Warns only where `idle` is written: the default does not show how long quiet tunnels should live.
fn lint_idle(
    config: &Config,
    route: &RouteConfig,
    place: &RoutePlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let long = route.limits.idle.is_none_or(|idle| idle > OUTER_IDLE);
    let Some(span) = place.idle.clone().filter(|_| long && place.ping.is_none()) else {
        return;
    };
    if listeners_of(config, route).any(is_behind_something) {
        let message = "the proxy in front may close quiet tunnels sooner";
        let hint = "nginx and AWS load balancers close idle connections after 60s by default, \
                    Cloudflare after 100s: raise that limit (nginx: `proxy_read_timeout`), or use \
                    `ping`";
        diagnostics.push(Diagnostic::warning(Code::LongIdle, span, message).hint(hint));
    }
}

/// A browser lets any page open a WebSocket to any host, and sends the cookies of that host along.
fn lint_origins(
    config: &Config,
    route: &RouteConfig,
    place: &RoutePlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let access = &route.access;
    let opens_none =
        route.conditions.only == Some(RequestKind::Plain) || !route.leads_to.forwards();
    if opens_none || !access.origins.is_empty() {
        return;
    }
    let changes = &route.request_headers;
    let cookies = changes.remove.iter();
    let mut cookies = cookies.chain(changes.set.iter().map(|(name, _)| name));
    let mut conditions = route.conditions.headers.iter();
    let for_programs = !access.allow.is_empty()
        || access.client_certificate.is_some()
        || cookies.any(|name| name == http::header::COOKIE)
        || conditions.any(|(name, _)| !FROM_BROWSERS.contains(name));
    if !for_programs && listeners_of(config, route).any(takes_browsers) {
        let message = format!(
            "pages of any site may open WebSockets on route `{}`, with the cookies of their visitors",
            route.name
        );
        diagnostics.push(
            Diagnostic::warning(Code::AnyOrigin, place.route.clone(), message).hint(
                "list your sites in `origins`, or remove cookies with `request_headers.remove`",
            ),
        );
    }
}

/// Whether browsers on other machines can connect to the listener.
fn takes_browsers(listener: &ListenerConfig) -> bool {
    let tls = listener.tls.as_ref();
    let auth = tls.and_then(|tls| tls.client_auth.as_ref());
    let mut binds = listener.binds.iter();
    let open = binds.any(|bind| match bind {
        Bind::Tcp(address) => !address.ip().is_loopback(),
        Bind::Unix { .. } => false,
        // Only the socket unit knows the address. Most such units listen on public ones.
        Bind::Systemd(_) => true,
    });
    (open || is_behind_something(listener)) && !auth.is_some_and(|auth| auth.required)
}

fn lint_sticky(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let alone = upstream.sticky.as_ref();
    let alone = alone.is_some_and(|sticky| sticky.secret.is_none()) && !shares_keys(config);
    let Some(span) = place.sticky.clone().filter(|_| alone) else {
        return;
    };
    let mut routes = config.routes_to(&upstream.name);
    if routes.any(|route| listeners_of(config, route).any(is_behind_something)) {
        let message = "only the process that sets these sticky cookies can read them";
        let hint = "set `secret_file`, so that other nodes, and this one after a restart, can read them, too";
        diagnostics.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
    }
}

/// A browser drops a cookie whose domain is not that of the host that sets it, or above it.
fn lint_cookie_domain(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let sticky = upstream.sticky.as_ref();
    let (Some(domain), Some(span)) = (
        sticky.and_then(|sticky| sticky.domain.as_deref()),
        place.cookie_domain.clone(),
    ) else {
        return;
    };
    let is_below = |host: &&HostPattern| {
        let (HostPattern::Exact(name) | HostPattern::Wildcard(name)) = host;
        let front = name.strip_suffix(domain);
        front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
    };
    let routes = config.routes_to(&upstream.name);
    let mut hosts = routes.flat_map(|route| &route.hosts);
    if let Some(other) = hosts.find(|host| !is_below(host)) {
        let message =
            format!("browsers reject this cookie from `{other}`, which is not below `{domain}`");
        diagnostics.push(Diagnostic::warning(Code::NoEffect, span, message));
    }
}

/// A proxy in front that passes connections on spreads clients over nodes; one that speaks HTTP keeps
/// its connections, and resumes sessions where it has them.
fn lint_tickets(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (listener, place) in config.listeners.iter().zip(&places.listeners) {
        let tls = listener.tls.as_ref();
        // A listener that asks for client certificates issues no tickets.
        let alone = tls.is_some_and(|tls| tls.ticket_keys.is_none() && tls.client_auth.is_none());
        let alone = alone && listener.trust.proxy_protocol && !shares_keys(config);
        if let Some(span) = place.tls.clone().filter(|_| alone) {
            let message =
                "only the process that issues a TLS session ticket can resume the session";
            let hint = "set `ticket_keys_file`, so that other nodes behind the same load balancer can, too";
            diagnostics.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
        }
    }
}

/// Whether nodes agree on the keys that no file has.
fn shares_keys(config: &Config) -> bool {
    config.fleet.as_ref().is_some_and(|fleet| fleet.share.keys)
}

fn lint_check(
    config: &Config,
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    /// Status codes with which a WebSocket server answers plain requests.
    const REFUSALS: [u16; 2] = [400, 426];
    let Some(Probe::Http(probe)) = upstream.health.as_ref().map(|health| &health.probe) else {
        return;
    };
    let expects = |status| probe.expect.iter().any(|range| range.contains(&status));
    if REFUSALS.into_iter().any(expects) {
        return;
    }
    let path = probe.path.split('?').next().unwrap_or_default();
    let mut routes = config.routes_to(&upstream.name).peekable();
    let reject = |route: &RouteConfig| {
        route.http == PlainHttp::Reject || route.conditions.only == Some(RequestKind::Handshake)
    };
    // A path that no WebSocket route has exists for checks.
    let is_tunnels = |route: &RouteConfig| match &route.path {
        PathMatch::Any => path == "/",
        PathMatch::Exact(own) | PathMatch::Prefix(own) => path == "/" || *path == **own,
    };
    let alike = routes.peek().is_some() && routes.all(|route| reject(route) && is_tunnels(route));
    if let Some(span) = place.http_check.clone().filter(|_| alike) {
        let message = "a server that speaks only WebSocket refuses plain requests, and its endpoint will count as down";
        let hint = "use a WebSocket check, `websocket = { path = \"…\" }`, or `expect = \"426\"`";
        diagnostics.push(Diagnostic::warning(Code::HttpCheck, span, message).hint(hint));
    }
}

/// A check that hangs would still hang when the next one is due.
fn lint_slow_check(
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(health) = &upstream.health else {
        return;
    };
    let (interval, timeout) = (health.interval, health.timeout);
    if let Some(span) = place.check_times.clone().filter(|_| interval < timeout) {
        let message = format!(
            "a health check may take {timeout:?} (`timeout`), but the next one is due after {interval:?} (`interval`)"
        );
        let hint = "an endpoint that hangs is noticed late: use a `timeout` that is shorter than `interval`";
        diagnostics.push(Diagnostic::warning(Code::SlowCheck, span, message).hint(hint));
    }
}

/// A path such as `/rooms/*` or `/rooms/:id` is matched character by character.
fn lint_path(route: &RouteConfig, place: &RoutePlaces, diagnostics: &mut Vec<Diagnostic>) {
    let path = match &route.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
        PathMatch::Any => return,
    };
    // Braces are encoded in the form that paths are compared in.
    let path = path.replace("%7B", "{").replace("%7D", "}");
    let segments = path.split('/');
    let is_variable = |segment: &str| {
        let in_braces = segment.starts_with('{') && segment.ends_with('}');
        segment.contains('*') || segment.starts_with(':') || in_braces
    };
    let fixed: Vec<&str> = segments.take_while(|it| !is_variable(it)).collect();
    let mut segments = path.split('/').skip(fixed.len());
    let (Some(segment), Some(span)) = (segments.next(), &place.path) else {
        return;
    };
    let prefix = match fixed.join("/") {
        root if root.is_empty() => "/".to_owned(),
        prefix => prefix,
    };
    let message =
        format!("`{segment}` is not a placeholder: it matches only the characters `{segment}`");
    let hint = format!(
        "write `path_prefix = \"{prefix}\"` instead, which matches everything below `{prefix}`"
    );
    diagnostics.push(Diagnostic::warning(Code::PathPattern, span.clone(), message).hint(hint));
}

/// At the end of its grace period a pod is killed, with all tunnels that it still has.
fn lint_grace_period(
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let keeps = upstream.on_drain == DisplacementPolicy::Keep;
    if let Some(span) = place.kubernetes.clone().filter(|_| keeps) {
        let message = "when a pod is terminated, its tunnels stay until it is killed, and then end together without a Close frame";
        let hint = "add e.g. `on_drain = { action = \"drain\", over = \"4m\" }`, shorter than `terminationGracePeriodSeconds` of the pods";
        diagnostics.push(Diagnostic::warning(Code::GracePeriod, span, message).hint(hint));
    }
}

/// A single endpoint has no other one to be preferred to it, and endpoints that are discovered are usually
/// checked by the system that lists them.
fn lint_unchecked(
    upstream: &UpstreamConfig,
    place: &UpstreamPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let keeps = upstream.on_down == DisplacementPolicy::Keep;
    if let Some(span) = place.on_down.clone().filter(|_| !keeps)
        && upstream.health.is_none()
    {
        let message = "`on_down` has no effect: without `health`, no endpoint is ever down";
        let hint = "add `health`, e.g. `health = { websocket = {} }`";
        diagnostics.push(Diagnostic::warning(Code::NoEffect, span, message).hint(hint));
    }
    let is_checked = upstream.health.is_some() || upstream.ejection.is_some();
    let is_listed = upstream.discovery == Discovery::Listed;
    if !is_checked && is_listed && upstream.endpoints.len() > 1 {
        let message = format!(
            "nothing checks the endpoints of upstream `{}`: one that accepts connections and hangs stays in rotation",
            upstream.name
        );
        let hint = "add `health`, e.g. `health = { websocket = {} }`, or `ejection = {}`";
        let warning = Diagnostic::warning(Code::Unchecked, place.name.clone(), message);
        diagnostics.push(warning.hint(hint));
    }
}

/// Warns about limits that need more open files than `max`, the hard limit of this process.
fn lint_descriptors(config: &Config, places: &Places, max: u64, diagnostics: &mut Vec<Diagnostic>) {
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
        let needed = descriptor_budget::needed(wanted);
        if needed > max {
            let message =
                format!("{wanted} {what} require {needed} open files, but the limit here is {max}");
            let hint = "raise `LimitNOFILE=` in the unit, or `ulimit -Hn`; the service may have another \
                        limit than this shell";
            diagnostics
                .push(Diagnostic::warning(Code::Descriptors, span.clone(), message).hint(hint));
        }
    }
}

#[cfg(test)]
mod tests;
