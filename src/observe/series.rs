//! The series of one worker: what is counted by listener, by route and by endpoint.

mod absorb;

use std::sync::{Arc, Mutex, PoisonError};

use super::counter::{Counter, CounterArray};
use super::histogram::{Histogram, LATENCY_SECONDS, LIFETIME_SECONDS};
use super::labelled::Labelled;
use super::labels::{
    AuthResult, CLOSE_CODES, ConnectFailure, HandshakeOutcome, Http2Reset, RefusedConnection, TLS,
    close_code_position,
};
use super::traffic::Traffic;
use crate::net::tls_failure::TlsFailure;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::opcode::{FrameCounts, Opcode};
use crate::protocol::rejection::Rejection;
use crate::streams::ended::StreamEnded;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::EndpointState;

/// Rejections, by reason.
pub type RejectionCounts = CounterArray<{ Rejection::ALL.len() }>;

/// Ended tunnels, by reason.
pub type EndedCounts = CounterArray<{ Ended::ALL.len() }>;

/// The series of one way to establish identities.
#[derive(Debug)]
pub struct AuthSeries {
    /// Its name.
    pub name: Arc<str>,
    /// The requests that needed an identity.
    pub results: CounterArray<{ AuthResult::ALL.len() }>,
    /// The time that its service took to respond.
    pub seconds: Histogram<{ LATENCY_SECONDS.len() }>,
}

impl AuthSeries {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            results: CounterArray::default(),
            seconds: Histogram::new(&LATENCY_SECONDS),
        }
    }

    /// Counts a request that needed an identity.
    pub fn count(&self, result: AuthResult) {
        self.results.at(result as usize).add(1);
    }
}

/// The series of a listener.
#[derive(Debug)]
pub struct ListenerSeries {
    /// The name of the listener.
    pub name: Arc<str>,
    /// Connections accepted.
    pub connections: Counter,
    /// Connections that have ended; one that became a tunnel ends with it.
    pub closed: Counter,
    /// Connections closed because the client neither sent nor read in time.
    pub expired: Counter,
    /// Connections closed before a request, by reason.
    pub refused: CounterArray<{ RefusedConnection::ALL.len() }>,
    /// Successful TLS handshakes, in the order of [`TLS`].
    pub tls: CounterArray<{ TLS.len() }>,
    /// Failed TLS handshakes, by cause.
    pub tls_failures: CounterArray<{ TlsFailure::ALL.len() }>,
    /// Connections that were ended and streams that were reset in HTTP/2, by reason.
    pub http2_resets: CounterArray<{ Http2Reset::ALL.len() }>,
    /// Connections that speak HTTP/2.
    pub http2_connections: Counter,
    /// Connections that spoke HTTP/2 and are closed.
    pub http2_closed: Counter,
    /// The routes of the listener.
    pub routes: Labelled<Arc<str>, RouteSeries>,
    /// What routes have counted that this worker has forgotten, and another one has not.
    forgotten_routes: Labelled<Arc<str>, RouteSeries>,
    /// What routes have counted that all workers have forgotten.
    removed_routes: Arc<RouteSeries>,
}

impl ListenerSeries {
    /// A series in which nothing is counted yet.
    pub fn new(name: Arc<str>) -> Self {
        Self {
            removed_routes: Arc::new(RouteSeries::new(Arc::clone(&name), "".into())),
            name,
            connections: Counter::default(),
            closed: Counter::default(),
            expired: Counter::default(),
            refused: CounterArray::default(),
            tls: CounterArray::default(),
            tls_failures: CounterArray::default(),
            http2_resets: CounterArray::default(),
            http2_connections: Counter::default(),
            http2_closed: Counter::default(),
            routes: Labelled::default(),
            forgotten_routes: Labelled::default(),
        }
    }

    /// The series of a route; of the empty name for requests that matched no route.
    pub fn route(&self, route: &str) -> Arc<RouteSeries> {
        self.routes.get(route, || {
            let name: Arc<str> = route.into();
            let series = RouteSeries::new(Arc::clone(&self.name), Arc::clone(&name));
            (name, series)
        })
    }

    /// The series of all routes, and what this worker has counted for others that have the same labels.
    pub fn labelled_routes(&self) -> Vec<Arc<RouteSeries>> {
        let mut routes = self.routes.all();
        routes.extend(self.forgotten_routes.all());
        routes
    }

    /// For sums over routes: these, and what was counted for routes that are gone.
    pub fn every_route(&self) -> Vec<Arc<RouteSeries>> {
        let mut routes = self.labelled_routes();
        routes.push(Arc::clone(&self.removed_routes));
        routes
    }

