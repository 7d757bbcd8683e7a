//! The tasks that keep the keys of issuers up to date, on the control runtime. Workers verify by themselves, with
//! keys in memory.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::fetch::UrlFetch;
use super::issuer_keys::IssuerKeys;
use super::keeper::KeyKeeper;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::quota::failure_reports::FailureReports;
use crate::upstream::connect::Connector;

/// Keeps the keys of issuers up to date: one task for each.
#[derive(Debug)]
pub struct KeyKeepers {
    control: Handle,
    connector: Connector,
    /// Where requests to issuers are counted.
    services: Arc<ServiceTraffic>,
    reports: Arc<FailureReports>,
    /// The keys, and their keepers, which stop when these are dropped.
    kept: Vec<(Arc<IssuerKeys>, watch::Sender<bool>)>,
}

impl KeyKeepers {
    /// None yet; they will run on `control`. Requests to issuers are counted in `services`.
    pub fn new(control: Handle, connector: Connector, services: &Arc<ServiceTraffic>) -> Self {
        Self {
            control,
            connector,
            services: Arc::clone(services),
            reports: Arc::default(),
            kept: Vec::new(),
        }
    }

    /// From now on, exactly these keys are kept up to date. Those that were before go on undisturbed.
    pub fn apply(&mut self, wanted: &[Arc<IssuerKeys>]) {
        self.kept
            .retain(|(kept, _)| wanted.iter().any(|keys| Arc::ptr_eq(keys, kept)));
        for keys in wanted {
            if self.kept.iter().any(|(kept, _)| Arc::ptr_eq(keys, kept)) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            self.kept.push((Arc::clone(keys), stop));
            let requests = self.services.of(&format!("auth/{}", keys.location.auth));
            let fetch = UrlFetch::new(keys, self.connector.clone(), requests);
            let keeper = KeyKeeper::new(Arc::clone(keys), fetch, Arc::clone(&self.reports));
            self.control.spawn(keeper.run(stopped));
        }
    }
}
