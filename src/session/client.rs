//! The identity of a request's client: what trusted proxies say, or else what the socket says.

use std::net::{IpAddr, SocketAddr};

use ::http::{HeaderMap, HeaderName};

use super::connection::Connection;
use super::trace::SampledRequest;
use crate::config::model::Trust;
use crate::net::stream::Peer;
use crate::protocol::edit;
use crate::protocol::forwarded::{self, Claim, ForwardingFacts};
use crate::protocol::rejection::Rejection;
use crate::protocol::target::{self, Target};

/// The identity of a request's client.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    peer: Peer,
    claim: Option<Claim>,
    secure: bool,
}

impl ClientIdentity {
    /// The client that a trusted proxy names, or else the peer of the connection.
    ///
    /// # Errors
    /// [`Rejection::BadForwarded`].
    pub(super) fn of(
        connection: &Connection,
        trust: &Trust,
        headers: &HeaderMap,
    ) -> Result<Self, Rejection> {
        // After a PROXY header without addresses, all that is known is the load balancer: its
        // address must not make the forwarding fields of a client trusted that it did not identify.
        let claim = if connection.is_anonymous {
            None
        } else {
            forwarded::trusted_claim(headers, trust, connection.peer.ip())?
        };
        let secure = claim.as_ref().and_then(|claim| claim.secure);
        Ok(Self {
            peer: connection.peer,
            secure: secure.unwrap_or(connection.secure),
            claim,
        })
    }

    /// The peer of the connection, for a request whose forwarding fields are not valid.
    pub(super) fn unknown(connection: &Connection) -> Self {
        Self {
            peer: connection.peer,
            secure: connection.secure,
            claim: None,
        }
    }

    /// Whether the client is known: a proxy may have withheld its address.
    pub(super) fn is_known(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.is_known())
    }

    /// The client as logs show it.
    pub(super) fn logged_as(&self) -> Peer {
        match &self.claim {
            Some(claim) if claim.client != self.peer.ip() => {
                claim.client.map_or(self.peer, Peer::Address)
            }
            _ => self.peer,
        }
    }

    /// The client's address; `None` through a unix socket.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match &self.claim {
            Some(claim) => claim.client,
            None => self.peer.ip(),
        }
    }

    /// The client's address and port; the port is 0 where no proxy states it.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        match self.logged_as() {
            _ if !self.is_known() => None,
            Peer::Ip(address) => Some(address),
            Peer::Address(address) => Some(SocketAddr::new(address, 0)),
            Peer::Unix => None,
        }
    }

    /// Whether the request comes from a trusted proxy.
    pub(super) fn is_from_trusted_proxy(&self) -> bool {
        self.claim.is_some()
    }

    /// What the decision whether its handshake is sampled depends on. The request names this port with its host.
    pub(super) fn sampled(&self, port: Option<u16>) -> SampledRequest {
        SampledRequest {
            is_trusted: self.is_from_trusted_proxy(),
            is_secure: self.secure(),
            port,
        }
    }

    /// Whether the client uses https.
    pub(super) fn secure(&self) -> bool {
        self.secure
    }

    /// The id that a trusted proxy gave the request.
    pub(super) fn request_id<'a>(
        &self,
        headers: &'a HeaderMap,
        name: Option<&HeaderName>,
    ) -> Option<&'a str> {
        self.claim.as_ref()?;
        edit::request_id(headers, name?)
    }

    /// The forwarding fields for the endpoint.
    pub(super) fn forwarding<'a>(
        &'a self,
        target: &'a Target,
        local_port: Option<u16>,
    ) -> ForwardingFacts<'a> {
        let claim = self.claim.as_ref();
        let claimed_host = claim.and_then(|claim| claim.host.as_deref());
        let host = claimed_host.or(target.authority());
        let default = if self.secure { 443 } else { 80 };
        // Behind a proxy, our own port is not the one that the client connected to. A proxy that
        // states scheme or host but no port implies the port: that of the host, or the scheme's
        // default.
        let claimed_port = claim.and_then(|claim| {
            let says_how = claim.secure.is_some() || claim.host.is_some();
            let implied = says_how.then(|| host.and_then(target::port_of).unwrap_or(default));
            claim.port.or(implied)
        });
        ForwardingFacts {
            client: self.address(),
            is_known: self.is_known(),
            proxies: claim.map_or(&[], |claim| &claim.proxies),
            secure: self.secure,
            host,
            port: claimed_port.or(local_port),
        }
    }
}
