//! Passive health checks: which results of sessions count as failures of their endpoints.
//!
//! Anything that a client can cause by its request (a 404, a 500, a Close) is never a failure of
//! the endpoint: otherwise a client could get endpoints ejected.

use std::time::{Duration, Instant};

use ::http::StatusCode;

use super::routed::RoutedRequest;
use super::worker::Worker;
use crate::observe::access_log::{SessionId, TunnelFacts};
use crate::tunnel::ended::{Ended, Finished};
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::Upstream;
use crate::upstream::health::SessionFailure;

/// An endpoint that cuts a tunnel sooner than this after its opening has failed.
const EARLY: Duration = Duration::from_secs(10);

impl RoutedRequest<'_> {
    /// Reports that `endpoint` failed this session.
    pub(super) fn failed(&self, endpoint: &EndpointState, failure: SessionFailure) {
        failed(self.upstream, endpoint, failure, self.facts.session);
    }

    /// Reports that a connection to `endpoint` failed, because of it or because its name has no address.
    pub(super) fn connect_failed(&self, endpoint: &EndpointState, error: &ConnectError) {
        connect_failed(self.upstream, endpoint, error, self.facts.session);
    }

    /// Reports that a connection to `endpoint` succeeded.
    pub(super) fn connected(&self, endpoint: &EndpointState) {
        connected(self.upstream, endpoint);
    }

    /// Reports that `endpoint` agreed to a tunnel, or responded to a request.
    pub(super) fn passed(&self, endpoint: &EndpointState) {
        self.upstream.passed(endpoint, Instant::now());
    }

    /// Reports that `endpoint` declined a handshake with this status.
    pub(super) fn declined(&self, endpoint: &EndpointState, status: StatusCode) {
        if is_unavailable(status) {
            self.failed(endpoint, SessionFailure::Handshake);
        } else {
            self.passed(endpoint);
        }
    }

    /// Reports that `endpoint` responded to a plain request with this status. A 502, 503 or 504 is
    /// neither a success nor a failure: an application may send it for one path on a client's
    /// request.
    pub(super) fn responded(&self, endpoint: &EndpointState, status: StatusCode) {
        responded(self.upstream, endpoint, status);
    }
}

/// Reports that a connection to an endpoint of `upstream` failed, because of it or because its name has no
/// address.
pub(super) fn connect_failed(
    upstream: &Upstream,
    endpoint: &EndpointState,
    error: &ConnectError,
    session: SessionId,
) {
    let now = Instant::now();
    let why = error.to_string();
    let is_news = match error {
        ConnectError::Resolve(_) => upstream.name_unresolved(endpoint, &why, now),
        _ => upstream.connect_failed(endpoint, &why, now),
    };
    if is_news {
        tracing::warn!(
            upstream = &*upstream.name,
            endpoint = &*endpoint.label,
            why,
            in_flight = endpoint.in_flight(),
            "endpoint unreachable"
        );
    }
    if error.blames_endpoint() {
        failed(upstream, endpoint, SessionFailure::Connect, session);
    }
}

/// Reports that a connection to an endpoint of `upstream` succeeded.
pub(super) fn connected(upstream: &Upstream, endpoint: &EndpointState) {
    if endpoint.connected() {
        tracing::info!(
            upstream = &*upstream.name,
            endpoint = &*endpoint.label,
            "endpoint reachable again"
        );
    }
}

/// Reports that an endpoint of `upstream` responded to a plain request with this status.
pub(super) fn responded(upstream: &Upstream, endpoint: &EndpointState, status: StatusCode) {
    if !is_unavailable(status) {
        upstream.passed(endpoint, Instant::now());
    }
}

/// Whether a status says that the server behind the endpoint is not available.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Reports that a tunnel to `endpoint` has ended.
pub(super) fn ended(
    worker: &Worker,
    facts: &TunnelFacts,
    endpoint: &EndpointState,
    finished: Finished,
) {
    if !is_cut_early(finished.ended, facts.opened.elapsed(), finished.unframed) {
        return;
    }
    // A tunnel holds no snapshot, so that a reload frees the old one. The current one may not have
    // the upstream any more; then there is nothing to eject from.
    let snapshot = worker.snapshot();
    if let Some(upstream) = snapshot.upstream(&endpoint.upstream) {
        failed(upstream, endpoint, SessionFailure::EarlyEnd, facts.session);
    }
}

/// Whether the endpoint has cut a tunnel of this age: ended it without a Close frame, which would
/// have made it another `Ended`. Streams that are not valid WebSocket frames are left out: they
/// have no Close, and if the client sent the invalid bytes, closing is the right answer.
fn is_cut_early(ended: Ended, age: Duration, unframed: bool) -> bool {
    let cut = matches!(ended, Ended::UpstreamReset | Ended::UpstreamEof);
    cut && age < EARLY && !unframed
}

fn failed(
    upstream: &Upstream,
    endpoint: &EndpointState,
    failure: SessionFailure,
    session: SessionId,
) {
    if let Some(time) = upstream.failed(endpoint, failure, Instant::now()) {
        tracing::warn!(
            %session,
            upstream = &*upstream.name,
            endpoint = &*endpoint.label,
            why = %failure,
            for_s = time.as_secs_f64(),
            in_flight = endpoint.in_flight(),
            "endpoint ejected"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_cut_tunnels_and_only_young_ones() {
        let (young, old) = (EARLY - Duration::from_millis(1), EARLY);
        for ended in Ended::ALL {
            let cut = matches!(ended, Ended::UpstreamReset | Ended::UpstreamEof);
            assert_eq!(is_cut_early(ended, young, false), cut, "{ended}");
            assert!(!is_cut_early(ended, old, false), "{ended}");
            assert!(!is_cut_early(ended, young, true), "{ended}");
        }
    }
}
