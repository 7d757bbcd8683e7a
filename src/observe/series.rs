//! What is counted by listener, by route, and by the way to an endpoint, on one worker.

use std::sync::{Arc, Mutex, PoisonError};

use super::counters::{Counter, Each, Ends, Labelled, Rejections};
use super::histogram::{Histogram, LONG, SHORT};
use crate::tunnel::ended::Ended;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::State;

macro_rules! labels {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $each:literal])+ $variant:ident = $token:literal,)+ }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $each])+ $variant,)+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// How metrics spell it.
            pub fn token(self) -> &'static str {
                match self { $(Self::$variant => $token,)+ }
            }
        }
    };
}

labels! {
    /// Why a connection was closed before it came to a request.
    Turned {
        /// `limits.connections`.
        Connections = "connections",
        /// `limits.connections_per_ip`.
        ConnectionsPerIp = "connections-per-ip",
        /// Its PROXY header, or the want of one.
        ProxyHeader = "proxy-header",
        /// As many TLS handshakes wait as may.
        TlsQueue = "tls-queue",
        /// The TLS handshake failed, or took too long.
        Tls = "tls",
    }
}

labels! {
    /// What a handshake came to.
    Outcome {
        /// A tunnel.
        Opened = "opened",
        /// An endpoint answered something other than a 101.
        Declined = "declined",
        /// We refused it.
        Rejected = "rejected",
        /// The client went away before there was an answer.
        Abandoned = "abandoned",
    }
}

labels! {
    /// Why an endpoint was not reached.
    Unreached {
        /// The deadline passed.
        Timeout = "timeout",
        /// Its name has no address.
        Resolve = "resolve",
        /// It, or the network, refused.
        Refused = "refused",
        /// No local address has a port left for it.
        Ports = "ports",
        /// This process has no descriptor left.
        Descriptors = "descriptors",
        /// The TLS handshake failed.
        Tls = "tls",
    }
}

impl Unreached {
    fn of(error: &ConnectError) -> Self {
        match error {
            ConnectError::Timeout(_) => Self::Timeout,
            ConnectError::Resolve(_) => Self::Resolve,
            ConnectError::Refused(_) => Self::Refused,
            ConnectError::Ports(_) => Self::Ports,
            ConnectError::Descriptors(_) => Self::Descriptors,
            ConnectError::Tls(_) | ConnectError::NoServerName => Self::Tls,
        }
    }
}

/// Versions of TLS, fresh and resumed.
pub const TLS: [(&str, bool); 4] = [
    ("TLSv1.2", false),
    ("TLSv1.2", true),
    ("TLSv1.3", false),
    ("TLSv1.3", true),
];

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

/// How metrics spell them.
pub const CLOSE_CODES: [&str; 19] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011",
    "1012", "1013", "1014", "1015", "3xxx", "4xxx", "other",
];

fn close_code_position(code: u16) -> usize {
    match code {
        1000..=1015 => usize::from(code) - 1000,
        3000..=3999 => 16,
        4000..=4999 => 17,
        _ => 18,
    }
}

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

/// What meters show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Bytes that came from a side.
    Bytes(Side),
    /// Messages that began to come from a side.
    Messages(Side),
}

impl Carriage {
    const ALL: [Self; 4] = [
        Self::Bytes(Side::Client),
        Self::Bytes(Side::Endpoint),
        Self::Messages(Side::Client),
        Self::Messages(Side::Endpoint),
    ];

    fn of(self, meter: &Meter) -> u64 {
        match self {
            Self::Bytes(side) => meter.bytes(side),
            Self::Messages(side) => meter.messages(side),
        }
    }

    fn position(self) -> usize {
        match self {
            Self::Bytes(Side::Client) => 0,
            Self::Bytes(Side::Endpoint) => 1,
            Self::Messages(Side::Client) => 2,
            Self::Messages(Side::Endpoint) => 3,
        }
    }
}

/// What tunnels carried. Live ones count too, so it is summed anew whenever it is to be shown; what
/// is shown never goes back, because a tunnel's end and a sum are the same worker's work.
#[derive(Debug, Default)]
pub struct Carried {
    ended: Each<4>,
    sum: Each<4>,
    shown: Each<4>,
}

impl Carried {
    /// A tunnel has ended.
    pub fn end(&self, meter: &Meter) {
        for carriage in Carriage::ALL {
            self.ended.at(carriage.position()).add(carriage.of(meter));
        }
    }

    /// Begins a sum, with the tunnels that have ended.
    pub fn begin_sum(&self) {
        for position in 0..Carriage::ALL.len() {
            self.sum.at(position).set(self.ended.at(position).get());
        }
    }

    /// Adds a live tunnel.
    pub fn add_live(&self, meter: &Meter) {
        for carriage in Carriage::ALL {
            self.sum.at(carriage.position()).add(carriage.of(meter));
        }
    }

    /// Shows the sum.
    pub fn show(&self) {
        for position in 0..Carriage::ALL.len() {
            self.shown.at(position).set(self.sum.at(position).get());
        }
    }

    /// What is shown.
    pub fn shown(&self, carriage: Carriage) -> u64 {
        self.shown.at(carriage.position()).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_live_tunnels_carry_is_shown_and_never_goes_back() {
        let carried = Carried::default();
        let meter = Meter::default();
        meter.count(Side::Client, 5);
        meter.count_messages(Side::Endpoint, 2);
        let sum = |live: Option<&Meter>| {
            carried.begin_sum();
            live.into_iter().for_each(|meter| carried.add_live(meter));
            carried.show();
            let shown = |carriage| carried.shown(carriage);
            (
                shown(Carriage::Bytes(Side::Client)),
                shown(Carriage::Messages(Side::Endpoint)),
            )
        };
        assert_eq!(sum(Some(&meter)), (5, 2));
        meter.count(Side::Client, 1);
        carried.end(&meter);
        assert_eq!(sum(None), (6, 2));
    }

    #[test]
    fn close_codes_are_told_apart_as_far_as_there_are_few() {
        for (code, shown) in [
            (1000, "1000"),
            (1015, "1015"),
            (3000, "3xxx"),
            (4999, "4xxx"),
            (1016, "other"),
            (0, "other"),
        ] {
            assert_eq!(CLOSE_CODES[close_code_position(code)], shown, "{code}");
        }
    }

    #[test]
    fn labels_are_in_the_order_of_their_counters() {
        assert!(
            Turned::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            Outcome::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            Unreached::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
    }
}
