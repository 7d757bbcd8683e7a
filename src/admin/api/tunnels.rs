//! Live tunnels: which there are, and an end to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::fault::Fault;
use super::status::Progress;
use crate::admin::ask::{Carried, Found, Position};
use crate::admin::jobs::{self, Closing, Speed};
use crate::admin::select::{Filter, Id, Span};
use crate::admin::view::View;
use crate::config::model::{Order, Pace};
use crate::tunnel::ended::{Ended, Words};

/// Tunnels that one answer may list.
const LIMIT_MOST: usize = 10_000;

/// Tunnels that one answer lists, if nothing else is said.
const LIMIT_USUAL: usize = 100;

/// The slowest and the fastest pace of closing, in tunnels per second.
const RATE_LEAST: f64 = 0.1;
const RATE_MOST: f64 = 1e6;

/// How long rates may be measured.
const OVER_MOST: Duration = Duration::from_secs(10);

/// How a listing is to be, besides which tunnels it is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// What comes first: the greatest of these. Without it the order is arbitrary, and pages follow
    /// one another by `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<Sort>,
    /// So many at most: 100 if nothing else is said, up to 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Measure rates for so long, up to 10 s, and tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
}

impl Layout {
    /// The names of its parts.
    pub const NAMES: [&str; 4] = ["sort", "limit", "after", "over"];
}

/// What tunnels are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
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
pub struct Listing {
    /// Those that fit, or the first of them.
    pub tunnels: Vec<Tunnel>,
    /// How many fit, where all were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// For `after`, where there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A live tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tunnel {
    /// Its session, as in logs.
    pub id: Id,
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
    pub rates: Option<Rates>,
    /// What it is being closed for, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
}

/// What a tunnel carries, each per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Rates {
    pub bytes_from_client: f64,
    pub bytes_from_endpoint: f64,
    pub messages_from_client: f64,
    pub messages_from_endpoint: f64,
}

