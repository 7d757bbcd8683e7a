//! The configuration as running: immutable, swapped whole, read once per session.
//!
//! Built beside the one before and from it, so that counts survive. Listeners are not part of it:
//! sockets are not swapped.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::{self, Config, PlainHttp, Strictness, TunnelLimits};
use crate::net::tls::TlsError;
use crate::route::Table;
use crate::upstream::endpoint::{Known, Upstream};

/// The configuration as running.
#[derive(Debug)]
pub struct Snapshot {
    /// Process-wide settings.
    pub server: model::Server,
    table: Table,
    routes: Vec<Arc<Route>>,
    upstreams: Vec<Arc<Upstream>>,
    known: Known,
}

/// What a matched request is handled with.
#[derive(Debug)]
pub struct Route {
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// Where requests go.
    pub upstream: Arc<Upstream>,
    /// What plain HTTP requests get.
    pub http: PlainHttp,
    /// How an endpoint's 101 is judged.
    pub handshake: Strictness,
    /// Whether the endpoint sees the client's `Host`.
    pub preserve_host: bool,
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
    /// Builds the snapshot, taking over from `before` what outlives a reload.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn new(config: &Config, before: Option<&Self>) -> Result<Self, SnapshotError> {
        let mut known = before.map_or_else(Known::default, |before| before.known.living());
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        let mut by_name = HashMap::new();
        for settings in &config.upstreams {
            let upstream =
                Upstream::new(settings, &mut known).map_err(|source| SnapshotError::Tls {
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
            .map(|route| Route::new(route, &by_name))
            .collect();
        Ok(Self {
            server: config.server.clone(),
            table: Table::new(&config.routes),
            routes: routes?,
            upstreams,
            known,
        })
    }

    /// The route for a request that came in by `listener` for `host` (lower case, no port) and the
    /// normalised `path`.
    pub fn route(&self, listener: &str, host: &str, path: &str) -> Option<&Arc<Route>> {
        self.routes.get(self.table.find(listener, host, path)?)
    }

    /// How many routes, and how many endpoints.
    pub fn counts(&self) -> (usize, usize) {
        (
            self.routes.len(),
            self.upstreams
                .iter()
                .map(|each| each.endpoints().count())
                .sum(),
        )
    }
}

impl Route {
    fn new(
        route: &model::Route,
        upstreams: &HashMap<Arc<str>, Arc<Upstream>>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let upstream =
            upstreams
                .get(&route.upstream)
                .ok_or_else(|| SnapshotError::NoSuchUpstream {
                    route: Arc::clone(&route.name),
                    upstream: Arc::clone(&route.upstream),
                })?;
        Ok(Arc::new(Self {
            name: Arc::clone(&route.name),
            upstream: Arc::clone(upstream),
            http: route.http,
            handshake: route.handshake,
            preserve_host: route.preserve_host,
            limits: Arc::new(route.limits),
        }))
    }
}
