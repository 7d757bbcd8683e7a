//! Which route a request takes: the table, and the look-up.
//!
//! Pure. Works on positions in the configuration's list of routes; what a route leads to is
//! `snapshot`'s business. The most specific route wins: an exact host over a wildcard over any,
//! then an exact path over the longest prefix over any, then more conditions over fewer, then the
//! order of the file.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use crate::config::model::{Conditions, HostPattern, PathMatch, RouteConfig};
use crate::protocol::handshake::Handshake;

/// What routes are found by.
#[derive(Debug, Clone, Copy)]
pub struct RouteQuery<'a> {
    /// The listener that it came in by.
    pub listener: &'a str,
    /// Whether only routes that are bound to that listener by name may take it.
    pub bound_only: bool,
    /// Lower case, no port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    /// As received, without the question mark.
    pub query: Option<&'a str>,
    /// Its method.
    pub method: &'a Method,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// `None` for plain HTTP.
    pub handshake: Option<&'a Handshake<'a>>,
}

/// All routes, by host and then by path. Cost does not grow with their number, only with the
/// number of segments in the path.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, HostRoutes>,
    wildcard: HashMap<Box<str>, HostRoutes>,
    any: HostRoutes,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct HostRoutes {
    exact: HashMap<Box<str>, Vec<RouteEntry>>,
    prefix: HashMap<Box<str>, Vec<RouteEntry>>,
    any: Vec<RouteEntry>,
}

/// One route under one host and path.
#[derive(Debug, Clone)]
struct RouteEntry {
    position: usize,
    listeners: Option<Arc<[Arc<str>]>>,
    conditions: Option<Arc<Conditions>>,
}

impl RouteEntry {
    /// How many conditions it has.
    fn count(&self) -> usize {
        self.conditions.as_ref().map_or(0, |them| them.count())
    }

    /// Whether it takes such requests, whatever their method.
    fn fits(&self, request: &RouteQuery<'_>) -> bool {
        let conditions = self.conditions.as_deref();
        mismatch(self.listeners.as_deref(), conditions, request).is_none()
    }
}

impl RouteTable {
    /// Builds the table; the result of [`find`](Self::find) is a position in `routes`.
    pub fn new(routes: &[RouteConfig]) -> Self {
        let mut table = Self::default();
        for (position, route) in routes.iter().enumerate() {
            let entry = RouteEntry {
                position,
                listeners: route.listeners.as_deref().map(Arc::from),
                conditions: (route.conditions.count() > 0)
                    .then(|| Arc::new(route.conditions.clone())),
            };
            if route.hosts.is_empty() {
                table.any.insert(&route.path, entry.clone());
            }
            for host in &route.hosts {
                let paths = match host {
                    HostPattern::Exact(name) => table.exact.entry(name.clone()),
                    HostPattern::Wildcard(parent) => table.wildcard.entry(parent.clone()),
                };
                paths.or_default().insert(&route.path, entry.clone());
            }
        }
        table
    }

    /// The route that takes `request`. A handshake is a GET, and goes where a GET would go; methods
    /// keep none out, though: where only routes for others are left, it takes the first of them.
    pub fn find(&self, request: &RouteQuery<'_>) -> Option<usize> {
        let otherwise = || self.find_by(request, Methods::Any);
        self.find_by(request, Methods::Enforced)
            .or_else(|| request.handshake.and_then(|_| otherwise()))
    }

    fn find_by(&self, request: &RouteQuery<'_>, methods: Methods) -> Option<usize> {
        let wildcard = || {
            let (label, parent) = request.host.split_once('.')?;
            if label.is_empty() {
                None
            } else {
                self.wildcard.get(parent)
            }
        };
        self.exact
            .get(request.host)
            .and_then(|paths| paths.find(request, methods))
            .or_else(|| wildcard()?.find(request, methods))
            .or_else(|| self.any.find(request, methods))
    }
}

impl HostRoutes {
    fn insert(&mut self, path: &PathMatch, entry: RouteEntry) {
        let entries = match path {
            PathMatch::Any => &mut self.any,
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathMatch::Prefix(path) => self.prefix.entry(path.clone()).or_default(),
        };
        let at = entries.partition_point(|known| known.count() >= entry.count());
        entries.insert(at, entry);
    }

