//! Tunnels whose client certificate has been revoked since they opened: they end as those of a revoked subject do.

use std::sync::Arc;
use std::time::Duration;

use super::Displacer;
use super::jobs::{self, JobSpec, Speed};
use super::tunnel_filter::TunnelFilter;
use crate::config::model::CloseOrder;
use crate::protocol::revoked::RevokedCertificates;
use crate::tunnel::ended::{CloseMessage, Ended};

/// The time until a worker that did not respond is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Ends the tunnels of a listener that were opened with one of these certificates: as fast as possible, because their
/// clients are not admitted again.
pub async fn end_revoked(
    displacer: Displacer,
    listener: Arc<str>,
    certificates: Arc<RevokedCertificates>,
) {
    let filter = Arc::new(TunnelFilter {
        listener: Some(listener.to_string()),
        certificates: Some(certificates),
        ..TunnelFilter::default()
    });
    while !begin(&displacer, &listener, &filter).await {
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Starts a job for these tunnels, if there are any. Returns whether that is settled.
async fn begin(displacer: &Displacer, listener: &str, filter: &Arc<TunnelFilter>) -> bool {
    let order = CloseOrder::Oldest;
    let chosen = jobs::choose(&displacer.workers, filter, order, Ended::Revoked).await;
    let Ok(chosen) = chosen else {
        return false;
    };
    if chosen.is_empty() {
        return true;
    }
    let tunnels = chosen.len();
    let closing = JobSpec {
        description: format!("tunnels of listener {listener} whose client certificate was revoked"),
        speed: Speed::AtOnce,
        words: CloseMessage::standard(Ended::Revoked),
    };
    let Ok(job) = displacer.jobs.begin(chosen, closing) else {
        return false;
    };
    tracing::info!(
        job = job.number,
        listener,
        tunnels,
        reason = Ended::Revoked.token(),
        "closing the tunnels of revoked client certificates"
    );
    true
}
