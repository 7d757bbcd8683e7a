//! What a new configuration would change, and how many live tunnels each change affects.
//!
//! A reload itself closes no tunnel: those of removed routes and endpoints stay until they end. They
//! are counted because a configuration that displaces most tunnels is more often a mistake (an empty
//! template, the wrong file) than intended.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;
use crate::config::model::{self, Discovery};
use crate::config::{self, Loaded};
use crate::displace::live_tunnels::LiveTunnels;
use crate::snapshot::Snapshot;
use crate::upstream::group::Upstream;

/// What a reload would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadPlan {
    /// Live tunnels in total.
    pub tunnels: u64,
    /// Live tunnels whose route or endpoint would be removed or drained. The reload does not close them.
    pub displaced: u64,
    /// Listeners that are added, changed or removed.
    pub listeners: Vec<PlannedPart>,
    /// Routes that are added, changed or removed, and unchanged ones that have tunnels.
    pub routes: Vec<PlannedPart>,
    /// Upstreams that are added, changed or removed.
    pub upstreams: Vec<PlannedPart>,
    /// Endpoints that are added, changed, drained or removed, and unchanged ones that have tunnels.
    pub endpoints: Vec<PlannedEndpoint>,
    /// Keys of `[server]` and `[admin]` that change.
    pub settings: Vec<PlannedSetting>,
    /// Files that the configuration names and whose content has changed.
    pub files: Vec<String>,
    /// Warnings about the new configuration: what is valid but probably not intended.
    pub warnings: Vec<String>,
}

/// A changed key of `[server]` or `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedSetting {
    /// The key, with its table.
    pub name: String,
    /// Whether the change requires a restart: a reload does not apply it.
    pub needs_restart: bool,
}

/// The running configuration, and what the plan needs to know of it.
#[derive(Debug, Clone, Copy)]
pub struct Current<'a> {
    /// The text of its file.
    pub source: &'a str,
    /// The configuration as running.
    pub snapshot: &'a Snapshot,
    /// The live tunnels.
    pub live: &'a LiveTunnels,
    /// Keys that the new configuration changes, and that a reload does not apply.
    pub needs_restart: &'a [&'static str],
}

/// What a reload would do to a part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlannedChange {
    /// It stays unchanged.
    Kept,
    /// It stays, with other settings.
    Changed,
    /// It is added.
    Added,
    /// It is removed; its tunnels stay open.
    Removed,
    /// It is drained: it gets nothing new, and its tunnels stay open.
    Drained,
    /// It was removed earlier; its last tunnels are still open.
    Gone,
    /// Not known: its endpoints have to be looked up first.
    Unknown,
}

/// A listener, a route or an upstream in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedPart {
    /// The name.
    pub name: String,
    /// What would happen to it.
    pub change: PlannedChange,
    /// Its live tunnels. The reload does not close them.
    pub tunnels: u64,
}

/// An endpoint in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedEndpoint {
    /// The upstream.
    pub upstream: String,
    /// The address of the endpoint.
    pub endpoint: String,
    /// What would happen to it.
    pub change: PlannedChange,
    /// Its live tunnels. The reload does not close them.
    pub tunnels: u64,
}

/// How many tunnels a reload may displace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Any number.
    Force,
    /// At most half of the live tunnels.
    Half,
    /// At most this many.
    Max(u64),
}

impl Guard {
    /// Accepts or refuses a plan.
    ///
    /// # Errors
    /// [`ApiError`], if the plan would displace more tunnels.
    pub fn check(self, plan: &ReloadPlan) -> Result<(), ApiError> {
        let max = match self {
            Self::Force => return Ok(()),
            Self::Half => plan.tunnels / 2,
            Self::Max(max) => max,
        };
        if plan.displaced <= max {
            return Ok(());
        }
        Err(ApiError::conflict(format!(
            "not reloaded: {} of {} live tunnels would lose their route or endpoint; the limit is {max}. \
             Check `tidegate reload --plan`, then use --max-displaced or --force",
            plan.displaced, plan.tunnels
        )))
    }
}

/// Compares a new configuration with the running one. `files` are those that it names and whose content
/// has changed.
pub fn plan(new: &Loaded, files: Vec<String>, running: &Current<'_>) -> ReloadPlan {
    let Current {
        source,
        snapshot,
        live,
        needs_restart,
    } = running;
    let (now, old) = (config::compared(&new.source), config::compared(source));
    let endpoints = endpoints(&new.config, snapshot, live);
    let (new_routes, old_routes) = (named_routes(&now), named_routes(&old));
    let routes = parts(&new_routes, &old_routes, &|name| live.of_route(name));
    let tables = |table: &str, tunnels: &dyn Fn(&str) -> u64| {
        let (new, old) = (named(&now[table]), named(&old[table]));
        let mut parts = parts(&new, &old, tunnels);
        parts.retain(|part| part.change != PlannedChange::Kept);
        parts
    };
    let settings = ["server", "admin"].into_iter();
    let settings =
        settings.flat_map(|table| settings_of(table, (&now[table], &old[table]), needs_restart));
    ReloadPlan {
        tunnels: live.total(),
        displaced: displaced(&routes, &endpoints, live),
        listeners: tables("listener", &|name| live.of_listener(name)),
        upstreams: tables("upstream", &|name| live.of_upstream(name)),
        settings: settings.collect(),
        files,
        warnings: new.warnings.lines().collect(),
        routes: routes
            .into_iter()
            .filter(|it| it.change != PlannedChange::Kept || it.tunnels > 0)
            .collect(),
        endpoints: endpoints
            .into_iter()
            .filter(|it| it.change != PlannedChange::Kept || it.tunnels > 0)
            .collect(),
    }
}

