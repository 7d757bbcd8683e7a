//! What sessions tell of their endpoints: who of them failed, and by whose doing.
//!
//! What clients can bring about by what they ask for, a 404, a 500, a Close, is never an endpoint's
//! failure: nobody must be able to have endpoints ejected.

use std::time::{Duration, Instant};

use ::http::StatusCode;

use super::routed::RoutedRequest;
use super::worker::Worker;
use crate::observe::access_log::{SessionId, TunnelFacts};
use crate::tunnel::copy::Finished;
use crate::tunnel::ended::Ended;
use crate::upstream::endpoint::State;
use crate::upstream::group::Upstream;
use crate::upstream::health::Failure;

/// A tunnel that its endpoint cuts so soon after its opening has failed.
const EARLY: Duration = Duration::from_secs(10);

impl RoutedRequest<'_> {
    /// `endpoint` failed this session.
    pub(super) fn failed(&self, endpoint: &State, failure: Failure) {
        failed(self.upstream, endpoint, failure, self.facts.session);
    }

    /// `endpoint` agreed to a tunnel, or answered a request.
    pub(super) fn passed(&self, endpoint: &State) {
        self.upstream.passed(endpoint, Instant::now());
    }

    /// `endpoint` answered a handshake like this, instead of agreeing.
    pub(super) fn declined(&self, endpoint: &State, status: StatusCode) {
        if is_unavailable(status) {
            self.failed(endpoint, Failure::Handshake);
        } else {
            self.passed(endpoint);
        }
    }

    /// `endpoint` answered a plain request like this. Who has an application answer that nobody is
    /// there has found out nothing about its endpoint, but has not been served well either.
    pub(super) fn replied(&self, endpoint: &State, status: StatusCode) {
        if !is_unavailable(status) {
            self.passed(endpoint);
        }
    }
}

/// Whether it says that whoever should have answered is not there, or not now.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// A tunnel to `endpoint` has ended.
pub(super) fn ended(worker: &Worker, facts: &TunnelFacts, endpoint: &State, finished: Finished) {
    if !is_cut_early(finished.ended, facts.opened.elapsed(), finished.unframed) {
        return;
    }
    // That of now: a tunnel holds none.
    let snapshot = worker.snapshot();
    if let Some(upstream) = snapshot.upstream(&endpoint.upstream) {
        failed(upstream, endpoint, Failure::EarlyEnd, facts.session);
    }
}

/// Whether the endpoint has cut a tunnel of this age. A Close, from either side, would have made
/// another end of it. What is no framing has no Close, and where that is the client's doing, the endpoint
/// does well to go.
fn is_cut_early(ended: Ended, age: Duration, unframed: bool) -> bool {
    let cut = matches!(ended, Ended::UpstreamReset | Ended::UpstreamEof);
    cut && age < EARLY && !unframed
}

fn failed(upstream: &Upstream, endpoint: &State, failure: Failure, session: SessionId) {
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
