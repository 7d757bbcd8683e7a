//! What a new configuration would change, and how many live tunnels each change affects.
//!
//! A reload itself closes no tunnel: those of removed routes and endpoints stay until they end, unless
//! `on_removed`, `on_drain` or `on_down` of the new configuration close them. [`Fleet`] decides that for the
//! plan, as it does afterwards. They are counted because a configuration that displaces most tunnels is more
//! often a mistake (an empty template, the wrong file) than intended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::closing::TunnelFate;
use super::error::ApiError;
use crate::config::model;
use crate::config::sources::Sources;
use crate::config::{self, Loaded};
use crate::displace::fleet::{DueEviction, Fleet, FleetEndpoint, FleetUpstream};
use crate::displace::live_tunnels::LiveTunnels;
use crate::snapshot::Snapshot;

/// What a reload would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadPlan {
    /// Live tunnels in total.
    pub tunnels: u64,
    /// Live tunnels whose route or endpoint would be removed or drained, or that would be closed because of
    /// the new configuration.
    pub displaced: u64,
    /// Live tunnels that would be closed: because of `on_removed`, `on_drain` or `on_down`, those that are being
    /// closed already included.
    #[serde(default)]
    pub closed: u64,
    /// Listeners that are added, changed or removed.
    pub listeners: Vec<PlannedPart>,
    /// Routes that are added, changed or removed, and unchanged ones that have tunnels.
    pub routes: Vec<PlannedPart>,
    /// Upstreams that are added, changed or removed.
    pub upstreams: Vec<PlannedPart>,
    /// Endpoints that are added, changed, drained or removed, and unchanged ones that have tunnels.
    pub endpoints: Vec<PlannedEndpoint>,
    /// Keys of `[server]` and `[admin]` that change, and shared limits that do (`limit.NAME`).
    pub settings: Vec<PlannedSetting>,
    /// Included files that are added, changed or removed.
    #[serde(default)]
    pub included: Vec<PlannedFile>,
    /// Other files that the configuration names and whose content has changed.
    pub files: Vec<String>,
    /// Warnings about the new configuration: what is valid but probably not intended.
    pub warnings: Vec<String>,
}

/// An included file in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedFile {
    /// Its path.
    pub name: String,
    /// What would happen to it.
    pub change: PlannedChange,
}

/// A changed key of `[server]` or `[admin]`, or a changed limit.
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
    /// The texts of its files.
    pub sources: &'a Sources,
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
    /// It stays, with other settings. Live tunnels keep the limits and timeouts that they were opened with.
    Changed,
    /// It is added.
    Added,
    /// It is removed.
    Removed,
    /// It is drained: it gets nothing new.
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
    /// Its live tunnels. What happens to them is up to their endpoints.
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
    /// Its live tunnels.
    pub tunnels: u64,
    /// What would happen to them.
    #[serde(default)]
    pub then: TunnelFate,
    /// The reason token that they would end with, if they are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Sessions above its `max_tunnels` in the new configuration. They stay open, unless `rebalance` moves
    /// them; the endpoint gets new ones when enough have ended.
    #[serde(default)]
    pub above_limit: u64,
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
            "not reloaded: {} of {} live tunnels would lose their route or endpoint, or be closed; the limit is {max}. \
             Check `tidegate reload --plan`, then use --max-displaced or --force",
            plan.displaced, plan.tunnels
        )))
    }
}

