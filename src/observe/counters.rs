//! One worker's counters: written by that worker, read by anybody, summed when read.
//!
//! What has labels is a tree: listeners, their routes, and the endpoints that these led to. A node
//! is handed out once for a connection, a request or a tunnel and written to without a lock; the
//! locks of the tree are taken to find a node, never per message, and nobody but who reads all of it
//! is ever in the way.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::series::{ListenerSeries, RouteSeries, Way};
use crate::protocol::rejection::Rejection;
use crate::snapshot::Snapshot;
use crate::tunnel::ended::Ended;

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
    pub fn ways(&self) -> Vec<Arc<Way>> {
        let routes = self.routes();
        routes.iter().flat_map(|each| each.ways.all()).collect()
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
            let wanted = |way: &Way| known.contains(&(&way.upstream, &way.endpoint));
            route.ways.sweep(wanted);
        }
        for listener in self.listeners.all() {
            let has = |route: &RouteSeries| snapshot.has_route(&route.route);
            listener
                .routes
                .sweep(|route| route.route.is_empty() || has(route));
        }
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Shows this from now on.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it shows.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each of a fixed set of things.
#[derive(Debug)]
pub struct Each<const N: usize>([Counter; N]);

impl<const N: usize> Default for Each<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Each<N> {
    /// That of the thing in this place; the last one for places that there are not.
    pub fn at(&self, position: usize) -> &Counter {
        &self.0[position.min(N - 1)]
    }
}

/// Refusals, by reason.
pub type Rejections = Each<{ Rejection::ALL.len() }>;

/// Ended tunnels, by reason.
pub type Ends = Each<{ Ended::ALL.len() }>;

/// Counters by label, made when they are first written to.
#[derive(Debug)]
pub struct Labelled<K, V>(Mutex<HashMap<K, Known<V>>>);

#[derive(Debug)]
struct Known<V> {
    series: Arc<V>,
    /// Sweeps for which nobody has had a use for it.
    unused: u32,
}

impl<K, V> Default for Labelled<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Sweeps after which what nobody uses is forgotten: longer than anybody's scrape interval.
const FORGET_AFTER: u32 = 60;

impl<K: Eq + Hash, V> Labelled<K, V> {
    /// The counters under this label.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, label: &Q, new: impl FnOnce() -> (K, V)) -> Arc<V>
    where
        K: Borrow<Q>,
    {
        let mut known = self.lock();
        if let Some(known) = known.get(label) {
            return Arc::clone(&known.series);
        }
        let (label, series) = new();
        let series = Arc::new(series);
        let entry = Known {
            series: Arc::clone(&series),
            unused: 0,
        };
        known.insert(label, entry);
        series
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<V>> {
        let known = self.lock();
        known
            .values()
            .map(|known| Arc::clone(&known.series))
            .collect()
    }

    /// Forgets those that nobody holds and that have not been `wanted` for some time: endpoints come
    /// and go, and their counters would stay.
    pub fn sweep(&self, wanted: impl Fn(&V) -> bool) {
        self.lock().retain(|_, known| {
            let used = Arc::strong_count(&known.series) > 1 || wanted(&known.series);
            known.unused = if used { 0 } else { known.unused + 1 };
            known.unused <= FORGET_AFTER
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Known<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn what_nobody_uses_is_forgotten_in_the_end() {
        let labelled = Labelled::<u64, Counter>::default();
        let get = |label| labelled.get(&label, || (label, Counter::default()));
        let held = get(1);
        get(2).add(1);
        get(3).add(3);
        assert_eq!(get(2).get(), 1, "the same each time");
        for _ in 0..FORGET_AFTER {
            labelled.sweep(|series| series.get() == 3);
        }
        assert_eq!(labelled.all().len(), 3);
        labelled.sweep(|series| series.get() == 3);
        assert_eq!(labelled.all().len(), 2);
        assert_eq!((get(1).get(), get(2).get()), (held.get(), 0));
    }
}
