//! Reloading: a new configuration is read, checked and built beside the running one, then swapped in.
//!
//! On any failure the old configuration stays in effect. Reloads run one after the other.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::certificates::ConfiguredCertificates;
use super::discovery::{self, Lookups};
use super::endpoint_maps;
use super::errors::ReloadError;
use super::file_thread::FileThread;
use super::fingerprint::{Fingerprint, of_inputs, only_certificates_changed};
use super::key_sharing::KeySharingConfig;
use super::listeners::{ListenerPlan, Listeners};
use super::restart::StartedWith;
use crate::admin::view::LoadedConfig;
use crate::config::input_file::{ContentHash, Contents, Input};
use crate::config::model::{Admin, AdminAccess, Config, ServerConfig};
use crate::config::sources::SourceText;
use crate::config::{self, Loaded, Report};
use crate::fleet::membership::ConfiguredFleet;
use crate::net::tls::{self, TlsError};
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::registry::Registry;

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadOutcome {
    /// A new configuration is in effect.
    Everything,
    /// Only certificates had changed, and only they were swapped in.
    Certificates,
}

/// Loads and applies configurations.
#[derive(Debug)]
pub(super) struct Reloader {
    path: PathBuf,
    shared: Arc<Shared>,
    listeners: Listeners,
    lookups: Lookups,
    files: FileThread,
    fingerprint: Fingerprint,
    /// What operators are shown of the configuration in effect.
    loaded: Arc<LoadedConfig>,
    started: StartedWith,
    server: ServerConfig,
    admin: Admin,
    admin_tls: Option<Arc<rustls::ServerConfig>>,
    certificates: ConfiguredCertificates,
    fleet: ConfiguredFleet,
    key_sharing: Option<KeySharingConfig>,
}

/// Where a configuration is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The configuration file, and those that it includes.
    File,
    /// The same, because these files have changed: no operator has asked for it.
    ChangedFile,
    /// The texts in effect: these files may have been edited since, and no operator has asked for that to be
    /// applied. The files that they refer to, such as certificates, are read again.
    Effective,
}

/// The parts of a [`Reloader`].
#[derive(Debug)]
pub(super) struct ReloaderParts {
    /// The state that workers share.
    pub(super) shared: Arc<Shared>,
    /// No listener is running yet.
    pub(super) listeners: Listeners,
    /// The lookups of the first configuration have begun.
    pub(super) lookups: Lookups,
    /// TLS of the admin interface.
    pub(super) admin_tls: Option<Arc<rustls::ServerConfig>>,
}

