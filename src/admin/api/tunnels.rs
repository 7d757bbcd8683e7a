//! Live tunnels: which there are, and how busy they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::displace::filter::{HumanDuration, TunnelFilter, TunnelId};
use crate::displace::workers::{ListPosition, LiveTunnel, TunnelTraffic};

/// Tunnels that one answer may list.
const LIMIT_MOST: usize = 10_000;

/// Tunnels that one answer lists, if nothing else is said.
const LIMIT_USUAL: usize = 100;

/// How long rates may be measured.
const OVER_MOST: Duration = Duration::from_secs(10);

/// How a listing is to be, besides which tunnels it is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListTunnelsRequest {
    /// What comes first: the greatest of these. Without it the order is arbitrary, and pages follow
    /// one another by `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<TunnelSort>,
    /// So many at most: 100 if nothing else is said, up to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Measure rates for so long, up to 10 s, and tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_window: Option<HumanDuration>,
}

impl ListTunnelsRequest {
    /// The names of its parts.
    pub const NAMES: [&str; 4] = ["sort", "limit", "after", "rate_window"];
}

/// What tunnels are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelSort {
    /// How long they have been open.
    Age,
    /// How long no byte has come.
    Idle,
    /// Bytes, both ways; by rate, where that is measured.
    Bytes,
    /// Messages, likewise.
    Messages,
}

/// A listing of tunnels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListTunnelsResponse {
    /// Those that fit, or the first of them.
    pub tunnels: Vec<TunnelInfo>,
    /// How many fit, where all were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// For `after`, where there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A live tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TunnelInfo {
    /// Its session, as in logs.
    pub id: TunnelId,
    /// The client.
    pub client: String,
    /// The listener it came by.
    pub listener: String,
    /// The route it took.
    pub route: String,
    /// The upstream it went to.
    pub upstream: String,
    /// The endpoint.
    pub endpoint: String,
    /// The host asked for.
    pub host: String,
    /// The path asked for, without its query.
    pub path: String,
    /// What was agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// How long it has been open, in seconds.
    pub age_seconds: f64,
    /// How long no byte has come from either side, in seconds; noticed once a second.
    pub idle_seconds: u64,
    /// Bytes that the client sent.
    pub bytes_from_client: u64,
    /// Bytes that the endpoint sent.
    pub bytes_from_endpoint: u64,
    /// Messages that the client began.
    pub messages_from_client: u64,
    /// Messages that the endpoint began.
    pub messages_from_endpoint: u64,
    /// What it carries, where that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<TunnelRates>,
    /// What it is being closed for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
}

/// What a tunnel carries, each per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TunnelRates {
    pub bytes_from_client: f64,
    pub bytes_from_endpoint: f64,
    pub messages_from_client: f64,
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
    fn of(found: LiveTunnel, rates: Option<TunnelRates>) -> Self {
        let slash = found.target.find('/').unwrap_or(found.target.len());
        let (host, path) = found.target.split_at(slash);
        Self {
            id: TunnelId(found.name.session),
            client: found.client.to_string(),
            listener: found.series.route.listener.to_string(),
            route: found.series.route.route.to_string(),
            upstream: found.series.upstream.to_string(),
            endpoint: found.series.endpoint.to_string(),
            host: host.to_owned(),
            path: path.to_owned(),
            subprotocol: found.subprotocol.map(Into::into),
            age_seconds: found.age.as_millis() as f64 / 1e3,
            idle_seconds: found.quiet.as_secs(),
            bytes_from_client: found.carried.bytes_from_client,
            bytes_from_endpoint: found.carried.bytes_from_endpoint,
            messages_from_client: found.carried.messages_from_client,
            messages_from_endpoint: found.carried.messages_from_endpoint,
            rates,
            ending: found.ending.map(|ended| ended.token().to_owned()),
        }
    }
}

