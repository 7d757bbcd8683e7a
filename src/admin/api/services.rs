//! The services that tidegate depends on, such as certificate authorities.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::handover::identity::shown;

/// A service that tidegate asks by HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceInfo {
    /// Its name in metrics, such as `acme/letsencrypt`.
    pub service: String,
    /// Requests that were answered since the start.
    pub succeeded: u64,
    /// Requests since the start that were not answered, or whose answer was a failure of the service.
    pub failed: u64,
    /// Why the latest request failed; null if it did not.
    pub last_error: Option<String>,
    /// When it failed.
    pub last_error_at: Option<String>,
}

/// The services now.
pub(super) fn services(view: &View) -> Vec<ServiceInfo> {
    let services = view.shared.services.all();
    let infos = services.iter().map(|counters| {
        let failure = counters.failure();
        ServiceInfo {
            service: counters.service().to_owned(),
            succeeded: counters.succeeded(),
            failed: counters.failed(),
            last_error_at: failure.as_ref().map(|it| shown(it.at)),
            last_error: failure.map(|it| it.error.into()),
        }
    });
    infos.collect()
}
