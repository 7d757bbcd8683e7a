//! An incoming request: the identity of its client, the route that matches, and whether the route
//! admits it.

use std::cell::{Cell, OnceCell};
use std::future::pending;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use tokio::sync::Notify;

use super::client::ClientIdentity;
use super::connection::Connection;
use super::error::SessionError;
use super::shared_limits;
use super::trace::Trace;
use crate::auth::identity::EstablishedIdentity;
use crate::auth::revocations::SubjectTag;
use crate::config::model::{FixedResponse, LeadsTo, Redirect, Respond, Variable};
use crate::net::admission::TunnelPermits;
use crate::net::listener::ListenerSettings;
use crate::net::listener_limits::LimitReached;
use crate::observe::access_log::{self, RequestFacts, SessionId};
use crate::protocol::access::{self, AccessSubject};
use crate::protocol::certificate::ClientCertificate;
use crate::protocol::edit::{self, TemplateValues};
use crate::protocol::handshake::Handshake;
use crate::protocol::rejection::Rejection;
use crate::protocol::request_key::KeyTraits;
use crate::protocol::retry_after::{ClientWait, MAX_QUEUE};
use crate::protocol::target::Target;
use crate::quota::shared::KeyPermit;
use crate::route;
use crate::snapshot::{Route, Snapshot};

/// A request whose head has just been received.
pub(super) struct IncomingRequest<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) settings: Arc<ListenerSettings>,
    pub(super) client: ClientIdentity,
    session: SessionId,
    /// The id that a trusted proxy gave the request.
    trusted_id: Option<Box<str>>,
    /// The id that endpoints get: that of a trusted proxy, or the session's.
    pub(super) id: Box<str>,
    /// The trace that the request is part of.
    pub(super) trace: Trace,
    method: Method,
    /// Host and path, once they have been parsed.
    target: OnceCell<Target>,
    /// The route, once one has matched.
    route: OnceCell<Arc<Route>>,
    /// Who the client is, once that has been established.
    identity: OnceCell<EstablishedIdentity>,
    /// Whether the request is a handshake without a response so far.
    awaits_tunnel: Cell<bool>,
    is_handshake: Cell<bool>,
    /// The permits of limits that its route shares, until its tunnel opens.
    key_permits: Cell<Vec<KeyPermit>>,
    /// Notified when the handshake has to give way to a newer one of its key.
    gives_way: OnceCell<Arc<Notify>>,
    started: Instant,
}

impl Drop for IncomingRequest<'_> {
    fn drop(&mut self) {
        // hyper drops the future of a request whose client disconnects: there is no other place
        // where an abandoned handshake could be noticed.
        if self.awaits_tunnel.get() {
            access_log::handshake_abandoned(&self.connection.worker.recorder, self.facts());
        }
        if self.trace.span().is_some() {
            // Whatever else has become of the handshake.
            access_log::end_span(&self.connection.worker.recorder, self.facts());
        }
    }
}

/// What matches a request.
pub(super) enum FoundRoute {
    /// This route, which admits the client's address, certificate and origin.
    Route(Arc<Route>),
    /// No route; the listener redirects the client.
    Redirect(OwnAnswer),
}

/// An answer by the configuration, already logged and counted.
pub(super) enum OwnAnswer {
    /// A redirect with this status and `Location`.
    Redirect(StatusCode, HeaderValue),
    /// A response.
    Fixed(FixedResponse),
}

