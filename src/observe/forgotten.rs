//! What forgotten series have counted: no sum may fall because a series is forgotten.
//!
//! Each worker forgets for itself, so others may still have a series with the same labels. What was counted is kept
//! under these labels until no worker has them any more, then for the endpoint on all routes, then for its upstream,
//! then for the process: for as long as anything is reported with the labels that it is kept under.

use std::collections::HashSet;
use std::sync::Arc;

use super::labelled::Labelled;
use super::series::{AuthSeries, EndpointSeries, RouteSeries};
use crate::snapshot::Snapshot;

/// Listener, route, upstream and endpoint. Those that a remainder has not are empty; no real one is.
type RemainderLabels = [Arc<str>; 4];

/// What the series have counted that one worker has forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    endpoints: Labelled<RemainderLabels, EndpointSeries>,
    auth: Labelled<Arc<str>, AuthSeries>,
}

/// The labels that are in use.
#[derive(Debug, Default)]
pub(super) struct KnownLabels {
    /// Route, upstream and endpoint. Listeners do not matter: metrics have no listener where they have an endpoint.
    links: HashSet<[Arc<str>; 3]>,
    endpoints: HashSet<[Arc<str>; 2]>,
    upstreams: HashSet<Arc<str>>,
    routes: HashSet<Arc<str>>,
    auth: HashSet<Arc<str>>,
}

impl Forgotten {
    /// Adds the series of an endpoint.
    pub(super) fn add_endpoint(&self, series: &EndpointSeries) {
        let labels = [
            &series.route.listener,
            &series.route.route,
            &series.upstream,
            &series.endpoint,
        ];
        self.endpoint(&labels.map(Arc::clone)).absorb(series);
    }

    /// Adds the series of a way to establish identities.
    pub(super) fn add_auth(&self, series: &AuthSeries) {
        let name = &series.name;
        let new = || (Arc::clone(name), AuthSeries::new(Arc::clone(name)));
        self.auth.get(name, new).absorb(series);
    }

    /// The remainders of endpoints.
    pub(super) fn endpoints(&self) -> Vec<Arc<EndpointSeries>> {
        self.endpoints.all()
    }

    /// The remainders of ways to establish identities.
    pub(super) fn auth(&self) -> Vec<Arc<AuthSeries>> {
        self.auth.all()
    }

    /// Whether nothing is kept under labels.
    pub(super) fn is_settled(&self) -> bool {
        let has_none = |labels: &RemainderLabels| labels.iter().all(|it| it.is_empty());
        self.endpoints.all_labels(has_none) && self.auth.all_labels(|_| false)
    }

    /// Moves what is kept under labels that are not in use any more.
    pub(super) fn settle(&self, known: &KnownLabels) {
        self.auth.take(|name| !known.auth.contains(name));
        // Up by one level at a time.
        for _ in 0..3 {
            for (labels, series) in self.endpoints.take(|labels| !known.has(labels)) {
                self.endpoint(&above(labels)).absorb(&series);
            }
        }
    }

    fn endpoint(&self, labels: &RemainderLabels) -> Arc<EndpointSeries> {
        self.endpoints.get(labels, || {
            let [listener, route, upstream, endpoint] = labels.clone();
            // One of its own: the real one has to be free to be forgotten.
            let route = Arc::new(RouteSeries::new(listener, route));
            let series = EndpointSeries::new(route, (upstream, endpoint));
            (labels.clone(), series)
        })
    }
}

/// The labels of the level above.
fn above([_, route, upstream, endpoint]: RemainderLabels) -> RemainderLabels {
    let none = || Arc::<str>::from("");
    match (route.is_empty(), endpoint.is_empty()) {
        (false, _) => [none(), none(), upstream, endpoint],
        (true, false) => [none(), none(), upstream, none()],
        (true, true) => [none(), none(), none(), none()],
    }
}

impl KnownLabels {
    /// Those of a configuration.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut known = Self::default();
        for upstream in snapshot.upstreams() {
            known.upstreams.insert(Arc::clone(&upstream.name));
            let endpoints = upstream.endpoints().into_iter();
            let labels = endpoints.map(|it| [Arc::clone(&it.upstream), Arc::clone(&it.label)]);
            known.endpoints.extend(labels);
        }
        known
    }

    /// Adds those of a series.
    pub(super) fn add_endpoint(&mut self, series: &EndpointSeries) {
        let (route, upstream, endpoint) = (&series.route.route, &series.upstream, &series.endpoint);
        self.links
            .insert([route, upstream, endpoint].map(Arc::clone));
        self.endpoints.insert([upstream, endpoint].map(Arc::clone));
        self.upstreams.insert(Arc::clone(upstream));
    }

    /// Adds those of a series.
    pub(super) fn add_route(&mut self, series: &RouteSeries) {
        self.routes.insert(Arc::clone(&series.route));
    }

    /// Adds those of a series.
    pub(super) fn add_auth(&mut self, series: &AuthSeries) {
        self.auth.insert(Arc::clone(&series.name));
    }

    /// Whether there is a route of this name.
    pub(super) fn has_route(&self, route: &Arc<str>) -> bool {
        self.routes.contains(route)
    }

    fn has(&self, [_, route, upstream, endpoint]: &RemainderLabels) -> bool {
        if !route.is_empty() {
            let link = [route, upstream, endpoint].map(Arc::clone);
            self.links.contains(&link)
        } else if !endpoint.is_empty() {
            let endpoint = [upstream, endpoint].map(Arc::clone);
            self.endpoints.contains(&endpoint)
        } else {
            upstream.is_empty() || self.upstreams.contains(upstream)
        }
    }
}
