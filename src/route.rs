//! The route table: finds the route of a request.
//!
//! Pure. It works on positions in the configuration's list of routes; `snapshot` knows what a route
//! leads to. The most specific route wins: an exact host before a wildcard before any host, then an
//! exact path before the longest prefix before any path, then more conditions before fewer, then
//! the order of the file.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};

use crate::config::model::{Conditions, HostPattern, PathMatch, RequestKind, RouteConfig};
use crate::protocol::handshake::Handshake;
use crate::protocol::rejection::Rejection;

/// The properties of a request that routes match on.
#[derive(Debug, Clone, Copy)]
pub struct RouteQuery<'a> {
    /// The listener that received the request.
    pub listener: &'a str,
    /// Whether only routes that name this listener can match: it redirects all other requests to https.
    pub bound_only: bool,
    /// The host, in lower case and without a port.
    pub host: &'a str,
    /// The path, in its normal form.
    pub path: &'a str,
    /// The path as the loosest servers read it; `None` if that is the same.
    pub loose_path: Option<&'a str>,
    /// The query as received, without the question mark.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The handshake; `None` for a plain request.
    pub handshake: Option<&'a Handshake<'a>>,
}

impl RouteQuery<'_> {
    fn kind(&self) -> RequestKind {
        match self.handshake {
            Some(_) => RequestKind::Handshake,
            None => RequestKind::Plain,
        }
    }
}

/// The lists in a request that conditions look into. They are parsed when the first condition needs
/// them, and once for all routes: a client decides how long they are, a configuration how many routes
/// look.
#[derive(Debug)]
struct ParsedQuery<'a> {
    request: &'a RouteQuery<'a>,
    parameters: OnceCell<HashSet<(Cow<'a, str>, Cow<'a, str>)>>,
    subprotocols: OnceCell<HashSet<&'a [u8]>>,
}

impl<'a> ParsedQuery<'a> {
    fn new(request: &'a RouteQuery<'a>) -> Self {
        Self {
            request,
            parameters: OnceCell::new(),
            subprotocols: OnceCell::new(),
        }
    }

    fn has_parameter(&self, name: &str, value: &str) -> bool {
        let query = self.request.query.unwrap_or_default().as_bytes();
        let parameters = self
            .parameters
            .get_or_init(|| form_urlencoded::parse(query).collect());
        parameters.contains(&(Cow::Borrowed(name), Cow::Borrowed(value)))
    }

    fn offers_subprotocol(&self, name: &str) -> bool {
        let handshake = self.request.handshake;
        let offered = self.subprotocols.get_or_init(|| {
            handshake
                .into_iter()
                .flat_map(Handshake::subprotocols)
                .collect()
        });
        offered.contains(name.as_bytes())
    }
}

/// All routes, by host and then by path. The cost of a lookup grows neither with the number of routes
/// nor with that of segments in the path, only with the number of lengths that the prefixes of one
/// host have.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, HostRoutes>,
    wildcard: HashMap<Box<str>, HostRoutes>,
    any: HostRoutes,
    /// Whether the path of each route is itself one that loose servers read in another way.
    is_literal: Box<[bool]>,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct HostRoutes {
    exact: HashMap<Box<str>, Vec<RouteEntry>>,
    prefix: HashMap<Box<str>, Vec<RouteEntry>>,
    /// The lengths of the prefixes, each once, the longest first.
    prefix_lengths: Vec<usize>,
    any: Vec<RouteEntry>,
}

/// A route in the list of one host and path.
#[derive(Debug, Clone)]
struct RouteEntry {
    position: usize,
    listeners: Option<Arc<[Arc<str>]>>,
    conditions: Option<Arc<Conditions>>,
}

impl RouteEntry {
    /// The number of its conditions.
    fn count(&self) -> usize {
        self.conditions
            .as_ref()
            .map_or(0, |conditions| conditions.count())
    }

    /// Whether the request meets all conditions but the method.
    fn fits(&self, parsed: &ParsedQuery<'_>) -> bool {
        let conditions = self.conditions.as_deref();
        mismatch(self.listeners.as_deref(), conditions, parsed).is_none()
    }
}

