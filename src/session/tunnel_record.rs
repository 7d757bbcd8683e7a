//! The record of a tunnel: the facts that are logged and shown about it, and the permits that it
//! holds until it ends.

use std::time::Duration;

use super::shared_connection::StreamPlace;
use crate::net::admission::ConnectionPermit;
use crate::observe::access_log::TunnelFacts;
use crate::observe::series::OpenConnection;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::opcode::FrameCounts;
use crate::tunnel::side::Side;
use crate::tunnel::table::TunnelOwner;
use crate::upstream::endpoint::{EndpointState, Lease};
use crate::upstream::source;

/// The facts about a live tunnel, and the permits that it holds until it ends.
#[derive(Debug)]
pub struct TunnelRecord {
    /// The facts that logs and the admin interface show.
    pub facts: TunnelFacts,
    pub(super) lease: Lease,
    pub(super) _ports: Option<source::PortPermit>,
    pub(super) permit: ConnectionPermit,
    pub(super) client: TunnelClient,
}

/// What carries the client's side of a tunnel.
#[derive(Debug)]
pub(super) enum TunnelClient {
    /// A connection of its own.
    Connection { _counted: OpenConnection },
    /// A stream of an HTTP/2 connection. Boxed, because that is the rarer case.
    Stream(Box<StreamPlace>),
}

impl TunnelRecord {
    /// The protocol that the client speaks.
    pub fn protocol(&self) -> ClientProtocol {
        match self.client {
            TunnelClient::Connection { .. } => ClientProtocol::Http1,
            TunnelClient::Stream(_) => ClientProtocol::Http2,
        }
    }

    /// The endpoint that the tunnel leads to.
    pub fn endpoint(&self) -> &EndpointState {
        self.lease.endpoint()
    }
}

impl TunnelOwner for TunnelRecord {
    fn ping_answered(&self, side: Side, after: Duration) {
        self.facts.series.route.ping_rtt(side).observe(after);
    }

    fn frames_passed(&self, side: Side, frames: &FrameCounts) {
        self.facts.series.route.count_frames(side, frames);
    }
}