/// Compares a new configuration with the running one. `files` are those that it names and whose content
/// has changed.
pub fn plan(new: &Loaded, files: Vec<String>, running: &Current<'_>) -> ReloadPlan {
    let Current {
        sources,
        snapshot,
        live,
        needs_restart,
    } = running;
    let (now, old) = (config::compared(&new.sources), config::compared(sources));
    let instant = Instant::now();
    let fleets = Fleets {
        before: Fleet::running(snapshot, instant),
        after: Fleet::planned(&new.config, snapshot, instant),
    };
    let due = fleets.after.evictions(live);
    let endpoints = fleets.endpoints(&due, live);
    let (new_routes, old_routes) = (named_routes(&now), named_routes(&old));
    let routes = parts(&new_routes, &old_routes, &|name| live.of_route(name));
    let tables = |table: &str, tunnels: &dyn Fn(&str) -> u64| {
        let (new, old) = (named(&now[table]), named(&old[table]));
        let mut parts = parts(&new, &old, tunnels);
        parts.retain(|part| part.change != PlannedChange::Kept);
        parts
    };
    let settings = ["server", "admin", "limit"].into_iter();
    let settings =
        settings.flat_map(|table| settings_of(table, (&now[table], &old[table]), needs_restart));
    ReloadPlan {
        tunnels: live.total(),
        displaced: displaced(&routes, &endpoints, &fleets.newly_due(&due, live), live),
        closed: closed(&due, live),
        listeners: tables("listener", &|name| live.of_listener(name)),
        upstreams: tables("upstream", &|name| live.of_upstream(name)),
        settings: settings.collect(),
        included: included(&new.sources, sources),
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

/// Included files whose texts differ from those in effect.
fn included(new: &Sources, old: &Sources) -> Vec<PlannedFile> {
    fn texts(sources: &Sources) -> BTreeMap<&Path, &str> {
        let included = sources.included().iter();
        included.map(|it| (it.path(), it.text())).collect()
    }
    let (new, old) = (texts(new), texts(old));
    let paths: BTreeSet<&Path> = new.keys().chain(old.keys()).copied().collect();
    let planned = |path: &&Path| {
        let change = match (new.get(*path), old.get(*path)) {
            (Some(new), Some(old)) if new == old => return None,
            (Some(_), Some(_)) => PlannedChange::Changed,
            (Some(_), None) => PlannedChange::Added,
            _ => PlannedChange::Removed,
        };
        Some(PlannedFile {
            name: path.display().to_string(),
            change,
        })
    };
    paths.iter().filter_map(planned).collect()
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

/// The endpoints before and after a reload.
struct Fleets {
    before: Fleet,
    after: Fleet,
}

/// The endpoints of an upstream, by address.
type Members<'a> = BTreeMap<&'a str, &'a FleetEndpoint>;

fn members(upstream: Option<&FleetUpstream>) -> Members<'_> {
    let endpoints = upstream.and_then(|upstream| upstream.endpoints.as_ref());
    let endpoints = endpoints.into_iter().flatten();
    endpoints
        .map(|endpoint| (&*endpoint.label, endpoint))
        .collect()
}

impl Fleets {
    fn endpoints(&self, due: &[DueEviction], live: &LiveTunnels) -> Vec<PlannedEndpoint> {
        let fleets = [&self.before, &self.after];
        let named = fleets.iter().flat_map(|fleet| &fleet.upstreams);
        let mut names: BTreeSet<&str> = named.map(|upstream| &*upstream.name).collect();
        names.extend(live.endpoints().map(|(upstream, _)| &**upstream));
        let endpoints = names
            .into_iter()
            .map(|name| self.of_upstream(name, due, live));
        endpoints.flatten().collect()
    }

    fn of_upstream(
        &self,
        name: &str,
        due: &[DueEviction],
        live: &LiveTunnels,
    ) -> Vec<PlannedEndpoint> {
        let upstream = self.after.upstream(name);
        let is_known = upstream.is_none_or(|upstream| upstream.endpoints.is_some());
        let (before, after) = (members(self.before.upstream(name)), members(upstream));
        let mut labels: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        // Endpoints that were removed earlier may still have tunnels.
        let here = live
            .endpoints()
            .filter(|(upstream, _)| ***upstream == *name);
        labels.extend(here.map(|(_, endpoint)| &**endpoint));
        let planned = |label: &str| {
            let tunnels = live.of_endpoint(name, label);
            let (then, reason) = match is_known {
                true => TunnelFate::of(due, name, label),
                false => (TunnelFate::Unknown, None),
            };
            let limit = after.get(label).and_then(|endpoint| endpoint.max_tunnels);
            PlannedEndpoint {
                upstream: name.to_owned(),
                endpoint: label.to_owned(),
                change: match is_known {
                    true => change(before.get(label), after.get(label)),
                    false => PlannedChange::Unknown,
                },
                tunnels,
                then,
                reason,
                above_limit: limit.map_or(0, |limit| tunnels.saturating_sub(limit as u64)),
            }
        };
        labels.into_iter().map(planned).collect()
    }

    /// The endpoints whose tunnels are closed after the reload, and are not without it.
    fn newly_due<'a>(&self, due: &'a [DueEviction], live: &LiveTunnels) -> EndpointSet<'a> {
        let before = self.before.evictions(live);
        let is_new = |it: &&DueEviction| before.iter().all(|before| before.endpoint != it.endpoint);
        endpoint_set(due.iter().filter(is_new))
    }
}

fn change(before: Option<&&FleetEndpoint>, after: Option<&&FleetEndpoint>) -> PlannedChange {
    match (before, after) {
        (Some(_), None) => PlannedChange::Removed,
        (None, None) => PlannedChange::Gone,
        (Some(before), Some(after)) if before.is_drained == after.is_drained => {
            match before.max_tunnels == after.max_tunnels {
                true => PlannedChange::Kept,
                false => PlannedChange::Changed,
            }
        }
        (_, Some(after)) if after.is_drained => PlannedChange::Drained,
        (Some(_), Some(_)) => PlannedChange::Changed,
        (None, Some(_)) => PlannedChange::Added,
    }
}

/// Upstream and address of endpoints.
type EndpointSet<'a> = BTreeSet<(&'a str, &'a str)>;

fn endpoint_set<'a>(due: impl Iterator<Item = &'a DueEviction>) -> EndpointSet<'a> {
    due.map(|it| (&*it.endpoint.0, &*it.endpoint.1)).collect()
}

/// Live tunnels that are closed.
fn closed(due: &[DueEviction], live: &LiveTunnels) -> u64 {
    let due = endpoint_set(due.iter());
    live.count(|_, upstream, endpoint| due.contains(&(upstream, endpoint)))
}

/// Live tunnels whose route or endpoint is removed or drained, or whose endpoint is in `newly_due`.
fn displaced(
    routes: &[PlannedPart],
    endpoints: &[PlannedEndpoint],
    newly_due: &EndpointSet<'_>,
    live: &LiveTunnels,
) -> u64 {
    let gone =
        |change: PlannedChange| matches!(change, PlannedChange::Removed | PlannedChange::Drained);
    let routes: BTreeSet<&str> = routes
        .iter()
        .filter(|it| gone(it.change))
        .map(|it| &*it.name)
        .collect();
    let endpoints: EndpointSet<'_> = endpoints
        .iter()
        .filter(|it| gone(it.change))
        .map(|it| (&*it.upstream, &*it.endpoint))
        .collect();
    live.count(|route, upstream, endpoint| {
        let endpoint = (upstream, endpoint);
        routes.contains(route) || endpoints.contains(&endpoint) || newly_due.contains(&endpoint)
    })
}
