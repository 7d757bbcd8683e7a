//! The story of a request: what it is, which route it takes, which endpoint gets it, what comes
//! back, and the tunnel that may come of it.
//!
//! Only this module strings the stages together. It sends nothing to clients itself: what a
//! session came to is an [`Outcome`], which `front` makes into bytes.

mod arrival;
mod attempts;
mod client;
mod open;
mod outcome;
mod plain;
pub mod wish;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::request::Parts;
use ::http::{HeaderValue, Request, Response, StatusCode};
use arc_swap::ArcSwap;
use hyper::body::Incoming;

use self::arrival::{Arrival, Way};
use crate::config::model::{ListenerLimits, ListenerTimeouts, PlainHttp, TunnelLimits};
use crate::drain::Tasks;
use crate::net::admission::Permit;
use crate::net::handshakes::Handshakes;
use crate::net::listen::Listener;
use crate::net::stream::{Peer, Stream};
use crate::observe::access_log::{self, RequestFacts, SessionId, TunnelFacts, TunnelOpening};
use crate::observe::counters::Counters;
use crate::observe::recorder::{AccessLog, Recorder};
use crate::observe::series::{Connected, ListenerSeries, Way as WaySeries};
use crate::protocol::certificate::TlsFacts;
use crate::protocol::cookie::Led;
use crate::protocol::edit::{self, Edit};
use crate::protocol::forwarded::Via;
use crate::protocol::handshake::Intent;
use crate::protocol::proxy_header;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::protocol::trace::{TRACEPARENT, TRACESTATE, TraceId};
use crate::quota::{Quota, Share};
use crate::snapshot::{Route, Snapshot};
use crate::tunnel::copy::{Owed, Scratch, Tunnel};
use crate::tunnel::forwarder::Side;
use crate::tunnel::table::{Owner, Table};
use crate::upstream::connect::{Reached, Resolver};
use crate::upstream::endpoint::{Lease, State};
use crate::upstream::group::{Upstream, Wish};
use crate::upstream::http::{Pool, ReplyBody};
use crate::upstream::source;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration as running; read once per session.
    pub snapshot: ArcSwap<Snapshot>,
    /// Where the events of sessions are logged.
    pub access_log: Arc<AccessLog>,
    /// Tunnels of the process, as far as they are limited.
    tunnels: Arc<Quota>,
    /// Finds the addresses of endpoints.
    pub resolver: Resolver,
}

impl Shared {
    /// Begins with this configuration.
    pub fn new(snapshot: Snapshot, resolver: Resolver) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            access_log: Arc::default(),
            tunnels: Arc::default(),
            resolver,
        }
    }
}

/// What one worker's sessions share.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    /// What it records with.
    pub recorder: Rc<Recorder>,
    /// Its tasks.
    pub tasks: Tasks,
    /// Its live tunnels.
    pub tunnels: Rc<Table<Record>>,
    /// Its idle connections to endpoints.
    pub pool: Rc<Pool>,
    /// Its TLS handshakes, by listener.
    handshakes: RefCell<HashMap<Arc<str>, Rc<Handshakes>>>,
    scratch: Scratch,
    ids: RandomState,
    sessions: Cell<u64>,
}

impl Worker {
    /// With nothing running.
    pub fn new(shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        let log = Arc::clone(&shared.access_log);
        Self {
            shared,
            recorder: Rc::new(Recorder { counters, log }),
            tasks: Tasks::default(),
            tunnels: Rc::default(),
            pool: Rc::default(),
            handshakes: RefCell::default(),
            scratch: Scratch::new(),
            ids: RandomState::new(),
            sessions: Cell::new(0),
        }
    }

    /// The configuration as running.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// An id that no other session has.
    pub fn next_session(&self) -> SessionId {
        let number = self.sessions.get();
        self.sessions.set(number + 1);
        SessionId(self.ids.hash_one(number))
    }

    /// The TLS handshakes of `listener` here.
    pub fn handshakes(&self, listener: &Arc<str>) -> Rc<Handshakes> {
        let mut handshakes = self.handshakes.borrow_mut();
        Rc::clone(handshakes.entry(Arc::clone(listener)).or_default())
    }

