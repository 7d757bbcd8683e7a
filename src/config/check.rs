//! What is wrong between parts of a configuration: unknown names, addresses that are bound twice,
//! routes that can never match.

mod auth;
mod folders;
mod known_names;
mod own_listener;
mod shared_limits;
mod split;
mod store;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) use self::folders::check_folders;
use self::known_names::KnownNames;
use super::build::{Built, Places, RoutePlaces, UpstreamPlaces};
use super::diagnostic::{Code, Diagnostic, Severity};
use super::model::{
    Address, Admin, AuthMethod, Bind, Conditions, Config, EndpointConfig, ListenerConfig,
    PathMatch, RouteConfig, same_variable,
};
use super::ports;
use super::sources::Span;

/// Checks everything. The model is valid if this reports no error.
pub(super) fn check(built: &Built, diagnostics: &mut Vec<Diagnostic>) {
    let Built { config, places, .. } = built;
    // In a file with syntax errors, the parser skips parts: what seems missing may be there.
    let readable = diagnostics.iter().all(|each| each.code != Code::Syntax);
    if readable && !places.has_listeners {
        diagnostics.push(
            Diagnostic::of_file(Code::Missing, "the configuration has no listener")
                .hint("add e.g. `[listener.public]` with `bind = [\"0.0.0.0:80\"]`"),
        );
    }
    if readable && !places.has_routes {
        diagnostics.push(
            Diagnostic::of_file(Code::Missing, "the configuration has no route")
                .hint("add e.g. `[[route]]` with `upstream = \"…\"`"),
        );
    }
    check_binds(config, places, diagnostics);
    check_names(config, places, diagnostics);
    shared_limits::check(config, places, diagnostics);
    auth::check(config, places, diagnostics);
    check_client_certificates(config, places, diagnostics);
    check_conditions(config, &places.routes, diagnostics);
    check_redirected(config, &places.routes, diagnostics);
    check_reachable(config, &places.routes, diagnostics);
    split::check_cookies(config, &places.routes, diagnostics);
    own_listener::check(config, places, diagnostics);
    store::check(config, places, diagnostics);
    check_source_ports(config, &places.upstreams, ports::local(), diagnostics);
    if diagnostics
        .iter()
        .any(|each| each.severity == Severity::Error)
    {
        return;
    }
    let routes = config.routes.iter();
    let services = config.auth.iter().filter_map(|auth| match &auth.method {
        AuthMethod::Service(service) => Some(&service.upstream),
        AuthMethod::Token(_) => None,
    });
    let used: HashSet<&Arc<str>> = routes
        .flat_map(|route| route.leads_to.upstreams())
        .chain(services)
        .collect();
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        if !used.contains(&upstream.name) {
            let message = format!("no route uses upstream `{}`", upstream.name);
            diagnostics.push(Diagnostic::warning(
                Code::Unused,
                place.name.clone(),
                message,
            ));
        }
    }
    auth::check_unused(config, places, diagnostics);
    auth::check_hashes(config, places, diagnostics);
}

fn check_binds(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let Admin {
        bind, metrics_bind, ..
    } = &config.admin;
    let listeners = config.listeners.iter().zip(&places.listeners);
    let listeners = listeners.flat_map(|(listener, place)| {
        let binds = listener.binds.iter().zip(&place.binds);
        binds.map(|(bind, span)| (bind, Some(span), Some(&listener.name)))
    });
    let admin = [
        (bind, &places.admin_bind),
        (metrics_bind, &places.metrics_bind),
    ];
    let admin = admin
        .into_iter()
        .filter_map(|(bind, span)| Some((bind.as_ref()?, span.as_ref(), None)));
    let mut bound: Vec<(&Bind, Option<&Arc<str>>)> = Vec::new();
    for (bind, span, listener) in listeners.chain(admin) {
        let other = bound.iter().find(|(other, _)| overlap(other, bind));
        if let (Some((other, owner)), Some(span)) = (other, span) {
            let by = match owner {
                Some(name) => format!("`{other}` of listener `{name}`"),
                None => "`admin.bind`".to_owned(),
            };
            let message = format!("`{bind}` is already in use by {by}");
            diagnostics.push(Diagnostic::error(Code::Duplicate, span.clone(), message));
        }
        bound.push((bind, listener));
    }
}