    /// Forgets routes that have been unused for some time and are not `wanted`.
    pub(super) fn forget_routes(&self, wanted: impl Fn(&str) -> bool) {
        let forgotten = self.routes.sweep(|it| wanted(&it.route));
        for series in forgotten {
            let name = Arc::clone(&series.route);
            let new = || {
                let remainder = RouteSeries::new(Arc::clone(&self.name), Arc::clone(&name));
                (Arc::clone(&name), remainder)
            };
            self.forgotten_routes.get(&name, new).absorb(&series);
        }
    }

    /// Whether all that it has forgotten is forgotten everywhere.
    pub(super) fn is_settled(&self) -> bool {
        self.forgotten_routes.all_labels(|_| false)
    }

    /// Keeps what was counted for routes that are gone in sums alone, given which routes any worker has.
    pub(super) fn settle(&self, is_known: impl Fn(&Arc<str>) -> bool) {
        for (_, series) in self.forgotten_routes.take(|route| !is_known(route)) {
            self.removed_routes.absorb(&series);
        }
    }

    /// Counts a connection, as open until the result is dropped.
    pub fn open_connection(self: &Arc<Self>) -> OpenConnection {
        self.connections.add(1);
        OpenConnection(Arc::clone(self))
    }

    /// Counts a connection that was ended, or a stream that was reset, in HTTP/2.
    pub fn count_http2_reset(&self, reason: Http2Reset) {
        self.http2_resets.at(reason as usize).add(1);
    }

    /// Counts a successful TLS handshake.
    pub fn count_tls_handshake(&self, version: &str, resumed: bool) {
        if let Some(position) = TLS.iter().position(|label| *label == (version, resumed)) {
            self.tls.at(position).add(1);
        }
    }
}

/// An open connection, counted as such until dropped.
#[derive(Debug)]
pub struct OpenConnection(Arc<ListenerSeries>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.add(1);
    }
}

/// The label of an endpoint: its upstream and address. An endpoint that returns continues its
/// series.
pub type EndpointLabel = (Arc<str>, Arc<str>);

/// The series of a route on one listener.
#[derive(Debug)]
pub struct RouteSeries {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The name of the route; empty for requests that matched none.
    pub route: Arc<str>,
    /// WebSocket handshakes, by protocol and outcome.
    handshakes: [CounterArray<{ HandshakeOutcome::ALL.len() }>; ClientProtocol::ALL.len()],
    /// Handshakes accepted only because of `handshake = "lenient"`.
    pub excused: Counter,
    /// The time from a handshake's request to its 101.
    pub handshake_seconds: Histogram<{ LATENCY_SECONDS.len() }>,
    /// Rejections of handshakes and plain requests.
    pub rejections: RejectionCounts,
    /// Tunnels that have ended.
    pub ended: Counter,
    /// Ended tunnels with bytes that were not valid frames.
    pub unframed: Counter,
    /// The lifetime of ended tunnels.
    pub tunnel_seconds: Histogram<{ LIFETIME_SECONDS.len() }>,
    ping_rtt: [Histogram<{ LATENCY_SECONDS.len() }>; 2],
    frames_from_client: OpcodeCounts,
    frames_from_endpoint: OpcodeCounts,
    statuses: Mutex<Vec<(u16, u64)>>,
    /// The endpoints that requests on this route went to.
    pub endpoints: Labelled<EndpointLabel, EndpointSeries>,
}

impl RouteSeries {
    /// WebSocket handshakes with this outcome, of clients that speak this protocol.
    pub fn handshakes(&self, outcome: HandshakeOutcome, protocol: ClientProtocol) -> &Counter {
        let [http1, http2] = &self.handshakes;
        let counters = match protocol {
            ClientProtocol::Http1 => http1,
            ClientProtocol::Http2 => http2,
        };
        counters.at(outcome as usize)
    }

    pub(super) fn new(listener: Arc<str>, route: Arc<str>) -> Self {
        Self {
            listener,
            route,
            handshakes: Default::default(),
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
            frames_from_client: CounterArray::default(),
            frames_from_endpoint: CounterArray::default(),
            statuses: Mutex::default(),
            endpoints: Labelled::default(),
        }
    }

    /// The time that a side took to answer our Pings.
    pub fn ping_rtt(&self, side: Side) -> &Histogram<{ LATENCY_SECONDS.len() }> {
        let [client, endpoint] = &self.ping_rtt;
        match side {
            Side::Client => client,
            Side::Endpoint => endpoint,
        }
    }

