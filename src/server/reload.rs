//! Taking a new configuration: read, checked and built beside the old one, then swapped.
//!
//! On any failure the old one keeps running. Reloads come one after the other; requests that come
//! during one are one more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::discovery::{self, Lookups};
use super::listeners::{ListenError, Listeners, Plan};
use super::operators;
use crate::admin::view::Taken;
use crate::config::model::{Admin, Bind, Config, Secret, Server};
use crate::config::{self, Loaded, Report};
use crate::observe::process::Expiry;
use crate::observe::recorder::TargetError;
use crate::session::Shared;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::upstream::registry::Known;

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// It has mistakes.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// Its upstreams cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is nowhere to log to.
    #[error(transparent)]
    AccessLog(#[from] TargetError),
    /// Its listeners cannot be set up.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl ReloadError {
    /// All that is wrong, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(report) => report.error_lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reloaded {
    /// A new configuration runs.
    Everything,
    /// Only certificates had changed, and only they were swapped.
    Certificates,
}

/// What the files held when they were last taken.
pub(super) type Fingerprint = HashMap<PathBuf, u64>;

/// Takes configurations.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    shared: Arc<Shared>,
    listeners: Listeners,
    lookups: Lookups,
    taken: Fingerprint,
    /// What operators are shown of it.
    shown: Arc<Taken>,
    started: Started,
    server: Server,
    admin: Admin,
    expiries: Arc<Vec<Expiry>>,
}

/// What the process was started with, and what a reload does not change.
#[derive(Debug)]
struct Started {
    server: Server,
    admin: Admin,
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Its file.
    File,
    /// What its file held when it was last taken: it may have been edited since, and nobody has asked
    /// for that to be taken. The files that it names are read again.
    Taken,
}

/// What configurations are taken into.
#[derive(Debug)]
pub(super) struct Parts {
    /// What workers share.
    pub(super) shared: Arc<Shared>,
    /// Nothing listens yet.
    pub(super) listeners: Listeners,
    /// Those of the first configuration have begun.
    pub(super) lookups: Lookups,
}

impl Reloader {
    /// Begins to listen with the first configuration, as planned.
    pub(super) async fn start(path: &Path, loaded: &Loaded, parts: Parts, plan: Plan) -> Self {
        let config = &loaded.config;
        let Parts {
            shared,
            mut listeners,
            lookups,
        } = parts;
        listeners.apply(plan).await;
        Self {
            path: path.to_owned(),
            shared,
            listeners,
            lookups,
            taken: fingerprint(&config.inputs),
            shown: Arc::new(operators::taken(loaded)),
            started: Started::of(config),
            server: config.server.clone(),
            admin: config.admin.clone(),
            expiries: expiries(config),
        }
    }

    /// The listeners that run.
    pub(super) fn listeners(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// What runs.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// The configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration as running.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// When the certificates of the listeners expire.
    pub(super) fn expiries(&self) -> Arc<Vec<Expiry>> {
        Arc::clone(&self.expiries)
    }

    /// Files of logs may have been renamed away.
    pub(super) fn reopen_logs(&self) {
        self.shared.access_log.reopen();
    }

    /// What has happened by now is written.
    pub(super) fn flush_logs(&self) {
        self.shared.access_log.flush();
    }

    /// What is alive of upstreams.
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(self.shared.snapshot.load().known())
    }

    /// The files that the running configuration was read from, and what they held.
    pub(super) fn taken(&self) -> &Fingerprint {
        &self.taken
    }

    /// Takes what the files of endpoints hold now, where that has changed; whether any has.
    pub(super) fn take_endpoints(&mut self) -> bool {
        let snapshot = self.shared.snapshot.load();
        let now = fingerprint(&discovery::files(&snapshot));
        let mut changed = false;
        for (path, hash) in now {
            if self.taken.get(&path) != Some(&hash) {
                discovery::take_file(&snapshot, &path);
                self.taken.insert(path, hash);
                changed = true;
            }
        }
        changed
    }

    /// What operators are shown of the configuration as running.
    pub(super) fn taken_whole(&self) -> Arc<Taken> {
        Arc::clone(&self.shown)
    }

    /// Files whose contents are others than those that were taken, the configuration file aside.
    pub(super) fn changed_files(&self, config: &Config) -> Vec<String> {
        let now = fingerprint(&config.inputs);
        let differs = |(path, hash): &(&PathBuf, &u64)| {
            **path != self.path && self.taken.get(*path) != Some(*hash)
        };
        let changed = now.iter().filter(differs);
        let mut changed: Vec<String> = changed
            .map(|(path, _)| path.display().to_string())
            .collect();
        changed.sort();
        changed
    }