/// Whether the two addresses cannot both be bound at once.
pub(crate) fn overlap(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Tcp(one), Bind::Tcp(other)) => overlap_tcp(one, other),
        (Bind::Unix { path: one, .. }, Bind::Unix { path: other, .. }) => one == other,
        (Bind::Systemd(one), Bind::Systemd(other)) => one == other,
        _ => false,
    }
}

fn overlap_tcp(one: &SocketAddr, other: &SocketAddr) -> bool {
    // Port 0 lets the kernel choose. IPv6 sockets are V6ONLY, so they never overlap with IPv4.
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (any || one.ip() == other.ip())
}

fn check_names(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let upstreams = KnownNames::new("upstream", places.upstream_names.as_ref());
    let listeners = KnownNames::new("listener", places.listener_names.as_ref());
    let mut names: HashMap<&str, Span> = HashMap::new();
    for (route, place) in config.routes.iter().zip(&places.routes) {
        let leads_to = route.leads_to.upstreams().zip(&place.upstreams);
        diagnostics.extend(leads_to.filter_map(|(name, span)| upstreams.check(name, span)));
        let bound = route.listeners.iter().flatten().zip(&place.listeners);
        diagnostics.extend(bound.filter_map(|(name, span)| listeners.check(name, span)));
        if route.listeners.as_ref().is_some_and(Vec::is_empty) {
            let message = "the list is empty, so the route can never match";
            diagnostics.push(Diagnostic::error(
                Code::Unreachable,
                place.route.clone(),
                message,
            ));
        }
        let span = place.name.clone().unwrap_or_else(|| place.route.clone());
        if let Some(first) = names.get(&*route.name) {
            let message = format!("another route already has the name `{}`", route.name);
            diagnostics.push(Diagnostic::error(Code::Duplicate, span, message).first(first));
        } else {
            names.insert(&route.name, span);
        }
    }
}

/// Whether `route` applies to requests on `listener`.
pub(super) fn is_bound_to(route: &RouteConfig, listener: &ListenerConfig) -> bool {
    let bound = route.listeners.as_ref();
    bound.is_none_or(|names| names.contains(&listener.name))
}

/// A route that requires a client certificate must have a listener that asks for one.
fn check_client_certificates(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (route, place) in config.routes.iter().zip(&places.routes) {
        let Some(span) = &place.client_certificate else {
            continue;
        };
        let mut listeners = config.listeners.iter().zip(&places.listeners);
        if !listeners.any(|(listener, place)| is_bound_to(route, listener) && place.may_ask) {
            let message = "no listener of the route asks clients for a certificate";
            diagnostics.push(
                Diagnostic::error(Code::Unreachable, span.clone(), message)
                    .hint("add `[listener.NAME.tls.client_auth]`"),
            );
        }
    }
}

/// A route cannot depend on headers that tidegate itself writes: in a client's request they mean nothing.
fn check_conditions(config: &Config, places: &[RoutePlaces], diagnostics: &mut Vec<Diagnostic>) {
    let certificates = config.listeners.iter().filter_map(|listener| {
        let auth = listener.tls.as_ref()?.client_auth.as_ref()?;
        auth.header.as_ref()
    });
    let ours: Vec<_> = certificates.chain(&config.server.request_id).collect();
    for (route, place) in config.routes.iter().zip(places) {
        for (name, _) in &route.conditions.headers {
            if ours
                .iter()
                .any(|ours| same_variable(ours.as_str(), name.as_str()))
            {
                let message = format!(
                    "route `{}` depends on header `{name}`, which tidegate itself writes",
                    route.name
                );
                diagnostics.push(Diagnostic::error(Code::Value, place.route.clone(), message));
            }
        }
    }
}

/// If every listener redirects to https, only routes that name a listener can ever match.
fn check_redirected(config: &Config, places: &[RoutePlaces], diagnostics: &mut Vec<Diagnostic>) {
    let redirects = |listener: &ListenerConfig| {
        let trust = &listener.trust;
        listener.redirect_to_https && trust.proxies.is_empty() && !trust.proxy_protocol
    };
    if config.listeners.is_empty() || !config.listeners.iter().all(redirects) {
        return;
    }
    for (route, place) in config.routes.iter().zip(places) {
        if route.listeners.is_none() {
            let message = format!("route `{}` can never match", route.name);
            diagnostics.push(
                Diagnostic::warning(Code::Unreachable, place.route.clone(), message)
                    .hint("every listener redirects to https; name one of them in `listeners`"),
            );
        }
    }
}