    /// Shows in the counters what live tunnels have carried by now, too.
    pub fn show_carried(&self) {
        let ways = self.recorder.counters.ways();
        ways.iter().for_each(|way| way.carried.begin_sum());
        self.tunnels.each(|entry, record| {
            record.facts.way.carried.add_live(&entry.meter);
        });
        ways.iter().for_each(|way| way.carried.show());
    }

    fn tunnel_quota(&self) -> &Arc<Quota> {
        &self.shared.tunnels
    }

    fn resolver(&self) -> &Resolver {
        &self.shared.resolver
    }
}

/// What sessions know of the connection that their requests came by.
#[derive(Debug)]
pub struct Connection {
    /// The worker that has it.
    pub worker: Rc<Worker>,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// What is counted of that on this worker.
    pub counts: Arc<ListenerSeries>,
    /// Deadlines towards the client, as they were when it came in.
    pub timeouts: ListenerTimeouts,
    /// What the client may take, likewise.
    pub limits: ListenerLimits,
    /// Who connected: the socket's other end, or who a PROXY header says.
    pub peer: Peer,
    /// A PROXY header came with it that names nobody: whoever it is, they are not the peer.
    pub is_anonymous: bool,
    /// The address that was connected to, likewise; `None` for a unix socket.
    pub local: Option<SocketAddr>,
    /// Whether it came by TLS, to us or to who sent the PROXY header.
    pub secure: bool,
    /// What is known of our TLS.
    pub tls: Option<TlsFacts>,
}

/// What a session came to.
#[derive(Debug)]
pub enum Outcome {
    /// Both sides agreed: the connection becomes a tunnel.
    Tunnel(Box<Opening>),
    /// An endpoint's reply.
    Reply(Response<ReplyBody>),
    /// A redirect of ours, recorded already.
    Redirect(StatusCode, HeaderValue),
    /// A refusal of ours, recorded already.
    Rejected(Rejection),
}

/// A tunnel that both sides have agreed on. The client has not been told yet.
#[derive(Debug)]
pub struct Opening {
    endpoint: Reached,
    lease: Lease,
    limits: Arc<TunnelLimits>,
    /// The head of the 101 for the client, and what the endpoint sent behind its own.
    to_client: Vec<u8>,
    /// How much of that is the endpoint's.
    read_ahead: usize,
    handshake: Duration,
    request_id: Option<Box<str>>,
    trace: Option<TraceId>,
    shares: Vec<Share>,
    facts: TunnelFacts,
}

/// A refusal, and what else the operator should know of it.
#[derive(Debug)]
struct Refusal {
    rejection: Rejection,
    detail: Option<String>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            detail: None,
        }
    }
}

impl Refusal {
    /// On account of `endpoint`.
    fn because(rejection: Rejection, endpoint: &str, error: &dyn std::error::Error) -> Self {
        // The chain matters here: hyper's own words are only the first link.
        let mut detail = format!("{endpoint}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            detail.push_str(": ");
            detail.push_str(&error.to_string());
            source = error.source();
        }
        Self {
            rejection,
            detail: Some(detail),
        }
    }
}

/// One request on its way to an upstream.
struct Session<'a> {
    connection: &'a Connection,
    arrival: &'a Arrival<'a>,
    target: &'a Target,
    route: &'a Route,
    upstream: &'a Upstream,
    /// Path and query for the endpoint.
    uri: &'a str,
    /// Which endpoint it should be.
    wish: Wish,
    /// What the cookie that it came with says, where one leads back to an endpoint.
    led: Option<Led>,
    facts: RequestFacts<'a>,
}