impl Reloader {
    /// Applies the planned listeners of the first configuration.
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
            admin_tls,
        } = parts;
        listeners.apply(plan).await;
        Self {
            path: path.to_owned(),
            shared,
            listeners,
            lookups,
            files: FileThread::default(),
            fingerprint: of_inputs(&config.inputs),
            loaded: Arc::new(describe(loaded)),
            started: StartedWith::of(config),
            server: config.server.clone(),
            admin: config.admin.clone(),
            admin_tls,
            certificates: ConfiguredCertificates::of(config),
            fleet: ConfiguredFleet::of(config),
            key_sharing: KeySharingConfig::of(config),
        }
    }

    /// The running listeners.
    pub(super) fn listeners(&mut self) -> &mut Listeners {
        &mut self.listeners
    }

    /// The `server` section in effect.
    pub(super) fn server(&self) -> &ServerConfig {
        &self.server
    }

    /// The path of the configuration file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The running snapshot.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The certificates of the configuration in effect.
    pub(super) fn certificates(&self) -> &ConfiguredCertificates {
        &self.certificates
    }

    /// The fleet and its store.
    pub(super) fn fleet(&self) -> &ConfiguredFleet {
        &self.fleet
    }

    /// What is configured about keys that nodes share; `None` if they share none.
    pub(super) fn key_sharing(&self) -> Option<&KeySharingConfig> {
        self.key_sharing.as_ref()
    }

    /// The state that workers share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Opens log files again: they may have been renamed.
    pub(super) fn reopen_logs(&self) {
        self.shared.access_log.reopen();
    }

    /// Writes the buffered lines of the access log.
    pub(super) fn flush_logs(&self) {
        self.shared.access_log.flush();
    }

    /// The registry of upstreams and endpoints.
    pub(super) fn registry(&self) -> Arc<Registry> {
        Arc::clone(self.shared.snapshot.load().registry())
    }

    /// The files that the running configuration was read from, and their contents.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The endpoint files and the endpoint maps in use.
    pub(super) fn endpoint_files(&self) -> Vec<PathBuf> {
        let snapshot = self.shared.snapshot.load();
        let mut files = discovery::files(&snapshot);
        files.extend(endpoint_maps::files(&snapshot));
        files
    }

    /// Applies the contents of endpoint files and endpoint maps, if they have changed; returns whether any have.
    pub(super) fn apply_endpoint_files(&mut self, files: Vec<(PathBuf, Contents)>) -> bool {
        let snapshot = self.shared.snapshot.load();
        let mut changed = false;
        for (path, contents) in files {
            let hash = ContentHash::of(&contents);
            if self.fingerprint.get(&path) != Some(&hash) {
                discovery::apply_file(&snapshot, &path, &contents);
                endpoint_maps::apply_file(&snapshot, &path, &contents);
                self.fingerprint.insert(path, hash);
                changed = true;
            }
        }
        changed
    }

    /// What operators are shown of the configuration in effect.
    pub(super) fn loaded(&self) -> Arc<LoadedConfig> {
        Arc::clone(&self.loaded)
    }

    /// Files that `new` names, but does not include, and whose contents differ from those in effect.
    pub(super) fn changed_files(&self, new: &Loaded) -> Vec<String> {
        let texts: HashSet<&Path> = new.sources.all().map(SourceText::path).collect();
        let differs = |input: &&Input| {
            !texts.contains(input.path.as_path())
                && self.fingerprint.get(&input.path) != Some(&input.hash)
        };
        let changed = new.config.inputs.iter().filter(differs);
        let mut changed: Vec<String> = changed
            .map(|input| input.path.display().to_string())
            .collect();
        changed.sort();
        changed
    }

    /// Keys that have changed, and take effect only at the next start.
    pub(super) fn at_next_start(&self, config: &Config) -> Vec<&'static str> {
        self.started.differs_from(config)
    }

    /// Who may use the admin interface over TCP.
    pub(super) fn admin_access(&self) -> Arc<AdminAccess> {
        Arc::new(self.admin.access.clone())
    }

    /// TLS of the admin interface over TCP.
    pub(super) fn admin_tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.admin_tls.clone()
    }

    /// TLS of the admin interface with this configuration. An interface that stays at its old address until the
    /// next start keeps what it has: the new one may have no TLS because it needs none.
    fn new_admin_tls(
        &self,
        config: &Config,
    ) -> Result<Option<Arc<rustls::ServerConfig>>, TlsError> {
        match self.started.has_admin_bind(config) {
            true => tls::admin(config.admin.tls.as_ref()),
            false => Ok(self.admin_tls.clone()),
        }
    }

    /// Where files are read.
    pub(super) fn files(&self) -> &FileThread {
        &self.files
    }

    /// Reads and checks the configuration again; applies nothing. Cancel safe.
    ///
    /// # Errors
    /// [`ReloadError::Config`], [`ReloadError::Files`], [`ReloadError::LostFiles`].
    pub(super) async fn load(&self, from: Source) -> Result<Loaded, ReloadError> {
        let (path, sources) = (self.path.clone(), Arc::clone(&self.loaded.sources));
        let load = move || match from {
            Source::File | Source::ChangedFile => config::load(&path),
            Source::Effective => config::parse_again(&sources),
        };
        let loaded = self.files.run(load).await?.map_err(ReloadError::Config)?;
        match loaded.sources.lost_since(&self.loaded.sources) {
            Some(lost) if from == Source::ChangedFile => Err(ReloadError::LostFiles(lost)),
            _ => Ok(loaded),
        }
    }

    /// Applies a configuration.
    ///
    /// # Errors
    /// [`ReloadError`]; the previous configuration stays in effect.
    pub(super) async fn apply(&mut self, loaded: Loaded) -> Result<ReloadOutcome, ReloadError> {
        let mut shown = describe(&loaded);
        let warnings = loaded.warnings;
        let places = loaded.bind_places;
        let config = loaded.config;
        shown.needs_restart = self.at_next_start(&config);
        let shown = Arc::new(shown);
        // Of the text in effect, if that was parsed again: an edit of the file still counts as a change.
        let fingerprint = of_inputs(&config.inputs);
        // Everything that can fail comes first, and leaves what is in effect untouched.
        let plan = self.listeners.plan(&config.listeners);
        let plan = plan.map_err(|error| error.located(&places))?;
        let admin_tls = self.new_admin_tls(&config)?;
        if only_certificates_changed(&config, &self.fingerprint, &fingerprint) {
            log_warnings(&warnings);
            self.listeners.apply(plan).await;
            self.fingerprint = fingerprint;
            self.loaded = shown;
            self.certificates = ConfiguredCertificates::of(&config);
            self.fleet = ConfiguredFleet::of(&config);
            self.admin_tls = admin_tls;
            return Ok(ReloadOutcome::Certificates);
        }
        let log = &self.shared.access_log;
        let changed = self.server.access_log != config.server.access_log;
        let target = changed.then(|| log.open(&config.server.access_log));
        let target = target.transpose()?;
        self.lookups.begin(&config.upstreams).await;
        let snapshot = Snapshot::new(&config, Some(&self.shared.snapshot.load()));
        let snapshot = snapshot.inspect_err(|_| self.lookups.settle())?;
        // Of a configuration that takes effect: one that does not may be tried again and again.
        log_warnings(&warnings);
        // Before the swap: a session must not find an upstream whose endpoints are known without them.
        self.lookups.fill(&snapshot);
        if let Some(target) = target {
            self.shared.access_log.set(target);
        }
        for line in shown.restart_warnings() {
            tracing::warn!("{line}");
        }
        let old = self.shared.snapshot.swap(Arc::new(snapshot));
        self.reset_weights();
        self.lookups.settle();
        // After the snapshot: the first connection to a new listener needs the new routes.
        self.listeners.apply(plan).await;
        // Freed here rather than on a worker, where ten thousand endpoints would be a stall.
        drop(old);
        self.fingerprint = fingerprint;
        self.loaded = shown;
        self.certificates = ConfiguredCertificates::of(&config);
        self.fleet = ConfiguredFleet::of(&config);
        self.key_sharing = KeySharingConfig::of(&config);
        self.server = config.server;
        self.admin.access = config.admin.access;
        self.admin_tls = admin_tls;
        Ok(ReloadOutcome::Everything)
    }

    /// Drops the weights that operators have set: the configured ones count from now on.
    fn reset_weights(&self) {
        for upstream in self.snapshot().upstreams() {
            for endpoint in upstream.endpoints() {
                endpoint.set_weight(None);
            }
        }
    }
}

/// What operators are shown of a loaded configuration.
pub(super) fn describe(loaded: &Loaded) -> LoadedConfig {
    let files = loaded.config.inputs.iter();
    LoadedConfig {
        files: files
            .map(|input| input.path.display().to_string())
            .collect(),
        at: SystemTime::now(),
        sources: Arc::clone(&loaded.sources),
        warnings: loaded.warnings.lines().collect(),
        needs_restart: Vec::new(),
    }
}

pub(super) fn log_warnings(warnings: &Report) {
    for warning in warnings.lines() {
        tracing::warn!("{warning}");
    }
}