/// An endpoint cannot have more connections than there are local ports to connect to it from.
fn check_source_ports(
    config: &Config,
    places: &[UpstreamPlaces],
    ports: usize,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (upstream, place) in config.upstreams.iter().zip(places) {
        let sources = &upstream.reach.sources;
        let max_tunnels = |endpoint: &EndpointConfig| {
            let own = match &endpoint.address {
                Address::Unix(_) => return usize::MAX,
                Address::Ip(to) => sources
                    .iter()
                    .filter(|ip| ip.is_ipv4() == to.is_ipv4())
                    .count(),
                Address::Name { .. } => sources.len(),
            };
            own.max(1).saturating_mul(ports)
        };
        let mut endpoints = upstream.endpoints.iter();
        let beyond = endpoints.find_map(|each| {
            let (max, wanted) = (max_tunnels(each), each.max_tunnels?);
            (wanted > max).then_some((&each.address, wanted, max))
        });
        if let Some((address, wanted, max)) = beyond {
            let message = format!(
                "`{address}` may have {wanted} tunnels, but there are only {max} local ports"
            );
            diagnostics.push(
                Diagnostic::warning(Code::SourcePorts, place.name.clone(), message).hint(
                    "list more addresses of this machine in `source`, or widen \
                     `net.ipv4.ip_local_port_range`",
                ),
            );
        }
    }
}

/// A route is unreachable if, for each of its hosts and on each of its listeners, an earlier route
/// matches the same path under conditions that the route's own conditions include. A more specific
/// route always wins, and a less specific one keeps the remaining requests.
fn check_reachable(config: &Config, places: &[RoutePlaces], diagnostics: &mut Vec<Diagnostic>) {
    let mut earlier_routes: HashMap<(Option<String>, &PathMatch), Vec<&RouteConfig>> =
        HashMap::new();
    // What a route with errors matches is unknown: it neither loses requests nor takes those of others.
    let routes = config.routes.iter().zip(places);
    for (route, place) in routes.filter(|(_, place)| !place.is_flawed) {
        let hosts: Vec<Option<String>> = match route.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(|host| Some(host.to_string())).collect(),
        };
        // Only routes with the same host pattern and the same path compete by order; between others,
        // the more specific one wins wherever it stands.
        let winner = |host: &Option<String>, listener: &ListenerConfig| {
            let earlier = earlier_routes.get(&(host.clone(), &route.path))?;
            let takes = |earlier: &&&RouteConfig| {
                // On a listener that redirects to https, only routes that name it take requests.
                let aside = listener.redirect_to_https
                    && earlier.listeners.is_none()
                    && route.listeners.is_some();
                is_bound_to(earlier, listener)
                    && !aside
                    && includes(&route.conditions, &earlier.conditions)
            };
            earlier.iter().find(takes).copied()
        };
        // For each host, the first route that takes its requests on every listener, if there is one.
        let lost: Vec<Option<&RouteConfig>> = hosts
            .iter()
            .map(|host| {
                let listeners = config.listeners.iter();
                let bound = listeners.filter(|listener| is_bound_to(route, listener));
                let winners: Option<Vec<&RouteConfig>> =
                    bound.map(|listener| winner(host, listener)).collect();
                winners?.first().copied()
            })
            .collect();
        let hint = |first: &RouteConfig| {
            format!(
                "route `{}` comes first and matches the same requests",
                first.name
            )
        };
        if let Some(Some(first)) = lost.first()
            && lost.iter().all(Option::is_some)
        {
            let message = format!("route `{}` can never match", route.name);
            let error = Diagnostic::error(Code::Unreachable, place.route.clone(), message);
            diagnostics.push(error.hint(hint(first)));
        } else {
            let hosts = route.hosts.iter().zip(&place.hosts);
            for ((host, span), first) in hosts.zip(lost) {
                if let Some(first) = first {
                    let message =
                        format!("requests for `{host}` never reach route `{}`", route.name);
                    let warning = Diagnostic::warning(Code::Shadowed, span.clone(), message);
                    diagnostics.push(warning.hint(hint(first)));
                }
            }
        }
        for host in hosts {
            earlier_routes
                .entry((host, &route.path))
                .or_default()
                .push(route);
        }
    }
}

