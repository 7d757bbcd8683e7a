//! A request before it has come anywhere: who sent it, as far as that is believed, which route
//! takes it, and whether that lets it pass.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::client::ClientIdentity;
use super::connection::Connection;
use super::error::SessionError;
use crate::config::model::{LeadsTo, Redirect, Traceparent};
use crate::net::gate::LimitReached;
use crate::net::listener::ListenerSettings;
use crate::observe::access_log::{self, RequestFacts, SessionId};
use crate::protocol::access::{self, AccessSubject};
use crate::protocol::certificate::ClientCertificate;
use crate::protocol::edit::{self, TemplateValues};
use crate::protocol::handshake::Handshake;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::protocol::trace::TraceId;
use crate::quota::Share;
use crate::route;
use crate::snapshot::{Route, Snapshot};

/// A request that has just come.
pub(super) struct IncomingRequest<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) client: ClientIdentity,
    session: SessionId,
    /// The id that a proxy gave it whom we trust.
    trusted_id: Option<Box<str>>,
    /// Ours, or that one.
    pub(super) id: Box<str>,
    /// The trace that it is part of.
    pub(super) trace: Trace,
    method: Method,
    /// What it asks for, once that is known.
    target: OnceCell<Target>,
    /// The route, once it is found.
    route: OnceCell<Arc<Route>>,
    /// Whether it asks for a tunnel, and has not been answered.
    awaits_tunnel: Cell<bool>,
    is_handshake: Cell<bool>,
    started: Instant,
}

impl Drop for IncomingRequest<'_> {
    fn drop(&mut self) {
        if self.awaits_tunnel.get() {
            access_log::abandoned(&self.connection.worker.recorder, self.facts());
        }
    }
}

/// The trace that a request is part of.
pub(super) struct Trace {
    pub(super) id: Option<TraceId>,
    /// The field that tells endpoints of it, if it begins here.
    pub(super) parent: Option<HeaderValue>,
}

impl Trace {
    fn of(headers: &HeaderMap, traceparent: Traceparent) -> Self {
        let id = TraceId::of(headers);
        if id.is_some() || traceparent == Traceparent::Pass {
            return Self { id, parent: None };
        }
        let mut random = [0; 24];
        // If that failed, there would just be no trace.
        let made = aws_lc_rs::rand::fill(&mut random).ok();
        let made = made.and_then(|()| TraceId::generate(random));
        let (id, parent) = made.unzip();
        Self { id, parent }
    }
}

/// Where a request goes on.
pub(super) enum RouteDecision {
    /// To the upstream of this route.
    Route(Arc<Route>),
    /// Nowhere: the client is told to go there itself; recorded already.
    Redirect(StatusCode, HeaderValue),
}

impl<'a> IncomingRequest<'a> {
    /// The rejection, if there is one, is for later: this is what it is recorded with.
    pub(super) fn new(connection: &'a Connection, parts: &Parts) -> (Self, Result<(), Rejection>) {
        let headers = &parts.headers;
        // As they are now, not as they were when the connection was opened: whoever is no longer
        // trusted is not trusted from now on.
        let settings = connection.listener.settings.load_full();
        let snapshot = Arc::clone(&connection.worker.snapshot());
        let (client, read) = match ClientIdentity::of(connection, &settings.trust, headers) {
            Ok(client) => (client, Ok(())),
            Err(rejection) => (ClientIdentity::unknown(connection), Err(rejection)),
        };
        let session = connection.worker.next_session();
        let given = client.request_id(headers, snapshot.server.request_id.as_ref());
        let trusted_id: Option<Box<str>> = given.map(Into::into);
        let incoming = Self {
            started: Instant::now(),
            id: trusted_id
                .clone()
                .unwrap_or_else(|| session.to_string().into()),
            connection,
            snapshot: Arc::clone(&snapshot),
            settings,
            client,
            session,
            trusted_id,
            trace: Trace::of(headers, snapshot.server.traceparent),
            method: parts.method.clone(),
            target: OnceCell::new(),
            route: OnceCell::new(),
            awaits_tunnel: Cell::new(false),
            is_handshake: Cell::new(false),
        };
        (incoming, read)
    }

