//! The certificates of listeners, and those that tidegate obtains by itself.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::acme::TrialCertificate;
use crate::admin::command::{self, ControlCommand};
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::handover::identity::shown;
use crate::observe::certificates::{CertificateSource, CertificateState};

/// The certificates of all listeners and of the admin interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificatesResponse {
    /// The certificates, by listener, in the order of the file.
    pub certificates: Vec<CertificateDetails>,
}

/// A certificate of a listener: what is served, and what is planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateDetails {
    /// The listener that uses it; `admin.tls` for that of the admin interface.
    pub listener: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Path of its file; null if tidegate obtains it.
    pub file: Option<String>,
    /// The authority that tidegate obtains it from, by its name in the configuration; null if it is in a file.
    pub authority: Option<String>,
    /// Who has issued it; null if nothing was issued yet.
    pub issuer: Option<String>,
    /// When its validity begins.
    pub not_before: Option<String>,
    /// When it expires.
    pub expires: Option<String>,
    /// The share of its life that is left, from 0 to 1.
    pub share_left: Option<f64>,
    /// Whether it is self-signed and only stands in for one that was not issued yet.
    pub self_signed: bool,
    /// When tidegate renews it, or tries again.
    pub next_renewal: Option<String>,
    /// Whether tidegate is obtaining it now.
    pub ordering: bool,
    /// Attempts to obtain it that have failed since the last success.
    pub failures_in_row: u32,
    /// Why the latest attempt failed; null if it did not.
    pub last_error: Option<String>,
    /// When it failed.
    pub last_error_at: Option<String>,
    /// Why the folder that it is kept in cannot be used; null if it can, or if it is in a file of yours.
    #[serde(default)]
    pub folder_error: Option<String>,
}

impl CertificateDetails {
    fn of(state: &CertificateState, now: SystemTime) -> Self {
        let (file, authority) = match &state.source {
            CertificateSource::File(file) => (Some(file.to_string()), None),
            CertificateSource::Authority { name, .. } => (None, Some(name.to_string())),
        };
        let served = state.served.as_ref();
        let failure = state.failure.as_ref();
        Self {
            listener: state.listener.to_string(),
            names: state.names.to_vec(),
            file,
            authority,
            issuer: served.map(|it| it.issuer.to_string()),
            not_before: served.map(|it| shown(it.not_before)),
            expires: served.map(|it| shown(it.not_after)),
            share_left: served.map(|it| (it.share_left(now) * 1e4).round() / 1e4),
            self_signed: served.is_some_and(|it| it.is_self_signed),
            next_renewal: state.next_renewal.map(shown),
            ordering: state.is_ordering,
            failures_in_row: failure.map_or(0, |it| it.in_a_row),
            last_error: failure.map(|it| it.error.to_string()),
            last_error_at: failure.map(|it| shown(it.at)),
            folder_error: state.folder_error.as_ref().map(ToString::to_string),
        }
    }
}

/// Which certificates to obtain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// One of the names of a certificate that tidegate obtains by itself.
    pub name: String,
}

/// The certificates that are renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RenewResponse {
    /// How many have this name.
    pub certificates: usize,
}

/// What a trial has got. It is neither stored nor served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrialResponse {
    /// Who has issued the certificate.
    pub issuer: String,
    /// The directory that it was ordered from.
    pub directory: String,
}

impl From<TrialCertificate> for TrialResponse {
    fn from(trial: TrialCertificate) -> Self {
        Self {
            issuer: trial.issuer.into(),
            directory: trial.directory.into(),
        }
    }
}

/// The certificates now.
pub fn certificates(view: &View) -> CertificatesResponse {
    let now = SystemTime::now();
    let states = view.shared.process.certificates.load();
    let details = states.iter().map(|it| CertificateDetails::of(it, now));
    CertificatesResponse {
        certificates: details.collect(),
    }
}

/// Renews certificates now, whether that is due or not.
///
/// # Errors
/// [`ApiError`].
pub async fn renew(view: &View, order: OrderRequest) -> Result<RenewResponse, ApiError> {
    let command = |done| ControlCommand::Renew(order.name, done);
    let certificates = command::send(&view.commands, command).await?;
    Ok(RenewResponse { certificates })
}

/// Orders a certificate from the staging directory of its authority.
///
/// # Errors
/// [`ApiError`].
pub async fn try_order(view: &View, order: OrderRequest) -> Result<TrialResponse, ApiError> {
    let command = |done| ControlCommand::TryCertificate(order.name, done);
    let trial = command::send(&view.commands, command).await?;
    Ok(trial.into())
}
