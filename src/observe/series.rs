//! What is counted by listener, by route, and by the way to an endpoint, on one worker.

use std::sync::{Arc, Mutex, PoisonError};

use super::counter::{Counter, Each};
use super::histogram::{Histogram, LONG, SHORT};
use super::labelled::Labelled;
use super::labels::{CLOSE_CODES, Outcome, TLS, Turned, Unreached, close_code_position};
use super::traffic::Carried;
use crate::protocol::rejection::Rejection;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::State;

/// Refusals, by reason.
pub type Rejections = Each<{ Rejection::ALL.len() }>;

/// Ended tunnels, by reason.
pub type Ends = Each<{ Ended::ALL.len() }>;

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
    pub turned: Each<{ Turned::ALL.len() }>,
    /// TLS handshakes, as in [`TLS`].
    pub tls: Each<{ TLS.len() }>,
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
            turned: Each::default(),
            tls: Each::default(),
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
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.add(1);
        Connected(Arc::clone(self))
    }

    /// Counts a TLS handshake.
    pub fn secured(&self, version: &str, resumed: bool) {
        if let Some(position) = TLS.iter().position(|known| *known == (version, resumed)) {
            self.tls.at(position).add(1);
        }
    }
}

/// An open connection, counted.
#[derive(Debug)]
pub struct Connected(Arc<ListenerSeries>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.closed.add(1);
    }
}

/// Upstream and address: one that comes back goes on counting where it was.
pub type Endpoint = (Arc<str>, Arc<str>);

/// What came by a listener and took a route.
#[derive(Debug)]
pub struct RouteSeries {
    /// The listener.
    pub listener: Arc<str>,
    /// The route; empty for what came to none.
    pub route: Arc<str>,
    /// Handshakes, by what they came to.
    pub handshakes: Each<{ Outcome::ALL.len() }>,
    /// Those of them that `handshake = "lenient"` has excused.
    pub excused: Counter,
    /// From a handshake's request to its 101.
    pub handshake_seconds: Histogram<{ SHORT.len() }>,
    /// Refusals, of plain requests too.
    pub rejections: Rejections,
    /// Tunnels that have ended.
    pub ended: Counter,
    /// Those of them that were no framing, at least in part.
    pub unframed: Counter,
    /// How long these had lived.
    pub tunnel_seconds: Histogram<{ LONG.len() }>,
    ping_rtt: [Histogram<{ SHORT.len() }>; 2],
    closes_from_client: CloseCodes,
    closes_from_endpoint: CloseCodes,
    statuses: Mutex<Vec<(u16, u64)>>,
    /// The endpoints that it led to.
    pub ways: Labelled<Endpoint, Way>,
}

impl RouteSeries {
    fn new(listener: Arc<str>, route: Arc<str>) -> Self {
        Self {
            listener,
            route,
            handshakes: Each::default(),
            excused: Counter::default(),
            handshake_seconds: Histogram::new(&SHORT),
            rejections: Each::default(),
            ended: Counter::default(),
            unframed: Counter::default(),
            tunnel_seconds: Histogram::new(&LONG),
            ping_rtt: [Histogram::new(&SHORT), Histogram::new(&SHORT)],
            closes_from_client: Each::default(),
            closes_from_endpoint: Each::default(),
            statuses: Mutex::default(),
            ways: Labelled::default(),
        }
    }

    /// How long a side took to answer our Pings.
    pub fn ping_rtt(&self, side: Side) -> &Histogram<{ SHORT.len() }> {
        let [client, endpoint] = &self.ping_rtt;
        match side {
            Side::Client => client,
            Side::Endpoint => endpoint,
        }
    }

    /// What went on to `endpoint`.
    pub fn way(self: &Arc<Self>, endpoint: &State) -> Arc<Way> {
        let label = (Arc::clone(&endpoint.upstream), Arc::clone(&endpoint.label));
        self.ways
            .get(&label, || (label.clone(), Way::new(self, endpoint)))
    }

    /// Counts an answer in HTTP.
    pub fn answered(&self, status: u16) {
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
    pub fn closed(&self, side: Side, code: u16) {
        self.closes_from(side).at(close_code_position(code)).add(1);
    }

    /// Codes of the first Close of tunnels that have ended, where this side sent it.
    pub fn closes_from(&self, side: Side) -> &CloseCodes {
        match side {
            Side::Client => &self.closes_from_client,
            Side::Endpoint => &self.closes_from_endpoint,
        }
    }
}

/// Codes of Close frames, those of applications by the thousand: whoever sends them chooses them.
pub type CloseCodes = Each<{ CLOSE_CODES.len() }>;

/// What came by a listener, took a route and went to an endpoint.
#[derive(Debug)]
pub struct Way {
    /// Listener and route.
    pub route: Arc<RouteSeries>,
    /// The upstream.
    pub upstream: Arc<str>,
    /// The endpoint's address.
    pub endpoint: Arc<str>,
    /// Tunnels opened.
    pub opened: Counter,
    /// Tunnels ended, by reason.
    pub ended: Ends,
    /// What went through them: ended ones always, live ones as of the last [`Carried::show`].
    pub carried: Carried,
    /// How long connecting took.
    pub connect_seconds: Histogram<{ SHORT.len() }>,
    /// Failures to connect.
    pub unreached: Each<{ Unreached::ALL.len() }>,
    /// Requests that went on to another endpoint after this one's answer, or the want of it.
    pub retried: Counter,
}

impl Way {
    fn new(route: &Arc<RouteSeries>, endpoint: &State) -> Self {
        Self {
            route: Arc::clone(route),
            upstream: Arc::clone(&endpoint.upstream),
            endpoint: Arc::clone(&endpoint.label),
            opened: Counter::default(),
            ended: Each::default(),
            carried: Carried::default(),
            connect_seconds: Histogram::new(&SHORT),
            unreached: Each::default(),
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
    pub fn unreached(&self, error: &ConnectError) {
        self.unreached.at(Unreached::of(error) as usize).add(1);
    }
}
