//! Pages of a worker's tunnels: those that match a filter, as a listing or a choice of tunnels to close needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tunnel_filter::TunnelFilter;
use crate::net::stream::Peer;
use crate::observe::access_log::TunnelFacts;
use crate::observe::series::EndpointSeries;
use crate::session::Worker;
use crate::tunnel::ended::Ended;
use crate::tunnel::entry::TunnelEntry;
use crate::tunnel::side::Side;

/// Tunnels that a worker visits for one page: a tenth of a millisecond, as long as a handshake takes.
const PAGE_LENGTH: usize = 256;

/// A tunnel of a worker: its place in the table, and its session, because the place may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelRef {
    /// Its place in the worker's table.
    pub place: usize,
    /// The session that had this place.
    pub session: u64,
}

/// A page of tunnels.
#[derive(Debug)]
pub struct TunnelPage<T> {
    /// The tunnels that match.
    pub tunnels: Vec<T>,
    /// The place to continue with, if there are more.
    pub next: Option<usize>,
}

/// A live tunnel as it was a moment ago.
#[derive(Debug, Clone)]
pub struct LiveTunnel {
    /// Where to find it again.
    pub reference: TunnelRef,
    /// The client.
    pub client: Peer,
    /// Its listener, route, upstream and endpoint.
    pub series: Arc<EndpointSeries>,
    /// Host and path of the request.
    pub target: Box<str>,
    /// The negotiated subprotocol.
    pub subprotocol: Option<Box<str>>,
    /// How long it has been open.
    pub age: Duration,
    /// How long neither side has sent a byte.
    pub quiet: Duration,
    /// Its traffic since it opened.
    pub traffic: TunnelTraffic,
    /// The reason that it is being closed for, if it is.
    pub ending: Option<Ended>,
}

/// A live tunnel that may be chosen to be closed. There may be a million of them, so nothing of it is copied to
/// the heap.
#[derive(Debug, Clone)]
pub struct CloseCandidate {
    /// Where to find it again.
    pub reference: TunnelRef,
    /// Its listener, route, upstream and endpoint.
    pub series: Arc<EndpointSeries>,
    /// How long it has been open.
    pub age: Duration,
    /// The reason that it is being closed for already, if it is.
    pub ending: Option<Ended>,
}

/// The traffic of a tunnel since it opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TunnelTraffic {
    pub bytes_from_client: u64,
    pub bytes_from_endpoint: u64,
    pub messages_from_client: u64,
    pub messages_from_endpoint: u64,
}

/// The tunnels that match among the next places of the table, each as `describe` shows it.
pub(super) fn page<T>(
    worker: &Worker,
    from: usize,
    filter: &TunnelFilter,
    describe: impl Fn(TunnelRef, &TunnelEntry, &TunnelFacts, (Duration, Duration)) -> T,
) -> TunnelPage<T> {
    let now = Instant::now();
    let mut tunnels = Vec::new();
    let next = worker
        .tunnels
        .page(from, PAGE_LENGTH, |place, entry, quiet, record| {
            let facts = &record.facts;
            let age = now.saturating_duration_since(facts.opened);
            let subject = worker.tunnels.binding(place).subject;
            let is_selected = |chain: &[_]| {
                let certificates = filter.certificates.as_ref();
                certificates.is_some_and(|it| it.contain_any(chain))
            };
            if filter.matches(facts, (age, quiet), subject)
                && (filter.certificates.is_none()
                    || worker.tunnels.has_certificate(place, is_selected))
            {
                let session = facts.session.0;
                let reference = TunnelRef { place, session };
                tunnels.push(describe(reference, entry, facts, (age, quiet)));
            }
        });
    TunnelPage { tunnels, next }
}

impl LiveTunnel {
    pub(super) fn new(
        reference: TunnelRef,
        entry: &TunnelEntry,
        facts: &TunnelFacts,
        (age, quiet): (Duration, Duration),
    ) -> Self {
        let meter = &entry.meter;
        Self {
            reference,
            client: facts.client,
            series: Arc::clone(&facts.series),
            target: facts.target.clone(),
            subprotocol: facts.subprotocol.clone(),
            age,
            quiet,
            traffic: TunnelTraffic {
                bytes_from_client: meter.bytes(Side::Client),
                bytes_from_endpoint: meter.bytes(Side::Endpoint),
                messages_from_client: meter.messages(Side::Client),
                messages_from_endpoint: meter.messages(Side::Endpoint),
            },
            ending: entry.verdict(),
        }
    }
}

impl CloseCandidate {
    pub(super) fn new(
        reference: TunnelRef,
        entry: &TunnelEntry,
        facts: &TunnelFacts,
        (age, _): (Duration, Duration),
    ) -> Self {
        Self {
            reference,
            series: Arc::clone(&facts.series),
            age,
            ending: entry.verdict(),
        }
    }
}
