//! The configuration as running: immutable, swapped as a whole, read once per session.
//!
//! A reload builds a new snapshot from the current one, so that counts continue. Listeners are not
//! part of it, because sockets are not swapped.

mod naming;
mod reserved_fields;

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

pub use self::naming::EndpointNaming;
use self::reserved_fields::ReservedFields;
use crate::auth::Authenticator;
use crate::auth::issuer_keys::IssuerKeys;
use crate::config::model::{
    self, Config, DisplacementPolicy, LeadsTo, SharedLimitConfig, TracesConfig, TunnelLimits,
};
use crate::net::tls::TlsError;
use crate::protocol::rejection::Rejection;
use crate::quota::Quota;
use crate::quota::shared::{SharedLimit, SharedLimits};
use crate::route::{self, RouteTable};
use crate::upstream::balance;
use crate::upstream::group::{Affinity, Upstream};
use crate::upstream::registry::Registry;

/// The configuration as running.
#[derive(Debug)]
pub struct Snapshot {
    /// Process-wide settings.
    pub server: model::ServerConfig,
    /// Where spans go, if they go anywhere.
    pub traces: Option<Arc<TracesConfig>>,
    table: RouteTable,
    routes: Vec<Arc<Route>>,
    /// Positions in `routes`.
    by_name: HashMap<Arc<str>, usize>,
    upstreams: Vec<Arc<Upstream>>,
    auth: Vec<Arc<Authenticator>>,
    /// `on_removed` of upstreams that were removed and may still have tunnels.
    on_removed: HashMap<Arc<str>, DisplacementPolicy>,
    registry: Arc<Registry>,
    limits: Vec<RunningLimit>,
    shared: Arc<SharedLimits>,
}

/// A limit that routes share, as running.
#[derive(Debug, Clone)]
pub struct RunningLimit {
    /// Its configuration.
    pub settings: Arc<SharedLimitConfig>,
    /// Its counts, which continue across reloads.
    pub running: Arc<SharedLimit>,
}

/// A route as running.
#[derive(Debug)]
pub struct Route {
    /// The configuration of the route.
    pub settings: model::RouteConfig,
    /// The upstreams of the route: one, several if it has a split, none if it redirects or responds.
    pub branches: Box<[RouteBranch]>,
    /// How requests name the endpoint that they go to, if they do.
    pub naming: Option<EndpointNaming>,
    /// The number of its tunnels, if that is limited; it continues across reloads.
    pub tunnels: Arc<Quota>,
    /// Who establishes the identity of its clients; `None` if it has no `auth`.
    pub auth: Option<Arc<Authenticator>>,
    /// The limits that it shares with other routes.
    pub shared_limits: Box<[RunningLimit]>,
    /// Fields that only tidegate may set in requests on this route. They are removed from what clients send.
    pub reserved: Box<[HeaderName]>,
    /// The limits of its tunnels. Tunnels share them, and hold no snapshot.
    pub limits: Arc<TunnelLimits>,
    /// The same for tunnels that share their client's connection with others.
    pub carried_limits: Arc<TunnelLimits>,
}

/// An upstream that a route leads to.
#[derive(Debug)]
pub struct RouteBranch {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its share of new clients, relative to the other branches.
    pub weight: u32,
}

/// Why a valid configuration cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// TLS towards the endpoints of an upstream cannot be set up.
    #[error("upstream `{upstream}`: {source}")]
    Tls {
        /// The name of the upstream.
        upstream: Arc<str>,
        /// The cause.
        source: TlsError,
    },
    /// A route names an upstream that does not exist. A checked configuration has no such route, so this
    /// is a defect of tidegate.
    #[error("route `{route}` leads to upstream `{upstream}`, which does not exist")]
    NoSuchUpstream {
        /// The name of the route.
        route: Arc<str>,
        /// The name of the upstream.
        upstream: Arc<str>,
    },
    /// A route names an authentication that does not exist: a defect as well.
    #[error("route `{route}` refers to auth `{auth}`, which does not exist")]
    NoSuchAuth {
        /// The name of the route.
        route: Arc<str>,
        /// The name of the authentication.
        auth: Arc<str>,
    },
}

