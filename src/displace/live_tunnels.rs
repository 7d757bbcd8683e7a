//! Counts of live tunnels by listener, route, upstream and endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::observe::counters::Counters;
use crate::tunnel::ended::Ended;

/// Counts of live tunnels, and for each endpoint how its former tunnels have ended.
#[derive(Debug, Default)]
pub struct LiveTunnels {
    total: u64,
    by_listener: BTreeMap<Arc<str>, u64>,
    by_route: BTreeMap<Arc<str>, u64>,
    /// By upstream, and by the address of the endpoint.
    by_endpoint: BTreeMap<Arc<str>, BTreeMap<Arc<str>, EndpointTunnels>>,
}

/// The tunnels of one endpoint.
#[derive(Debug, Default)]
struct EndpointTunnels {
    open: u64,
    by_route: BTreeMap<Arc<str>, u64>,
    ended: [u64; Ended::ALL.len()],
}

/// Tunnels that have ended, by reason.
pub type EndCounts = BTreeMap<String, u64>;

impl LiveTunnels {
    /// The sum of these workers' counters.
    pub fn of(workers: &[Arc<Counters>]) -> Self {
        let mut live = Self::default();
        for series in workers.iter().flat_map(|worker| worker.every_endpoint()) {
            // What endpoints have counted that are gone.
            if series.endpoint.is_empty() {
                continue;
            }
            let upstream = live.by_endpoint.entry(Arc::clone(&series.upstream));
            let endpoint = upstream.or_default().entry(Arc::clone(&series.endpoint));
            let endpoint = endpoint.or_default();
            for (number, ended) in endpoint.ended.iter_mut().enumerate() {
                *ended += series.ended.at(number).get();
            }
            let open = series.open();
            if open == 0 {
                continue;
            }
            let (listener, route) = (&series.route.listener, &series.route.route);
            endpoint.open += open;
            *endpoint.by_route.entry(Arc::clone(route)).or_default() += open;
            live.total += open;
            *live.by_listener.entry(Arc::clone(listener)).or_default() += open;
            *live.by_route.entry(Arc::clone(route)).or_default() += open;
        }
        live
    }

    /// All live tunnels.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Live tunnels that a listener accepted.
    pub fn of_listener(&self, name: &str) -> u64 {
        self.by_listener.get(name).copied().unwrap_or_default()
    }

    /// Live tunnels of a route.
    pub fn of_route(&self, name: &str) -> u64 {
        self.by_route.get(name).copied().unwrap_or_default()
    }

    /// Each listener that has live tunnels, and how many.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_listener
            .iter()
            .map(|(name, count)| (&**name, *count))
    }

    /// Each route that has live tunnels, and how many.
    pub fn routes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_route.iter().map(|(name, count)| (&**name, *count))
    }

    /// Live tunnels of an upstream.
    pub fn of_upstream(&self, name: &str) -> u64 {
        let endpoints = self.by_endpoint.get(name);
        let endpoints = endpoints.into_iter().flat_map(BTreeMap::values);
        endpoints.map(|endpoint| endpoint.open).sum()
    }

    /// Live tunnels of an endpoint.
    pub fn of_endpoint(&self, upstream: &str, endpoint: &str) -> u64 {
        self.endpoint(upstream, endpoint).map_or(0, |it| it.open)
    }

    /// How the former tunnels of an endpoint have ended.
    pub fn ended(&self, upstream: &str, endpoint: &str) -> EndCounts {
        let Some(endpoint) = self.endpoint(upstream, endpoint) else {
            return EndCounts::new();
        };
        let counts = Ended::ALL.iter().zip(endpoint.ended);
        let counts = counts.filter(|(_, count)| *count > 0);
        counts
            .map(|(ended, count)| (ended.token().to_owned(), count))
            .collect()
    }

    /// Upstream and address of each endpoint that has live tunnels.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let upstreams = self.by_endpoint.iter();
        upstreams.flat_map(|(upstream, endpoints)| {
            let live = endpoints.iter().filter(|(_, it)| it.open > 0);
            live.map(move |(address, _)| (upstream, address))
        })
    }

    /// Live tunnels for which `is_meant` returns true, given their route, upstream and endpoint.
    pub fn count(&self, is_meant: impl Fn(&str, &str, &str) -> bool) -> u64 {
        let mut count = 0;
        for (upstream, endpoints) in &self.by_endpoint {
            for (address, endpoint) in endpoints {
                let routes = endpoint.by_route.iter();
                let meant = routes.filter(|(route, _)| is_meant(route, upstream, address));
                count += meant.map(|(_, tunnels)| tunnels).sum::<u64>();
            }
        }
        count
    }

    fn endpoint(&self, upstream: &str, address: &str) -> Option<&EndpointTunnels> {
        self.by_endpoint.get(upstream)?.get(address)
    }
}
