//! The upkeep of certificates and shared keys in the running process: certificates are kept valid, brought to operators,
//! metrics and readiness whenever something has changed, and warned of when little of their life is left.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::certificates::is_any_listener_without;
use super::process::Process;
use crate::acme::TrialCertificate;
use crate::acme::errors::AcmeError;
use crate::admin::error::ApiError;
use crate::observe::certificates::LifeLeft;

impl Process {
    /// From now on, the certificates of the configuration in effect are obtained and renewed.
    pub(super) fn keep_certificates(&mut self) {
        self.keepers.apply(&self.reloader.certificates().managed);
        self.publish_certificates();
    }

    /// Brings what is known of certificates to operators, metrics and readiness.
    pub(super) fn publish_certificates(&mut self) {
        let configured = self.reloader.certificates();
        let states = configured.now(&self.reloader.shared().managed, self.keepers.status());
        let status = &self.process_status;
        status.set_lacks_certificate(is_any_listener_without(&states));
        status.certificates.store(Arc::new(states));
    }

    /// Uses the keys that nodes share now.
    pub(super) fn apply_shared_keys(&mut self) {
        let snapshot = self.reloader.snapshot();
        self.key_sharing
            .use_keys(&snapshot, self.reloader.listeners());
    }

    /// Warns of certificates of which little is left.
    pub(super) fn warn_of_expiry(&mut self) {
        let states = self.process_status.certificates.load_full();
        let now = SystemTime::now();
        for (state, left) in self.expiry_warnings.due(&states, now) {
            let expires = state.served.as_ref().map(|it| it.not_after);
            let expires = expires.map(humantime::format_rfc3339_seconds);
            let (certificate, listener) = (state.source.label(), &state.listener);
            let error = state.failure.as_ref().map(|it| &*it.error);
            let expires = expires.map(tracing::field::display);
            match left {
                LifeLeft::Expired => {
                    tracing::error!(%listener, %certificate, expires, error, "certificate expired");
                }
                _ => {
                    let percent = state
                        .served
                        .as_ref()
                        .map(|it| (it.share_left(now) * 100.0) as u64);
                    tracing::warn!(
                        %listener, %certificate, expires, percent, error,
                        "certificate expires soon; `percent` of its life is left"
                    );
                }
            }
        }
    }

    /// Renews the certificates of this name, whether that is due or not.
    pub(super) fn renew(&self, name: &str) -> Result<usize, ApiError> {
        match self.keepers.renew_now(name) {
            0 => Err(unknown(name)),
            count => {
                tracing::info!(name, "renewal asked for by an operator");
                Ok(count)
            }
        }
    }

    /// Orders a certificate from the staging directory of its authority, beside everything else.
    pub(super) fn try_certificate(
        &mut self,
        name: &str,
        done: oneshot::Sender<Result<TrialCertificate, ApiError>>,
    ) {
        while self.trials.try_join_next().is_some() {}
        let trial = self.keepers.try_at_staging(name);
        let name = name.to_owned();
        self.trials.spawn(async move {
            // Also if the operator does not wait any longer: what is open has to be closed.
            let result = trial.await.map_err(|error| match error {
                AcmeError::UnknownName(_) => unknown(&name),
                error => ApiError::conflict(error.to_string()),
            });
            let _ = done.send(result);
        });
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found(format!(
        "tidegate obtains no certificate for `{name}`; `tidegate certificates` lists all"
    ))
}