    /// Counts frames that have gone on.
    pub fn count_frames(&self, side: Side, frames: &FrameCounts) {
        let counters = self.frames_from(side);
        for (position, count) in frames.each().into_iter().enumerate() {
            if count > 0 {
                counters.at(position).count(count.into());
            }
        }
    }

    /// Frames that came from this side.
    pub fn frames_from(&self, side: Side) -> &OpcodeCounts {
        match side {
            Side::Client => &self.frames_from_client,
            Side::Endpoint => &self.frames_from_endpoint,
        }
    }

    /// The series of an endpoint on this route.
    pub fn endpoint(self: &Arc<Self>, endpoint: &EndpointState) -> Arc<EndpointSeries> {
        let label = (Arc::clone(&endpoint.upstream), Arc::clone(&endpoint.label));
        self.endpoints.get(&label, || {
            let series = EndpointSeries::new(Arc::clone(self), label.clone());
            (label.clone(), series)
        })
    }

    /// Counts a response in HTTP.
    pub fn count_response(&self, status: u16) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        match statuses.iter_mut().find(|entry| entry.0 == status) {
            Some(entry) => entry.1 += 1,
            None => statuses.push((status, 1)),
        }
    }

    /// Responses in HTTP, by status.
    pub fn statuses(&self) -> Vec<(u16, u64)> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts by Close code. Codes of applications are grouped by the thousand: peers choose them, and
/// must not be able to create any number of series.
pub type CloseCodeCounts = CounterArray<{ CLOSE_CODES.len() }>;

/// Frames by opcode, in the order of [`Opcode::ALL`].
pub type OpcodeCounts = CounterArray<{ Opcode::ALL.len() }>;

/// The series of an endpoint on one listener and route.
#[derive(Debug)]
pub struct EndpointSeries {
    /// The series of the listener and route.
    pub route: Arc<RouteSeries>,
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// The address of the endpoint.
    pub endpoint: Arc<str>,
    /// Tunnels opened.
    pub opened: Counter,
    /// The time from the request to the 101 of all these, in microseconds.
    pub handshake_micros: Counter,
    /// Tunnels ended, by reason.
    pub ended: EndedCounts,
    closes_from_client: CloseCodeCounts,
    closes_from_endpoint: CloseCodeCounts,
    /// Open streams.
    pub streams_open: Counter,
    /// Streams ended, by reason.
    pub streams_ended: CounterArray<{ StreamEnded::COUNT }>,
    /// What the tunnels carried: ended ones always, open ones as of the last [`Traffic::publish`].
    pub traffic: Traffic,
    /// The time that successful connects took.
    pub connect_seconds: Histogram<{ LATENCY_SECONDS.len() }>,
    /// Failed connects, by reason.
    pub connect_failures: CounterArray<{ ConnectFailure::ALL.len() }>,
    /// Requests retried on another endpoint because of this one's response, or the lack of one.
    pub retried: Counter,
    /// Requests not retried because their upstream had used up its retry budget.
    pub retries_refused: Counter,
}

impl EndpointSeries {
    pub(super) fn new(route: Arc<RouteSeries>, (upstream, endpoint): EndpointLabel) -> Self {
        Self {
            route,
            upstream,
            endpoint,
            opened: Counter::default(),
            handshake_micros: Counter::default(),
            ended: CounterArray::default(),
            closes_from_client: CounterArray::default(),
            closes_from_endpoint: CounterArray::default(),
            streams_open: Counter::default(),
            streams_ended: CounterArray::default(),
            traffic: Traffic::default(),
            connect_seconds: Histogram::new(&LATENCY_SECONDS),
            connect_failures: CounterArray::default(),
            retried: Counter::default(),
            retries_refused: Counter::default(),
        }
    }

    /// The number of open tunnels.
    pub fn open(&self) -> u64 {
        let ended: u64 = Ended::ALL
            .iter()
            .map(|reason| self.ended.at(*reason as usize).get())
            .sum();
        self.opened.get().saturating_sub(ended)
    }

    /// Counts the first Close of a tunnel that has ended.
    pub fn count_close(&self, side: Side, code: u16) {
        self.closes_from(side).at(close_code_position(code)).add(1);
    }

    /// Codes of the first Close of ended tunnels, where this side sent it.
    pub fn closes_from(&self, side: Side) -> &CloseCodeCounts {
        match side {
            Side::Client => &self.closes_from_client,
            Side::Endpoint => &self.closes_from_endpoint,
        }
    }

    /// Counts a failed connect.
    pub fn count_connect_failure(&self, error: &ConnectError) {
        self.connect_failures
            .at(ConnectFailure::of(error) as usize)
            .add(1);
    }
}
