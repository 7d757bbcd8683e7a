//! What is recorded of a tunnel while it lives, and what it holds until it ends.

use std::time::Duration;

use crate::net::admission::ConnectionPermit;
use crate::observe::access_log::TunnelFacts;
use crate::observe::series::Connected;
use crate::tunnel::side::Side;
use crate::tunnel::table::TunnelOwner;
use crate::upstream::endpoint::{Lease, State};
use crate::upstream::source;

/// What is recorded of a tunnel, and what it holds until it ends.
#[derive(Debug)]
pub struct TunnelRecord {
    /// What is told of it.
    pub facts: TunnelFacts,
    pub(super) lease: Lease,
    pub(super) _ports: Option<source::Share>,
    pub(super) _permit: ConnectionPermit,
    pub(super) _connected: Connected,
}

impl TunnelRecord {
    /// The endpoint.
    pub fn endpoint(&self) -> &State {
        self.lease.endpoint()
    }
}

impl TunnelOwner for TunnelRecord {
    fn ping_answered(&self, side: Side, after: Duration) {
        self.facts.way.route.ping_rtt(side).observe(after);
    }
}
