//! One worker's counters: written by that worker, read by any thread, summed over the workers when
//! read.
//!
//! Counters with labels form a tree: listeners, their routes, and the endpoints of those. A
//! connection, a request or a tunnel looks its node up once and then writes to it without a lock.
//! The locks of the tree are held to find a node, never per message; only a scrape, which reads all
//! of it, competes for them.

use std::collections::HashSet;
use std::sync::Arc;

use super::counter::Counter;
use super::labelled::Labelled;
use super::series::{AuthSeries, EndpointSeries, ListenerSeries, RouteSeries};
use super::worker_usage::WorkerUsage;
use crate::snapshot::Snapshot;

/// One worker's counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Client connections accepted.
    pub connections: Counter,
    /// Plain requests answered by an endpoint, with a redirect, or as a route says.
    pub requests: Counter,
    /// Rejected requests.
    pub rejections: Counter,
    /// Tunnels opened.
    pub tunnels: Counter,
    /// Tunnels ended.
    pub ended: Counter,
    /// Open streams.
    pub streams_open: Counter,
    /// How busy the worker is.
    pub usage: WorkerUsage,
    /// Running tasks, as of the last sweep.
    pub tasks: Counter,
    /// Bytes that tunnels have read and not yet written, as of the last sweep.
    pub unwritten_bytes: Counter,
    /// The tree: listeners, their routes, and the endpoints of those.
    pub listeners: Labelled<Arc<str>, ListenerSeries>,
    /// The ways to establish identities.
    pub auth: Labelled<Arc<str>, AuthSeries>,
}

impl Counters {
    /// Open tunnels.
    pub fn tunnels_open(&self) -> u64 {
        // In this order: a tunnel that ends in between must not make the difference negative.
        let (ended, opened) = (self.ended.get(), self.tunnels.get());
        opened.saturating_sub(ended)
    }

    /// The series of a listener.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerSeries> {
        let new = || (Arc::clone(name), ListenerSeries::new(Arc::clone(name)));
        self.listeners.get(&**name, new)
    }

    /// The series of a way to establish identities.
    pub fn auth(&self, name: &Arc<str>) -> Arc<AuthSeries> {
        let new = || (Arc::clone(name), AuthSeries::new(Arc::clone(name)));
        self.auth.get(&**name, new)
    }

    /// The series of all routes.
    pub fn routes(&self) -> Vec<Arc<RouteSeries>> {
        let listeners = self.listeners.all();
        listeners
            .iter()
            .flat_map(|listener| listener.routes.all())
            .collect()
    }

    /// The series of all endpoints, by listener and route.
    pub fn endpoint_series(&self) -> Vec<Arc<EndpointSeries>> {
        let routes = self.routes();
        routes
            .iter()
            .flat_map(|route| route.endpoints.all())
            .collect()
    }

    /// Forgets series of routes and endpoints that are not in `snapshot` and have been unused for
    /// some time.
    pub fn sweep(&self, snapshot: &Snapshot) {
        for route in self.routes() {
            let upstreams = snapshot.upstreams_of(&route.route);
            let endpoints: Vec<_> = upstreams.flat_map(|it| it.endpoints()).collect();
            let configured: HashSet<_> = endpoints
                .iter()
                .map(|endpoint| (&endpoint.upstream, &endpoint.label))
                .collect();
            let wanted = |series: &EndpointSeries| {
                configured.contains(&(&series.upstream, &series.endpoint))
            };
            route.endpoints.sweep(wanted);
        }
        self.auth.sweep(|auth| snapshot.has_auth(&auth.name));
        for listener in self.listeners.all() {
            let has = |route: &RouteSeries| snapshot.has_route(&route.route);
            listener
                .routes
                .sweep(|route| route.route.is_empty() || has(route));
        }
    }
}

/// Sums over all workers, as reported by a stop or a status line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client connections accepted.
    pub connections: u64,
    /// Plain requests answered by an endpoint, with a redirect, or as a route says.
    pub requests: u64,
    /// Rejected requests.
    pub rejections: u64,
    /// Tunnels opened.
    pub tunnels: u64,
    /// Open tunnels.
    pub tunnels_open: u64,
    /// Open streams.
    pub streams_open: u64,
}

impl Totals {
    /// The sums over these workers.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            totals.connections += worker.connections.get();
            totals.requests += worker.requests.get();
            totals.rejections += worker.rejections.get();
            totals.tunnels_open += worker.tunnels_open();
            totals.tunnels += worker.tunnels.get();
            totals.streams_open += worker.streams_open.get();
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
