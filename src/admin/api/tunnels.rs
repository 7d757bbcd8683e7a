//! Listing live tunnels and streams, and measuring their traffic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{credentials, endpoints};
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::displace::tunnel_filter::{HumanDuration, SessionKind, TunnelFilter, TunnelId};
use crate::displace::tunnel_page::{LiveTunnel, TablePosition, TunnelTraffic};
use crate::displace::worker_queries::ListPosition;

/// Most tunnels that one response may list.
const MAX_LIMIT: usize = 10_000;

/// Tunnels that one response lists by default.
const DEFAULT_LIMIT: usize = 100;

/// In a position, what distinguishes the table of streams from that of tunnels.
const STREAMS: char = 's';

/// Longest time over which rates are measured.
const MAX_RATE_WINDOW: Duration = Duration::from_secs(10);

/// How to list tunnels; the filter is separate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListTunnelsRequest {
    /// Sort by this value, descending. Without it the order is arbitrary, and `after` leads from page to
    /// page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<TunnelSort>,
    /// Maximum number of tunnels to list, up to 10000; default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Continue after this position: `next` of the previous page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Measure traffic rates over this time, up to `10s`, and include them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_window: Option<HumanDuration>,
}

impl ListTunnelsRequest {
    /// The names of its fields.
    pub const NAMES: [&str; 4] = ["sort", "limit", "after", "rate_window"];
}

/// The value that tunnels are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelSort {
    /// How long they have been open.
    Age,
    /// How long neither side has sent a byte.
    Idle,
    /// Bytes in both directions; by rate if rates are measured.
    Bytes,
    /// Messages in both directions; by rate if rates are measured.
    Messages,
}

/// A listing of tunnels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListTunnelsResponse {
    /// The tunnels that match, up to the limit.
    pub tunnels: Vec<TunnelInfo>,
    /// How many tunnels match in total; only in sorted listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// The value for `after` on the next page, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A live tunnel, or a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelInfo {
    /// Whether it is a tunnel or a stream.
    #[serde(default)] // not of version 0.1.0
    pub kind: SessionKind,
    /// The id of its session, as in logs.
    pub id: TunnelId,
    /// The client's address.
    pub client: String,
    /// The protocol that it speaks: `http/1.1` or `h2`.
    #[serde(default)] // not of version 0.1.0
    pub protocol: String,
    /// The listener that accepted it.
    pub listener: String,
    /// The route that it matched.
    pub route: String,
    /// The upstream of its endpoint.
    pub upstream: String,
    /// The address of the endpoint.
    pub endpoint: String,
    /// The name of the endpoint, if it has one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_name: Option<String>,
    /// The host that the request named.
    pub host: String,
    /// The path of the request, without its query.
    pub path: String,
    /// The negotiated subprotocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// Seconds since it opened; of a stream, since the request.
    pub age_seconds: f64,
    /// Seconds since either side last sent a byte; updated once a second.
    pub idle_seconds: u64,
    /// Bytes that the client sent.
    pub bytes_from_client: u64,
    /// Bytes that the endpoint sent.
    pub bytes_from_endpoint: u64,
    /// Messages that the client has begun to send; 0 for a stream.
    pub messages_from_client: u64,
    /// Messages that the endpoint has begun to send; 0 for a stream.
    pub messages_from_endpoint: u64,
    /// Its traffic rates, if they are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<TunnelRates>,
    /// The reason that it is being closed for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
}

/// Traffic rates of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelRates {
    /// Bytes per second from the client.
    pub bytes_from_client: f64,
    /// Bytes per second from the endpoint.
    pub bytes_from_endpoint: f64,
    /// Messages per second from the client.
    pub messages_from_client: f64,
    /// Messages per second from the endpoint.
    pub messages_from_endpoint: f64,
}

impl TunnelRates {
    fn between(before: TunnelTraffic, after: TunnelTraffic, seconds: f64) -> Self {
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Self {
            bytes_from_client: rate(before.bytes_from_client, after.bytes_from_client),
            bytes_from_endpoint: rate(before.bytes_from_endpoint, after.bytes_from_endpoint),
            messages_from_client: rate(before.messages_from_client, after.messages_from_client),
            messages_from_endpoint: rate(
                before.messages_from_endpoint,
                after.messages_from_endpoint,
            ),
        }
    }
}

