//! Which route a request takes: the table, and the look-up.
//!
//! Pure. Works on positions in the configuration's list of routes; what a route leads to is
//! `snapshot`'s business. The most specific route wins: an exact host over a wildcard over any,
//! then an exact path over the longest prefix over any, then the order of the file.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::{HostPattern, PathMatch, Route};

/// All routes, by host and then by path. Cost does not grow with their number, only with the
/// number of segments in the path.
#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Paths>,
    wildcard: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Entry>>,
    prefix: HashMap<Box<str>, Vec<Entry>>,
    any: Vec<Entry>,
}

/// One route under one host and path.
#[derive(Debug, Clone)]
struct Entry {
    position: usize,
    listeners: Option<Arc<[Arc<str>]>>,
}

impl Table {
    /// Builds the table; the result of [`find`](Self::find) is a position in `routes`.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for (position, route) in routes.iter().enumerate() {
            let entry = Entry {
                position,
                listeners: route.listeners.as_deref().map(Arc::from),
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

    /// The route for a request that came in by `listener` for `host` (lower case, no port) and the
    /// normalised `path`.
    pub fn find(&self, listener: &str, host: &str, path: &str) -> Option<usize> {
        let wildcard = || {
            let (label, parent) = host.split_once('.')?;
            if label.is_empty() {
                None
            } else {
                self.wildcard.get(parent)
            }
        };
        self.exact
            .get(host)
            .and_then(|paths| paths.find(listener, path))
            .or_else(|| wildcard()?.find(listener, path))
            .or_else(|| self.any.find(listener, path))
    }
}

impl Paths {
    fn insert(&mut self, path: &PathMatch, entry: Entry) {
        match path {
            PathMatch::Any => self.any.push(entry),
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            PathMatch::Prefix(path) => self.prefix.entry(path.clone()).or_default().push(entry),
        }
    }

    fn find(&self, listener: &str, path: &str) -> Option<usize> {
        self.exact
            .get(path)
            .and_then(|entries| first(entries, listener))
            .or_else(|| self.find_prefix(listener, path))
            .or_else(|| first(&self.any, listener))
    }

