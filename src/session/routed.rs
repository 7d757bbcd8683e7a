//! A request that has found its route and its upstream, on its way to an endpoint.

use std::sync::Arc;

use ::http::HeaderValue;

use super::affinity;
use super::connection::Connection;
use super::incoming::IncomingRequest;
use crate::observe::access_log::RequestFacts;
use crate::observe::series::Way;
use crate::protocol::edit::Edit;
use crate::protocol::forwarded::ForwardingFacts;
use crate::protocol::proxy_header;
use crate::protocol::sticky_cookie::StickyCookie;
use crate::protocol::target::Target;
use crate::protocol::trace::{TRACEPARENT, TRACESTATE};
use crate::snapshot::Route;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::{Upstream, Wish};

/// One request on its way to an upstream.
pub(super) struct RoutedRequest<'a> {
    pub(super) connection: &'a Connection,
    pub(super) incoming: &'a IncomingRequest<'a>,
    pub(super) target: &'a Target,
    pub(super) route: &'a Route,
    pub(super) upstream: &'a Upstream,
    /// Path and query for the endpoint.
    pub(super) uri: &'a str,
    /// Which endpoint it should be.
    pub(super) affinity: Wish,
    /// What the cookie that it came with says, where one leads back to an endpoint.
    pub(super) sticky_cookie: Option<StickyCookie>,
    pub(super) facts: RequestFacts<'a>,
}

impl RoutedRequest<'_> {
    /// The `Host` that the leased endpoint sees.
    pub(super) fn host_for<'a>(&'a self, lease: &'a Lease) -> &'a str {
        match lease.endpoint().host() {
            Some(host) if !self.route.settings.preserve_host => host,
            _ => self.target.authority(),
        }
    }

    /// What is counted of the way to the leased endpoint.
    pub(super) fn endpoint_series(&self, lease: &Lease) -> Arc<Way> {
        let route = self.connection.counts.route(&self.route.settings.name);
        route.way(lease.endpoint())
    }

    /// How the request came, as endpoints are told.
    pub(super) fn forwarding(&self) -> ForwardingFacts<'_> {
        let port = self.connection.local.map(|local| local.port());
        self.incoming.client.forwarding(self.target, port)
    }

    /// What connections to the endpoint begin with.
    pub(super) fn proxy_header(&self) -> Vec<u8> {
        let addresses = self.incoming.client.source().zip(self.connection.local);
        proxy_header::write(self.upstream.reach().send_proxy, addresses)
    }

    /// Changes to the request's fields: those of the route, and what only we know.
    pub(super) fn request_edit(&self) -> Edit<'_> {
        let snapshot = &self.incoming.snapshot;
        let changes = &self.route.settings.request_headers;
        let template_values = self
            .incoming
            .template_values(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &snapshot.reserved, &template_values);
        if let Some(name) = &snapshot.server.request_id
            && let Ok(id) = HeaderValue::from_str(&self.incoming.id)
        {
            edit.add_own(name, id);
        }
        if let Some(parent) = &self.incoming.trace.parent {
            edit.replace(TRACEPARENT, parent.clone());
            edit.remove(TRACESTATE);
        }
        let certificate = self.incoming.certificate();
        let certificate = certificate.and_then(|certificate| certificate.header());
        let header = &self.incoming.settings.certificate_header;
        if let (Some(name), Some(value)) = (header, certificate) {
            edit.add_own(name, value);
        }
        edit
    }

    /// Changes to the fields of what the leased endpoint answers.
    pub(super) fn response_edit(&self, lease: &Lease) -> Edit<'_> {
        let changes = &self.route.settings.response_headers;
        let template_values = self
            .incoming
            .template_values(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &[], &template_values);
        edit.set_cookie(self.cookie_to(lease));
        edit
    }

    /// The cookie that leads back to the leased endpoint, unless the client has a good one.
    fn cookie_to(&self, lease: &Lease) -> Option<HeaderValue> {
        let sticky = self.upstream.sticky.as_ref()?;
        let tag = sticky.signer.tag(&lease.endpoint().label);
        if self
            .sticky_cookie
            .is_some_and(|sticky_cookie| sticky_cookie.to == tag && !sticky_cookie.is_aging)
        {
            return None;
        }
        let secure = self.incoming.client.secure();
        sticky
            .signer
            .set(tag, &sticky.settings, secure, affinity::seconds())
    }
}