impl TunnelInfo {
    fn of(tunnel: LiveTunnel, rates: Option<TunnelRates>) -> Self {
        let slash = tunnel.target.find('/').unwrap_or(tunnel.target.len());
        let (host, path) = tunnel.target.split_at(slash);
        Self {
            kind: tunnel.reference.kind,
            id: TunnelId(tunnel.reference.session),
            client: tunnel.client.to_string(),
            protocol: tunnel.protocol.token().to_owned(),
            listener: tunnel.series.route.listener.to_string(),
            route: tunnel.series.route.route.to_string(),
            upstream: tunnel.series.upstream.to_string(),
            endpoint: tunnel.series.endpoint.to_string(),
            endpoint_name: None,
            host: host.to_owned(),
            path: path.to_owned(),
            subprotocol: tunnel.subprotocol.map(Into::into),
            age_seconds: tunnel.age.as_millis() as f64 / 1e3,
            idle_seconds: tunnel.quiet.as_secs(),
            bytes_from_client: tunnel.traffic.bytes_from_client,
            bytes_from_endpoint: tunnel.traffic.bytes_from_endpoint,
            messages_from_client: tunnel.traffic.messages_from_client,
            messages_from_endpoint: tunnel.traffic.messages_from_endpoint,
            rates,
            ending: tunnel.ending.map(|ended| ended.token().to_owned()),
        }
    }
}

/// Lists tunnels.
///
/// # Errors
/// [`ApiError`].
pub async fn list(
    view: &View,
    mut filter: TunnelFilter,
    layout: &ListTunnelsRequest,
) -> Result<ListTunnelsResponse, ApiError> {
    endpoints::resolve_name(view, &mut filter)?;
    credentials::resolve_subject(view, &mut filter);
    let limit = check(layout)?;
    let from = layout
        .after
        .as_deref()
        .map_or(Ok(ListPosition::default()), position)?;
    let filter = Arc::new(filter);
    let baseline = match layout.rate_window {
        Some(window) => Some(Baseline::measure(view, &filter, window.0).await?),
        None => None,
    };
    let row = |tunnel: LiveTunnel| match &baseline {
        Some(baseline) => baseline.row(tunnel),
        None => Row {
            tunnel,
            rates: None,
        },
    };
    let mut listing = match layout.sort {
        Some(sort) => list_sorted(view, &filter, (sort, limit), row).await,
        None => list_page(view, &filter, (from, limit), row).await,
    }?;
    name_endpoints(view, &mut listing.tunnels);
    Ok(listing)
}

/// Adds the names of endpoints. A tunnel knows the address of its endpoint; the configuration in effect knows the
/// name.
fn name_endpoints(view: &View, tunnels: &mut [TunnelInfo]) {
    let snapshot = view.shared.snapshot.load();
    let mut names = HashMap::new();
    for upstream in snapshot.upstreams() {
        let members = upstream.members().into_iter();
        names.extend(members.filter_map(|member| {
            let endpoint = (&*upstream.name, Arc::clone(&member.state.label));
            Some((endpoint, member.name?))
        }));
    }
    if names.is_empty() {
        return;
    }
    for tunnel in tunnels {
        let name = names.get(&(&*tunnel.upstream, tunnel.endpoint.as_str().into()));
        tunnel.endpoint_name = name.map(|name| name.to_string());
    }
}

/// Checks the options of a listing, and returns its limit.
fn check(layout: &ListTunnelsRequest) -> Result<usize, ApiError> {
    let limit = layout.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "`limit` must be from 1 to {MAX_LIMIT}"
        )));
    }
    if layout.after.is_some() && layout.sort.is_some() {
        return Err(ApiError::bad_request(
            "`after` cannot be combined with `sort`; raise `limit` instead",
        ));
    }
    if layout
        .rate_window
        .is_some_and(|window| window.0 > MAX_RATE_WINDOW || window.0.is_zero())
    {
        return Err(ApiError::bad_request(
            "`rate_window` (--rates) must be more than 0 and at most 10s",
        ));
    }
    Ok(limit)
}

/// The next tunnels in the order of the workers' tables, and where the page after them begins.
async fn list_page(
    view: &View,
    filter: &Arc<TunnelFilter>,
    (from, limit): (ListPosition, usize),
    row: impl Fn(LiveTunnel) -> Row,
) -> Result<ListTunnelsResponse, ApiError> {
    let mut rows: Vec<Row> = Vec::new();
    let visit = |_, tunnel| {
        rows.push(row(tunnel));
        rows.len() < limit
    };
    let next = view.workers.tunnels(filter, from, visit).await?;
    Ok(ListTunnelsResponse {
        tunnels: rows.into_iter().map(Row::shown).collect(),
        matched: None,
        next: next.map(|ListPosition { worker, table }| match table.kind {
            SessionKind::Tunnel => format!("{worker}-{}", table.place),
            SessionKind::Stream => format!("{worker}-{STREAMS}{}", table.place),
        }),
    })
}

