//! What tunnels carry and how handshakes end, as counts: readers take the difference of two readings.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::displace::live_tunnels::EndCounts;
use crate::observe::counters::Counters;
use crate::observe::labels::{ConnectFailure, HandshakeOutcome};
use crate::observe::series::EndpointSeries;
use crate::observe::traffic::TrafficKind;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::rejection::Rejection;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;

/// What tunnels carry, and how handshakes and tunnels end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficInfo {
    /// WebSocket handshakes since the start, by outcome.
    pub handshakes: BTreeMap<String, u64>,
    /// Requests rejected since the start, by reason.
    pub rejections: BTreeMap<String, u64>,
    /// Tunnels that have ended since the start, by reason.
    pub ended: EndCounts,
    /// What goes from a listener by a route to an endpoint, for all of which something has. A link whose route or
    /// endpoint was removed is left out some time after its last tunnel.
    pub links: Vec<LinkInfo>,
}

/// What goes from a listener by a route to an endpoint. Counts are those since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkInfo {
    /// The listener.
    pub listener: String,
    /// The route.
    pub route: String,
    /// The upstream.
    pub upstream: String,
    /// The address of the endpoint.
    pub endpoint: String,
    /// Live tunnels.
    pub tunnels: u64,
    /// Tunnels opened.
    pub opened: u64,
    /// The time from the request to the 101 of all these, in seconds.
    pub handshake_seconds: f64,
    /// Connections to the endpoint that failed.
    pub connect_failures: u64,
    /// Tunnels that the endpoint has reset.
    pub resets: u64,
    /// Bytes that clients sent.
    pub bytes_from_client: u64,
    /// Bytes that the endpoint sent.
    pub bytes_from_endpoint: u64,
    /// Messages that clients have begun to send.
    pub messages_from_client: u64,
    /// Messages that the endpoint has begun to send.
    pub messages_from_endpoint: u64,
}

impl LinkInfo {
    fn new(series: &EndpointSeries) -> Self {
        Self {
            listener: series.route.listener.to_string(),
            route: series.route.route.to_string(),
            upstream: series.upstream.to_string(),
            endpoint: series.endpoint.to_string(),
            ..Self::default()
        }
    }

    /// Messages in both directions.
    pub fn messages(&self) -> u64 {
        self.messages_from_client + self.messages_from_endpoint
    }

    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes_from_client + self.bytes_from_endpoint
    }

    /// Adds what one worker has counted.
    fn add(&mut self, series: &EndpointSeries) {
        let carried = |kind| series.traffic.published(kind);
        let failures = ConnectFailure::ALL.iter();
        let failures = failures.map(|it| series.connect_failures.at(*it as usize).get());
        self.tunnels += series.open();
        self.opened += series.opened.get();
        self.handshake_seconds += series.handshake_micros.get() as f64 / 1e6;
        self.connect_failures += failures.sum::<u64>();
        self.resets += series.ended.at(Ended::UpstreamReset as usize).get();
        self.bytes_from_client += carried(TrafficKind::Bytes(Side::Client));
        self.bytes_from_endpoint += carried(TrafficKind::Bytes(Side::Endpoint));
        self.messages_from_client += carried(TrafficKind::Messages(Side::Client));
        self.messages_from_endpoint += carried(TrafficKind::Messages(Side::Endpoint));
    }
}

/// What tunnels carry now. The traffic of a worker that is too busy to report it is as of the last time.
pub async fn traffic(view: &View) -> TrafficInfo {
    let _one = view.with_current_traffic().await;
    sums(&view.workers.counters())
}

/// Adds to the count of a token; one that has no count is left out.
fn add(counts: &mut BTreeMap<String, u64>, token: &str, count: u64) {
    if count > 0 {
        *counts.entry(token.to_owned()).or_default() += count;
    }
}

/// The sums over what these workers have counted.
fn sums(workers: &[Arc<Counters>]) -> TrafficInfo {
    let mut info = TrafficInfo::default();
    let mut links: BTreeMap<[Arc<str>; 4], LinkInfo> = BTreeMap::new();
    for route in workers.iter().flat_map(|worker| worker.every_route()) {
        for outcome in HandshakeOutcome::ALL {
            let counts = ClientProtocol::ALL
                .into_iter()
                .map(|protocol| route.handshakes(*outcome, protocol).get());
            let handshakes = info.handshakes.entry(outcome.token().to_owned());
            *handshakes.or_default() += counts.sum::<u64>();
        }
        for rejection in Rejection::ALL {
            let count = route.rejections.at(*rejection as usize).get();
            add(&mut info.rejections, rejection.token(), count);
        }
    }
    for series in workers.iter().flat_map(|worker| worker.every_endpoint()) {
        for ended in Ended::ALL {
            let count = series.ended.at(ended as usize).get();
            add(&mut info.ended, ended.token(), count);
        }
        // What links have counted that are gone.
        if series.route.route.is_empty() {
            continue;
        }
        let names = [
            Arc::clone(&series.route.listener),
            Arc::clone(&series.route.route),
            Arc::clone(&series.upstream),
            Arc::clone(&series.endpoint),
        ];
        let link = links.entry(names).or_insert_with(|| LinkInfo::new(&series));
        link.add(&series);
    }
    info.links = links.into_values().collect();
    info
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::displace::live_tunnels::LiveTunnels;
    use crate::observe::testing::{Churn, churn_steps};

    type Counts = BTreeMap<String, u64>;

    fn has_fallen(before: &Counts, now: &Counts) -> bool {
        let mut counts = before.iter();
        counts.any(|(token, count)| now.get(token).is_none_or(|it| it < count))
    }

    proptest! {
        #[test]
        fn no_count_since_the_start_falls_when_series_are_forgotten(steps in churn_steps()) {
            let mut churn = Churn::new();
            let (mut before, mut ended_before) = (TrafficInfo::default(), Counts::new());
            for step in &steps {
                churn.step(step);
                let now = sums(&churn.workers);
                prop_assert!(!has_fallen(&before.handshakes, &now.handshakes));
                prop_assert!(!has_fallen(&before.rejections, &now.rejections));
                prop_assert!(!has_fallen(&before.ended, &now.ended));
                let same = |it: &LinkInfo| [&it.listener, &it.route, &it.upstream, &it.endpoint].map(String::clone);
                for link in &now.links {
                    let earlier = before.links.iter().find(|it| same(it) == same(link));
                    prop_assert!(earlier.is_none_or(|it| it.opened <= link.opened && it.bytes() <= link.bytes()));
                    prop_assert_eq!(link.tunnels, 0);
                }
                // An endpoint that is always configured.
                let ended = LiveTunnels::of(&churn.workers).ended("u0", "127.0.0.1:1");
                prop_assert!(!has_fallen(&ended_before, &ended));
                (before, ended_before) = (now, ended);
            }
        }
    }
}