/// Lists tunnels.
///
/// # Errors
/// [`ApiError`].
pub async fn list(
    view: &View,
    filter: TunnelFilter,
    layout: &ListTunnelsRequest,
) -> Result<ListTunnelsResponse, ApiError> {
    let limit = layout.limit.unwrap_or(LIMIT_USUAL);
    if !(1..=LIMIT_MOST).contains(&limit) {
        return Err(ApiError::bad_request(format!(
            "`limit` is from 1 to {LIMIT_MOST}"
        )));
    }
    if layout.after.is_some() && layout.sort.is_some() {
        return Err(ApiError::bad_request(
            "what is sorted has no pages: raise `limit` instead of `after`",
        ));
    }
    if layout
        .rate_window
        .is_some_and(|over| over.0 > OVER_MOST || over.0.is_zero())
    {
        return Err(ApiError::bad_request(
            "rates are measured over 10 s at most",
        ));
    }
    let from = layout
        .after
        .as_deref()
        .map_or(Ok(ListPosition::default()), position)?;
    let filter = Arc::new(filter);
    let before = match layout.rate_window {
        Some(over) => {
            // It holds something of every tunnel meanwhile.
            let one = view.measuring.try_lock();
            let _one =
                one.map_err(|_| ApiError::unavailable("somebody else measures rates: try again"))?;
            Some(Baseline::measure(view, &filter, over.0).await?)
        }
        None => None,
    };
    let seen = |found: LiveTunnel| match &before {
        Some(before) => before.seen(found),
        None => Row { found, rates: None },
    };
    let mut rows: Vec<Row> = Vec::new();
    let Some(sort) = layout.sort else {
        let visit = |_, found| {
            rows.push(seen(found));
            rows.len() < limit
        };
        let next = view.workers.tunnels(&filter, from, visit).await;
        let next = next.map_err(|error| ApiError::unavailable(error.to_string()))?;
        return Ok(ListTunnelsResponse {
            tunnels: rows.into_iter().map(Row::shown).collect(),
            matched: None,
            next: next.map(|it| format!("{}-{}", it.worker, it.place)),
        });
    };
    let mut matched = 0;
    let visit = |_, found| {
        matched += 1;
        rows.push(seen(found));
        // Never more than twice of what is asked for.
        if rows.len() >= limit * 2 {
            keep_first(&mut rows, sort, limit);
        }
        true
    };
    let listed = view.workers.tunnels(&filter, from, visit).await;
    listed.map_err(|error| ApiError::unavailable(error.to_string()))?;
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
        Some(ListPosition {
            worker: worker.parse().ok()?,
            place: place.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| ApiError::bad_request("`after` is `next` of the page before"))
}

/// A tunnel, and what it carried meanwhile.
struct Row {
    found: LiveTunnel,
    rates: Option<TunnelRates>,
}

impl Row {
    fn rank(&self, sort: TunnelSort) -> f64 {
        let TunnelTraffic {
            bytes_from_client,
            bytes_from_endpoint,
            messages_from_client,
            messages_from_endpoint,
        } = self.found.carried;
        match (sort, &self.rates) {
            (TunnelSort::Age, _) => self.found.age.as_secs_f64(),
            (TunnelSort::Idle, _) => self.found.quiet.as_secs_f64(),
            (TunnelSort::Bytes, None) => (bytes_from_client + bytes_from_endpoint) as f64,
            (TunnelSort::Messages, None) => (messages_from_client + messages_from_endpoint) as f64,
            (TunnelSort::Bytes, Some(rates)) => rates.bytes_from_client + rates.bytes_from_endpoint,
            (TunnelSort::Messages, Some(rates)) => {
                rates.messages_from_client + rates.messages_from_endpoint
            }
        }
    }

    fn shown(self) -> TunnelInfo {
        TunnelInfo::of(self.found, self.rates)
    }
}

/// What tunnels had carried a while ago, and when that was.
struct Baseline(HashMap<u64, (TunnelTraffic, Instant)>);

impl Baseline {
    async fn measure(view: &View, filter: &TunnelFilter, over: Duration) -> Result<Self, ApiError> {
        // Whoever comes to be old or quiet enough meanwhile has been there all along.
        let filter = Arc::new(TunnelFilter {
            older_than: None,
            idle_for: None,
            ..filter.clone()
        });
        let mut carried = HashMap::new();
        let visit = |_, found: LiveTunnel| {
            carried.insert(found.name.session, (found.carried, Instant::now()));
            true
        };
        let seen = view
            .workers
            .tunnels(&filter, ListPosition::default(), visit)
            .await;
        seen.map_err(|error| ApiError::unavailable(error.to_string()))?;
        tokio::time::sleep(over).await;
        Ok(Self(carried))
    }

    /// What is new has carried all of it since it opened.
    fn seen(&self, found: LiveTunnel) -> Row {
        let (before, time) = match self.0.get(&found.name.session) {
            Some((before, at)) => (*before, at.elapsed()),
            None => (TunnelTraffic::default(), found.age),
        };
        let seconds = time.as_secs_f64().max(1e-3);
        let rates = TunnelRates::between(before, found.carried, seconds);
        Row {
            found,
            rates: Some(rates),
        }
    }
}