/// The first of all tunnels by their rank.
async fn list_sorted(
    view: &View,
    filter: &Arc<TunnelFilter>,
    (sort, limit): (TunnelSort, usize),
    row: impl Fn(LiveTunnel) -> Row,
) -> Result<ListTunnelsResponse, ApiError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut matched = 0;
    let visit = |_, tunnel| {
        matched += 1;
        rows.push(row(tunnel));
        // Memory stays bounded by twice the limit, regardless of how many tunnels match.
        if rows.len() >= limit * 2 {
            keep_first(&mut rows, sort, limit);
        }
        true
    };
    let begin = ListPosition::default();
    view.workers.tunnels(filter, begin, visit).await?;
    keep_first(&mut rows, sort, limit);
    Ok(ListTunnelsResponse {
        tunnels: rows.into_iter().map(Row::shown).collect(),
        matched: Some(matched),
        next: None,
    })
}

fn keep_first(rows: &mut Vec<Row>, sort: TunnelSort, limit: usize) {
    rows.sort_by(|one, other| other.rank(sort).total_cmp(&one.rank(sort)));
    rows.truncate(limit);
}

fn position(text: &str) -> Result<ListPosition, ApiError> {
    let parsed = text.split_once('-').and_then(|(worker, place)| {
        let (kind, place) = match place.strip_prefix(STREAMS) {
            Some(place) => (SessionKind::Stream, place),
            None => (SessionKind::Tunnel, place),
        };
        let place = place.parse().ok()?;
        Some(ListPosition {
            worker: worker.parse().ok()?,
            table: TablePosition { kind, place },
        })
    });
    parsed.ok_or_else(|| ApiError::bad_request("`after` must be the `next` of a previous page"))
}

/// A tunnel, and its rates if they are measured.
struct Row {
    tunnel: LiveTunnel,
    rates: Option<TunnelRates>,
}

impl Row {
    fn rank(&self, sort: TunnelSort) -> f64 {
        let TunnelTraffic {
            bytes_from_client,
            bytes_from_endpoint,
            messages_from_client,
            messages_from_endpoint,
        } = self.tunnel.traffic;
        match (sort, &self.rates) {
            (TunnelSort::Age, _) => self.tunnel.age.as_secs_f64(),
            (TunnelSort::Idle, _) => self.tunnel.quiet.as_secs_f64(),
            (TunnelSort::Bytes, None) => (bytes_from_client + bytes_from_endpoint) as f64,
            (TunnelSort::Messages, None) => (messages_from_client + messages_from_endpoint) as f64,
            (TunnelSort::Bytes, Some(rates)) => rates.bytes_from_client + rates.bytes_from_endpoint,
            (TunnelSort::Messages, Some(rates)) => {
                rates.messages_from_client + rates.messages_from_endpoint
            }
        }
    }

    fn shown(self) -> TunnelInfo {
        TunnelInfo::of(self.tunnel, self.rates)
    }
}

/// The traffic of tunnels at the beginning of the measurement, and when each was read.
struct Baseline(HashMap<u64, (TunnelTraffic, Instant)>);

impl Baseline {
    async fn measure(
        view: &View,
        filter: &TunnelFilter,
        window: Duration,
    ) -> Result<Self, ApiError> {
        // One at a time: the baseline remembers every matching tunnel.
        let one = view.measuring.try_lock();
        let _one = one.map_err(|_| {
            ApiError::unavailable("another request is measuring rates; try again in a few seconds")
        })?;
        // A tunnel may become old or idle enough during the measurement: without these two conditions it
        // has a baseline, too.
        let filter = Arc::new(TunnelFilter {
            older_than: None,
            idle_for: None,
            ..filter.clone()
        });
        let mut traffic = HashMap::new();
        let visit = |_, tunnel: LiveTunnel| {
            traffic.insert(tunnel.reference.session, (tunnel.traffic, Instant::now()));
            true
        };
        let begin = ListPosition::default();
        view.workers.tunnels(&filter, begin, visit).await?;
        tokio::time::sleep(window).await;
        Ok(Self(traffic))
    }

    /// Adds the rates of a tunnel. One without a baseline has opened meanwhile: its rates count from then.
    fn row(&self, tunnel: LiveTunnel) -> Row {
        let (before, time) = match self.0.get(&tunnel.reference.session) {
            Some((before, at)) => (*before, at.elapsed()),
            None => (TunnelTraffic::default(), tunnel.age),
        };
        let seconds = time.as_secs_f64().max(1e-3);
        let rates = TunnelRates::between(before, tunnel.traffic, seconds);
        Row {
            tunnel,
            rates: Some(rates),
        }
    }
}