    /// What the client has shown, as long as it is good: connections may last longer.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        let certificate = self.connection.tls.as_ref()?.certificate.as_ref()?;
        (!certificate.has_expired(SystemTime::now())).then_some(certificate)
    }

    /// What log lines tell of it.
    pub(super) fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            session: self.session,
            client: self.client.logged_as(),
            listener: &self.connection.counts,
            route: self.route.get().map(|route| &*route.settings.name),
            is_handshake: self.is_handshake.get(),
            request_id: self.trusted_id.as_deref(),
            trace: self.trace.id,
            method: Some(self.method.as_str()),
            host: self.target.get().map(|target| target.host()),
            path: self.target.get().map(|target| target.path()),
            started: self.started,
        }
    }

    /// What headers may tell of it.
    pub(super) fn template_values<'b>(
        &'b self,
        target: &'b Target,
        route: &'b str,
    ) -> TemplateValues<'b> {
        TemplateValues {
            client: self.client.address(),
            host: target.host(),
            uri: target.origin_form(),
            secure: self.client.secure(),
            request_id: &self.id,
            listener: &self.connection.listener.name,
            route,
            tls: self.connection.tls.as_ref(),
        }
    }

    /// It asks for this.
    pub(super) fn set_target(&self, target: Target) -> &Target {
        self.target.get_or_init(|| target)
    }

    /// There is an answer.
    pub(super) fn mark_answered(&self) {
        self.awaits_tunnel.set(false);
    }

    /// Finds its way, if there is one that it may take.
    pub(super) fn decide_route(
        &self,
        parts: &Parts,
        target: &Target,
        handshake: Option<&Handshake<'_>>,
    ) -> Result<RouteDecision, SessionError> {
        if handshake.is_some() {
            self.is_handshake.set(true);
            self.awaits_tunnel.set(true);
            let address = self.client.address();
            let gate = &self.connection.listener.gate;
            gate.handshake(&self.settings.limits, address)
                .map_err(|limit| match limit {
                    LimitReached::HandshakesPerIp => Rejection::AddressRate,
                    _ => Rejection::HandshakeRate,
                })?;
        }
        // Plain requests go to https, except on routes that are bound to the listener by name.
        let to_https = self.settings.redirect_to_https && !self.client.secure();
        let found = self.snapshot.route(&route::Request {
            listener: &self.connection.listener.name,
            bound_only: to_https,
            host: target.host(),
            path: target.path(),
            query: target.query(),
            method: &parts.method,
            headers: &parts.headers,
            handshake,
        });
        let Some(route) = found else {
            return match handshake {
                _ if !to_https => Err(Rejection::NoRoute.into()),
                Some(_) => Err(Rejection::HttpsRequired.into()),
                None => {
                    let location = ["https://", target.host(), target.origin_form()].concat();
                    self.redirect(StatusCode::PERMANENT_REDIRECT, &location)
                }
            };
        };
        let route = self.route.get_or_init(|| Arc::clone(route));
        let visitor = AccessSubject {
            address: self.client.address(),
            is_known: self.client.is_known(),
            has_certificate: self.certificate().is_some(),
            is_handshake: handshake.is_some(),
        };
        access::check(&route.settings.access, visitor, &parts.headers)?;
        match &route.settings.leads_to {
            LeadsTo::Upstream(_) => Ok(RouteDecision::Route(Arc::clone(route))),
            LeadsTo::Redirect(_) if handshake.is_some() => Err(Rejection::RedirectOnly.into()),
            LeadsTo::Redirect(Redirect { to, status }) => {
                let name = &route.settings.name;
                let location = edit::render(to, &self.template_values(target, name));
                self.redirect(*status, &location)
            }
        }
    }

    /// What a tunnel takes of what is limited, from its handshake on.
    pub(super) fn tunnel_permits(&self, route: &Route) -> Result<Vec<Share>, SessionError> {
        let mut shares = Vec::new();
        if let Some(most) = self.snapshot.server.max_tunnels {
            let quota = self.connection.worker.tunnel_quota();
            shares.push(quota.take(most).ok_or(Rejection::TunnelsFull)?);
        }
        if let Some(most) = route.settings.max_tunnels {
            shares.push(route.tunnels.take(most).ok_or(Rejection::RouteFull)?);
        }
        Ok(shares)
    }

    fn redirect(&self, status: StatusCode, location: &str) -> Result<RouteDecision, SessionError> {
        let location = HeaderValue::from_str(location).map_err(|_| Rejection::BadTarget)?;
        let recorder = &self.connection.worker.recorder;
        access_log::replied(recorder, self.facts(), None, status.as_u16());
        Ok(RouteDecision::Redirect(status, location))
    }
}
