//! Taking a new configuration: read, checked and built beside the old one, then swapped.
//!
//! On any failure the old one keeps running. Reloads come one after the other; requests that come
//! during one are one more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::blocking::blocking;
use super::discovery::{self, Lookups};
use super::errors::ReloadError;
use super::fingerprint::{Fingerprint, fingerprint, only_certificates_changed};
use super::listeners::{ListenerPlan, Listeners};
use super::restart::StartedWith;
use crate::admin::view::LoadedConfig;
use crate::config::model::{Admin, Config, Secret, ServerConfig};
use crate::config::{self, Loaded, Report};
use crate::observe::process::Expiry;
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::registry::Registry;

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadOutcome {
    /// A new configuration runs.
    Everything,
    /// Only certificates had changed, and only they were swapped.
    Certificates,
}

/// Takes configurations.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    shared: Arc<Shared>,
    listeners: Listeners,
    lookups: Lookups,
    fingerprint: Fingerprint,
    /// What operators are shown of it.
    loaded: Arc<LoadedConfig>,
    started: StartedWith,
    server: ServerConfig,
    admin: Admin,
    expiries: Arc<Vec<Expiry>>,
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Its file.
    File,
    /// What its file held when it was last taken: it may have been edited since, and nobody has asked
    /// for that to be taken. The files that it names are read again.
    Effective,
}

/// What configurations are taken into.
#[derive(Debug)]
pub(super) struct ReloaderParts {
    /// What workers share.
    pub(super) shared: Arc<Shared>,
    /// Nothing listens yet.
    pub(super) listeners: Listeners,
    /// Those of the first configuration have begun.
    pub(super) lookups: Lookups,
}

impl Reloader {
    /// Begins to listen with the first configuration, as planned.
    pub(super) async fn start(
        path: &Path,
        loaded: &Loaded,
        parts: ReloaderParts,
        plan: ListenerPlan,
    ) -> Self {
        let config = &loaded.config;
        let ReloaderParts {
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
            fingerprint: fingerprint(&config.inputs),
            loaded: Arc::new(taken(loaded)),
            started: StartedWith::of(config),
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
    pub(super) fn server(&self) -> &ServerConfig {
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
    pub(super) fn registry(&self) -> Arc<Registry> {
        Arc::clone(self.shared.snapshot.load().registry())
    }

    /// The files that the running configuration was read from, and what they held.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Takes what the files of endpoints hold now, where that has changed; whether any has.
    pub(super) fn apply_endpoint_files(&mut self) -> bool {
        let snapshot = self.shared.snapshot.load();
        let now = fingerprint(&discovery::files(&snapshot));
        let mut changed = false;
        for (path, hash) in now {
            if self.fingerprint.get(&path) != Some(&hash) {
                discovery::apply_file(&snapshot, &path);
                self.fingerprint.insert(path, hash);
                changed = true;
            }
        }
        changed
    }

    /// What operators are shown of the configuration as running.
    pub(super) fn loaded(&self) -> Arc<LoadedConfig> {
        Arc::clone(&self.loaded)
    }

    /// Files whose contents are others than those that were taken, the configuration file aside.
    pub(super) fn changed_files(&self, config: &Config) -> Vec<String> {
        let now = fingerprint(&config.inputs);
        let differs = |(path, hash): &(&PathBuf, &u64)| {
            **path != self.path && self.fingerprint.get(*path) != Some(*hash)
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
        let (path, source) = (self.path.clone(), Arc::clone(&self.loaded.source));
        let load = move || match from {
            Source::File => config::load(&path),
            Source::Effective => config::parse(&source, &path, &|name| std::env::var(name).ok()),
        };
        blocking(load).await.map_err(ReloadError::Config)
    }

    /// Reads the configuration again and swaps it in.
    ///
    /// # Errors
    /// [`ReloadError`]; what ran before keeps running.
    pub(super) async fn reload(&mut self, from: Source) -> Result<ReloadOutcome, ReloadError> {
        let loaded = self.load(from).await?;
        self.apply(loaded, from).await
    }

    /// Swaps in a configuration.
    ///
    /// # Errors
    /// [`ReloadError`]; what ran before keeps running.
    pub(super) async fn apply(
        &mut self,
        loaded: Loaded,
        from: Source,
    ) -> Result<ReloadOutcome, ReloadError> {
        log_warnings(&loaded.warnings);
        let mut shown = taken(&loaded);
        let config = loaded.config;
        shown.at_next_start = self.at_next_start(&config);
        let shown = Arc::new(shown);
        let mut fingerprint = fingerprint(&config.inputs);
        if let (Source::Effective, Some(known)) = (from, self.fingerprint.get(&self.path)) {
            // What it holds now has not been taken.
            fingerprint.insert(self.path.clone(), *known);
        }
        let plan = self.listeners.plan(&config.listeners)?;
        if only_certificates_changed(&config, &self.fingerprint, &fingerprint) {
            self.listeners.apply(plan).await;
            self.fingerprint = fingerprint;
            self.loaded = shown;
            self.expiries = expiries(&config);
            return Ok(ReloadOutcome::Certificates);
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
        self.reset_weights();
        self.lookups.settle();
        self.listeners.apply(plan).await;
        // Freed here rather than on a worker, where ten thousand endpoints would be a stall.
        drop(old);
        self.fingerprint = fingerprint;
        self.loaded = shown;
        self.expiries = expiries(&config);
        self.server = config.server;
        self.admin.token = config.admin.token;
        Ok(ReloadOutcome::Everything)
    }

    /// What operators have weighed counts as configured from now on.
    fn reset_weights(&self) {
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

/// What operators are shown of a configuration.
pub(super) fn taken(loaded: &Loaded) -> LoadedConfig {
    let files = loaded.config.inputs.iter();
    LoadedConfig {
        files: files.map(|path| path.display().to_string()).collect(),
        at: SystemTime::now(),
        source: Arc::clone(&loaded.source),
        warnings: loaded.warnings.lines().collect(),
        at_next_start: Vec::new(),
    }
}

pub(super) fn log_warnings(warnings: &Report) {
    for warning in warnings.lines() {
        tracing::warn!("{warning}");
    }
}