    /// Keys that say something else than at the start, and wait for the next one.
    pub(super) fn at_next_start(&self, config: &Config) -> Vec<&'static str> {
        self.started.differs_from(config)
    }

    /// What changes over TCP need.
    pub(super) fn token(&self) -> Option<Arc<Secret>> {
        self.admin.token.clone().map(Arc::new)
    }

    /// Reads the configuration again, and nothing more.
    ///
    /// # Errors
    /// [`ReloadError::Config`].
    pub(super) async fn load(&self, from: Source) -> Result<Loaded, ReloadError> {
        let (path, source) = (self.path.clone(), Arc::clone(&self.shown.source));
        let load = move || match from {
            Source::File => config::load(&path),
            Source::Taken => config::parse(&source, &path, &|name| std::env::var(name).ok()),
        };
        match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded.map_err(ReloadError::Config),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Reads the configuration again and swaps it in.
    ///
    /// # Errors
    /// [`ReloadError`]; what ran before keeps running.
    pub(super) async fn reload(&mut self, from: Source) -> Result<Reloaded, ReloadError> {
        let loaded = self.load(from).await?;
        self.take(loaded, from).await
    }

    /// Swaps in a configuration.
    ///
    /// # Errors
    /// [`ReloadError`]; what ran before keeps running.
    pub(super) async fn take(
        &mut self,
        loaded: Loaded,
        from: Source,
    ) -> Result<Reloaded, ReloadError> {
        super::log_warnings(&loaded.warnings);
        let mut shown = operators::taken(&loaded);
        let config = loaded.config;
        shown.at_next_start = self.at_next_start(&config);
        let shown = Arc::new(shown);
        let mut fingerprint = fingerprint(&config.inputs);
        if let (Source::Taken, Some(known)) = (from, self.taken.get(&self.path)) {
            // What it holds now has not been taken.
            fingerprint.insert(self.path.clone(), *known);
        }
        let plan = self.listeners.plan(&config.listeners)?;
        if only_certificates_changed(&config, &self.taken, &fingerprint) {
            self.listeners.apply(plan).await;
            self.taken = fingerprint;
            self.shown = shown;
            self.expiries = expiries(&config);
            return Ok(Reloaded::Certificates);
        }
        let log = &self.shared.access_log;
        let changed = self.server.access_log != config.server.access_log;
        let target = changed.then(|| log.open(&config.server.access_log));
        let target = target.transpose()?;
        self.lookups.begin(&config.upstreams).await;
        let snapshot = Snapshot::new(&config, Some(&self.shared.snapshot.load()));
        let snapshot = snapshot.inspect_err(|_| self.lookups.settle())?;
        self.lookups.fill(&snapshot);
        if let Some(target) = target {
            self.shared.access_log.set(target);
        }
        for line in shown.waiting() {
            tracing::warn!("{line}");
        }
        let old = self.shared.snapshot.swap(Arc::new(snapshot));
        self.forget_weights();
        self.lookups.settle();
        self.listeners.apply(plan).await;
        // Freed here rather than on a worker, where ten thousand endpoints would be a stall.
        drop(old);
        self.taken = fingerprint;
        self.shown = shown;
        self.expiries = expiries(&config);
        self.server = config.server;
        self.admin.token = config.admin.token;
        Ok(Reloaded::Everything)
    }

    /// What operators have weighed counts as configured from now on.
    fn forget_weights(&self) {
        for upstream in self.snapshot().upstreams() {
            for endpoint in upstream.endpoints() {
                endpoint.set_weight(None);
            }
        }
    }
}

fn expiries(config: &Config) -> Arc<Vec<Expiry>> {
    let mut expiries = Vec::new();
    for listener in &config.listeners {
        let certificates = listener.tls.iter().flat_map(|tls| &tls.certificates);
        expiries.extend(certificates.map(|certificate| Expiry {
            listener: Arc::clone(&listener.name),
            file: certificate.cert.display().to_string(),
            not_after: certificate.not_after,
        }));
    }
    Arc::new(expiries)
}

/// What files hold now. One that cannot be read holds nothing.
pub(super) fn fingerprint<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Fingerprint {
    let hash = |path: &PathBuf| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(path).ok().hash(&mut hasher);
        hasher.finish()
    };
    files
        .into_iter()
        .map(|path| (path.clone(), hash(path)))
        .collect()
}

/// Whether the files that changed are listeners' certificates, authorities and ticket keys and
/// nothing else.
fn only_certificates_changed(config: &Config, before: &Fingerprint, now: &Fingerprint) -> bool {
    let certificates: Vec<&PathBuf> = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .flat_map(|tls| {
            let pairs = tls.certificates.iter();
            let pairs = pairs.flat_map(|certificate| [&certificate.cert, &certificate.key]);
            pairs
                .chain(tls.ticket_keys.as_ref().map(|file| &file.path))
                .chain(tls.client_auth.as_ref().map(|auth| &auth.ca))
        })
        .collect();
    let changed: Vec<&PathBuf> = now
        .iter()
        .filter(|(path, hash)| before.get(*path) != Some(hash))
        .map(|each| each.0)
        .collect();
    before.len() == now.len()
        && !changed.is_empty()
        && changed.iter().all(|path| certificates.contains(path))
}

impl Started {
    fn of(config: &Config) -> Self {
        Self {
            server: config.server.clone(),
            admin: config.admin.clone(),
        }
    }

    /// Keys that say something else by now, and wait for the next start.
    fn differs_from(&self, config: &Config) -> Vec<&'static str> {
        let (server, admin) = (&config.server, &config.admin);
        let differ = [
            ("server.workers", self.server.workers != server.workers),
            (
                "server.core_dumps",
                self.server.core_dumps != server.core_dumps,
            ),
            ("server.log", self.server.log != server.log),
            (
                "admin.bind",
                address(&self.admin.bind) != address(&admin.bind),
            ),
            ("admin.mode", mode(&self.admin.bind) != mode(&admin.bind)),
            (
                "admin.metrics_bind",
                self.admin.metrics_bind != admin.metrics_bind,
            ),
        ];
        let differ = differ.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(name, _)| name).collect()
    }
}

fn address(bind: &Option<Bind>) -> Option<String> {
    bind.as_ref().map(ToString::to_string)
}

/// Permission bits of its socket, if it is one in a folder.
fn mode(bind: &Option<Bind>) -> Option<u32> {
    match bind {
        Some(Bind::Unix { mode, .. }) => Some(*mode),
        _ => None,
    }
}
