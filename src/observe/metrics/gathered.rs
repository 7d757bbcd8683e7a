//! The series of all workers, grouped by their labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::observe::counters::Counters;
use crate::observe::series::{AuthSeries, EndpointSeries, ListenerSeries, RouteSeries};

/// The series of all workers.
pub(super) struct Gathered {
    pub(super) listeners: Vec<Arc<ListenerSeries>>,
    pub(super) routes: Vec<Arc<RouteSeries>>,
    pub(super) endpoints: Vec<Arc<EndpointSeries>>,
    auth: Vec<Arc<AuthSeries>>,
}

impl Gathered {
    pub(super) fn from(workers: &[Arc<Counters>]) -> Self {
        Self {
            listeners: workers
                .iter()
                .flat_map(|worker| worker.listeners.all())
                .collect(),
            routes: workers.iter().flat_map(|worker| worker.routes()).collect(),
            endpoints: workers
                .iter()
                .flat_map(|worker| worker.every_endpoint())
                .collect(),
            auth: workers
                .iter()
                .flat_map(|worker| worker.every_auth())
                .collect(),
        }
    }

    pub(super) fn by_listener(&self) -> Groups<'_, ListenerSeries, 1> {
        groups(&self.listeners, |series| [&series.name])
    }

    pub(super) fn by_listener_and_route(&self) -> Groups<'_, RouteSeries, 2> {
        groups(&self.routes, |series| [&series.listener, &series.route])
    }

    /// Without requests that matched no route.
    pub(super) fn by_route(&self) -> Groups<'_, RouteSeries, 1> {
        let mut routes = groups(&self.routes, |series| [&*series.route]);
        routes.remove(&[""]);
        routes
    }

    /// The series of endpoints, by listener and route.
    pub(super) fn by_endpoints_route(&self) -> Groups<'_, EndpointSeries, 2> {
        named(&self.endpoints, |series| {
            [&series.route.listener, &series.route.route]
        })
    }

    pub(super) fn by_route_and_endpoint(&self) -> Groups<'_, EndpointSeries, 3> {
        named(&self.endpoints, |series| {
            [&series.route.route, &series.upstream, &series.endpoint]
        })
    }

    pub(super) fn by_endpoint(&self) -> Groups<'_, EndpointSeries, 2> {
        named(&self.endpoints, |series| {
            [&series.upstream, &series.endpoint]
        })
    }

    pub(super) fn by_auth(&self) -> Groups<'_, AuthSeries, 1> {
        groups(&self.auth, |series| [&*series.name])
    }

    pub(super) fn by_upstream(&self) -> Groups<'_, EndpointSeries, 1> {
        named(&self.endpoints, |series| [&*series.upstream])
    }
}

/// Series with the same labels.
pub(super) type Groups<'a, S, const N: usize> = BTreeMap<[&'a str; N], Vec<&'a S>>;

fn groups<'a, S, const N: usize>(
    series: &'a [Arc<S>],
    labels: impl Fn(&'a S) -> [&'a str; N],
) -> Groups<'a, S, N> {
    let mut groups = Groups::new();
    for series in series {
        groups.entry(labels(series)).or_default().push(&**series);
    }
    groups
}

/// The same without what is counted for all values of one of the labels together.
fn named<'a, const N: usize>(
    series: &'a [Arc<EndpointSeries>],
    labels: impl Fn(&'a EndpointSeries) -> [&'a str; N],
) -> Groups<'a, EndpointSeries, N> {
    let mut groups = groups(series, labels);
    groups.retain(|labels, _| labels.iter().all(|label| !label.is_empty()));
    groups
}

pub(super) fn sum<S>(series: &[&S], counter: impl Fn(&S) -> u64) -> u64 {
    series.iter().map(|series| counter(series)).sum()
}

/// The number of open ones. The ended ones are read first, so that the difference is never
/// negative.
pub(super) fn open<S>(series: &[&S], opened: impl Fn(&S) -> u64, ended: impl Fn(&S) -> u64) -> u64 {
    let ended = sum(series, ended);
    sum(series, opened).saturating_sub(ended)
}

pub(super) fn labelled<'a, const N: usize>(
    names: [&'a str; N],
    values: [&'a str; N],
) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|position| (names[position], values[position]))
}
