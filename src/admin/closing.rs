//! What is being closed, or will be: jobs, and tunnels that have lost their listener, route or endpoint.

use std::collections::BTreeSet;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::DisplacementPolicy;
use crate::displace::fleet::{DueEviction, Fleet};
use crate::displace::jobs::Job;
use crate::displace::live_tunnels::LiveTunnels;
use crate::snapshot::Snapshot;

/// A job that closes tunnels at a pace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobInfo {
    /// Number of the job.
    pub job: u64,
    /// Which tunnels it closes, in words.
    #[serde(alias = "what")] // of version 0.1.0
    pub description: String,
    /// The reason token that its tunnels end with.
    pub reason: String,
    /// Code of the Close frame that clients get.
    #[serde(default, skip_serializing_if = "Option::is_none")] // not of version 0.1.0
    pub code: Option<u16>,
    /// Reason text in that Close frame.
    #[serde(default, skip_serializing_if = "Option::is_none")] // not of version 0.1.0
    pub close_reason: Option<String>,
    /// Tunnels that it was started for.
    pub tunnels: usize,
    /// Tunnels processed so far.
    pub done: usize,
    /// Tunnels closed so far; others had ended by themselves.
    pub closed: usize,
}

impl JobInfo {
    /// The state of `job` now.
    pub fn of(job: &Job) -> Self {
        Self {
            job: job.number,
            description: job.description.clone(),
            reason: job.words.ended.token().to_owned(),
            code: Some(job.words.code),
            close_reason: Some(job.words.reason.to_string()),
            tunnels: job.tunnels,
            done: job.done(),
            closed: job.closed(),
        }
    }
}

/// What happens to live tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelFate {
    /// They stay open.
    #[default]
    Stay,
    /// They are closed at once.
    Close,
    /// They are closed one by one.
    Drain,
    /// Not known: the endpoints have to be looked up first.
    Unknown,
}

impl TunnelFate {
    /// The fate of tunnels of this endpoint, where `due` are all evictions; and the reason token that they
    /// end with.
    pub fn of(due: &[DueEviction], upstream: &str, endpoint: &str) -> (Self, Option<String>) {
        let is_it = |it: &&DueEviction| *it.endpoint.0 == *upstream && *it.endpoint.1 == *endpoint;
        let Some(due) = due.iter().find(is_it) else {
            return (Self::Stay, None);
        };
        let fate = match due.policy {
            DisplacementPolicy::Keep => Self::Stay,
            DisplacementPolicy::Close => Self::Close,
            DisplacementPolicy::Drain(..) => Self::Drain,
        };
        (fate, Some(due.ended.token().to_owned()))
    }
}

/// The kind of what was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RemovedKind {
    /// A listener.
    Listener,
    /// A route.
    Route,
    /// An endpoint.
    Endpoint,
}

/// A listener, a route or an endpoint that was removed, and whose tunnels are still open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DisplacedInfo {
    /// What was removed.
    pub kind: RemovedKind,
    /// The upstream of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The name of a listener or a route, the address of an endpoint.
    pub name: String,
    /// Its live tunnels.
    pub tunnels: u64,
    /// What happens to them.
    pub then: TunnelFate,
    /// The reason token that they end with, if they are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was removed from the running configuration while it had tunnels.
pub fn displaced(
    snapshot: &Snapshot,
    is_listener: impl Fn(&str) -> bool,
    live: &LiveTunnels,
) -> Vec<DisplacedInfo> {
    let removed = |kind, name: &str, tunnels| DisplacedInfo {
        kind,
        upstream: None,
        name: name.to_owned(),
        tunnels,
        then: TunnelFate::Stay,
        reason: None,
    };
    let listeners = live.listeners().filter(|(name, _)| !is_listener(name));
    let listeners = listeners.map(|(name, count)| removed(RemovedKind::Listener, name, count));
    let routes = live.routes().filter(|(name, _)| !snapshot.has_route(name));
    let routes = routes.map(|(name, count)| removed(RemovedKind::Route, name, count));
    let mut displaced: Vec<DisplacedInfo> = listeners.chain(routes).collect();
    let fleet = Fleet::running(snapshot, Instant::now());
    let due = fleet.evictions(live);
    let members: BTreeSet<(&str, &str)> = fleet
        .upstreams
        .iter()
        .flat_map(|upstream| {
            let endpoints = upstream.endpoints.iter().flatten();
            endpoints.map(|endpoint| (&*upstream.name, &*endpoint.label))
        })
        .collect();
    for (upstream, endpoint) in live.endpoints() {
        if members.contains(&(&**upstream, &**endpoint)) {
            continue;
        }
        let (then, reason) = TunnelFate::of(&due, upstream, endpoint);
        displaced.push(DisplacedInfo {
            upstream: Some(upstream.to_string()),
            then,
            reason,
            ..removed(
                RemovedKind::Endpoint,
                endpoint,
                live.of_endpoint(upstream, endpoint),
            )
        });
    }
    displaced
}
