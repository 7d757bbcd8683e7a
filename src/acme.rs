//! Certificates by themselves: obtains and renews managed certificates by ACME (RFC 8555), on the control
//! runtime. Workers read the results from `net/managed_certificates`, in memory.

mod account;
mod attempt;
mod authority;
mod authority_store;
mod board;
mod cell;
mod chain;
mod challenge;
pub mod counters;
mod dns;
pub mod errors;
mod hook;
mod item_name;
mod keeper;
mod key;
mod lease;
mod order;
mod persistent;
mod precedence;
mod problem;
pub mod renewal;
mod scan;
pub mod status;
#[cfg(test)]
mod testing;
mod transport;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use instant_acme::{LetsEncrypt, ZeroSsl};
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::authority::{Authority, AuthorityParts};
use self::authority_store::AuthorityStore;
use self::board::ChallengeBoard;
use self::cell::CertificateCell;
use self::counters::OrderCounters;
use self::errors::AcmeError;
use self::keeper::{CertificateKeeper, KeeperParts, within_limit};
use self::order::OrderPlan;
use self::persistent::{persistent, without_panic};
use self::status::{CertificateStatus, OrderFailureStatus};
use crate::config::model::{AcmeConfig, ManagedCertificate};
use crate::https_client::service_traffic::ServiceTraffic;
use crate::net::managed_certificates::ManagedCertificates;
use crate::store::StoreError;
use crate::store::shared::StoreOpener;
use crate::upstream::connect::Connector;

/// Keeps managed certificates valid: one task for each.
#[derive(Debug)]
pub struct AcmeKeepers {
    control: Handle,
    managed: Arc<ManagedCertificates>,
    shared: AuthorityParts,
    parts: KeeperParts,
    changes: watch::Sender<u64>,
    authorities: HashMap<Arc<str>, RunningAuthority>,
    kept: Vec<KeptCertificate>,
    is_suspended: bool,
}

/// An authority whose folder is scanned, until this is dropped.
#[derive(Debug)]
struct RunningAuthority {
    authority: Arc<Authority<AuthorityStore>>,
    _stop: watch::Sender<bool>,
}

/// A certificate, and its keeper, which stops when this is dropped.
#[derive(Debug)]
struct KeptCertificate {
    cell: Arc<CertificateCell>,
    /// `None` until it is applied.
    stop: Option<watch::Sender<bool>>,
}

/// What a trial order has got.
#[derive(Debug, Clone)]
pub struct TrialCertificate {
    /// The common name of the issuer.
    pub issuer: Box<str>,
    /// The directory that has issued it.
    pub directory: Box<str>,
}

impl AcmeKeepers {
    /// None yet; they will run on `control`, and serve certificates and challenges through `managed`.
    /// Requests to authorities are counted in `services`.
    pub fn new(
        control: Handle,
        managed: Arc<ManagedCertificates>,
        connector: Connector,
        services: &Arc<ServiceTraffic>,
    ) -> Self {
        let board = Arc::new(ChallengeBoard::new(Arc::clone(&managed)));
        let stores = StoreOpener::new(control.clone(), connector.clone(), services);
        Self {
            control,
            managed,
            shared: AuthorityParts::new(board, connector, &Arc::new(stores), services),
            parts: KeeperParts::default(),
            changes: watch::Sender::new(0),
            authorities: HashMap::new(),
            kept: Vec::new(),
            is_suspended: false,
        }
    }

    /// Fills the slots of `wanted` with what was stored earlier, or with self-signed certificates where the
    /// configuration wants that, before listeners open. Nothing is ordered.
    ///
    /// # Errors
    /// The first [`StoreError`], after everything else was loaded: what is stored cannot be read now. It is
    /// reported; the certificate is served as soon as it can be read.
    pub async fn load(&mut self, wanted: &[ManagedCertificate]) -> Result<(), StoreError> {
        let mut loading = Vec::new();
        for certificate in wanted {
            let authority = self.authority(&certificate.authority);
            let (cell, is_new) = self.cell(certificate);
            if is_new {
                loading.push(async move {
                    let loaded = cell.load_any(&authority.store).await;
                    cell.stand_in();
                    loaded
                });
            }
        }
        let loaded = futures_util::future::join_all(loading).await;
        loaded.into_iter().collect()
    }

