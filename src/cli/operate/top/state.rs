//! What is shown, and what an operator has chosen. No clock, no terminal, no sockets.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tidegate::admin::api::tunnels::{ListTunnelsRequest, TunnelSort};
use tidegate::displace::tunnel_filter::{HumanDuration, TunnelFilter};

use super::change::TopChange;
use super::endpoints::{self, EndpointRow, EndpointSort};
use super::filter;
use crate::cli::operate::live::LiveTime;
use crate::cli::operate::live::listing::{ListedTunnel, TunnelListing};
use crate::cli::operate::live::older::OlderReading;
use crate::cli::operate::live::problems::{Problem, problems};
use crate::cli::operate::live::progress::{Progress, ProgressTracker};
use crate::cli::operate::live::rates::RateTracker;
use crate::cli::operate::live::reading::Reading;

/// Tunnels that are listed.
pub(super) const MAX_TUNNELS: usize = 200;

/// The time over which rates are shown, in milliseconds.
const RATES_OVER: u64 = 5000;

/// The time between two listings, in milliseconds.
const LISTING_INTERVAL: u64 = 2000;

/// The time over which the rates of tunnels are measured, where tunnels are sorted by them.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// What fills the screen below the figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum TopView {
    #[default]
    Upstreams,
    Tunnels,
    Problems,
}

impl TopView {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Upstreams => Self::Tunnels,
            Self::Tunnels => Self::Problems,
            Self::Problems => Self::Upstreams,
        }
    }
}

/// What keys are for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum TopMode {
    #[default]
    List,
    /// A filter is being typed.
    Filter(String),
    /// A change waits for its confirmation.
    Question(TopChange),
    Help,
}

/// What a request has brought.
#[derive(Debug)]
pub(super) enum TopArrival {
    Read(Box<Result<Reading, String>>),
    /// With the edition of the query.
    Listed(u64, Result<TunnelListing, String>),
    Changed(Result<String, String>),
}

/// Tunnels to list.
#[derive(Debug)]
pub(super) struct TunnelQuery {
    /// Its number; an answer to an earlier one comes too late.
    pub(super) edition: u64,
    pub(super) filter: TunnelFilter,
    pub(super) sort: TunnelSort,
    pub(super) layout: ListTunnelsRequest,
}

/// The selected row of a list, which moves with what it shows, and the part of the list that is visible.
#[derive(Debug, Default)]
pub(super) struct ListCursor {
    key: String,
    pub(super) index: usize,
    first: usize,
}

impl ListCursor {
    /// Finds the selected row among these, or another one if it is gone.
    fn settle(&mut self, keys: &[String]) {
        let found = keys.iter().position(|key| *key == self.key);
        let last = keys.len().saturating_sub(1);
        self.index = found.unwrap_or(self.index.min(last));
        self.key = keys.get(self.index).cloned().unwrap_or_default();
    }

    fn move_by(&mut self, rows: isize, keys: &[String]) {
        let last = keys.len().saturating_sub(1);
        self.index = self.index.saturating_add_signed(rows).min(last);
        self.key = keys.get(self.index).cloned().unwrap_or_default();
    }

    /// The rows to show where `height` have room.
    pub(super) fn window(&mut self, rows: usize, height: usize) -> Range<usize> {
        let least = (self.index + 1).saturating_sub(height);
        let most = self.index.min(rows.saturating_sub(height));
        self.first = self.first.clamp(least, most.max(least));
        self.first..rows.min(self.first + height)
    }
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct TopState {
    pub(super) view: TopView,
    pub(super) mode: TopMode,
    /// The outcome of the last change, until the next key.
    pub(super) notice: Option<String>,
    /// The latest reading, and when it was made.
    pub(super) reading: Option<(Reading, LiveTime)>,
    pub(super) now: LiveTime,
    /// What is wrong, the worst first.
    pub(super) problems: Vec<Problem>,
    since: BTreeMap<String, u64>,
    progress: ProgressTracker,
    pub(super) under_way: Vec<Progress>,
    pub(super) rates: RateTracker,
    pub(super) endpoints: Vec<EndpointRow>,
    pub(super) endpoint_sort: EndpointSort,
    pub(super) endpoint_filter: String,
    pub(super) endpoint_cursor: ListCursor,
    /// The latest listing, or why there is none.
    pub(super) tunnels: Option<Result<TunnelListing, String>>,
    pub(super) tunnel_sort: Option<TunnelSort>,
    pub(super) tunnel_filter: String,
    pub(super) tunnel_cursor: ListCursor,
    pub(super) problem_cursor: ListCursor,
    edition: u64,
    listing: Option<u64>,
    /// When the latest listing came.
    listed_at: Option<LiveTime>,
}

impl Default for TopState {
    fn default() -> Self {
        Self {
            view: TopView::default(),
            mode: TopMode::default(),
            notice: None,
            reading: None,
            now: LiveTime::default(),
            problems: Vec::new(),
            since: BTreeMap::new(),
            progress: ProgressTracker::default(),
            under_way: Vec::new(),
            rates: RateTracker::new(RATES_OVER),
            endpoints: Vec::new(),
            endpoint_sort: EndpointSort::default(),
            endpoint_filter: String::new(),
            endpoint_cursor: ListCursor::default(),
            tunnels: None,
            tunnel_sort: None,
            tunnel_filter: String::new(),
            tunnel_cursor: ListCursor::default(),
            problem_cursor: ListCursor::default(),
            edition: 0,
            listing: None,
            listed_at: None,
        }
    }
}

impl TopState {
    /// Takes what a request has brought.
    pub(super) fn arrive(&mut self, arrival: TopArrival, now: LiveTime) {
        match arrival {
            TopArrival::Read(read) => self.read(*read, now),
            TopArrival::Listed(edition, listed) => {
                self.now = now;
                if edition != self.edition {
                    return;
                }
                (self.listing, self.listed_at) = (None, Some(now));
                if let (Some(Ok(_)), Err(why)) = (&self.tunnels, &listed) {
                    // What is shown stays, and the selection with it.
                    self.notice = Some(first_line(why).to_owned());
                    return;
                }
                self.tunnels = Some(listed);
                self.settle_tunnels();
            }
            TopArrival::Changed(Ok(done)) => self.notice = Some(done),
            TopArrival::Changed(Err(why)) => self.notice = Some(first_line(&why).to_owned()),
        }
    }