impl RouteTable {
    /// Builds the table. [`decide`](Self::decide) returns positions in `routes`.
    pub fn new(routes: &[RouteConfig]) -> Self {
        let is_literal = routes.iter().map(|route| route.path.is_literal());
        let mut table = Self {
            is_literal: is_literal.collect(),
            ..Self::default()
        };
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

    /// The route of `request`, if loose servers cannot see a path of another one. Such a path would get past
    /// what that route requires. A route that is itself written in such a way means the path as it is.
    ///
    /// Several slashes and parameters of segments also come from clients that mean no harm, and other proxies
    /// pass them on. They are refused only if the route at the first position is restricted by that at the
    /// second one.
    ///
    /// # Errors
    /// [`Rejection::EncodedSlash`].
    pub fn decide(
        &self,
        request: &RouteQuery<'_>,
        is_restricted: impl FnOnce(usize, usize) -> bool,
    ) -> Result<Option<usize>, Rejection> {
        let found = self.find(request);
        let (Some(position), Some(path)) = (found, request.loose_path) else {
            return Ok(found);
        };
        if self.is_literal.get(position) == Some(&true) {
            return Ok(found);
        }
        let other = self.find(&RouteQuery { path, ..*request });
        let is_harmless = other == found
            || (!request.path.contains('%')
                && !other.is_some_and(|other| is_restricted(position, other)));
        match is_harmless {
            true => Ok(found),
            false => Err(Rejection::EncodedSlash),
        }
    }

    /// The route of `request` by its path as it is. A handshake is a GET, and goes where a GET would go. But `methods` limits
    /// plain requests only: if the handshake matches nothing else, routes for other methods match, too.
    pub fn find(&self, request: &RouteQuery<'_>) -> Option<usize> {
        let parsed = ParsedQuery::new(request);
        let otherwise = || self.find_by(&parsed, Methods::Any);
        self.find_by(&parsed, Methods::Enforced)
            .or_else(|| request.handshake.and_then(|_| otherwise()))
    }

    fn find_by(&self, parsed: &ParsedQuery<'_>, methods: Methods) -> Option<usize> {
        let request = parsed.request;
        let wildcard = || {
            // A wildcard stands for exactly one label, as in certificates.
            let (label, parent) = request.host.split_once('.')?;
            if label.is_empty() {
                None
            } else {
                self.wildcard.get(parent)
            }
        };
        self.exact
            .get(request.host)
            .and_then(|paths| paths.find(parsed, methods))
            .or_else(|| wildcard()?.find(parsed, methods))
            .or_else(|| self.any.find(parsed, methods))
    }
}

impl HostRoutes {
    fn insert(&mut self, path: &PathMatch, entry: RouteEntry) {
        let entries = match path {
            PathMatch::Any => &mut self.any,
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathMatch::Prefix(path) => {
                let longer = self.prefix_lengths.partition_point(|it| *it > path.len());
                if self.prefix_lengths.get(longer) != Some(&path.len()) {
                    self.prefix_lengths.insert(longer, path.len());
                }
                self.prefix.entry(path.clone()).or_default()
            }
        };
        // More conditions first; routes with equally many stay in the order of the file.
        let at = entries.partition_point(|earlier| earlier.count() >= entry.count());
        entries.insert(at, entry);
    }

    fn find(&self, parsed: &ParsedQuery<'_>, methods: Methods) -> Option<usize> {
        self.exact
            .get(parsed.request.path)
            .and_then(|entries| first(entries, parsed, methods))
            .or_else(|| self.find_prefix(parsed, methods))
            .or_else(|| first(&self.any, parsed, methods))
    }

    /// Tries the longest prefix first. What a client sends beyond that is never looked at: it decides
    /// neither how many lookups there are nor how much each of them hashes.
    fn find_prefix(&self, parsed: &ParsedQuery<'_>, methods: Methods) -> Option<usize> {
        let path = parsed.request.path;
        self.prefix_lengths.iter().find_map(|&length| {
            // A prefix matches whole segments, so `/a` does not match `/ab`.
            let is_whole = path.len() == length || path.as_bytes().get(length) == Some(&b'/');
            let prefix = path.get(..length).filter(|_| is_whole)?;
            first(self.prefix.get(prefix)?, parsed, methods)
        })
    }
}

/// Why a request does not match a route, apart from the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch<'a> {
    /// The route names other listeners.
    Listener,
    /// The route names no listener, and this one redirects to https.
    Unbound,
    /// The route is for the other kind of requests: those of this kind.
    Kind(RequestKind),
    /// This header field is missing or has another value.
    Header(&'a HeaderName),
    /// This query parameter is missing or has another value.
    Query(&'a str),
    /// The handshake offers none of the route's subprotocols.
    Subprotocols,
}

fn mismatch<'a>(
    listeners: Option<&[Arc<str>]>,
    conditions: Option<&'a Conditions>,
    parsed: &ParsedQuery<'_>,
) -> Option<Mismatch<'a>> {
    let request = parsed.request;
    match listeners {
        Some(names) if !names.iter().any(|name| **name == *request.listener) => {
            return Some(Mismatch::Listener);
        }
        None if request.bound_only => return Some(Mismatch::Unbound),
        _ => {}
    }
    let Conditions {
        only,
        methods: _,
        headers,
        query,
        subprotocols,
    } = conditions?;
    if let Some(kind) = only.filter(|kind| *kind != request.kind()) {
        return Some(Mismatch::Kind(kind));
    }
    let missing = headers.iter().find(|(name, value)| {
        let mut lines = request.headers.get_all(name).iter();
        !lines.any(|line| line == value)
    });
    if let Some((name, _)) = missing {
        return Some(Mismatch::Header(name));
    }
    let missing = query
        .iter()
        .find(|(name, value)| !parsed.has_parameter(name, value));
    if let Some((name, _)) = missing {
        return Some(Mismatch::Query(name));
    }
    let mut wanted = subprotocols.iter();
    let offered = wanted.any(|name| parsed.offers_subprotocol(name));
    (!subprotocols.is_empty() && !offered).then_some(Mismatch::Subprotocols)
}

