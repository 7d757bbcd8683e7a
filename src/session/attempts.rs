//! One endpoint after the other, as long as no byte of the request was written.

use std::sync::Arc;

use super::{Refusal, Session};
use crate::net::stream::Stream;
use crate::protocol::rejection::Rejection;
use crate::upstream::connect::{ConnectError, connect};
use crate::upstream::endpoint::Lease;

/// The endpoints that were tried for a session, and how many more may be.
pub(super) struct Attempts<'a> {
    session: &'a Session<'a>,
    tried: Vec<u64>,
    left: u32,
    /// What the client is told when there is nobody left to try.
    refusal: Refusal,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(session: &'a Session<'a>) -> Self {
        Self {
            session,
            tried: Vec::new(),
            left: session.upstream.tries,
            refusal: Rejection::NoEndpoint.into(),
        }
    }

    /// The next endpoint, leased.
    pub(super) fn next(&mut self) -> Result<Lease, Refusal> {
        let upstream = self.session.upstream;
        let picked = self.left.checked_sub(1).and_then(|left| {
            self.left = left;
            upstream.pick(&self.tried)
        });
        let lease = picked.ok_or_else(|| {
            // What went wrong with those that were tried says more.
            if self.tried.is_empty() && upstream.is_full(&self.tried) {
                return Rejection::EndpointsFull.into();
            }
            std::mem::replace(&mut self.refusal, Rejection::NoEndpoint.into())
        })?;
        self.tried.push(lease.endpoint().id);
        Ok(lease)
    }

    /// A fresh connection to it, or none, which is remembered.
    pub(super) async fn connect(&mut self, lease: &Lease) -> Option<Stream> {
        let upstream = self.session.upstream;
        let endpoint = Arc::clone(lease.endpoint());
        let resolver = self.session.connection.worker.resolver();
        let proxy_header = self.session.proxy_header();
        match connect(upstream, &endpoint, resolver, &proxy_header).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::warn!(
                    session = %self.session.facts.session,
                    upstream = %upstream.name,
                    endpoint = %endpoint.label,
                    %error,
                    "endpoint not reached"
                );
                self.refusal = unreachable(&endpoint.label, &error);
                None
            }
        }
    }
}

fn unreachable(endpoint: &str, error: &ConnectError) -> Refusal {
    let rejection = match error {
        ConnectError::Timeout(_) => Rejection::ConnectTimeout,
        ConnectError::Descriptors(_) => Rejection::DescriptorsExhausted,
        _ => Rejection::ConnectFailed,
    };
    Refusal::because(rejection, endpoint, error)
}