impl<'a> IncomingRequest<'a> {
    /// The request, and whether its forwarding fields were valid. There is a request in either
    /// case, so that a rejection can be logged with it.
    pub(super) fn new(connection: &'a Connection, parts: &Parts) -> (Self, Result<(), Rejection>) {
        let headers = &parts.headers;
        // The settings of now, not those from when the connection was opened: a proxy that a reload
        // has removed from `trusted_proxies` must not be trusted any longer.
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
            trace: Trace::of(headers, snapshot.server.traceparent),
            snapshot,
            settings,
            client,
            session,
            trusted_id,
            method: parts.method.clone(),
            target: OnceCell::new(),
            route: OnceCell::new(),
            identity: OnceCell::new(),
            awaits_tunnel: Cell::new(false),
            is_handshake: Cell::new(false),
            key_permits: Cell::default(),
            gives_way: OnceCell::new(),
        };
        (incoming, read)
    }

    /// The client's certificate, unless it has expired: a connection may outlive its certificate.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        let certificate = self.connection.tls.as_ref()?.certificate.as_ref()?;
        (!certificate.has_expired(SystemTime::now())).then_some(certificate)
    }

    /// Refuses a certificate that was revoked after the connection began.
    fn check_revoked(&self) -> Result<(), Rejection> {
        let tls = self.connection.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.certificate.as_ref());
        match certificate.is_some_and(|it| self.settings.revoked.contain(it)) {
            true => Err(Rejection::CertificateDenied),
            false => Ok(()),
        }
    }

    /// The facts for log lines about this request.
    pub(super) fn facts(&self) -> RequestFacts<'_> {
        RequestFacts {
            session: self.session,
            client: self.client.logged_as(),
            protocol: self.connection.protocol,
            listener: &self.connection.counts,
            route: self.route.get().map(|route| &*route.settings.name),
            is_handshake: self.is_handshake.get(),
            request_id: self.trusted_id.as_deref(),
            trace: self.trace.id(),
            span: self.trace.span(),
            method: Some(self.method.as_str()),
            host: self.host(),
            path: self.target.get().map(|target| target.path()),
            started: self.started,
        }
    }

    /// The host, if the request names one and has been parsed.
    fn host(&self) -> Option<&str> {
        let target = self.target.get()?;
        target.authority().map(|_| target.host())
    }

    /// The values of the variables in header templates.
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
            tls: self.connection.tls.as_deref(),
            claims: self.identity().map(|identity| &identity.claims),
        }
    }

    /// Notes the parsed target, for log lines from here on.
    pub(super) fn set_target(&self, target: Target) -> &Target {
        self.target.get_or_init(|| target)
    }

    /// The target as the client sent it, once it has been parsed.
    pub(super) fn target(&self) -> Option<&Target> {
        self.target.get()
    }

    /// Notes that the request is a handshake, which from here on may be abandoned.
    pub(super) fn mark_handshake(&self) {
        self.is_handshake.set(true);
        self.awaits_tunnel.set(true);
    }

    /// Decides whether the handshake, valid or not, is sampled.
    pub(super) fn sample(&self) {
        if let Some(traces) = &self.snapshot.traces {
            let port = self.target.get().and_then(Target::port);
            self.trace.decide(traces, self.client.sampled(port));
        }
    }

    /// Notes that there is a response: the handshake is not abandoned any more.
    pub(super) fn mark_answered(&self) {
        self.awaits_tunnel.set(false);
    }

    /// Notes who the client is.
    pub(super) fn set_identity(&self, identity: EstablishedIdentity) {
        // A request is authorized once.
        let _ = self.identity.set(identity);
    }

    /// Who the client is; `None` if the route has no `auth`.
    pub(super) fn identity(&self) -> Option<&EstablishedIdentity> {
        self.identity.get()
    }

    /// The hash of the client's subject; `None` if none was established.
    pub(super) fn subject_tag(&self) -> Option<SubjectTag> {
        let subject = self.identity()?.subject.as_deref()?;
        let auth = self.route.get()?.settings.access.auth.as_deref()?;
        Some(self.connection.worker.revocations().tag(auth, subject))
    }

    /// The parts of the request that keys are taken from. `headers` and `target` are those without a credential.
    pub(super) fn key_traits<'b>(
        &'b self,
        headers: &'b HeaderMap,
        target: &'b Target,
    ) -> KeyTraits<'b> {
        let tls = self.connection.tls.as_ref();
        KeyTraits {
            client: self.client.address(),
            server_name: tls.and_then(|tls| tls.server_name.as_deref()),
            headers,
            target,
            claims: self.identity().map(|identity| &identity.claims),
        }
    }

    /// Finds the route that matches, and checks whether it admits the client's address, certificate and origin.
    pub(super) fn find_route(
        &self,
        parts: &Parts,
        target: &Target,
        handshake: Option<&Handshake<'_>>,
    ) -> Result<FoundRoute, SessionError> {
        // With `redirect_to_https`, requests without TLS match only routes that name this listener:
        // ACME challenges, for example, must still be served here.
        let to_https = self.settings.redirect_to_https && !self.client.secure();
        let found = self.snapshot.route(&route::RouteQuery {
            listener: &self.connection.listener.name,
            bound_only: to_https,
            host: target.host(),
            path: target.path(),
            loose_path: target.loose_path(),
            query: target.query(),
            method: &parts.method,
            headers: &parts.headers,
            handshake,
        })?;
        let Some(route) = found else {
            return match handshake {
                _ if !to_https => Err(Rejection::NoRoute.into()),
                Some(_) => Err(Rejection::HttpsRequired.into()),
                // Without a host there is no place to redirect to.
                None if target.authority().is_none() => Err(Rejection::BadHost.into()),
                None => {
                    let location = ["https://", target.host(), target.origin_form()].concat();
                    let redirect = self.redirect(StatusCode::PERMANENT_REDIRECT, &location)?;
                    Ok(FoundRoute::Redirect(redirect))
                }
            };
        };
        let route = self.route.get_or_init(|| Arc::clone(route));
        self.check_revoked()?;
        let subject = AccessSubject {
            address: self.client.address(),
            is_known: self.client.is_known(),
            certificate: self.certificate(),
            is_handshake: handshake.is_some(),
        };
        access::check(&route.settings.access, subject, &parts.headers)?;
        Ok(FoundRoute::Route(Arc::clone(route)))
    }

    /// The answer of a route that leads to no upstream, logged and counted; `None` if it leads to one.
    pub(super) fn own_answer(
        &self,
        route: &Route,
        target: &Target,
        is_handshake: bool,
    ) -> Result<Option<OwnAnswer>, SessionError> {
        let answer = match &route.settings.leads_to {
            LeadsTo::Upstream(_) | LeadsTo::Split(_) => return Ok(None),
            LeadsTo::Redirect(_) if is_handshake => Err(Rejection::RedirectOnly.into()),
            LeadsTo::Redirect(Redirect { to, .. })
                if to.has(Variable::Host) && target.authority().is_none() =>
            {
                Err(Rejection::BadHost.into())
            }
            LeadsTo::Redirect(Redirect { to, status }) => {
                let name = &route.settings.name;
                let location = edit::render(to, &self.template_values(target, name));
                self.redirect(*status, &location)
            }
            LeadsTo::Respond(respond) => Ok(OwnAnswer::Fixed(self.answer(respond))),
        };
        answer.map(Some)
    }

    /// The answer to a certificate authority that validates a name by `http-01`, if this request is from one. It
    /// comes before everything that a configuration may say about requests: the authority looks here because we
    /// have asked it to.
    pub(super) fn challenge_answer(&self, parts: &Parts) -> Option<FixedResponse> {
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let worker = &self.connection.worker;
        let answer = worker.managed().challenges.http_answer(parts.uri.path())?;
        let response = FixedResponse {
            status: StatusCode::OK,
            body: Bytes::copy_from_slice(answer.as_bytes()),
            content_type: Some(HeaderValue::from_static("text/plain")),
            retry_after: None,
        };
        access_log::response_sent(&worker.recorder, self.facts(), None, 200);
        Some(response)
    }

    /// Counts the request against the listener's limits on rates. They come before the search for a route:
    /// they protect against floods, also of requests that no route matches or that are not valid.
    pub(super) fn check_rates(&self, is_handshake: bool) -> Result<(), SessionError> {
        let gate = &self.connection.listener.gate;
        let (limits, address) = (&self.settings.limits, self.client.address());
        let counted = match is_handshake {
            true => gate.handshake(limits, address),
            false => gate.request(limits, address),
        };
        counted.map_err(|limit| {
            let (rejection, wait) = match limit {
                LimitReached::HandshakesPerIp => (
                    Rejection::AddressRate,
                    limits.handshakes_per_ip.map(ClientWait::of_rate),
                ),
                LimitReached::RequestsPerIp => (
                    Rejection::RequestRate,
                    limits.requests_per_ip.map(ClientWait::of_rate),
                ),
                _ => {
                    let turn = limits
                        .handshakes
                        .map(|rate| gate.handshake_turn(rate, MAX_QUEUE));
                    (Rejection::HandshakeRate, turn.map(ClientWait::of_turn))
                }
            };
            SessionError::from(rejection).with_wait(wait.unwrap_or_default())
        })
    }

    /// Counts the request towards the limits that its route shares.
    pub(super) fn count(
        &self,
        route: &Route,
        traits: &KeyTraits<'_>,
        is_handshake: bool,
    ) -> Result<(), SessionError> {
        if !route.shared_limits.is_empty() {
            let shared = self.snapshot.shared_limits();
            let gives_way = is_handshake.then(|| self.gives_way.get_or_init(Arc::default));
            let permits = shared_limits::count(shared, route, traits, gives_way)?;
            self.key_permits.set(permits);
        }
        Ok(())
    }

    /// Waits until this handshake has to give way to a newer one of its key.
    pub(super) async fn given_way(&self) {
        match self.gives_way.get() {
            Some(gives_way) => gives_way.notified().await,
            None => pending().await,
        }
    }

    /// The permits that a tunnel holds from its handshake on: of the process, of the route, and of its key.
    pub(super) fn tunnel_permits(&self, route: &Route) -> Result<TunnelPermits, SessionError> {
        if self.connection.worker.is_memory_full() {
            return Err(Rejection::MemoryFull.into());
        }
        let mut quotas = Vec::new();
        if let Some(most) = self.snapshot.server.max_tunnels {
            let quota = self.connection.worker.tunnel_quota();
            quotas.push(quota.take(most).ok_or(Rejection::TunnelsFull)?);
        }
        if let Some(most) = route.settings.max_tunnels {
            quotas.push(route.tunnels.take(most).ok_or(Rejection::RouteFull)?);
        }
        Ok(TunnelPermits {
            quotas,
            shared: self.key_permits.take(),
        })
    }

    /// The response of a route that leads to no upstream.
    fn answer(&self, respond: &Respond) -> FixedResponse {
        let worker = &self.connection.worker;
        let response = match respond {
            Respond::Fixed(response) => response.clone(),
            Respond::Readiness => {
                let readiness = worker.readiness();
                FixedResponse {
                    status: readiness.status(),
                    body: Bytes::from_static(readiness.text().as_bytes()),
                    content_type: Some(HeaderValue::from_static("text/plain; charset=utf-8")),
                    retry_after: None,
                }
            }
        };
        let status = response.status.as_u16();
        access_log::response_sent(&worker.recorder, self.facts(), None, status);
        response
    }

    fn redirect(&self, status: StatusCode, location: &str) -> Result<OwnAnswer, SessionError> {
        let location = HeaderValue::from_str(location).map_err(|_| Rejection::BadTarget)?;
        let recorder = &self.connection.worker.recorder;
        access_log::response_sent(recorder, self.facts(), None, status.as_u16());
        Ok(OwnAnswer::Redirect(status, location))
    }
}