impl Session<'_> {
    /// The `Host` that the leased endpoint sees.
    fn host_for<'a>(&'a self, lease: &'a Lease) -> &'a str {
        match lease.endpoint().host() {
            Some(host) if !self.route.settings.preserve_host => host,
            _ => self.target.authority(),
        }
    }

    /// What is counted of the way to the leased endpoint.
    fn way(&self, lease: &Lease) -> Arc<WaySeries> {
        let route = self.connection.counts.route(&self.route.settings.name);
        route.way(lease.endpoint())
    }

    /// How the request came, as endpoints are told.
    fn via(&self) -> Via<'_> {
        let port = self.connection.local.map(|local| local.port());
        self.arrival.client.via(self.target, port)
    }

    /// What connections to the endpoint begin with.
    fn proxy_header(&self) -> Vec<u8> {
        let addresses = self.arrival.client.source().zip(self.connection.local);
        proxy_header::write(self.upstream.reach().send_proxy, addresses)
    }

    /// Changes to the request's fields: those of the route, and what only we know.
    fn request_edit(&self) -> Edit<'_> {
        let snapshot = &self.arrival.snapshot;
        let changes = &self.route.settings.request_headers;
        let known = self.arrival.known(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &snapshot.vouched, &known);
        if let Some(name) = &snapshot.server.request_id
            && let Ok(id) = HeaderValue::from_str(&self.arrival.id)
        {
            edit.vouch(name, id);
        }
        if let Some(parent) = &self.arrival.trace.parent {
            edit.replace(TRACEPARENT, parent.clone());
            edit.remove(TRACESTATE);
        }
        let certificate = self.arrival.certificate();
        let certificate = certificate.and_then(|certificate| certificate.header());
        let header = &self.arrival.settings.certificate_header;
        if let (Some(name), Some(value)) = (header, certificate) {
            edit.vouch(name, value);
        }
        edit
    }

    /// Changes to the fields of what the leased endpoint answers.
    fn response_edit(&self, lease: &Lease) -> Edit<'_> {
        let changes = &self.route.settings.response_headers;
        let known = self.arrival.known(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &[], &known);
        edit.set_cookie(self.cookie_to(lease));
        edit
    }

    /// The cookie that leads back to the leased endpoint, unless the client has a good one.
    fn cookie_to(&self, lease: &Lease) -> Option<HeaderValue> {
        let sticky = self.upstream.sticky.as_ref()?;
        let tag = sticky.signer.tag(&lease.endpoint().label);
        if self.led.is_some_and(|led| led.to == tag && !led.is_aging) {
            return None;
        }
        let secure = self.arrival.client.secure();
        sticky
            .signer
            .set(tag, &sticky.settings, secure, wish::seconds())
    }
}

/// Serves one request. `first_head` is its head as it came, if it is the connection's first.
pub async fn serve(
    connection: &Connection,
    request: Request<Incoming>,
    first_head: Option<&[u8]>,
) -> Outcome {
    let (parts, body) = request.into_parts();
    let (arrival, read) = Arrival::new(connection, &parts);
    let answered = match read {
        Ok(()) => answer(&arrival, parts, body, first_head).await,
        Err(rejection) => Err(rejection.into()),
    };
    arrival.is_answered();
    match answered {
        Ok(outcome) => outcome,
        Err(Refusal { rejection, detail }) => {
            access_log::rejected(
                &connection.worker.recorder,
                arrival.facts(),
                rejection,
                detail.as_deref(),
            );
            Outcome::Rejected(rejection)
        }
    }
}