impl Snapshot {
    /// Builds the first snapshot of a process, with the state from a predecessor.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn first(
        config: &Config,
        registry: Arc<Registry>,
        shared: Arc<SharedLimits>,
    ) -> Result<Self, SnapshotError> {
        Self::build(config, registry, shared, None)
    }

    /// Builds a snapshot with the state that outlives a reload from `before`.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let registry = before.map_or_else(Arc::default, |before| Arc::clone(&before.registry));
        let shared = before.map_or_else(Arc::default, |before| Arc::clone(&before.shared));
        Self::build(config, registry, shared, before)
    }

    fn build(
        config: &Config,
        registry: Arc<Registry>,
        shared: Arc<SharedLimits>,
        before: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
        // A reload is the time at which most endpoints lose their last user.
        registry.sweep();
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        let mut by_name = HashMap::new();
        for settings in &config.upstreams {
            let upstream =
                Upstream::new(settings, &registry).map_err(|source| SnapshotError::Tls {
                    upstream: Arc::clone(&settings.name),
                    source,
                })?;
            let upstream = Arc::new(upstream);
            by_name.insert(Arc::clone(&settings.name), Arc::clone(&upstream));
            upstreams.push(upstream);
        }
        let auth = Authenticator::all(config, before.map_or(&[], |before| &before.auth));
        let limits = config.limits.iter();
        let limits: Vec<RunningLimit> = limits
            .map(|settings| RunningLimit {
                running: shared.running(settings),
                settings: Arc::clone(settings),
            })
            .collect();
        let reserved = ReservedFields::of(config);
        // By name: a route that a reload changes or moves is the same to its limit of tunnels.
        let routes: Result<_, _> = config
            .routes
            .iter()
            .map(|route| {
                let tunnels = before.and_then(|before| before.tunnels_of(&route.name));
                Route::new(
                    route,
                    &by_name,
                    (&auth, &limits),
                    reserved.on(route),
                    tunnels.unwrap_or_default(),
                )
            })
            .collect();
        let mut on_removed = before.map_or_else(HashMap::new, |before| on_removed(config, before));
        // A tunnel keeps the state of its endpoint: without any state there is no tunnel left.
        let living = registry.upstream_names();
        on_removed.retain(|name, _| living.contains(name));
        let names = config.routes.iter().enumerate();
        Ok(Self {
            server: config.server.clone(),
            traces: config.traces.clone(),
            table: RouteTable::new(&config.routes),
            routes: routes?,
            by_name: names
                .map(|(at, route)| (Arc::clone(&route.name), at))
                .collect(),
            upstreams,
            auth,
            on_removed,
            registry,
            limits,
            shared,
        })
    }

    /// The route of `request`.
    ///
    /// # Errors
    /// [`Rejection::EncodedSlash`].
    pub fn route(&self, request: &route::RouteQuery<'_>) -> Result<Option<&Arc<Route>>, Rejection> {
        let settings = |position: usize| Some(&self.routes.get(position)?.settings);
        let is_restricted = |found, other| {
            let both = settings(found).zip(settings(other));
            both.is_none_or(|(found, other)| found.is_restricted_by(other))
        };
        let position = self.table.decide(request, is_restricted)?;
        Ok(position.and_then(|position| self.routes.get(position)))
    }

    /// The routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The state of upstreams and endpoints.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The limits that routes share, in the order of the file.
    pub fn limits(&self) -> &[RunningLimit] {
        &self.limits
    }

    /// All limits that routes share, those included that were removed and have tunnels.
    pub fn shared_limits(&self) -> &Arc<SharedLimits> {
        &self.shared
    }

    /// The upstreams, in the order of the file.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// The ways to establish an identity, in the order of the file.
    pub fn auth(&self) -> &[Arc<Authenticator>] {
        &self.auth
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams
            .iter()
            .find(|upstream| *upstream.name == *name)
    }

    /// The keys of issuers that are to be kept up to date.
    pub fn issuer_keys(&self) -> Vec<Arc<IssuerKeys>> {
        let keys = self.auth.iter().filter_map(|auth| auth.issuer_keys());
        keys.map(Arc::clone).collect()
    }

    /// `on_removed` of upstreams that were removed and may still have tunnels.
    pub fn on_removed(&self) -> &HashMap<Arc<str>, DisplacementPolicy> {
        &self.on_removed
    }

    fn tunnels_of(&self, name: &str) -> Option<Arc<Quota>> {
        let position = *self.by_name.get(name)?;
        Some(Arc::clone(&self.routes.get(position)?.tunnels))
    }

    /// Whether there is a route of this name.
    pub fn has_route(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether there is a way to establish identities of this name.
    pub fn has_auth(&self, name: &str) -> bool {
        self.auth.iter().any(|auth| *auth.settings.name == *name)
    }

    /// The upstreams of the route of this name, if there is such a route and it has any.
    pub fn upstreams_of(&self, route: &str) -> impl Iterator<Item = &Arc<Upstream>> {
        let position = self.by_name.get(route);
        let route = position.and_then(|position| self.routes.get(*position));
        let branches = route.into_iter().flat_map(|route| route.branches.iter());
        branches.map(|branch| &branch.upstream)
    }
}

