//! A request that has found its route and its upstream, on its way to an endpoint.

use std::sync::Arc;

use ::http::HeaderValue;

use super::affinity;
use super::connection::Connection;
use super::incoming::Arrival;
use crate::observe::access_log::RequestFacts;
use crate::observe::series::Way;
use crate::protocol::cookie::Led;
use crate::protocol::edit::Edit;
use crate::protocol::forwarded::Via;
use crate::protocol::proxy_header;
use crate::protocol::target::Target;
use crate::protocol::trace::{TRACEPARENT, TRACESTATE};
use crate::snapshot::Route;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::{Upstream, Wish};

/// One request on its way to an upstream.
pub(super) struct Session<'a> {
    pub(super) connection: &'a Connection,
    pub(super) arrival: &'a Arrival<'a>,
    pub(super) target: &'a Target,
    pub(super) route: &'a Route,
    pub(super) upstream: &'a Upstream,
    /// Path and query for the endpoint.
    pub(super) uri: &'a str,
    /// Which endpoint it should be.
    pub(super) wish: Wish,
    /// What the cookie that it came with says, where one leads back to an endpoint.
    pub(super) led: Option<Led>,
    pub(super) facts: RequestFacts<'a>,
}

impl Session<'_> {
    /// The `Host` that the leased endpoint sees.
    pub(super) fn host_for<'a>(&'a self, lease: &'a Lease) -> &'a str {
        match lease.endpoint().host() {
            Some(host) if !self.route.settings.preserve_host => host,
            _ => self.target.authority(),
        }
    }

    /// What is counted of the way to the leased endpoint.
    pub(super) fn way(&self, lease: &Lease) -> Arc<Way> {
        let route = self.connection.counts.route(&self.route.settings.name);
        route.way(lease.endpoint())
    }

    /// How the request came, as endpoints are told.
    pub(super) fn via(&self) -> Via<'_> {
        let port = self.connection.local.map(|local| local.port());
        self.arrival.client.via(self.target, port)
    }

    /// What connections to the endpoint begin with.
    pub(super) fn proxy_header(&self) -> Vec<u8> {
        let addresses = self.arrival.client.source().zip(self.connection.local);
        proxy_header::write(self.upstream.reach().send_proxy, addresses)
    }

    /// Changes to the request's fields: those of the route, and what only we know.
    pub(super) fn request_edit(&self) -> Edit<'_> {
        let snapshot = &self.arrival.snapshot;
        let changes = &self.route.settings.request_headers;
        let known = self.arrival.known(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &snapshot.vouched, &known);
        if let Some(name) = &snapshot.server.request_id
            && let Ok(id) = HeaderValue::from_str(&self.arrival.id)
        {
            edit.vouch(name, id);
        }
        if let Some(parent) = &self.arrival.trace.parent {
            edit.replace(TRACEPARENT, parent.clone());
            edit.remove(TRACESTATE);
        }
        let certificate = self.arrival.certificate();
        let certificate = certificate.and_then(|certificate| certificate.header());
        let header = &self.arrival.settings.certificate_header;
        if let (Some(name), Some(value)) = (header, certificate) {
            edit.vouch(name, value);
        }
        edit
    }

    /// Changes to the fields of what the leased endpoint answers.
    pub(super) fn response_edit(&self, lease: &Lease) -> Edit<'_> {
        let changes = &self.route.settings.response_headers;
        let known = self.arrival.known(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &[], &known);
        edit.set_cookie(self.cookie_to(lease));
        edit
    }

    /// The cookie that leads back to the leased endpoint, unless the client has a good one.
    fn cookie_to(&self, lease: &Lease) -> Option<HeaderValue> {
        let sticky = self.upstream.sticky.as_ref()?;
        let tag = sticky.signer.tag(&lease.endpoint().label);
        if self.led.is_some_and(|led| led.to == tag && !led.is_aging) {
            return None;
        }
        let secure = self.arrival.client.secure();
        sticky
            .signer
            .set(tag, &sticky.settings, secure, affinity::seconds())
    }
}