async fn answer(
    arrival: &Arrival<'_>,
    parts: Parts,
    body: Incoming,
    first_head: Option<&[u8]>,
) -> Result<Outcome, Refusal> {
    let intent = Intent::of(&parts)?;
    let target = arrival.asks_for(Target::of(&parts)?);
    let handshake = match &intent {
        Intent::Handshake(handshake) => Some(handshake),
        Intent::Plain => None,
    };
    let route = match arrival.way(&parts, target, handshake)? {
        Way::Route(route) => route,
        Way::Elsewhere(outcome) => return Ok(outcome),
    };
    let upstream = route.upstream.as_deref().ok_or(Rejection::NoRoute)?;
    let tls = arrival.connection.tls.as_ref();
    let traits = wish::Traits {
        client: arrival.client.address(),
        server_name: tls.and_then(|tls| tls.server_name.as_deref()),
        headers: &parts.headers,
        target,
    };
    let (wish, led) = wish::of(upstream, traits);
    let session = Session {
        connection: arrival.connection,
        arrival,
        target,
        route: &route,
        upstream,
        wish,
        led,
        uri: &edit::rewrite(&route.settings.rewrite, target.origin_form())?,
        facts: arrival.facts(),
    };
    match intent {
        Intent::Handshake(handshake) => {
            drop(body);
            let shares = arrival.tunnel_shares(&route)?;
            let handshake = match route.settings.compression {
                true => handshake,
                false => handshake.without_compression(),
            };
            open::open(&session, &parts, &handshake, first_head, shares).await
        }
        Intent::Plain if route.settings.http == PlainHttp::Reject => {
            Err(Rejection::WebSocketRequired.into())
        }
        Intent::Plain => plain::proxy(&session, parts, body).await,
    }
}

/// Relays between the client and the endpoint of `opening` in a task of its own, until the tunnel
/// ends. `read_ahead` is what the client sent behind its request.
pub fn relay(
    connection: &Connection,
    opening: Opening,
    client: Stream,
    read_ahead: &[u8],
    place: Place,
) {
    let Place {
        mut permit,
        connected,
    } = place;
    permit.hold_tunnel(opening.shares);
    let worker = &connection.worker;
    let record = Rc::new(Record {
        facts: opening.facts,
        lease: opening.lease,
        _ports: opening.endpoint.share,
        _permit: permit,
        _connected: connected,
    });
    access_log::tunnel_opened(
        &worker.recorder,
        &record.facts,
        TunnelOpening {
            handshake: opening.handshake,
            request_id: opening.request_id.as_deref(),
            trace: opening.trace,
        },
    );
    let owed = Owed {
        to_client: opening.to_client,
        from_endpoint: opening.read_ahead,
        to_endpoint: read_ahead.to_vec(),
    };
    let place = worker.tunnels.enter(opening.limits, Rc::clone(&record));
    let scratch = worker.scratch.clone();
    let tunnel = Tunnel::new(client, opening.endpoint.stream, owed, place, scratch);
    worker.tasks.spawn(Relay {
        tunnel,
        record,
        worker: Rc::clone(worker),
    });
}

/// What a client's connection counts for as long as it lasts.
#[derive(Debug)]
pub struct Place {
    /// In the process and on its worker.
    pub permit: Permit,
    /// At its listener.
    pub connected: Connected,
}

/// What is recorded of a tunnel, and what it holds until it ends.
#[derive(Debug)]
pub struct Record {
    /// What is told of it.
    pub facts: TunnelFacts,
    lease: Lease,
    _ports: Option<source::Share>,
    _permit: Permit,
    _connected: Connected,
}

impl Record {
    /// The endpoint.
    pub fn endpoint(&self) -> &State {
        self.lease.endpoint()
    }
}

impl Owner for Record {
    fn answered(&self, side: Side, after: Duration) {
        self.facts.way.route.ping_rtt(side).observe(after);
    }
}

/// The task of a tunnel. Written by hand because there are many at once: an `async` block would
/// hold the tunnel twice.
#[derive(Debug)]
struct Relay {
    tunnel: Tunnel<Record>,
    record: Rc<Record>,
    worker: Rc<Worker>,
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let finished = ready!(Pin::new(&mut self.tunnel).poll(cx));
        let Record { facts, lease, .. } = &*self.record;
        let endpoint = lease.endpoint();
        outcome::ended(&self.worker, facts, endpoint, finished);
        access_log::tunnel_ended(&self.worker.recorder, facts, self.tunnel.meter(), finished);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_small() {
        // With what tokio keeps of a task, 512 bytes; and a size class of the allocator.
        assert!(size_of::<Relay>() <= 376, "{} bytes", size_of::<Relay>());
        // With the counts of its `Rc`, a size class too.
        assert!(size_of::<Record>() <= 144, "{} bytes", size_of::<Record>());
    }
}
