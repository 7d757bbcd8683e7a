//! Pages of a worker's tunnels and streams: those that match a filter, as a listing or a choice of tunnels to close needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tunnel_filter::{FilteredSession, SessionKind, TunnelFilter};
use crate::net::stream::Peer;
use crate::observe::series::EndpointSeries;
use crate::protocol::client_protocol::ClientProtocol;
use crate::session::{StreamRecord, TunnelRecord, Worker};
use crate::streams::ended::StreamEnded;
use crate::streams::exchange::Exchange;
use crate::tunnel::ended::Ended;
use crate::tunnel::entry::TunnelEntry;
use crate::tunnel::side::Side;

/// Tunnels that a worker visits for one page: a tenth of a millisecond, as long as a handshake takes.
const PAGE_LENGTH: usize = 256;

/// A tunnel or stream of a worker: its place in the table, and its session, because the place may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelRef {
    /// Whether it is a tunnel or a stream.
    pub kind: SessionKind,
    /// Its place in the worker's table of those.
    pub place: usize,
    /// The session that had this place.
    pub session: u64,
}

/// A page of tunnels.
#[derive(Debug)]
pub struct TunnelPage<T> {
    /// The tunnels that match, and streams.
    pub tunnels: Vec<T>,
    /// The position to continue with, if there are more.
    pub next: Option<TablePosition>,
}

/// A live tunnel or stream as it was a moment ago.
#[derive(Debug, Clone)]
pub struct LiveTunnel {
    /// Where to find it again.
    pub reference: TunnelRef,
    /// The client.
    pub client: Peer,
    /// The protocol that it speaks.
    pub protocol: ClientProtocol,
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

/// A live tunnel or stream that may be chosen to be closed. There may be a million of them, so nothing of it is copied to
/// the heap.
#[derive(Debug, Clone)]
pub struct CloseCandidate {
    /// Where to find it again.
    pub reference: TunnelRef,
    /// Its listener, route, upstream and endpoint.
    pub series: Arc<EndpointSeries>,
    /// When it opened. Workers are asked one after the other, so that this says more than the age about which of two
    /// is older.
    pub opened: Instant,
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

/// A position in the tables of a worker: first all tunnels, then all streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TablePosition {
    /// The table.
    pub kind: SessionKind,
    /// The place in it.
    pub place: usize,
}

/// What a page shows of a tunnel or a stream.
pub(super) trait PageRow: Sized {
    /// A tunnel, with its age and the time without a byte.
    fn of_tunnel(
        reference: TunnelRef,
        entry: &TunnelEntry,
        record: &TunnelRecord,
        times: (Duration, Duration),
    ) -> Self;

