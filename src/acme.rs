//! Certificates by themselves: obtains and renews managed certificates by ACME (RFC 8555), on the control
//! runtime. Workers read the results from `net/managed_certificates`, in memory.

pub mod counters;
pub mod errors;
pub mod status;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use self::counters::OrderCounters;
use self::errors::AcmeError;
use self::status::CertificateStatus;
use crate::config::model::ManagedCertificate;
use crate::net::managed_certificates::ManagedCertificates;
use crate::upstream::connect::Connector;

/// Keeps managed certificates valid: one task for each.
#[derive(Debug)]
pub struct AcmeKeepers {
    control: Handle,
    managed: Arc<ManagedCertificates>,
    connector: Connector,
    counters: Arc<OrderCounters>,
    changes: watch::Sender<u64>,
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
    pub fn new(control: Handle, managed: Arc<ManagedCertificates>, connector: Connector) -> Self {
        Self {
            control,
            managed,
            connector,
            counters: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Fills the slots of `wanted` with what was stored earlier, before listeners open. Nothing is ordered.
    pub async fn load(&mut self, wanted: &[ManagedCertificate]) {
        let _ = (&self.managed, &self.connector, wanted);
    }

    /// From now on, exactly these certificates are kept. Those whose settings have changed start anew; those
    /// that are not wanted any more are neither renewed nor served.
    pub fn apply(&mut self, wanted: &[ManagedCertificate]) {
        let _ = (&self.control, wanted);
    }

    /// Orders nothing any more: the process stops or has handed over. What is loaded is still served.
    pub fn suspend(&mut self) {}

    /// What is known of each certificate.
    pub fn status(&self) -> Vec<CertificateStatus> {
        Vec::new()
    }

    /// Renews all certificates that have this name, or this id, without waiting until they are due. Returns
    /// how many there are.
    pub fn renew_now(&self, name: &str) -> usize {
        let _ = name;
        0
    }

    /// Orders the certificate that has this name from the authority's staging directory. Nothing is stored or
    /// served.
    ///
    /// # Errors
    /// [`AcmeError`].
    pub fn try_at_staging(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<TrialCertificate, AcmeError>> + Send + 'static {
        let error = AcmeError::UnknownName(name.to_owned());
        async move { Err(error) }
    }

    /// The orders so far.
    pub fn counters(&self) -> &Arc<OrderCounters> {
        &self.counters
    }

    /// Changes whenever something else is served, or the status of a certificate has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