    pub(super) fn read(&mut self, read: Result<Reading, String>, now: LiveTime) {
        self.now = now;
        match read {
            Ok(reading) => {
                let before = self.reading.as_ref();
                let continues = before.is_some_and(|(it, _)| reading.continues(it));
                self.rates.add(&reading, now, continues);
                self.under_way = self.progress.look(&reading, now);
                self.date(problems(&reading, now.at), now.at);
                self.reading = Some((reading, now));
            }
            Err(why) => {
                // What was wrong may still be, but cannot be seen.
                let earlier = self.since.clone();
                self.date(vec![Problem::unreached(&why)], now.at);
                for (subject, seen) in earlier {
                    self.since.entry(subject).or_insert(seen);
                }
            }
        }
        self.settle_endpoints();
    }

    /// Notes since when each problem is there, the longest first among equals.
    fn date(&mut self, mut found: Vec<Problem>, now: u64) {
        let mut since = BTreeMap::new();
        for problem in &mut found {
            let seen = self.since.get(&problem.subject).copied().unwrap_or(now);
            problem.since = problem.since.min(seen);
            since.insert(problem.subject.clone(), seen);
        }
        found.sort_by_key(|it| (it.level, it.since));
        self.since = since;
        self.problems = found;
    }

    fn settle_endpoints(&mut self) {
        let (sort, filter) = (self.endpoint_sort, &*self.endpoint_filter);
        if let Some((reading, _)) = &self.reading {
            self.endpoints = endpoints::rows(reading, self.rates.rates(), sort, filter);
        }
        self.endpoint_cursor.settle(&self.endpoint_keys());
        self.problem_cursor.settle(&self.problem_keys());
    }

    fn settle_tunnels(&mut self) {
        self.tunnel_cursor.settle(&self.tunnel_keys());
    }

    fn endpoint_keys(&self) -> Vec<String> {
        self.endpoints.iter().map(EndpointRow::key).collect()
    }

    fn tunnel_keys(&self) -> Vec<String> {
        let tunnels = self.listed_tunnels().iter();
        tunnels.map(|it| it.tunnel.id.to_string()).collect()
    }

    fn problem_keys(&self) -> Vec<String> {
        let problems = self.problems.iter().map(|it| it.subject.clone());
        let under_way = self.under_way.iter().map(|it| it.name.clone());
        problems.chain(under_way).collect()
    }

    pub(super) fn listed_tunnels(&self) -> &[ListedTunnel] {
        match &self.tunnels {
            Some(Ok(listing)) => &listing.tunnels,
            _ => &[],
        }
    }

    /// Older generations that still drain.
    pub(super) fn older_generations(&self) -> Vec<u64> {
        self.older().iter().map(OlderReading::generation).collect()
    }

    /// What is known of each process.
    pub(super) fn processes(&self) -> Vec<OlderReading> {
        let reading = self.reading.as_ref();
        reading.map_or_else(Vec::new, |(reading, _)| reading.processes())
    }

    /// What is known of older ones.
    pub(super) fn older(&self) -> &[OlderReading] {
        let reading = self.reading.as_ref();
        reading.map_or(&[], |(reading, _)| &reading.older)
    }

    pub(super) fn tunnel_sort(&self) -> TunnelSort {
        self.tunnel_sort.unwrap_or(TunnelSort::Messages)
    }

