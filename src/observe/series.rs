//! What is counted by listener, by route, and by the way to an endpoint, on one worker.

use std::sync::{Arc, Mutex, PoisonError};

use super::counter::{Counter, CounterArray};
use super::histogram::{Histogram, LATENCY_SECONDS, LIFETIME_SECONDS};
use super::labelled::Labelled;
use super::labels::{
    CLOSE_CODES, ConnectFailure, HandshakeOutcome, RefusedConnection, TLS, close_code_position,
};
use super::traffic::Traffic;
use crate::protocol::rejection::Rejection;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::EndpointState;

/// Refusals, by reason.
pub type RejectionCounts = CounterArray<{ Rejection::ALL.len() }>;

/// Ended tunnels, by reason.
pub type EndedCounts = CounterArray<{ Ended::ALL.len() }>;

/// What came in by a listener.
#[derive(Debug)]
pub struct ListenerSeries {
    /// Its name.
    pub name: Arc<str>,
    /// Connections taken.
    pub connections: Counter,
    /// Those that have ended, the tunnels that came of them included.
    pub closed: Counter,
    /// Connections closed because the client did not go on, to send or to read, in time.
    pub expired: Counter,
    /// Connections closed early, by reason.
    pub refused: CounterArray<{ RefusedConnection::ALL.len() }>,
    /// TLS handshakes, as in [`TLS`].
    pub tls: CounterArray<{ TLS.len() }>,
    /// Its routes.
    pub routes: Labelled<Arc<str>, RouteSeries>,
}

impl ListenerSeries {
    /// With nothing counted.
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            connections: Counter::default(),
            closed: Counter::default(),
            expired: Counter::default(),
            refused: CounterArray::default(),
            tls: CounterArray::default(),
            routes: Labelled::default(),
        }
    }

    /// What came by `route`; no name where a request came to none.
    pub fn route(&self, route: &str) -> Arc<RouteSeries> {
        self.routes.get(route, || {
            let name: Arc<str> = route.into();
            let series = RouteSeries::new(Arc::clone(&self.name), Arc::clone(&name));
            (name, series)
        })
    }

    /// Counts a connection until the result is dropped.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.add(1);
        OpenConnection(Arc::clone(self))
    }

    /// Counts a TLS handshake.
    pub fn count_tls_handshake(&self, version: &str, resumed: bool) {
        if let Some(position) = TLS.iter().position(|known| *known == (version, resumed)) {
            self.tls.at(position).add(1);
        }
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct OpenConnection(Arc<ListenerSeries>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.add(1);
    }
}

/// Upstream and address: one that comes back goes on counting where it was.
pub type EndpointLabel = (Arc<str>, Arc<str>);

/// What came by a listener and took a route.
#[derive(Debug)]
pub struct RouteSeries {
    /// The listener.
    pub listener: Arc<str>,
    /// The route; empty for what came to none.
    pub route: Arc<str>,
    /// Handshakes, by what they came to.
    pub handshakes: CounterArray<{ HandshakeOutcome::ALL.len() }>,
    /// Those of them that `handshake = "lenient"` has excused.
    pub excused: Counter,
    /// From a handshake's request to its 101.
    pub handshake_seconds: Histogram<{ LATENCY_SECONDS.len() }>,
    /// Refusals, of plain requests too.
    pub rejections: RejectionCounts,
    /// Tunnels that have ended.
    pub ended: Counter,
    /// Those of them that were no framing, at least in part.
    pub unframed: Counter,
    /// How long these had lived.
    pub tunnel_seconds: Histogram<{ LIFETIME_SECONDS.len() }>,
    ping_rtt: [Histogram<{ LATENCY_SECONDS.len() }>; 2],
    closes_from_client: CloseCodeCounts,
    closes_from_endpoint: CloseCodeCounts,
    statuses: Mutex<Vec<(u16, u64)>>,
    /// The endpoints that it led to.
    pub endpoints: Labelled<EndpointLabel, EndpointSeries>,
}

