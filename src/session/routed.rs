//! A request whose route and upstream are known, on its way to an endpoint.

use std::borrow::Cow;
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue};

use super::affinity;
use super::connection::Connection;
use super::incoming::IncomingRequest;
use super::split::Branch;
use crate::observe::access_log::RequestFacts;
use crate::observe::series::EndpointSeries;
use crate::protocol::edit::{self, Edit};
use crate::protocol::forwarded::ForwardingFacts;
use crate::protocol::load_report::LOAD_HEADER;
use crate::protocol::proxy_header;
use crate::protocol::sticky_cookie::StickyCookie;
use crate::protocol::target::Target;
use crate::protocol::trace_context::{TRACEPARENT, TRACESTATE};
use crate::snapshot::Route;
use crate::upstream::endpoint::Lease;
use crate::upstream::exchange::EndpointResponse;
use crate::upstream::group::{Affinity, Upstream};

/// A request whose route is known, but not yet the upstream.
pub(super) struct RequestOnRoute<'a> {
    pub(super) incoming: &'a IncomingRequest<'a>,
    pub(super) target: &'a Target,
    pub(super) route: &'a Route,
    /// Path and query as the endpoint gets them.
    pub(super) uri: &'a str,
}

impl<'a> RequestOnRoute<'a> {
    /// The changes to the request's fields: the configured ones, then request id, trace and client
    /// certificate.
    pub(super) fn request_edit(&self) -> Edit<'a> {
        let incoming = self.incoming;
        let snapshot = &incoming.snapshot;
        let settings = &self.route.settings;
        let template_values = incoming.template_values(self.target, &settings.name);
        let changes = &settings.request_headers;
        let mut edit = Edit::new(changes, &self.route.reserved, &template_values);
        if let Some(name) = &snapshot.server.request_id
            && let Ok(id) = HeaderValue::from_str(&incoming.id)
        {
            edit.add_own(name, id);
        }
        if let Some(parent) = incoming.trace.field() {
            edit.replace(TRACEPARENT, parent.value);
            if parent.is_new {
                // A `tracestate` without a valid parent has no meaning and must not reach the endpoint
                // beside ours (W3C Trace Context).
                edit.remove(TRACESTATE);
            }
        }
        let certificate = incoming.certificate();
        let certificate = certificate.and_then(|certificate| certificate.header());
        let header = &incoming.settings.certificate_header;
        if let (Some(name), Some(value)) = (header, certificate) {
            edit.add_own(name, value);
        }
        for (name, value) in incoming.identity().into_iter().flat_map(|it| &it.fields) {
            match value {
                Some(value) => edit.replace(name.clone(), value.clone()),
                None => edit.remove(name.clone()),
            }
        }
        edit
    }

    /// The request to the endpoints of this branch, with these changes to its fields.
    pub(super) fn to<'b>(
        &'b self,
        branch: &Branch<'b>,
        request_edit: &'b Edit<'b>,
    ) -> RoutedRequest<'b> {
        RoutedRequest {
            connection: self.incoming.connection,
            incoming: self.incoming,
            target: self.target,
            route: self.route,
            upstream: branch.upstream,
            uri: self.uri,
            request_edit,
            affinity: branch.affinity,
            sticky_cookie: branch.sticky_cookie,
            facts: self.incoming.facts(),
        }
    }
}

/// A request whose route and upstream are known: all that forwarding it needs.
pub(super) struct RoutedRequest<'a> {
    pub(super) connection: &'a Connection,
    pub(super) incoming: &'a IncomingRequest<'a>,
    pub(super) target: &'a Target,
    pub(super) route: &'a Route,
    pub(super) upstream: &'a Upstream,
    /// Path and query as the endpoint gets them.
    pub(super) uri: &'a str,
    /// The changes to the fields of the request.
    pub(super) request_edit: &'a Edit<'a>,
    /// The endpoint that this client should get, if any.
    pub(super) affinity: Affinity,
    /// The valid sticky cookie that the request carries, if any.
    pub(super) sticky_cookie: Option<StickyCookie>,
    pub(super) facts: RequestFacts<'a>,
}

impl RoutedRequest<'_> {
    /// The `Host` field for the leased endpoint.
    pub(super) fn host_for(&self, lease: &Lease) -> Cow<'_, str> {
        let host = &self.route.settings.endpoint_host;
        edit::endpoint_host(host, self.target.authority(), || lease.endpoint().host())
    }

    /// The counters of this listener, route and leased endpoint.
    pub(super) fn endpoint_series(&self, lease: &Lease) -> Arc<EndpointSeries> {
        let route = self.connection.counts.route(&self.route.settings.name);
        route.endpoint(lease.endpoint())
    }

    /// The forwarding fields that the endpoint gets: client, proxies, scheme, host and port.
    pub(super) fn forwarding(&self) -> ForwardingFacts<'_> {
        let port = self.connection.local.map(|local| local.port());
        self.incoming.client.forwarding(self.target, port)
    }

    /// The PROXY header that a connection to the endpoint begins with; empty if there is none.
    pub(super) fn proxy_header(&self) -> Vec<u8> {
        let addresses = self.incoming.client.source().zip(self.connection.local);
        proxy_header::write(self.upstream.connecting().send_proxy, addresses)
    }

    /// The changes to the fields of the leased endpoint's response.
    pub(super) fn response_edit(&self, lease: &Lease) -> Edit<'_> {
        let changes = &self.route.settings.response_headers;
        let template_values = self
            .incoming
            .template_values(self.target, &self.route.settings.name);
        let mut edit = Edit::new(changes, &[], &template_values);
        edit.set_cookie(self.cookie_to(lease));
        if self.upstream.picking().reports.is_some() {
            edit.remove(HeaderName::from_static(LOAD_HEADER));
        }
        let rewrite = &self.route.settings.rewrite;
        edit.restore_prefix(rewrite, self.target.authority(), || self.host_for(lease));
        edit
    }

    /// Takes what the leased endpoint reports in its response to a handshake. `incarnation` is what had its address when
    /// it was asked.
    pub(super) fn reported(&self, response: &EndpointResponse, lease: &Lease, incarnation: u64) {
        // Only then is the head worth another look.
        if self.upstream.picking().reports.is_some()
            && let Some(head) = response.head()
        {
            self.upstream
                .take_report(lease.endpoint(), incarnation, &head);
        }
    }

    /// The sticky cookie for the leased endpoint, unless the client has one that is still fresh.
    fn cookie_to(&self, lease: &Lease) -> Option<HeaderValue> {
        let sticky = self.upstream.sticky.as_ref()?;
        let signers = sticky.signers();
        let signer = signers.current();
        let tag = signer.tag(&lease.endpoint().label);
        if self
            .sticky_cookie
            .is_some_and(|sticky_cookie| sticky_cookie.to == tag && !sticky_cookie.is_aging)
        {
            return None;
        }
        let secure = self.incoming.client.secure();
        signer.set(tag, &sticky.settings, secure, affinity::seconds())
    }
}
