//! What tunnels carry and how handshakes end, as counts: readers take the difference of two readings.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::displace::live_tunnels::EndCounts;
use crate::observe::labels::{ConnectFailure, HandshakeOutcome};
use crate::observe::series::EndpointSeries;
use crate::observe::traffic::TrafficKind;
use crate::protocol::client_protocol::ClientProtocol;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;

/// What tunnels carry, and how handshakes and tunnels end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficInfo {
    /// WebSocket handshakes since the start, by outcome.
    pub handshakes: BTreeMap<String, u64>,
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
    let mut info = TrafficInfo::default();
    let mut links: BTreeMap<[Arc<str>; 4], LinkInfo> = BTreeMap::new();
    for worker in view.workers.counters() {
        for route in worker.routes() {
            for outcome in HandshakeOutcome::ALL {
                let counts = ClientProtocol::ALL
                    .into_iter()
                    .map(|protocol| route.handshakes(*outcome, protocol).get());
                let handshakes = info.handshakes.entry(outcome.token().to_owned());
                *handshakes.or_default() += counts.sum::<u64>();
            }
        }
        for series in worker.endpoint_series() {
            let names = [
                Arc::clone(&series.route.listener),
                Arc::clone(&series.route.route),
                Arc::clone(&series.upstream),
                Arc::clone(&series.endpoint),
            ];
            let link = links.entry(names).or_insert_with(|| LinkInfo::new(&series));
            link.add(&series);
            for ended in Ended::ALL {
                let count = series.ended.at(ended as usize).get();
                if count > 0 {
                    *info.ended.entry(ended.token().to_owned()).or_default() += count;
                }
            }
        }
    }
    info.links = links.into_values().collect();
    info
}