    /// From now on, exactly these certificates are kept. Those whose settings have changed start again; those
    /// that are not wanted any more are neither renewed nor served.
    pub fn apply(&mut self, wanted: &[ManagedCertificate]) {
        self.kept
            .retain(|kept| wanted.contains(&kept.cell.certificate));
        self.authorities.retain(|_, running| {
            wanted
                .iter()
                .any(|certificate| certificate.authority == running.authority.config)
        });
        let ids: Vec<Arc<str>> = wanted.iter().map(ManagedCertificate::id).collect();
        self.managed
            .retain(|id| ids.iter().any(|wanted| **wanted == *id));
        for certificate in wanted {
            let authority = self.authority(&certificate.authority);
            let (cell, is_new) = self.cell(certificate);
            if is_new {
                cell.stand_in();
            }
            self.start(&authority, &cell, is_new);
        }
        for running in self.authorities.values() {
            let own = self.kept.iter().map(|kept| &kept.cell);
            let own = own.filter(|cell| cell.certificate.authority == running.authority.config);
            *running.authority.cells() = own.map(Arc::clone).collect();
        }
        self.changes.send_modify(|number| *number += 1);
    }

    /// Orders nothing any more: the process stops or has handed over. What is loaded is still served, and so are
    /// the challenges of other nodes.
    pub fn suspend(&mut self) {
        self.is_suspended = true;
        for kept in &mut self.kept {
            kept.stop = None;
        }
    }

    /// What is known of each certificate.
    pub fn status(&self) -> Vec<CertificateStatus> {
        self.kept.iter().map(|kept| kept.cell.status()).collect()
    }

    /// Renews all certificates that have this name, or this id, without waiting until they are due. Returns
    /// how many there are.
    pub fn renew_now(&self, name: &str) -> usize {
        let named = self.named(name);
        named.inspect(|cell| cell.force()).count()
    }

    /// Orders the certificate that has this name, or this id, for a trial: from the staging directory of Let's
    /// Encrypt, or from a private authority's own. Only the answers to challenges are stored and served.
    ///
    /// # Errors
    /// [`AcmeError`].
    pub fn try_at_staging(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<TrialCertificate, AcmeError>> + Send + 'static {
        let cell = self.named(name).next().map(Arc::clone);
        let cell = cell.ok_or_else(|| AcmeError::UnknownName(name.to_owned()));
        let shared = self.shared.clone();
        async move {
            let cell = cell?;
            try_order(&cell, shared).await
        }
    }

    /// What opens the stores of authorities, and of whatever else nodes share.
    pub fn stores(&self) -> &Arc<StoreOpener> {
        &self.shared.stores
    }

    /// The orders so far.
    pub fn counters(&self) -> &Arc<OrderCounters> {
        &self.parts.counters
    }

    /// Changes whenever something else is served, or the status of a certificate has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Arc<CertificateCell>> {
        let cells = self.kept.iter().map(|kept| &kept.cell);
        cells.filter(move |cell| {
            let mut names = cell.certificate.names.iter().map(ToString::to_string);
            *cell.id == *name || names.any(|own| own == name)
        })
    }

    /// The authority with these settings, as running.
    fn authority(&mut self, config: &Arc<AcmeConfig>) -> Arc<Authority<AuthorityStore>> {
        if let Some(running) = self.authorities.get(&config.name)
            && running.authority.config == *config
        {
            return Arc::clone(&running.authority);
        }
        let store = AuthorityStore::of(config, &self.shared.stores);
        let authority = Arc::new(Authority::new(config, store, self.shared.clone()));
        let (stop, stopped) = watch::channel(false);
        self.control.spawn(scanning(
            Arc::clone(&authority),
            self.parts.clone(),
            stopped,
        ));
        let running = RunningAuthority {
            authority: Arc::clone(&authority),
            _stop: stop,
        };
        self.authorities.insert(Arc::clone(&config.name), running);
        authority
    }

    /// The cell of a certificate, and whether there was none.
    fn cell(&mut self, certificate: &ManagedCertificate) -> (Arc<CertificateCell>, bool) {
        let known = self
            .kept
            .iter()
            .find(|kept| kept.cell.certificate == *certificate);
        if let Some(known) = known {
            return (Arc::clone(&known.cell), false);
        }
        let slot = self.managed.slot(&certificate.id());
        let cell = CertificateCell::new(certificate.clone(), slot, self.changes.clone());
        let cell = Arc::new(cell);
        self.kept.push(KeptCertificate {
            cell: Arc::clone(&cell),
            stop: None,
        });
        (cell, true)
    }

    /// Starts the keeper of a certificate, if it has none.
    fn start(
        &mut self,
        authority: &Arc<Authority<AuthorityStore>>,
        cell: &Arc<CertificateCell>,
        is_new: bool,
    ) {
        let kept = self
            .kept
            .iter_mut()
            .find(|kept| Arc::ptr_eq(&kept.cell, cell));
        let Some(kept) = kept.filter(|kept| kept.stop.is_none() && !self.is_suspended) else {
            return;
        };
        let (stop, stopped) = watch::channel(false);
        kept.stop = Some(stop);
        let (authority, cell) = (Arc::clone(authority), Arc::clone(cell));
        let parts = self.parts.clone();
        self.control
            .spawn(keeping(authority, cell, parts, is_new, stopped));
    }
}