    /// From the whole path up, one segment shorter each time.
    fn find_prefix(&self, listener: &str, path: &str) -> Option<usize> {
        if self.prefix.is_empty() {
            return None;
        }
        let mut rest = path;
        loop {
            if let Some(found) = self
                .prefix
                .get(rest)
                .and_then(|entries| first(entries, listener))
            {
                return Some(found);
            }
            rest = rest.rsplit_once('/')?.0;
        }
    }
}

fn first(entries: &[Entry], listener: &str) -> Option<usize> {
    let bound = |entry: &&Entry| match &entry.listeners {
        None => true,
        Some(names) => names.iter().any(|name| **name == *listener),
    };
    entries.iter().find(bound).map(|entry| entry.position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{PlainHttp, Strictness, TunnelLimits};

    fn route(listeners: &[&str], hosts: &[&str], path: PathMatch) -> Route {
        let pattern = |host: &&str| match host.strip_prefix("*.") {
            Some(parent) => HostPattern::Wildcard(parent.into()),
            None => HostPattern::Exact((*host).into()),
        };
        Route {
            name: "r".into(),
            listeners: (!listeners.is_empty())
                .then(|| listeners.iter().map(|name| Arc::from(*name)).collect()),
            hosts: hosts.iter().map(pattern).collect(),
            path,
            upstream: "u".into(),
            http: PlainHttp::Proxy,
            handshake: Strictness::Strict,
            preserve_host: true,
            limits: TunnelLimits {
                idle: None,
                half_closed: None,
                message_bytes: None,
            },
        }
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.into())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    #[track_caller]
    fn check(routes: &[Route], cases: &[(&str, &str, Option<usize>)]) {
        let table = Table::new(routes);
        for (host, path, expected) in cases {
            assert_eq!(table.find("public", host, path), *expected, "{host}{path}");
        }
    }

    #[test]
    fn exact_host_over_wildcard_over_any() {
        let routes = [
            route(&[], &[], PathMatch::Any),
            route(&[], &["*.example.com"], PathMatch::Any),
            route(&[], &["a.example.com"], PathMatch::Any),
        ];
        check(
            &routes,
            &[
                ("a.example.com", "/", Some(2)),
                ("b.example.com", "/", Some(1)),
                ("example.com", "/", Some(0)),
                ("a.b.example.com", "/", Some(0)),
                (".example.com", "/", Some(0)),
                ("localhost", "/", Some(0)),
            ],
        );
    }

    #[test]
    fn exact_path_over_longest_prefix_over_any() {
        let routes = [
            route(&[], &[], PathMatch::Any),
            route(&[], &[], prefix("/chat")),
            route(&[], &[], prefix("/chat/rooms")),
            route(&[], &[], exact("/chat/rooms/1")),
        ];
        check(
            &routes,
            &[
                ("h", "/chat/rooms/1", Some(3)),
                ("h", "/chat/rooms/2", Some(2)),
                ("h", "/chat/rooms", Some(2)),
                ("h", "/chat/roomservice", Some(1)),
                ("h", "/chat/", Some(1)),
                ("h", "/chat", Some(1)),
                ("h", "/chatter", Some(0)),
                ("h", "/", Some(0)),
            ],
        );
    }

    #[test]
    fn a_host_whose_paths_do_not_fit_falls_back_to_the_less_specific() {
        let routes = [
            route(&[], &["a.example.com"], exact("/only")),
            route(&[], &["*.example.com"], prefix("/w")),
            route(&[], &[], exact("/any")),
        ];
        check(
            &routes,
            &[
                ("a.example.com", "/only", Some(0)),
                ("a.example.com", "/w/x", Some(1)),
                ("a.example.com", "/any", Some(2)),
                ("a.example.com", "/none", None),
            ],
        );
    }

    #[test]
    fn equals_are_taken_in_the_order_of_the_file_among_those_of_the_listener() {
        let routes = [
            route(&["internal"], &[], prefix("/x")),
            route(&["public", "internal"], &[], prefix("/x")),
            route(&[], &[], prefix("/x")),
        ];
        let table = Table::new(&routes);
        assert_eq!(table.find("internal", "h", "/x"), Some(0));
        assert_eq!(table.find("public", "h", "/x"), Some(1));
        assert_eq!(table.find("other", "h", "/x"), Some(2));
    }

    proptest::proptest! {
        /// The table answers as a plain reading of the rule does.
        #[test]
        fn the_table_agrees_with_the_rule(
            specs in proptest::collection::vec((0..4usize, 0..3usize, "(/[ab]){1,3}"), 1..12),
            host in "[ab]\\.c|c|d",
            path in "(/[ab]){1,4}",
        ) {
            let hosts: [&[&str]; 4] = [&[], &["a.c"], &["*.c"], &["c", "b.c"]];
            let routes: Vec<Route> = specs.iter().map(|(host, kind, path)| {
                let path = match kind {
                    0 => PathMatch::Any,
                    1 => exact(path),
                    _ => prefix(path),
                };
                route(&[], hosts[*host], path)
            }).collect();
            let rank = |route: &Route| {
                let host_rank = if route.hosts.is_empty() {
                    1
                } else {
                    route.hosts.iter().filter(|pattern| pattern.fits(&host)).map(|pattern| {
                        if matches!(pattern, HostPattern::Exact(_)) { 3 } else { 2 }
                    }).max()?
                };
                let path_rank = match &route.path {
                    PathMatch::Any => 0,
                    PathMatch::Exact(exact) => if **exact == *path { usize::MAX } else { return None },
                    PathMatch::Prefix(prefix) => {
                        let below = path.strip_prefix(&**prefix)?;
                        if !below.is_empty() && !below.starts_with('/') { return None }
                        prefix.len()
                    }
                };
                Some((host_rank, path_rank))
            };
            let expected = (0..routes.len())
                .filter_map(|at| rank(&routes[at]).map(|rank| (rank, std::cmp::Reverse(at))))
                .max()
                .map(|(_, at)| at.0);
            proptest::prop_assert_eq!(Table::new(&routes).find("l", &host, &path), expected);
        }
    }
}
