//! The attempts of a session: one endpoint after another, while no byte of the request has been
//! written, and after that where `retry_on` allows it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::StatusCode;

use super::error::SessionError;
use super::routed::RoutedRequest;
use super::worker::Worker;
use crate::protocol::rejection::Rejection;
use crate::quota::failure_reports::warn_once_a_minute;
use crate::upstream::connect::{ConnectError, EndpointConnection, connect};
use crate::upstream::endpoint::{EndpointState, Lease};
use crate::upstream::group::{PickError, Upstream};
use crate::upstream::health::SessionFailure;

/// The endpoints that a session has tried (if the request names one, that one again), and the number of attempts that are left.
pub(super) struct Attempts<'a> {
    routed: &'a RoutedRequest<'a>,
    tried: Vec<u64>,
    left: u32,
    /// The error of the last attempt, for when no endpoint is left to try.
    last_error: SessionError,
    /// The endpoints that closed without an answer before another one was asked.
    unanswered: Vec<Arc<EndpointState>>,
    /// Whether no endpoint was left but full ones.
    found_full: bool,
}

impl<'a> Attempts<'a> {
    /// Counts the request, which its retries depend on.
    pub(super) fn new(routed: &'a RoutedRequest<'a>) -> Self {
        routed.upstream.count_request(Instant::now());
        if let Some(span) = routed.facts.span {
            span.asks_upstream(&routed.upstream.name);
        }
        Self {
            routed,
            tried: Vec::new(),
            left: routed.upstream.retry().tries.get(),
            last_error: Rejection::NoEndpoint.into(),
            unanswered: Vec::new(),
            found_full: false,
        }
    }

    /// Leases the next endpoint, for which the request may have to wait in the upstream's queue: also after an
    /// attempt that reached none, because one that fails may have been asked while the others are full.
    pub(super) async fn next(&mut self) -> Result<Lease, SessionError> {
        let upstream = self.routed.upstream;
        let picked = match self.left {
            0 => Err(PickError::NotReady),
            _ => {
                upstream
                    .pick_in_turn(self.routed.affinity, &self.tried)
                    .await
            }
        };
        self.found_full = matches!(picked, Err(PickError::Full));
        picked
            .map(|lease| self.take(lease))
            .map_err(|error| match error {
                // The failure of the last attempt says more than "no endpoint left".
                _ if !self.tried.is_empty() => {
                    std::mem::replace(&mut self.last_error, Rejection::NoEndpoint.into())
                }
                PickError::Full => {
                    SessionError::from(Rejection::EndpointsFull).with_wait(upstream.queue_wait())
                }
                PickError::NotReady => Rejection::NoEndpoint.into(),
            })
    }

    /// Whether [`next`](Self::next) found none only because endpoints are full: the upstream is not down then,
    /// although others of its endpoints may be.
    pub(super) fn found_full(&self) -> bool {
        self.found_full
    }

    /// Leases one more endpoint, if an attempt and an untried endpoint are left.
    pub(super) fn next_untried(&mut self) -> Option<Lease> {
        if self.left == 0 {
            return None;
        }
        let picked = self.routed.upstream.pick(self.routed.affinity, &self.tried);
        picked.ok().map(|lease| self.take(lease))
    }

    fn take(&mut self, lease: Lease) -> Lease {
        self.left = self.left.saturating_sub(1);
        self.tried.push(lease.endpoint().id);
        lease
    }

    /// Keeps the error of an attempt that wrote nothing, for [`next`](Self::next).
    pub(super) fn note(&mut self, error: SessionError) {
        self.last_error = error;
    }

    /// Opens a new connection to the leased endpoint. A failure is logged, counted and kept for
    /// [`next`](Self::next).
    pub(super) async fn connect(&mut self, lease: &Lease) -> Option<EndpointConnection> {
        let upstream = self.routed.upstream;
        let endpoint = Arc::clone(lease.endpoint());
        if let Some(span) = self.routed.facts.span {
            span.asks_endpoint(&endpoint.label);
        }
        let worker = &self.routed.connection.worker;
        let proxy_header = self.routed.proxy_header();
        let series = self.routed.endpoint_series(lease);
        let began = Instant::now();
        let limit = upstream.timeouts().connect;
        match open_connection(worker, upstream, &endpoint, &proxy_header, limit).await {
            Ok(reached) => {
                series.connect_seconds.observe(began.elapsed());
                self.routed.connected(&endpoint);
                Some(reached)
            }
            Err(error) => {
                series.count_connect_failure(&error);
                warn_once_a_minute!(
                    endpoint.reports,
                    &error.cause(),
                    "cannot connect to endpoint",
                    session = %self.routed.facts.session,
                    upstream = %upstream.name,
                    endpoint = %endpoint.label,
                    %error
                );
                if error.blames_endpoint() || matches!(error, ConnectError::Resolve(_)) {
                    self.routed.connect_failed(&endpoint, &error);
                }
                self.last_error = unreachable(&endpoint.label, &error);
                None
            }
        }
    }