/// Whether every request that fulfils `own` fulfils `other`, too. With as many conditions, the earlier
/// route wins then.
fn includes(own: &Conditions, other: &Conditions) -> bool {
    fn all_in<T: PartialEq>(few: &[T], many: &[T]) -> bool {
        few.iter().all(|each| many.contains(each))
    }
    // An empty list means any value; otherwise, `other` must list all values of `own`.
    fn narrower<T: PartialEq>(own: &[T], other: &[T]) -> bool {
        other.is_empty() || (!own.is_empty() && all_in(own, other))
    }
    own.count() == other.count()
        && (other.only.is_none() || own.only == other.only)
        && narrower(&own.methods, &other.methods)
        && narrower(&own.subprotocols, &other.subprotocols)
        && all_in(&other.headers, &own.headers)
        && all_in(&other.query, &own.query)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn warnings(upstream: &str) -> Vec<String> {
        let source = format!(
            "[listener.a]\nbind = [\"127.0.0.1:80\"]\n[[route]]\nupstream = \"a\"\n\
             [upstream.a]\n{upstream}\n"
        );
        let loaded = crate::config::parse(&source, Path::new("a.toml"), &|_| None).unwrap();
        loaded.warnings.lines().collect()
    }

    #[test]
    fn more_tunnels_than_ports_are_warned_about() {
        // Nowhere are there more ports than these.
        let wanted = u16::MAX as usize + 1;
        let own: Vec<String> = (1..=255).map(|n| format!("\"127.0.0.{n}\"")).collect();
        let own = own.join(", ");
        let listed = |address: &str| {
            format!("endpoints = [{{ address = \"{address}\", max_tunnels = {wanted} }}]\n")
        };
        let check = |upstream: String, expected: usize| {
            let warnings = warnings(&upstream);
            assert_eq!(warnings.len(), expected, "{upstream}: {warnings:?}");
        };
        check(listed("10.0.0.1:9000"), 1);
        check(listed("chat.internal:9000"), 1);
        check(listed("unix:/run/chat.sock"), 0);
        check("endpoints = [\"10.0.0.1:9000\"]".into(), 0);
        // Enough even where the range is the narrowest that anybody would have.
        check(format!("{}source = [{own}]", listed("10.0.0.1:9000")), 0);
        check(format!("{}source = [{own}]", listed("[::1]:9000")), 1);
        let warned = warnings(&listed("10.0.0.1:9000"));
        assert!(warned[0].contains("may have 65536 tunnels"), "{warned:?}");
    }

    #[test]
    fn hosts_that_an_earlier_route_takes_are_warned_about() {
        let warnings = |routes: &str| {
            let source = format!(
                "[listener.a]\nbind = [\"127.0.0.1:80\"]\n[listener.b]\nbind = [\"127.0.0.1:81\"]\n\
                 {routes}[upstream.a]\nendpoints = [\"127.0.0.1:9000\"]\n"
            );
            let loaded = crate::config::parse(&source, Path::new("a.toml"), &|_| None).unwrap();
            let diagnostics = loaded.warnings.diagnostics().iter();
            diagnostics
                .map(|each| each.message.clone())
                .collect::<Vec<_>>()
        };
        let route = |lines: &str| format!("[[route]]\nupstream = \"a\"\n{lines}\n");
        let check = |first: &str, second: &str, expected: &[&str]| {
            let routes = route(first) + &route(second);
            assert_eq!(warnings(&routes), expected, "{routes}");
        };
        let both = "hosts = [\"b.example\", \"a.example\"]";
        check(
            "hosts = [\"a.example\"]",
            both,
            &["requests for `a.example` never reach route `route-2`"],
        );
        check("hosts = [\"*.example\"]", both, &[]);
        check("hosts = [\"a.example\"]\npath = \"/a\"", both, &[]);
        check("hosts = [\"a.example\"]\nquery.a = \"1\"", both, &[]);
        // Another one on one listener is what a route that is bound to it is for.
        check("hosts = [\"a.example\"]\nlisteners = [\"b\"]", both, &[]);
    }
}