/// `on_removed` of every upstream that there was until `before`, and that `config` does not have: a removed
/// upstream has nothing else that says what happens to its tunnels.
pub fn on_removed(config: &Config, before: &Snapshot) -> HashMap<Arc<str>, DisplacementPolicy> {
    let mut policies = before.on_removed.clone();
    for upstream in &before.upstreams {
        policies.insert(Arc::clone(&upstream.name), upstream.settings.on_removed);
    }
    for upstream in &config.upstreams {
        policies.remove(&upstream.name);
    }
    policies
}

impl Route {
    /// The upstream that a request without cookie and key is sent to, by chance where there are several.
    pub fn any_upstream(&self) -> Option<&Arc<Upstream>> {
        let offered = self.branches.iter().filter(|branch| branch.weight > 0);
        // Each is asked once: it costs a lock, and a second answer might differ.
        let availability = |branch: &RouteBranch| branch.upstream.availability(Affinity::default());
        let mut offered: Vec<_> = offered.map(|it| (it, availability(it))).collect();
        let best = offered
            .iter()
            .map(|(_, availability)| *availability)
            .min()?;
        offered.retain(|(_, availability)| *availability == best);
        let weights = offered.iter().map(|(branch, _)| branch.weight);
        let drawn = balance::drawn(weights, fastrand::f64())?;
        let (branch, _) = offered.get(drawn)?;
        Some(&branch.upstream)
    }

    fn new(
        settings: &model::RouteConfig,
        upstreams: &HashMap<Arc<str>, Arc<Upstream>>,
        (auth, limits): (&[Arc<Authenticator>], &[RunningLimit]),
        reserved: Box<[HeaderName]>,
        tunnels: Arc<Quota>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let auth = match &settings.access.auth {
            None => None,
            Some(name) => {
                let known = auth.iter().find(|it| it.settings.name == *name);
                let found = known.map(Arc::clone);
                Some(found.ok_or_else(|| SnapshotError::NoSuchAuth {
                    route: Arc::clone(&settings.name),
                    auth: Arc::clone(name),
                })?)
            }
        };
        let weights: Vec<u32> = match &settings.leads_to {
            LeadsTo::Split(split) => split.branches.iter().map(|branch| branch.weight).collect(),
            _ => vec![1],
        };
        let branch = |(name, weight): (&Arc<str>, u32)| {
            let upstream = upstreams.get(name);
            let upstream = upstream.ok_or_else(|| SnapshotError::NoSuchUpstream {
                route: Arc::clone(&settings.name),
                upstream: Arc::clone(name),
            })?;
            Ok(RouteBranch {
                upstream: Arc::clone(upstream),
                weight,
            })
        };
        let branches: Result<Box<[RouteBranch]>, SnapshotError> = settings
            .leads_to
            .upstreams()
            .zip(weights)
            .map(branch)
            .collect();
        Ok(Arc::new(Self {
            branches: branches?,
            naming: settings.naming.as_ref().map(EndpointNaming::new),
            tunnels,
            auth,
            shared_limits: limits
                .iter()
                .filter(|limit| settings.shared_limits.contains(&limit.settings.name))
                .cloned()
                .collect(),
            reserved,
            limits: Arc::new(settings.limits),
            carried_limits: Arc::new(settings.limits.carried()),
            settings: settings.clone(),
        }))
    }
}
