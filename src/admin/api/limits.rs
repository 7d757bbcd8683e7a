//! Limits that routes share, as operators and newer generations see them.

use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::config::model::WhenFull;
use crate::quota::shared::{LimitCounters, LimitCounts, OlderToReplace, ReplaceResponse};
use crate::snapshot::RunningLimit;

/// Keys that are listed of each limit.
const LISTED: usize = 20;

/// A limit that routes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitInfo {
    /// Its name.
    pub name: String,
    /// The part of a request that is its key: `client_ip`, `cookie sid`.
    pub key: String,
    /// Tunnels that a key may have; missing without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tunnels: Option<u32>,
    /// Whether the oldest tunnel of a key makes room for a new one.
    pub closes_oldest: bool,
    /// Routes that share it.
    pub routes: Vec<String>,
    /// Keys that count at the moment.
    pub keys: usize,
    /// Keys that can count one by one.
    pub max_keys: usize,
    /// Tunnels of all keys, those of older generations included.
    pub tunnels: u64,
    /// Handshakes and requests that counted for the count that keys beyond `max_keys` share, since the start.
    pub overflowed: u64,
    /// Requests that it has refused since the start.
    pub rejections: LimitRejections,
    /// Tunnels that newer ones have replaced since the start.
    pub replaced: u64,
    /// The keys with the most tunnels, at most 20.
    pub top: Vec<KeyInfo>,
}

/// A limit that routes share, without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitSummary {
    /// Its name.
    pub name: String,
    /// Keys that count at the moment.
    pub keys: usize,
    /// Keys that can count one by one.
    pub max_keys: usize,
    /// Handshakes and requests that it has refused since the start.
    pub refused: u64,
}

/// What a limit has refused since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LimitRejections {
    /// Handshakes because of `tunnels`.
    pub tunnels: u64,
    /// Handshakes because of their rate.
    pub handshakes: u64,
    /// Plain requests because of their rate.
    pub requests: u64,
    /// Requests without a key.
    pub missing: u64,
}

/// A key that has tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyInfo {
    /// The key: an address or the value of a claim; the beginning of a hash, if it may be a credential.
    pub key: String,
    /// Its tunnels, those of older generations included.
    pub tunnels: u32,
    /// Those of older generations; up to a second old.
    pub older_tunnels: u32,
}

/// All limits that routes share.
pub(super) fn limits(view: &View) -> Vec<LimitInfo> {
    let snapshot = view.shared.snapshot.load();
    let limits = snapshot.limits().iter();
    let routes = |limit: &RunningLimit| {
        let routes = snapshot.routes().iter().map(|route| &route.settings);
        let shares = routes.filter(|route| route.shared_limits.contains(&limit.settings.name));
        shares.map(|route| route.name.to_string()).collect()
    };
    limits
        .map(|limit| LimitInfo::of(limit, routes(limit)))
        .collect()
}

/// All limits that routes share, in a few numbers: no key is looked at for that.
pub(super) fn summaries(view: &View) -> Vec<LimitSummary> {
    let snapshot = view.shared.snapshot.load();
    let summary = |limit: &RunningLimit| {
        let RunningLimit { settings, running } = limit;
        LimitSummary {
            name: settings.name.to_string(),
            keys: running.len(),
            max_keys: settings.keys,
            refused: LimitRejections::of(&running.counters).sum(),
        }
    };
    snapshot.limits().iter().map(summary).collect()
}

impl LimitRejections {
    fn of(counters: &LimitCounters) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            tunnels: count(&counters.full),
            handshakes: count(&counters.handshakes),
            requests: count(&counters.requests),
            missing: count(&counters.missing),
        }
    }

    fn sum(&self) -> u64 {
        self.tunnels + self.handshakes + self.requests + self.missing
    }
}

impl LimitInfo {
    fn of(limit: &RunningLimit, routes: Vec<String>) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let RunningLimit { settings, running } = limit;
        let counters = &running.counters;
        let (top, tunnels) = running.top(LISTED);
        Self {
            name: settings.name.to_string(),
            key: settings.key.to_string(),
            max_tunnels: settings.tunnels.map(u32::from),
            closes_oldest: settings.when_full == WhenFull::CloseOldest,
            routes,
            keys: running.len(),
            max_keys: settings.keys,
            tunnels,
            overflowed: count(&counters.overflowed),
            rejections: LimitRejections::of(counters),
            replaced: count(&counters.replaced),
            top: top
                .into_iter()
                .map(|key| KeyInfo {
                    tunnels: key.tunnels(),
                    older_tunnels: key.older,
                    key: key.key,
                })
                .collect(),
        }
    }
}

/// The tunnels of each key in this process, for a newer generation.
pub(super) fn counts(view: &View) -> Vec<LimitCounts> {
    view.shared.snapshot.load().shared_limits().own_tunnels()
}

/// Closes the oldest tunnels of a key, because a newer generation has newer ones.
pub(super) fn replace(view: &View, order: &OlderToReplace) -> Result<ReplaceResponse, ApiError> {
    let snapshot = view.shared.snapshot.load();
    let closed = snapshot.shared_limits().replace(order);
    let closed = closed.ok_or_else(|| {
        ApiError::not_found(format!("no tunnel counts for limit `{}`", order.limit))
    })?;
    Ok(ReplaceResponse { closed })
}
