//! The configuration as running: immutable, swapped whole, read once per session.
//!
//! Built beside the one before and from it, so that counts survive. Listeners are not part of it:
//! sockets are not swapped.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

use crate::config::model::{self, Config, LeadsTo, TunnelLimits};
use crate::net::tls::TlsError;
use crate::quota::Quota;
use crate::route::{self, RouteTable};
use crate::upstream::group::Upstream;
use crate::upstream::registry::Registry;

/// The configuration as running.
#[derive(Debug)]
pub struct Snapshot {
    /// Process-wide settings.
    pub server: model::ServerConfig,
    /// Fields that tell endpoints what only we know: the same, from a client, is a lie.
    pub reserved: Box<[HeaderName]>,
    table: RouteTable,
    routes: Vec<Arc<Route>>,
    /// Positions of routes.
    by_name: HashMap<Arc<str>, usize>,
    upstreams: Vec<Arc<Upstream>>,
    registry: Arc<Registry>,
}

/// What a matched request is handled with.
#[derive(Debug)]
pub struct Route {
    /// As configured.
    pub settings: model::RouteConfig,
    /// Where requests go; `None` where they are redirected.
    pub upstream: Option<Arc<Upstream>>,
    /// Its tunnels, as far as they are limited; counted across reloads.
    pub tunnels: Arc<Quota>,
    /// What holds for its tunnels.
    pub limits: Arc<TunnelLimits>,
}

/// Why a configuration cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// TLS towards the endpoints of an upstream.
    #[error("upstream `{upstream}`: {source}")]
    Tls {
        /// Its name.
        upstream: Arc<str>,
        /// What went wrong.
        source: TlsError,
    },
    /// A checked configuration has none of these: this is a defect of ours.
    #[error("route `{route}` leads to upstream `{upstream}`, which does not exist")]
    NoSuchUpstream {
        /// The route.
        route: Arc<str>,
        /// What it names.
        upstream: Arc<str>,
    },
}

impl Snapshot {
    /// Builds the first one of a process, with what the process before knew.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn first(config: &Config, registry: Arc<Registry>) -> Result<Self, SnapshotError> {
        Self::build(config, registry, None)
    }

    /// Builds the snapshot, taking over from `before` what outlives a reload.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let registry = before.map_or_else(Arc::default, |before| Arc::clone(&before.registry));
        Self::build(config, registry, before)
    }

    fn build(
        config: &Config,
        registry: Arc<Registry>,
        before: Option<&Self>,
    ) -> Result<Self, SnapshotError> {
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
        let routes: Result<_, _> = config
            .routes
            .iter()
            .map(|route| {
                let registry = before.and_then(|before| before.tunnels_of(&route.name));
                Route::new(route, &by_name, registry.unwrap_or_default())
            })
            .collect();
        let names = config.routes.iter().enumerate();
        Ok(Self {
            server: config.server.clone(),
            reserved: reserved(config),
            table: RouteTable::new(&config.routes),
            routes: routes?,
            by_name: names
                .map(|(at, route)| (Arc::clone(&route.name), at))
                .collect(),
            upstreams,
            registry,
        })
    }

    /// The route that takes `request`.
    pub fn route(&self, request: &route::RouteQuery<'_>) -> Option<&Arc<Route>> {
        self.routes.get(self.table.find(request)?)
    }

    /// Its routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What is alive of upstreams.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Its upstreams, in the order of the file.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|each| *each.name == *name)
    }

    fn tunnels_of(&self, name: &str) -> Option<Arc<Quota>> {
        let position = *self.by_name.get(name)?;
        Some(Arc::clone(&self.routes.get(position)?.tunnels))
    }

    /// Whether there is such a route.
    pub fn has_route(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Where the route of this name leads, if there is one and it leads to an upstream.
    pub fn upstream_of(&self, route: &str) -> Option<&Arc<Upstream>> {
        let route = self.routes.get(*self.by_name.get(route)?)?;
        route.upstream.as_ref()
    }
}

/// The id's field, and those of client certificates: of all listeners, as one that asks for no
/// certificate may lead to the same endpoints.
fn reserved(config: &Config) -> Box<[HeaderName]> {
    let certificates = config.listeners.iter().filter_map(|listener| {
        let client_auth = listener.tls.as_ref()?.client_auth.as_ref()?;
        client_auth.header.as_ref()
    });
    let mut names: Vec<HeaderName> = config.server.request_id.iter().cloned().collect();
    for name in certificates {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.into()
}

impl Route {
    fn new(
        settings: &model::RouteConfig,
        upstreams: &HashMap<Arc<str>, Arc<Upstream>>,
        tunnels: Arc<Quota>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let upstream = match &settings.leads_to {
            LeadsTo::Redirect(_) => None,
            LeadsTo::Upstream(name) => {
                let upstream = upstreams.get(name);
                Some(upstream.ok_or_else(|| SnapshotError::NoSuchUpstream {
                    route: Arc::clone(&settings.name),
                    upstream: Arc::clone(name),
                })?)
            }
        };
        Ok(Arc::new(Self {
            upstream: upstream.map(Arc::clone),
            tunnels,
            limits: Arc::new(settings.limits),
            settings: settings.clone(),
        }))
    }
}