    /// The listing that is to be asked for, if it is due.
    pub(super) fn wanted_listing(&mut self) -> Option<TunnelQuery> {
        let listed_at = self.listed_at;
        let is_due = listed_at.is_none_or(|at| self.now.since(at) >= LISTING_INTERVAL);
        let is_open = self.listing == Some(self.edition);
        if self.view != TopView::Tunnels || is_open || !is_due {
            return None;
        }
        let filter = filter::parse(&self.tunnel_filter).ok()?;
        let sort = self.tunnel_sort();
        let by_rate = matches!(sort, TunnelSort::Messages | TunnelSort::Bytes);
        self.listing = Some(self.edition);
        Some(TunnelQuery {
            edition: self.edition,
            filter,
            sort,
            layout: ListTunnelsRequest {
                sort: Some(sort),
                limit: Some(MAX_TUNNELS),
                after: None,
                rate_window: by_rate.then_some(HumanDuration(RATE_WINDOW)),
            },
        })
    }

    /// Other tunnels are meant from now on.
    fn ask_again(&mut self) {
        self.edition += 1;
        self.listed_at = None;
        self.tunnels = None;
        self.tunnel_cursor = ListCursor::default();
    }

    pub(super) fn move_by(&mut self, rows: isize) {
        match self.view {
            TopView::Upstreams => self.endpoint_cursor.move_by(rows, &self.endpoint_keys()),
            TopView::Tunnels => self.tunnel_cursor.move_by(rows, &self.tunnel_keys()),
            TopView::Problems => self.problem_cursor.move_by(rows, &self.problem_keys()),
        }
    }

    pub(super) fn sort_by_next(&mut self) {
        match self.view {
            TopView::Upstreams => {
                self.endpoint_sort = self.endpoint_sort.next();
                self.settle_endpoints();
            }
            TopView::Tunnels => {
                self.tunnel_sort = Some(match self.tunnel_sort() {
                    TunnelSort::Messages => TunnelSort::Bytes,
                    TunnelSort::Bytes => TunnelSort::Age,
                    TunnelSort::Age => TunnelSort::Idle,
                    TunnelSort::Idle => TunnelSort::Messages,
                });
                self.ask_again();
            }
            TopView::Problems => {}
        }
    }

    pub(super) fn begin_filter(&mut self) {
        self.mode = match self.view {
            TopView::Upstreams => TopMode::Filter(self.endpoint_filter.clone()),
            TopView::Tunnels => TopMode::Filter(self.tunnel_filter.clone()),
            TopView::Problems => return,
        };
    }

    /// Applies a filter that was typed; one that is not valid stays to be corrected.
    pub(super) fn keep_filter(&mut self, text: &str) {
        self.mode = TopMode::List;
        text.trim().clone_into(match self.view {
            TopView::Tunnels => match filter::parse(text) {
                Ok(_) => &mut self.tunnel_filter,
                Err(why) => {
                    self.notice = Some(why);
                    self.mode = TopMode::Filter(text.to_owned());
                    return;
                }
            },
            _ => &mut self.endpoint_filter,
        });
        match self.view {
            TopView::Tunnels => self.ask_again(),
            _ => self.settle_endpoints(),
        }
    }

    pub(super) fn selected_endpoint(&self) -> Option<&EndpointRow> {
        self.endpoints.get(self.endpoint_cursor.index)
    }

    pub(super) fn ask_about_endpoint(&mut self) {
        if self.view != TopView::Upstreams {
            self.notice = Some("d drains endpoints: Tab leads to them".to_owned());
            return;
        }
        match self.selected_endpoint().map(TopChange::of_endpoint) {
            Some(Ok(change)) => self.mode = TopMode::Question(change),
            Some(Err(why)) => self.notice = Some(why),
            None => {}
        }
    }

    pub(super) fn ask_about_tunnel(&mut self) {
        if self.view != TopView::Tunnels {
            self.notice = Some("x closes tunnels: Tab leads to them".to_owned());
            return;
        }
        let tunnel = self.listed_tunnels().get(self.tunnel_cursor.index);
        if let Some(tunnel) = tunnel {
            self.mode = TopMode::Question(TopChange::of_tunnel(tunnel));
        }
    }

    /// Shows the tunnels of the selected endpoint.
    pub(super) fn show_tunnels_of_endpoint(&mut self) {
        if self.view != TopView::Upstreams {
            return;
        }
        let Some(row) = self.selected_endpoint() else {
            return;
        };
        self.tunnel_filter = format!("upstream={} endpoint={}", row.upstream, row.address);
        self.view = TopView::Tunnels;
        self.ask_again();
    }
}

/// The first line of an error, which is enough for a line of the screen.
fn first_line(error: &str) -> &str {
    error.lines().next().unwrap_or_default()
}
