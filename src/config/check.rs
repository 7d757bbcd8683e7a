//! What is wrong between parts of a configuration: names that lead nowhere, addresses bound twice,
//! routes that can never match.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use super::build::{Built, RoutePlaces};
use super::diagnostic::{Diagnostic, Severity};
use super::model::{Bind, Config, PathMatch, Route};

/// Checks everything; the model is valid if this finds no error.
pub(super) fn check(built: &Built, found: &mut Vec<Diagnostic>) {
    let Built { config, places } = built;
    // What is missing is not told of a file whose syntax is wrong: it may be there.
    let readable = found.iter().all(|each| each.code != "syntax");
    if readable && !places.has_listeners {
        found.push(
            Diagnostic::of_file("missing", "there is no listener")
                .hint("begin with `[listener.public]` and `bind = [\"0.0.0.0:80\"]`"),
        );
    }
    if readable && !places.has_routes {
        found.push(
            Diagnostic::of_file("missing", "there is no route")
                .hint("begin with `[[route]]` and `upstream = \"…\"`"),
        );
    }
    check_binds(config, &places.binds, found);
    check_names(config, &places.routes, found);
    check_reachable(config, &places.routes, found);
    if found.iter().any(|each| each.severity == Severity::Error) {
        return;
    }
    let used: HashSet<&Arc<str>> = config.routes.iter().map(|route| &route.upstream).collect();
    for (upstream, span) in config.upstreams.iter().zip(&places.upstreams) {
        if !used.contains(&upstream.name) {
            let message = format!("no route leads to upstream `{}`", upstream.name);
            found.push(Diagnostic::warning("unused", span.clone(), message));
        }
    }
}

fn check_binds(config: &Config, places: &[Vec<Range<usize>>], found: &mut Vec<Diagnostic>) {
    let mut known: Vec<(&Bind, &str)> = Vec::new();
    for (listener, spans) in config.listeners.iter().zip(places) {
        for (bind, span) in listener.binds.iter().zip(spans) {
            if let Some((other, name)) = known.iter().find(|(other, _)| overlap(other, bind)) {
                let message = format!("`{bind}` is taken by `{other}` of listener `{name}`");
                found.push(Diagnostic::error("duplicate", span.clone(), message));
            }
            known.push((bind, &listener.name));
        }
    }
}

/// Whether both cannot be bound at once.
pub(crate) fn overlap(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Tcp(one), Bind::Tcp(other)) => overlap_tcp(one, other),
        (Bind::Unix { path: one, .. }, Bind::Unix { path: other, .. }) => one == other,
        _ => false,
    }
}

fn overlap_tcp(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (any || one.ip() == other.ip())
}

fn check_names(config: &Config, places: &[RoutePlaces], found: &mut Vec<Diagnostic>) {
    let upstreams: Vec<&str> = config.upstreams.iter().map(|each| &*each.name).collect();
    let listeners: Vec<&str> = config.listeners.iter().map(|each| &*each.name).collect();
    let mut names = HashSet::new();
    for (route, place) in config.routes.iter().zip(places) {
        if !upstreams.contains(&&*route.upstream) {
            found.push(dangling(
                "upstream",
                &route.upstream,
                &upstreams,
                &place.upstream,
            ));
        }
        let bound = route.listeners.iter().flatten().zip(&place.listeners);
        for (name, span) in bound {
            if !listeners.contains(&&**name) {
                found.push(dangling("listener", name, &listeners, span));
            }
        }
        if route.listeners.as_ref().is_some_and(Vec::is_empty) {
            let message = "a route that is bound to no listener can never match";
            found.push(Diagnostic::error(
                "unreachable",
                place.route.clone(),
                message,
            ));
        }
        if !names.insert(&route.name) {
            let span = place.name.clone().unwrap_or_else(|| place.route.clone());
            let message = format!("another route has the name `{}`", route.name);
            found.push(Diagnostic::error("duplicate", span, message));
        }
    }
}

fn dangling(kind: &str, name: &str, known: &[&str], span: &Range<usize>) -> Diagnostic {
    let message = format!("there is no {kind} `{name}`");
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8);
    Diagnostic::error("dangling", span.clone(), message).hint(match near {
        Some((_, near)) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("add `[{kind}.{name}]`"),
        None => format!("known: {}", known.join(", ")),
    })
}

/// A route is lost if, for each of its hosts, an earlier one takes the same host and path on all
/// of its listeners. A more specific route never loses, and a less specific one keeps the rest.
fn check_reachable(config: &Config, places: &[RoutePlaces], found: &mut Vec<Diagnostic>) {
    let mut taken: HashMap<(Option<String>, &PathMatch), Vec<&Route>> = HashMap::new();
    for (route, place) in config.routes.iter().zip(places) {
        let hosts: Vec<Option<String>> = match route.hosts.as_slice() {
            [] => vec![None],
            hosts => hosts.iter().map(|host| Some(host.to_string())).collect(),
        };
        let winner = |host: &Option<String>| {
            let earlier = taken.get(&(host.clone(), &route.path))?;
            earlier
                .iter()
                .find(|earlier| covers(earlier, route, config))
                .copied()
        };
        let winners: Vec<Option<&Route>> = hosts.iter().map(winner).collect();
        if let Some(Some(first)) = winners.first()
            && winners.iter().all(Option::is_some)
        {
            let message = format!("route `{}` can never match", route.name);
            found.push(
                Diagnostic::error("unreachable", place.route.clone(), message).hint(format!(
                    "route `{}` comes first and takes the same requests",
                    first.name
                )),
            );
        }
        for host in hosts {
            taken.entry((host, &route.path)).or_default().push(route);
        }
    }
}

/// Whether `earlier` is bound to all listeners that `route` is bound to.
fn covers(earlier: &Route, route: &Route, config: &Config) -> bool {
    let Some(bound) = &earlier.listeners else {
        return true;
    };
    match &route.listeners {
        Some(listeners) => listeners.iter().all(|name| bound.contains(name)),
        None => config
            .listeners
            .iter()
            .all(|listener| bound.contains(&listener.name)),
    }
}