impl Rates {
    fn between(before: Carried, after: Carried, seconds: f64) -> Self {
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

impl Tunnel {
    fn of(found: Found, rates: Option<Rates>) -> Self {
        let slash = found.target.find('/').unwrap_or(found.target.len());
        let (host, path) = found.target.split_at(slash);
        Self {
            id: Id(found.name.session),
            client: found.client.to_string(),
            listener: found.way.route.listener.to_string(),
            route: found.way.route.route.to_string(),
            upstream: found.way.upstream.to_string(),
            endpoint: found.way.endpoint.to_string(),
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
/// [`Fault`].
pub async fn list(view: &View, filter: Filter, layout: &Layout) -> Result<Listing, Fault> {
    let limit = layout.limit.unwrap_or(LIMIT_USUAL);
    if !(1..=LIMIT_MOST).contains(&limit) {
        return Err(Fault::wrong(format!("`limit` is from 1 to {LIMIT_MOST}")));
    }
    if layout.after.is_some() && layout.sort.is_some() {
        return Err(Fault::wrong(
            "what is sorted has no pages: raise `limit` instead of `after`",
        ));
    }
    if layout
        .over
        .is_some_and(|over| over.0 > OVER_MOST || over.0.is_zero())
    {
        return Err(Fault::wrong("rates are measured over 10 s at most"));
    }
    let from = layout
        .after
        .as_deref()
        .map_or(Ok(Position::default()), position)?;
    let filter = Arc::new(filter);
    let before = match layout.over {
        Some(over) => {
            // It holds something of every tunnel meanwhile.
            let one = view.measuring.try_lock();
            let _one = one.map_err(|_| Fault::busy("somebody else measures rates: try again"))?;
            Some(Before::measure(view, &filter, over.0).await?)
        }
        None => None,
    };
    let seen = |found: Found| match &before {
        Some(before) => before.seen(found),
        None => Seen { found, rates: None },
    };
    let mut rows: Vec<Seen> = Vec::new();
    let Some(sort) = layout.sort else {
        let visit = |_, found| {
            rows.push(seen(found));
            rows.len() < limit
        };
        let next = view.workers.tunnels(&filter, from, visit).await;
        let next = next.map_err(|error| Fault::busy(error.to_string()))?;
        return Ok(Listing {
            tunnels: rows.into_iter().map(Seen::shown).collect(),
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
    listed.map_err(|error| Fault::busy(error.to_string()))?;
    keep_first(&mut rows, sort, limit);
    Ok(Listing {
        tunnels: rows.into_iter().map(Seen::shown).collect(),
        matched: Some(matched),
        next: None,
    })
}

fn keep_first(rows: &mut Vec<Seen>, sort: Sort, limit: usize) {
    rows.sort_by(|one, other| other.rank(sort).total_cmp(&one.rank(sort)));
    rows.truncate(limit);
}

fn position(text: &str) -> Result<Position, Fault> {
    let parsed = text.split_once('-').and_then(|(worker, place)| {
        Some(Position {
            worker: worker.parse().ok()?,
            place: place.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| Fault::wrong("`after` is `next` of the page before"))
}

/// A tunnel, and what it carried meanwhile.
struct Seen {
    found: Found,
    rates: Option<Rates>,
}

impl Seen {
    fn rank(&self, sort: Sort) -> f64 {
        let Carried {
            bytes_from_client,
            bytes_from_endpoint,
            messages_from_client,
            messages_from_endpoint,
        } = self.found.carried;
        match (sort, &self.rates) {
            (Sort::Age, _) => self.found.age.as_secs_f64(),
            (Sort::Idle, _) => self.found.quiet.as_secs_f64(),
            (Sort::Bytes, None) => (bytes_from_client + bytes_from_endpoint) as f64,
            (Sort::Messages, None) => (messages_from_client + messages_from_endpoint) as f64,
            (Sort::Bytes, Some(rates)) => rates.bytes_from_client + rates.bytes_from_endpoint,
            (Sort::Messages, Some(rates)) => {
                rates.messages_from_client + rates.messages_from_endpoint
            }
        }
    }

    fn shown(self) -> Tunnel {
        Tunnel::of(self.found, self.rates)
    }
}

/// What tunnels had carried a while ago, and when that was.
struct Before(HashMap<u64, (Carried, Instant)>);

impl Before {
    async fn measure(view: &View, filter: &Filter, over: Duration) -> Result<Self, Fault> {
        // Whoever comes to be old or quiet enough meanwhile has been there all along.
        let filter = Arc::new(Filter {
            older_than: None,
            idle_for: None,
            ..filter.clone()
        });
        let mut carried = HashMap::new();
        let visit = |_, found: Found| {
            carried.insert(found.name.session, (found.carried, Instant::now()));
            true
        };
        let seen = view
            .workers
            .tunnels(&filter, Position::default(), visit)
            .await;
        seen.map_err(|error| Fault::busy(error.to_string()))?;
        tokio::time::sleep(over).await;
        Ok(Self(carried))
    }

    /// What is new has carried all of it since it opened.
    fn seen(&self, found: Found) -> Seen {
        let (before, time) = match self.0.get(&found.name.session) {
            Some((before, at)) => (*before, at.elapsed()),
            None => (Carried::default(), found.age),
        };
        let seconds = time.as_secs_f64().max(1e-3);
        let rates = Rates::between(before, found.carried, seconds);
        Seen {
            found,
            rates: Some(rates),
        }
    }
}

/// Which tunnels are to be closed, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Those that this means; without anything in it, `all` must be true.
    #[serde(default)]
    pub filter: Filter,
    /// All of them are meant.
    #[serde(default)]
    pub all: bool,
    /// Only count them.
    #[serde(default)]
    pub dry_run: bool,
    /// So many per second; at once if neither this nor `over` is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Spread evenly over so long: `2m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// Which first: the oldest if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<First>,
    /// The code of the Close frame for clients: 1000 to 1014 but for those that are never sent, or
    /// 3000 to 4999. 1008 if nothing else is said. Endpoints get 1001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The reason in it, of at most 123 bytes: `killed` if nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which tunnels are closed first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum First {
    /// The oldest.
    #[default]
    Oldest,
    /// Any.
    Random,
}

impl From<First> for Order {
    fn from(first: First) -> Self {
        match first {
            First::Oldest => Self::Oldest,
            First::Random => Self::Random,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    /// Live tunnels that were meant.
    pub matched: usize,
    /// Those that were closed, where that was done at once.
    pub closed: usize,
    /// The job that closes them, where that takes its time; `status` tells how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Progress>,
}

/// Closes tunnels, or counts those that would be.
///
/// # Errors
/// [`Fault`].
pub async fn close(view: &Arc<View>, close: Close) -> Result<Closed, Fault> {
    let words = words(&close)?;
    if close.filter.is_everything() && !close.all {
        return Err(Fault::wrong(
            "a filter without anything in it means all tunnels: say `all`, too",
        ));
    }
    let speed = match (close.per_second, close.over) {
        (Some(_), Some(_)) => return Err(Fault::wrong("`per_second` or `over`, not both")),
        (Some(rate), None) => Speed::Paced(Pace::PerSecond(rate)),
        (None, Some(over)) => Speed::Paced(Pace::Over(over.0)),
        (None, None) => Speed::AtOnce,
    };
    if close
        .per_second
        .is_some_and(|rate| !(RATE_LEAST..=RATE_MOST).contains(&rate))
    {
        return Err(Fault::wrong(format!(
            "`per_second` is from {RATE_LEAST} to {RATE_MOST}"
        )));
    }
    let filter = Arc::new(close.filter.clone());
    let order = close.order.unwrap_or_default();
    let chosen = jobs::choose(view, &filter, order.into()).await;
    let chosen = chosen.map_err(|error| Fault::busy(error.to_string()))?;
    let mut answer = Closed {
        matched: chosen.len(),
        closed: 0,
        job: None,
    };
    if chosen.is_empty() {
        known(view, &filter)?;
    }
    if close.dry_run || chosen.is_empty() {
        return Ok(answer);
    }
    let (code, reason) = (words.code, words.reason.clone());
    let what = serde_json::to_string(&*filter).unwrap_or_default();
    let closing = Closing { what, speed, words };
    let job = view.jobs.begin(view, chosen, closing)?;
    tracing::info!(
        job = job.number,
        tunnels = answer.matched,
        filter = job.what,
        per_second = close.per_second,
        over = close
            .over
            .map(|over| tracing::field::display(humantime::format_duration(over.0))),
        code,
        reason = &*reason,
        "an operator closes tunnels"
    );
    if speed == Speed::AtOnce {
        // It goes on even if whoever asked goes away.
        job.finished().await;
        answer.closed = job.closed();
    } else {
        answer.job = Some(Progress::of(&job));
    }
    Ok(answer)
}

/// A filter that nothing fits may be a slip.
fn known(view: &View, filter: &Filter) -> Result<(), Fault> {
    let snapshot = view.shared.snapshot.load();
    let unknown =
        |what: &str, name: &str| Err(Fault::unknown(format!("there is no {what} `{name}`")));
    if let Some(name) = filter.route.as_deref().filter(|it| !snapshot.has_route(it)) {
        return unknown("route", name);
    }
    if let Some(name) = filter
        .upstream
        .as_deref()
        .filter(|it| snapshot.upstream(it).is_none())
    {
        return unknown("upstream", name);
    }
    let listening = view.listening.load();
    let has_listener = |name: &str| listening.iter().any(|it| *it.name == *name);
    if let Some(name) = filter.listener.as_deref().filter(|it| !has_listener(it)) {
        return unknown("listener", name);
    }
    let has_endpoint = |label: &str| {
        let mut upstreams = snapshot.upstreams().iter();
        upstreams.any(|it| it.endpoints().iter().any(|it| *it.label == *label))
    };
    if let Some(label) = filter.endpoint.as_deref().filter(|it| !has_endpoint(it)) {
        return unknown("endpoint", label);
    }
    Ok(())
}

/// A job to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Its number.
    pub job: u64,
}

/// Stops closing: what is closed is closed, and the rest stays.
///
/// # Errors
/// [`Fault`].
pub fn stop(view: &View, stop: Stop) -> Result<Progress, Fault> {
    let job = view.jobs.stop(stop.job);
    let job = job.ok_or_else(|| Fault::unknown(format!("no job {} is running", stop.job)))?;
    tracing::info!(
        job = job.number,
        closed = job.closed(),
        "an operator stops closing tunnels"
    );
    Ok(Progress::of(&job))
}

fn words(close: &Close) -> Result<Words, Fault> {
    let code = close
        .code
        .or(Ended::Killed.close_code())
        .unwrap_or_default();
    // RFC 6455 section 7.4: these are never sent, or nobody's.
    let is_sendable = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !is_sendable {
        return Err(Fault::wrong(format!("no Close frame has the code {code}")));
    }
    let reason = close.reason.as_deref().unwrap_or(Ended::Killed.token());
    if reason.len() > Words::MOST {
        let most = Words::MOST;
        return Err(Fault::wrong(format!(
            "a reason has at most {most} bytes (RFC 6455)"
        )));
    }
    Ok(Words {
        ended: Ended::Killed,
        code,
        reason: reason.into(),
    })
}