/// Everything that speaks against a route for a request, as text for an operator; `None` if nothing does.
pub fn why_not(route: &RouteConfig, request: &RouteQuery<'_>) -> Option<String> {
    let reasons = [
        (!route.fits_host(request.host)).then(|| wrong_host(&route.hosts, request.host)),
        wrong_path(&route.path, request.path),
        unmet_condition(route, request),
    ];
    let reasons: Vec<String> = reasons.into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Hosts of a route that a reason lists.
const LISTED_HOSTS: usize = 5;

fn wrong_host(hosts: &[HostPattern], host: &str) -> String {
    let is_deeper = |pattern: &&HostPattern| match pattern {
        HostPattern::Exact(_) => false,
        HostPattern::Wildcard(parent) => host
            .strip_suffix(&**parent)
            .is_some_and(|labels| labels.ends_with('.')),
    };
    if let Some(wildcard) = hosts.iter().find(is_deeper) {
        return format!("its host `{wildcard}` stands for exactly one label more");
    }
    let listed = hosts.iter().take(LISTED_HOSTS);
    let mut listed: Vec<String> = listed.map(|host| format!("`{host}`")).collect();
    if let Some(more @ 1..) = hosts.len().checked_sub(LISTED_HOSTS) {
        listed.push(format!("{more} more"));
    }
    match listed.as_slice() {
        [only] => format!("its host is {only}"),
        several => format!("its hosts are {}", several.join(", ")),
    }
}

fn wrong_path(wanted: &PathMatch, path: &str) -> Option<String> {
    match wanted {
        _ if wanted.fits(path) => None,
        PathMatch::Any => None,
        PathMatch::Exact(exact) => Some(format!("its path is `{exact}`")),
        PathMatch::Prefix(prefix) if path.starts_with(&**prefix) => Some(format!(
            "its path prefix `{prefix}` matches whole segments only"
        )),
        PathMatch::Prefix(prefix) => Some(format!("its path prefix is `{prefix}`")),
    }
}

/// The first condition apart from host and path that a request does not meet.
fn unmet_condition(route: &RouteConfig, request: &RouteQuery<'_>) -> Option<String> {
    let methods = &route.conditions.methods;
    let has_method =
        request.handshake.is_some() || methods.is_empty() || methods.contains(request.method);
    let parsed = ParsedQuery::new(request);
    let mismatch = mismatch(route.listeners.as_deref(), Some(&route.conditions), &parsed);
    Some(match mismatch {
        Some(Mismatch::Listener) => format!("it does not list listener `{}`", request.listener),
        Some(Mismatch::Unbound) => {
            "the listener redirects to https, and the route does not name it".to_owned()
        }
        Some(Mismatch::Kind(RequestKind::Handshake)) => {
            "it matches only WebSocket handshakes".to_owned()
        }
        Some(Mismatch::Kind(RequestKind::Plain)) => {
            "it matches only plain HTTP requests".to_owned()
        }
        _ if !has_method => format!("it does not allow method {}", request.method),
        Some(Mismatch::Header(name)) => format!("header `{name}` is missing or has another value"),
        Some(Mismatch::Query(name)) => {
            format!("query parameter `{name}` is missing or has another value")
        }
        Some(Mismatch::Subprotocols) => "the client offers none of its subprotocols".to_owned(),
        None => return None,
    })
}

/// Whether a route's methods have to include the request's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Methods {
    Enforced,
    Any,
}

fn first(entries: &[RouteEntry], parsed: &ParsedQuery<'_>, methods: Methods) -> Option<usize> {
    let has_method = |entry: &&RouteEntry| {
        let conditions = entry.conditions.as_ref();
        let listed = conditions.map_or(&[][..], |conditions| &conditions.methods);
        methods == Methods::Any || listed.is_empty() || listed.contains(parsed.request.method)
    };
    let mut fitting = entries.iter().filter(|entry| entry.fits(parsed));
    fitting.find(has_method).map(|entry| entry.position)
}

#[cfg(test)]
mod tests;