type NamedValues<'a> = BTreeMap<String, &'a Value>;

fn named(table: &Value) -> NamedValues<'_> {
    let entries = table.as_object().into_iter().flatten();
    entries.map(|(name, value)| (name.clone(), value)).collect()
}

/// Routes by name; a route without one is named by its position.
fn named_routes(in_force: &Value) -> NamedValues<'_> {
    let routes = in_force["route"].as_array().into_iter().flatten();
    let name = |(position, route): (usize, &Value)| match route["name"].as_str() {
        Some(name) => name.to_owned(),
        None => model::RouteConfig::name_at(position),
    };
    routes.enumerate().map(|it| (name(it), it.1)).collect()
}

fn parts(
    new: &NamedValues<'_>,
    old: &NamedValues<'_>,
    tunnels: &dyn Fn(&str) -> u64,
) -> Vec<PlannedPart> {
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let part = |name: &String| PlannedPart {
        change: match (new.get(name), old.get(name)) {
            (Some(new), Some(old)) if new == old => PlannedChange::Kept,
            (Some(_), Some(_)) => PlannedChange::Changed,
            (Some(_), None) => PlannedChange::Added,
            _ => PlannedChange::Removed,
        },
        tunnels: tunnels(name),
        name: name.clone(),
    };
    names.into_iter().map(part).collect()
}

/// The keys of a table whose values differ.
fn settings_of(table: &str, (new, old): (&Value, &Value), wait: &[&str]) -> Vec<PlannedSetting> {
    let (new, old) = (named(new), named(old));
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let differs = |name: &&String| new.get(*name) != old.get(*name);
    names
        .into_iter()
        .filter(differs)
        .map(|name| {
            let name = format!("{table}.{name}");
            PlannedSetting {
                needs_restart: wait.contains(&&*name),
                name,
            }
        })
        .collect()
}

fn endpoints(new: &model::Config, snapshot: &Snapshot, live: &LiveTunnels) -> Vec<PlannedEndpoint> {
    let names: BTreeSet<&str> = new
        .upstreams
        .iter()
        .map(|it| &*it.name)
        .chain(snapshot.upstreams().iter().map(|it| &*it.name))
        .chain(live.endpoints().map(|(upstream, _)| &**upstream))
        .collect();
    names
        .into_iter()
        .flat_map(|name| {
            let new = new.upstreams.iter().find(|it| *it.name == *name);
            let old = snapshot.upstream(name).map(|it| &**it);
            of_upstream(name, new, old, live)
        })
        .collect()
}

/// For each endpoint of an upstream, by address: whether it accepts new sessions.
type Members = BTreeMap<String, bool>;

fn of_upstream(
    name: &str,
    new: Option<&model::UpstreamConfig>,
    old: Option<&Upstream>,
    live: &LiveTunnels,
) -> Vec<PlannedEndpoint> {
    let before: Members = old.map_or_else(Members::new, |old| {
        let members = old.members().into_iter();
        members
            .map(|it| (it.state.label.to_string(), !it.is_drained))
            .collect()
    });
    let after = new.map_or_else(|| Some(Members::new()), |new| after(new, old, &before));
    let mut labels: BTreeSet<String> = before.keys().cloned().collect();
    labels.extend(after.iter().flat_map(|after| after.keys().cloned()));
    // Endpoints that were removed earlier may still have tunnels.
    let here = live
        .endpoints()
        .filter(|(upstream, _)| ***upstream == *name);
    labels.extend(here.map(|(_, endpoint)| endpoint.to_string()));
    labels
        .into_iter()
        .map(|label| PlannedEndpoint {
            upstream: name.to_owned(),
            change: match (&after, before.get(&label)) {
                (None, _) => PlannedChange::Unknown,
                (Some(after), before) => match (after.get(&label), before) {
                    (None, Some(_)) => PlannedChange::Removed,
                    (None, None) => PlannedChange::Gone,
                    (Some(false), Some(true) | None) => PlannedChange::Drained,
                    (Some(_), None) => PlannedChange::Added,
                    (Some(true), Some(false)) => PlannedChange::Changed,
                    (Some(_), Some(_)) => PlannedChange::Kept,
                },
            },
            tunnels: live.of_endpoint(name, &label),
            endpoint: label,
        })
        .collect()
}

/// The endpoints that an upstream will have; `None` if they have to be looked up first.
fn after(new: &model::UpstreamConfig, old: Option<&Upstream>, before: &Members) -> Option<Members> {
    let looked_up = matches!(new.discovery, Discovery::Dns { .. } | Discovery::Srv { .. });
    if looked_up {
        let same = old.is_some_and(|old| old.settings.discovery == new.discovery);
        return same.then(|| before.clone());
    }
    let endpoints = new.endpoints.iter();
    Some(
        endpoints
            .map(|it| (it.address.to_string(), !it.drain))
            .collect(),
    )
}

/// Live tunnels whose route or endpoint is removed or drained.
fn displaced(routes: &[PlannedPart], endpoints: &[PlannedEndpoint], live: &LiveTunnels) -> u64 {
    let gone =
        |change: PlannedChange| matches!(change, PlannedChange::Removed | PlannedChange::Drained);
    let routes: BTreeSet<&str> = routes
        .iter()
        .filter(|it| gone(it.change))
        .map(|it| &*it.name)
        .collect();
    let endpoints: BTreeSet<(&str, &str)> = endpoints
        .iter()
        .filter(|it| gone(it.change))
        .map(|it| (&*it.upstream, &*it.endpoint))
        .collect();
    live.count(|route, upstream, endpoint| {
        routes.contains(route) || endpoints.contains(&(upstream, endpoint))
    })
}