/// Looks into the folder of an authority until it is stopped.
async fn scanning(
    authority: Arc<Authority<AuthorityStore>>,
    parts: KeeperParts,
    stopped: watch::Receiver<bool>,
) {
    let begin = || {
        let reports = Arc::clone(&parts.reports);
        scan::scan(Arc::clone(&authority), reports, stopped.clone())
    };
    let what = format!("the folder of authority {}", authority.config.name);
    persistent(&what, stopped.clone(), begin, |_| async {}).await;
}

/// Looks after a certificate until it is stopped.
async fn keeping(
    authority: Arc<Authority<AuthorityStore>>,
    cell: Arc<CertificateCell>,
    parts: KeeperParts,
    is_new: bool,
    stopped: watch::Receiver<bool>,
) {
    let begin = || async {
        if is_new {
            // It is reported, and the scan reads it again.
            let _ = cell.load_any(&authority.store).await;
        }
        CertificateKeeper::new(Arc::clone(&authority), Arc::clone(&cell), parts.clone())
            .run(stopped.clone())
            .await;
    };
    let clear = |panic: String| {
        let (authority, cell) = (&authority, &cell);
        async move {
            cell.end_order(Some(OrderFailureStatus {
                error: format!("its keeper has panicked: {panic}").into(),
                at: SystemTime::now(),
                in_a_row: 1,
            }));
            authority.close(&cell.item).await;
        }
    };
    persistent(&cell.id, stopped.clone(), begin, clear).await;
}

/// The directory of an authority for trials; `None` if there is none.
fn trial_directory(directory: &str) -> Option<&str> {
    let production = [LetsEncrypt::Production.url(), LetsEncrypt::Staging.url()];
    match directory {
        known if production.contains(&known) => Some(LetsEncrypt::Staging.url()),
        known if known == ZeroSsl::Production.url() => None,
        private => Some(private),
    }
}

async fn try_order(
    cell: &CertificateCell,
    shared: AuthorityParts,
) -> Result<TrialCertificate, AcmeError> {
    let mut config = (*cell.certificate.authority).clone();
    let directory = trial_directory(&config.directory);
    let directory = directory.ok_or_else(|| AcmeError::NoStaging(config.name.to_string()))?;
    config.directory = directory.into();
    let store = AuthorityStore::of(&config, &shared.stores);
    let authority = Authority::new(&Arc::new(config), store, shared);
    // Of two trials at once, one must not close what the other has opened.
    let item = format!("trial{:04x}+{}", fastrand::u16(..), cell.item);
    let plan = OrderPlan {
        authority: &authority,
        names: &cell.certificate.names,
        item: &item,
        replaces: None,
        served_key: None,
        attempt: 0,
        is_trial: true,
    };
    let ordering = within_limit(&authority, plan.run());
    let result = without_panic(&cell.id, ordering).await;
    authority.close(&item).await;
    let obtained = result?;
    Ok(TrialCertificate {
        issuer: obtained.issued.served.issuer,
        directory: obtained.issued.facts.directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_do_not_use_up_the_limits_of_public_authorities() {
        let staging = "https://acme-staging-v02.api.letsencrypt.org/directory";
        for (directory, expected) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                Some(staging),
            ),
            (staging, Some(staging)),
            ("https://acme.zerossl.com/v2/DV90", None),
            ("https://ca.internal/dir", Some("https://ca.internal/dir")),
        ] {
            assert_eq!(trial_directory(directory), expected);
        }
    }
}
