//! Which connections to endpoints can stand in for one another.

use crate::config::model::SendProxy;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::Upstream;

/// Connections with equal keys are interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey {
    endpoint: u64,
    /// The generation of the TLS settings; 0 for plain text.
    tls: u64,
    /// The number of header lines that responses may have.
    max_header_lines: usize,
}

impl PoolKey {
    /// The key for connections of `upstream` to the leased endpoint. `None` if they are not reused, or if
    /// they begin with a PROXY header: it names one client, and requests of other clients must not follow
    /// it.
    pub fn of(upstream: &Upstream, lease: &Lease) -> Option<Self> {
        let settings = upstream.connecting();
        let tls = upstream.tls.as_ref().map_or(0, |tls| tls.generation);
        (settings.reuse && settings.send_proxy == SendProxy::Off).then(|| Self {
            endpoint: lease.endpoint().id,
            tls,
            max_header_lines: upstream.settings.max_header_lines,
        })
    }

    pub(super) fn endpoint(self) -> u64 {
        self.endpoint
    }
}