    fn find(&self, request: &RouteQuery<'_>, methods: Methods) -> Option<usize> {
        self.exact
            .get(request.path)
            .and_then(|entries| first(entries, request, methods))
            .or_else(|| self.find_prefix(request, methods))
            .or_else(|| first(&self.any, request, methods))
    }

    /// From the whole path up, one segment shorter each time.
    fn find_prefix(&self, request: &RouteQuery<'_>, methods: Methods) -> Option<usize> {
        if self.prefix.is_empty() {
            return None;
        }
        let mut rest = request.path;
        loop {
            if let Some(found) = self
                .prefix
                .get(rest)
                .and_then(|entries| first(entries, request, methods))
            {
                return Some(found);
            }
            rest = rest.rsplit_once('/')?.0;
        }
    }
}

/// What keeps a request from a route, whatever its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch<'a> {
    /// It is not for the listener.
    Listener,
    /// It does not name the listener, which sends all others away.
    Unbound,
    /// This one does not have the value.
    Header(&'a HeaderName),
    /// Neither does this one.
    Query(&'a str),
    /// None is offered.
    Subprotocols,
}

fn mismatch<'a>(
    listeners: Option<&[Arc<str>]>,
    conditions: Option<&'a Conditions>,
    request: &RouteQuery<'_>,
) -> Option<Mismatch<'a>> {
    match listeners {
        Some(names) if !names.iter().any(|name| **name == *request.listener) => {
            return Some(Mismatch::Listener);
        }
        None if request.bound_only => return Some(Mismatch::Unbound),
        _ => {}
    }
    let Conditions {
        methods: _,
        headers,
        query,
        subprotocols,
    } = conditions?;
    let missing = headers.iter().find(|(name, value)| {
        let mut lines = request.headers.get_all(name).iter();
        !lines.any(|line| line == value)
    });
    if let Some((name, _)) = missing {
        return Some(Mismatch::Header(name));
    }
    let given = request.query.unwrap_or_default().as_bytes();
    let missing = query.iter().find(|(name, value)| {
        let mut pairs = form_urlencoded::parse(given);
        !pairs.any(|(known, given)| known == **name && given == **value)
    });
    if let Some((name, _)) = missing {
        return Some(Mismatch::Query(name));
    }
    let offered = request.handshake.is_some_and(|handshake| {
        let mut wanted = subprotocols.iter();
        wanted.any(|name| handshake.offers_subprotocol(name))
    });
    (!subprotocols.is_empty() && !offered).then_some(Mismatch::Subprotocols)
}

/// Why a route does not take a request that its host and path fit, for a person; `None` if nothing
/// is against it.
pub fn why_not(route: &RouteConfig, request: &RouteQuery<'_>) -> Option<String> {
    let methods = &route.conditions.methods;
    let has_method =
        request.handshake.is_some() || methods.is_empty() || methods.contains(request.method);
    let mismatch = mismatch(route.listeners.as_deref(), Some(&route.conditions), request);
    Some(match mismatch {
        Some(Mismatch::Listener) => format!("it is not for listener `{}`", request.listener),
        Some(Mismatch::Unbound) => "its listener sends all others to https".to_owned(),
        _ if !has_method => format!("it is not for {}", request.method),
        Some(Mismatch::Header(name)) => format!("header `{name}` is another one, or none"),
        Some(Mismatch::Query(name)) => format!("`{name}` in the query is another one, or none"),
        Some(Mismatch::Subprotocols) => "none of its subprotocols is offered".to_owned(),
        None => return None,
    })
}

/// Whether a request's host and path fit a route.
pub fn is_candidate(route: &RouteConfig, request: &RouteQuery<'_>) -> bool {
    let mut hosts = route.hosts.iter();
    (route.hosts.is_empty() || hosts.any(|host| host.fits(request.host)))
        && route.path.fits(request.path)
}

/// Whether routes have to be for the request's method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Methods {
    Enforced,
    Any,
}

fn first(entries: &[RouteEntry], request: &RouteQuery<'_>, methods: Methods) -> Option<usize> {
    let has_method = |entry: &&RouteEntry| {
        let conditions = entry.conditions.as_ref();
        let listed = conditions.map_or(&[][..], |conditions| &conditions.methods);
        methods == Methods::Any || listed.is_empty() || listed.contains(request.method)
    };
    let mut fitting = entries.iter().filter(|entry| entry.fits(request));
    fitting.find(has_method).map(|entry| entry.position)
}

#[cfg(test)]
mod tests;
