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
use super::forgotten::{Forgotten, KnownLabels};
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
    auth: Labelled<Arc<str>, AuthSeries>,
    forgotten: Forgotten,
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

    /// The series of all routes by listener, with what was counted for those that only this worker has forgotten.
    pub fn routes(&self) -> Vec<Arc<RouteSeries>> {
        let listeners = self.listeners.all();
        listeners
            .iter()
            .flat_map(|listener| listener.labelled_routes())
            .collect()
    }

    /// For sums over all routes: these, and what was counted for routes that are gone.
    pub fn every_route(&self) -> Vec<Arc<RouteSeries>> {
        let listeners = self.listeners.all();
        listeners
            .iter()
            .flat_map(|listener| listener.every_route())
            .collect()
    }

    /// The series of all endpoints by listener and route, without forgotten ones.
    pub fn endpoint_series(&self) -> Vec<Arc<EndpointSeries>> {
        let routes = self.current_routes();
        routes
            .iter()
            .flat_map(|route| route.endpoints.all())
            .collect()
    }

    /// For sums over endpoints: these, and what was counted for endpoints that are forgotten. The latter have no
    /// endpoint, no upstream or no route if these are gone: the names are empty.
    pub fn every_endpoint(&self) -> Vec<Arc<EndpointSeries>> {
        let mut all_series = self.endpoint_series();
        all_series.extend(self.forgotten.endpoints());
        all_series
    }

    /// For sums over the ways to establish identities.
    pub fn every_auth(&self) -> Vec<Arc<AuthSeries>> {
        let mut all_series = self.auth.all();
        all_series.extend(self.forgotten.auth());
        all_series
    }

    fn current_routes(&self) -> Vec<Arc<RouteSeries>> {
        let listeners = self.listeners.all();
        listeners
            .iter()
            .flat_map(|listener| listener.routes.all())
            .collect()
    }

    /// Forgets series of routes and endpoints that are not in `snapshot` and have been unused for
    /// some time.
    fn forget(&self, snapshot: &Snapshot) {
        for route in self.current_routes() {
            let upstreams = snapshot.upstreams_of(&route.route);
            let endpoints: Vec<_> = upstreams.flat_map(|it| it.endpoints()).collect();
            let configured: HashSet<_> = endpoints
                .iter()
                .map(|endpoint| (&endpoint.upstream, &endpoint.label))
                .collect();
            let wanted = |series: &EndpointSeries| {
                configured.contains(&(&series.upstream, &series.endpoint))
            };
            for series in route.endpoints.sweep(wanted) {
                self.forgotten.add_endpoint(&series);
            }
        }
        for series in self.auth.sweep(|auth| snapshot.has_auth(&auth.name)) {
            self.forgotten.add_auth(&series);
        }
        for listener in self.listeners.all() {
            listener.forget_routes(|route| route.is_empty() || snapshot.has_route(route));
        }
    }

    fn is_settled(&self) -> bool {
        let listeners = self.listeners.all();
        self.forgotten.is_settled() && listeners.iter().all(|it| it.is_settled())
    }

    fn add_labels(&self, known: &mut KnownLabels) {
        for series in self.endpoint_series() {
            known.add_endpoint(&series);
        }
        for series in self.current_routes() {
            known.add_route(&series);
        }
        for series in self.auth.all() {
            known.add_auth(&series);
        }
    }

    fn settle(&self, known: &KnownLabels) {
        self.forgotten.settle(known);
        for listener in self.listeners.all() {
            listener.settle(|route| known.has_route(route));
        }
    }
}

/// Forgets series of routes and endpoints that are not in `snapshot` and have been unused for some time, and keeps
/// what they have counted for the sums that they belong to.
pub fn sweep(workers: &[Arc<Counters>], snapshot: &Snapshot) {
    for worker in workers {
        worker.forget(snapshot);
    }
    if workers.iter().all(|worker| worker.is_settled()) {
        return;
    }
    let mut known = KnownLabels::of(snapshot);
    for worker in workers {
        worker.add_labels(&mut known);
    }
    // On the thread that reads the sums: what moves from one of them to another is never in both or in none.
    for worker in workers {
        worker.settle(&known);
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