impl RouteSeries {
    fn new(listener: Arc<str>, route: Arc<str>) -> Self {
        Self {
            listener,
            route,
            handshakes: CounterArray::default(),
            excused: Counter::default(),
            handshake_seconds: Histogram::new(&LATENCY_SECONDS),
            rejections: CounterArray::default(),
            ended: Counter::default(),
            unframed: Counter::default(),
            tunnel_seconds: Histogram::new(&LIFETIME_SECONDS),
            ping_rtt: [
                Histogram::new(&LATENCY_SECONDS),
                Histogram::new(&LATENCY_SECONDS),
            ],
            closes_from_client: CounterArray::default(),
            closes_from_endpoint: CounterArray::default(),
            statuses: Mutex::default(),
            endpoints: Labelled::default(),
        }
    }

    /// How long a side took to answer our Pings.
    pub fn ping_rtt(&self, side: Side) -> &Histogram<{ LATENCY_SECONDS.len() }> {
        let [client, endpoint] = &self.ping_rtt;
        match side {
            Side::Client => client,
            Side::Endpoint => endpoint,
        }
    }

    /// What went on to `endpoint`.
    pub fn endpoint(self: &Arc<Self>, endpoint: &EndpointState) -> Arc<EndpointSeries> {
        let label = (Arc::clone(&endpoint.upstream), Arc::clone(&endpoint.label));
        self.endpoints.get(&label, || {
            (label.clone(), EndpointSeries::new(self, endpoint))
        })
    }

    /// Counts an answer in HTTP.
    pub fn count_response(&self, status: u16) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        match statuses.iter_mut().find(|known| known.0 == status) {
            Some(known) => known.1 += 1,
            None => statuses.push((status, 1)),
        }
    }

    /// Answers in HTTP, by status.
    pub fn statuses(&self) -> Vec<(u16, u64)> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the first Close of a tunnel.
    pub fn count_close(&self, side: Side, code: u16) {
        self.closes_from(side).at(close_code_position(code)).add(1);
    }

    /// Codes of the first Close of tunnels that have ended, where this side sent it.
    pub fn closes_from(&self, side: Side) -> &CloseCodeCounts {
        match side {
            Side::Client => &self.closes_from_client,
            Side::Endpoint => &self.closes_from_endpoint,
        }
    }
}

/// Codes of Close frames, those of applications by the thousand: whoever sends them chooses them.
pub type CloseCodeCounts = CounterArray<{ CLOSE_CODES.len() }>;

/// What came by a listener, took a route and went to an endpoint.
#[derive(Debug)]
pub struct EndpointSeries {
    /// Listener and route.
    pub route: Arc<RouteSeries>,
    /// The upstream.
    pub upstream: Arc<str>,
    /// The endpoint's address.
    pub endpoint: Arc<str>,
    /// Tunnels opened.
    pub opened: Counter,
    /// Tunnels ended, by reason.
    pub ended: EndedCounts,
    /// What went through them: ended ones always, live ones as of the last [`Traffic::show`].
    pub traffic: Traffic,
    /// How long connecting took.
    pub connect_seconds: Histogram<{ LATENCY_SECONDS.len() }>,
    /// Failures to connect.
    pub connect_failures: CounterArray<{ ConnectFailure::ALL.len() }>,
    /// Requests that went on to another endpoint after this one's answer, or the want of it.
    pub retried: Counter,
}

impl EndpointSeries {
    fn new(route: &Arc<RouteSeries>, endpoint: &EndpointState) -> Self {
        Self {
            route: Arc::clone(route),
            upstream: Arc::clone(&endpoint.upstream),
            endpoint: Arc::clone(&endpoint.label),
            opened: Counter::default(),
            ended: CounterArray::default(),
            traffic: Traffic::default(),
            connect_seconds: Histogram::new(&LATENCY_SECONDS),
            connect_failures: CounterArray::default(),
            retried: Counter::default(),
        }
    }

    /// Tunnels that are alive.
    pub fn open(&self) -> u64 {
        let ended: u64 = Ended::ALL
            .iter()
            .map(|it| self.ended.at(*it as usize).get())
            .sum();
        self.opened.get().saturating_sub(ended)
    }

    /// Counts a failure to connect.
    pub fn count_connect_failure(&self, error: &ConnectError) {
        self.connect_failures
            .at(ConnectFailure::of(error) as usize)
            .add(1);
    }
}