    /// A stream, with its age and the time without a byte.
    fn of_stream(
        reference: TunnelRef,
        exchange: &Exchange<StreamRecord>,
        series: Arc<EndpointSeries>,
        times: (Duration, Duration),
    ) -> Self;
}

/// The tunnels and streams that match among the next places of the tables.
pub(super) fn page<T: PageRow>(
    worker: &Worker,
    from: TablePosition,
    filter: &TunnelFilter,
) -> TunnelPage<T> {
    if from.kind == SessionKind::Tunnel && filter.has(SessionKind::Tunnel) {
        let (tunnels, next) = tunnels(worker, from.place, filter);
        let kind = match next {
            Some(_) => SessionKind::Tunnel,
            None => SessionKind::Stream,
        };
        let place = next.unwrap_or_default();
        let has_more = next.is_some() || filter.has(SessionKind::Stream);
        let next = has_more.then_some(TablePosition { kind, place });
        return TunnelPage { tunnels, next };
    }
    if !filter.has(SessionKind::Stream) {
        let (tunnels, next) = (Vec::new(), None);
        return TunnelPage { tunnels, next };
    }
    let place = match from.kind {
        SessionKind::Tunnel => 0,
        SessionKind::Stream => from.place,
    };
    let (tunnels, next) = streams(worker, place, filter);
    let kind = SessionKind::Stream;
    let next = next.map(|place| TablePosition { kind, place });
    TunnelPage { tunnels, next }
}

fn tunnels<T: PageRow>(
    worker: &Worker,
    from: usize,
    filter: &TunnelFilter,
) -> (Vec<T>, Option<usize>) {
    let now = Instant::now();
    let mut rows = Vec::new();
    let visit = |place, entry: &TunnelEntry, quiet, record: &TunnelRecord| {
        let facts = &record.facts;
        let age = now.saturating_duration_since(facts.opened);
        let candidate = FilteredSession {
            session: facts.session.0,
            client: facts.client,
            series: &facts.series,
            host: facts.host_and_path().0,
            age,
            quiet,
            subject: worker.tunnels.binding(place).subject,
        };
        let is_selected = |chain: &[_]| {
            let certificates = filter.certificates.as_ref();
            certificates.is_some_and(|it| it.contain_any(chain))
        };
        if filter.matches(&candidate)
            && (filter.certificates.is_none() || worker.tunnels.has_certificate(place, is_selected))
        {
            let reference = TunnelRef {
                kind: SessionKind::Tunnel,
                place,
                session: facts.session.0,
            };
            rows.push(T::of_tunnel(reference, entry, record, (age, quiet)));
        }
    };
    let next = worker.tunnels.page(from, PAGE_LENGTH, visit);
    (rows, next)
}

fn streams<T: PageRow>(
    worker: &Worker,
    from: usize,
    filter: &TunnelFilter,
) -> (Vec<T>, Option<usize>) {
    let now = Instant::now();
    let mut rows = Vec::new();
    let visit = |place, exchange: &Exchange<StreamRecord>, quiet| {
        let record = &exchange.owner;
        if !(exchange.is_stream() || filter.with_young_streams) {
            return;
        }
        let Some(series) = record.series() else {
            return;
        };
        let age = now.saturating_duration_since(record.started);
        let candidate = FilteredSession {
            session: record.session.0,
            client: record.client,
            series: &series,
            host: record.host(),
            age,
            quiet,
            subject: record.subject,
        };
        if filter.matches(&candidate) {
            let reference = TunnelRef {
                kind: SessionKind::Stream,
                place,
                session: record.session.0,
            };
            rows.push(T::of_stream(reference, exchange, series, (age, quiet)));
        }
    };
    let next = worker.exchanges.page(from, PAGE_LENGTH, visit);
    (rows, next)
}

impl PageRow for LiveTunnel {
    fn of_tunnel(
        reference: TunnelRef,
        entry: &TunnelEntry,
        record: &TunnelRecord,
        (age, quiet): (Duration, Duration),
    ) -> Self {
        let (facts, meter) = (&record.facts, &entry.meter);
        Self {
            reference,
            client: facts.client,
            protocol: record.protocol(),
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

    fn of_stream(
        reference: TunnelRef,
        exchange: &Exchange<StreamRecord>,
        series: Arc<EndpointSeries>,
        (age, quiet): (Duration, Duration),
    ) -> Self {
        Self {
            reference,
            client: exchange.owner.client,
            protocol: exchange.owner.protocol,
            series,
            target: exchange.owner.target.clone(),
            subprotocol: None,
            age,
            quiet,
            traffic: TunnelTraffic {
                bytes_from_client: exchange.bytes_from_client(),
                bytes_from_endpoint: exchange.bytes_from_endpoint(),
                ..TunnelTraffic::default()
            },
            ending: exchange.verdict().and_then(StreamEnded::forced),
        }
    }
}

impl PageRow for CloseCandidate {
    fn of_tunnel(
        reference: TunnelRef,
        entry: &TunnelEntry,
        record: &TunnelRecord,
        (age, _): (Duration, Duration),
    ) -> Self {
        Self {
            reference,
            series: Arc::clone(&record.facts.series),
            opened: record.facts.opened,
            age,
            ending: entry.verdict(),
        }
    }

    fn of_stream(
        reference: TunnelRef,
        exchange: &Exchange<StreamRecord>,
        series: Arc<EndpointSeries>,
        (age, _): (Duration, Duration),
    ) -> Self {
        Self {
            reference,
            series,
            opened: exchange.owner.started,
            age,
            ending: exchange.verdict().and_then(StreamEnded::forced),
        }
    }
}