    /// Leases another endpoint if `retry_on` has the status that the leased one responded with.
    pub(super) fn retry_after_status(
        &mut self,
        lease: &Lease,
        status: StatusCode,
    ) -> Option<Lease> {
        let wanted = &self.routed.upstream.retry().on.statuses;
        self.retry(wanted.contains(&status), lease, status.as_str())
    }

    /// Leases another endpoint if `retry_on` has timeouts: the leased one did not respond in time.
    pub(super) fn retry_after_timeout(&mut self, lease: &Lease) -> Option<Lease> {
        let wanted = self.routed.upstream.retry().on.timeout;
        self.retry(wanted, lease, "timeout")
    }

    /// Leases another endpoint if `retry_on` has closed connections: the leased one sent no byte of a
    /// response.
    pub(super) fn retry_after_close(&mut self, lease: &Lease) -> Option<Lease> {
        let wanted = self.routed.upstream.retry().on.closed;
        self.retry(wanted, lease, "closed")
    }

    /// Like [`retry_after_close`](Self::retry_after_close), for a handshake. Whether the leased endpoint is to
    /// blame is known once another one has [`answered`](Self::answered): there are servers that close without
    /// an answer because of what a client requests.
    pub(super) fn retry_unanswered(&mut self, lease: &Lease) -> Option<Lease> {
        if !self.routed.upstream.retry().on.closed {
            self.routed
                .failed(lease.endpoint(), SessionFailure::Handshake);
            return None;
        }
        self.unanswered.push(Arc::clone(lease.endpoint()));
        self.retry_after_close(lease)
    }

    /// Reports the endpoints that closed without an answer: another one has just answered the same request.
    pub(super) fn answered(&mut self) {
        for endpoint in self.unanswered.drain(..) {
            self.routed.failed(&endpoint, SessionFailure::Handshake);
        }
    }

    /// Leases another endpoint for a request that was sent already, if that is `wanted`, an endpoint is
    /// left to try, and the upstream's budget has a retry left.
    fn retry(&mut self, wanted: bool, lease: &Lease, response: &str) -> Option<Lease> {
        let next = wanted.then(|| self.next_untried()).flatten()?;
        let series = self.routed.endpoint_series(lease);
        let upstream = self.routed.upstream;
        let session = self.routed.facts.session;
        let endpoint = &lease.endpoint().label;
        if !upstream.take_retry(Instant::now()) {
            series.retries_refused.add(1);
            warn_once_a_minute!(
                lease.endpoint().reports,
                &format!("not retrying: {response}"),
                "not retrying: a fifth of the requests are retries already",
                %session,
                upstream = %upstream.name,
                %endpoint,
                response
            );
            return None;
        }
        series.retried.add(1);
        self.report_retry(lease, &next, response);
        Some(next)
    }

    fn report_retry(&self, lease: &Lease, next: &Lease, response: &str) {
        let cause = format!("retrying: {response}");
        let session = self.routed.facts.session;
        let (endpoint, next) = (lease.endpoint(), next.endpoint());
        if endpoint.id == next.id {
            warn_once_a_minute!(
                endpoint.reports,
                &cause,
                "retrying on the same endpoint, which the request names",
                %session,
                upstream = %self.routed.upstream.name,
                endpoint = %endpoint.label,
                response
            );
            return;
        }
        warn_once_a_minute!(
            endpoint.reports,
            &cause,
            "retrying on another endpoint",
            %session,
            upstream = %self.routed.upstream.name,
            endpoint = %endpoint.label,
            response,
            next = %next.label
        );
    }
}

/// Opens a new connection to an endpoint of `upstream` within `limit`, if need be in place of idle ones.
pub(super) async fn open_connection(
    worker: &Worker,
    upstream: &Upstream,
    endpoint: &EndpointState,
    proxy_header: &[u8],
    limit: Duration,
) -> Result<EndpointConnection, ConnectError> {
    let connector = worker.connector();
    let connected = connect(upstream, endpoint, connector, proxy_header, limit).await;
    if matches!(connected, Err(ConnectError::Descriptors(_))) && worker.pool.clear() {
        // The process was out of file descriptors, and has just given up its idle connections
        // for this one. Their tasks have to run once before their sockets are closed.
        tokio::task::yield_now().await;
        return connect(upstream, endpoint, connector, proxy_header, limit).await;
    }
    connected
}

fn unreachable(endpoint: &str, error: &ConnectError) -> SessionError {
    let rejection = match error {
        ConnectError::Timeout(_) => Rejection::ConnectTimeout,
        ConnectError::Resolve(_) => Rejection::NameUnresolved,
        ConnectError::Descriptors(_) => Rejection::DescriptorsExhausted,
        _ => Rejection::ConnectFailed,
    };
    SessionError::caused_by(rejection, endpoint, error)
}
