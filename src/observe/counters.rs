//! One worker's counters: written by that worker, read by anybody, summed when read.
//!
//! What has labels is a tree: listeners, their routes, and the endpoints that these led to. A node
//! is handed out once for a connection, a request or a tunnel and written to without a lock; the
//! locks of the tree are taken to find a node, never per message, and nobody but who reads all of it
//! is ever in the way.

use std::collections::HashSet;
use std::sync::Arc;

use super::counter::Counter;
use super::labelled::Labelled;
use super::series::{EndpointSeries, ListenerSeries, RouteSeries};
use crate::snapshot::Snapshot;

/// One worker's counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections taken over from the acceptor.
    pub connections: Counter,
    /// Plain requests that got an endpoint's reply, or a redirect.
    pub requests: Counter,
    /// Requests that we refused.
    pub rejections: Counter,
    /// Tunnels opened.
    pub tunnels: Counter,
    /// Tunnels ended.
    pub ended: Counter,
    /// Tasks that run, as of the last sweep.
    pub tasks: Counter,
    /// What came in where, and what became of it.
    pub listeners: Labelled<Arc<str>, ListenerSeries>,
}

impl Counters {
    /// Those of a listener.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerSeries> {
        let new = || (Arc::clone(name), ListenerSeries::new(Arc::clone(name)));
        self.listeners.get(&**name, new)
    }

    /// Those of all routes.
    pub fn routes(&self) -> Vec<Arc<RouteSeries>> {
        let listeners = self.listeners.all();
        listeners
            .iter()
            .flat_map(|each| each.routes.all())
            .collect()
    }

    /// Those of all ways to endpoints.
    pub fn endpoint_series(&self) -> Vec<Arc<EndpointSeries>> {
        let routes = self.routes();
        routes
            .iter()
            .flat_map(|each| each.endpoints.all())
            .collect()
    }

    /// Forgets what `snapshot` does not have, when nobody has used it for some time.
    pub fn sweep(&self, snapshot: &Snapshot) {
        for route in self.routes() {
            let upstream = snapshot.upstream_of(&route.route);
            let endpoints = upstream.map_or_else(Vec::new, |it| it.endpoints());
            let known: HashSet<_> = endpoints
                .iter()
                .map(|it| (&it.upstream, &it.label))
                .collect();
            let wanted =
                |series: &EndpointSeries| known.contains(&(&series.upstream, &series.endpoint));
            route.endpoints.sweep(wanted);
        }
        for listener in self.listeners.all() {
            let has = |route: &RouteSeries| snapshot.has_route(&route.route);
            listener
                .routes
                .sweep(|route| route.route.is_empty() || has(route));
        }
    }
}

/// The sums over all workers that a stop or a status line tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections taken.
    pub connections: u64,
    /// Plain requests answered by an endpoint.
    pub requests: u64,
    /// Refusals of every kind.
    pub rejections: u64,
    /// Tunnels opened.
    pub tunnels: u64,
    /// Tunnels alive.
    pub tunnels_open: u64,
}

impl Totals {
    /// Sums.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let (ended, opened) = (worker.ended.get(), worker.tunnels.get());
            totals.connections += worker.connections.get();
            totals.requests += worker.requests.get();
            totals.rejections += worker.rejections.get();
            totals.tunnels += opened;
            totals.tunnels_open += opened.saturating_sub(ended);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_workers() {
        let (one, two) = (Counters::default(), Counters::default());
        one.tunnels.add(3);
        two.tunnels.add(2);
        one.ended.add(1);
        two.rejections.add(4);
        let totals = Totals::of([&one, &two]);
        assert_eq!(
            (totals.tunnels, totals.tunnels_open, totals.rejections),
            (5, 4, 4)
        );
    }
}
