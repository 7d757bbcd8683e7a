//! Probes of routes: handshakes that tidegate makes by itself, as a client's would go from its route on.
//!
//! A probe is neither a session nor a health check: it appears in no count of clients, and takes no endpoint
//! out of rotation.

mod results;

use std::sync::Arc;

pub use self::results::{ProbeRecord, RouteProbeState, RouteProbes};
use crate::config::model::RouteProbe;
use crate::protocol::access::{self, AccessSubject};
use crate::protocol::edit::{self, Edit, TemplateValues};
use crate::protocol::forwarded::ForwardingFacts;
use crate::protocol::handshake::{Handshake, HandshakeRequest, Intent};
use crate::protocol::health_request::{HealthRequest, UnsendableRequest};
use crate::protocol::proxy_header;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::route::RouteQuery;
use crate::snapshot::{Route, Snapshot};
use crate::upstream::check_steps::{CheckDeadline, CheckError, close_websocket, random};
use crate::upstream::connect::{Connector, EndpointConnection, connect};
use crate::upstream::endpoint::{EndpointState, Lease};
use crate::upstream::group::{Affinity, PickError, Upstream};

/// The host that a probe requests where any will do, and the value of `Host` for a unix socket.
const ANY_HOST: &str = "localhost";

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// tidegate would reject the request of a client.
    #[error("tidegate rejects the request: {}", .0.token())]
    Rejected(Rejection),
    /// Another route matches the request.
    #[error("the request belongs to route `{0}`")]
    OtherRoute(Arc<str>),
    /// Every endpoint is full: nothing was probed. Clients may still get through, by the queue.
    #[error("every endpoint is full")]
    Full,
    /// The request cannot be sent.
    #[error(transparent)]
    Unsendable(#[from] UnsendableRequest),
    /// The endpoint does not do what a client needs.
    #[error("{source}")]
    Endpoint {
        /// The endpoint.
        endpoint: Arc<str>,
        /// What went wrong.
        source: CheckError,
    },
}

impl From<Rejection> for ProbeError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl ProbeError {
    fn at(endpoint: &EndpointState, error: impl Into<CheckError>) -> Self {
        Self::Endpoint {
            endpoint: Arc::clone(&endpoint.label),
            source: error.into(),
        }
    }

    /// How the failure is counted.
    pub fn token(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Rejected(_) | Self::OtherRoute(_) | Self::Unsendable(_) => "rejected",
            Self::Endpoint { source, .. } => source.outcome().token(),
        }
    }

    /// The endpoint, if one was asked.
    pub fn endpoint(&self) -> Option<&Arc<str>> {
        match self {
            Self::Endpoint { endpoint, .. } => Some(endpoint),
            _ => None,
        }
    }
}

/// A probe that has passed. Its WebSocket is still open.
#[derive(Debug)]
pub struct PassedProbe {
    lease: Lease,
    connection: EndpointConnection,
}

impl PassedProbe {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<str> {
        &self.lease.endpoint().label
    }

    /// Closes the WebSocket, and waits a moment for the endpoint to do so, too.
    pub async fn close(self) {
        close_websocket(self.connection).await;
    }
}

/// Probes a route: picks an endpoint as for a client, performs the handshake, and sends a Ping.
///
/// # Errors
/// [`ProbeError`], which says in one line why the probe failed.
pub async fn probe(
    snapshot: &Snapshot,
    route: &Route,
    settings: &RouteProbe,
    connector: &Connector,
) -> Result<PassedProbe, ProbeError> {
    let client = HealthRequest::handshake(&settings.request, ANY_HOST, random())?;
    let target = Target::of(client.parts())?;
    let Some(handshake) = Intent::of(client.parts()).handshake()? else {
        return Err(UnsendableRequest.into());
    };
    let forwarded = Forwarded {
        snapshot,
        route,
        settings,
        client: &client,
        target: &target,
    };
    let upstream = forwarded.admit(&handshake)?;
    let check = CheckDeadline::of(upstream, settings.timeout);
    let (lease, connection) = reach(upstream, settings, connector, &check).await?;
    let endpoint = lease.endpoint();
    let request = forwarded.request(endpoint)?;
    let passes = async {
        let response = check.exchange(connection, &request).await?;
        if let Some(head) = response.head() {
            client.switch(&head, route.settings.handshake)?;
        }
        match settings.request.ping {
            true => check.ping(response).await,
            false => Ok(response.connection),
        }
    };
    let connection = passes
        .await
        .map_err(|error| ProbeError::at(endpoint, error))?;
    Ok(PassedProbe { lease, connection })
}

/// The request of a probe, on its way through its route.
struct Forwarded<'a> {
    snapshot: &'a Snapshot,
    route: &'a Route,
    settings: &'a RouteProbe,
    client: &'a HealthRequest<'a>,
    target: &'a Target,
}

impl<'a> Forwarded<'a> {
    /// The upstream, if a client with this request would get there. Listener and address of the client are not
    /// among the conditions, because a probe has neither.
    fn admit(&self, handshake: &Handshake<'_>) -> Result<&'a Upstream, ProbeError> {
        let settings = &self.route.settings;
        let parts = self.client.parts();
        let listener = settings.listeners.as_ref().and_then(|names| names.first());
        let found = self.snapshot.route(&RouteQuery {
            listener: listener.map_or("", |name| name),
            bound_only: false,
            host: self.target.host(),
            path: self.target.path(),
            loose_path: self.target.loose_path(),
            query: self.target.query(),
            method: &parts.method,
            headers: &parts.headers,
            handshake: Some(handshake),
        });
        let found = found?.ok_or(Rejection::NoRoute)?;
        if found.settings.name != settings.name {
            return Err(ProbeError::OtherRoute(Arc::clone(&found.settings.name)));
        }
        let mut wanted = settings.access.clone();
        (wanted.allow, wanted.deny, wanted.client_certificate) = Default::default();
        let subject = AccessSubject {
            address: None,
            is_known: true,
            certificate: None,
            is_handshake: true,
        };
        access::check(&wanted, subject, &parts.headers)?;
        let upstream = self.route.any_upstream();
        Ok(upstream.ok_or(Rejection::RedirectOnly)?)
    }

    /// The request for this endpoint, with the changes that the route makes to a client's.
    fn request(&self, endpoint: &EndpointState) -> Result<Vec<u8>, ProbeError> {
        let settings = &self.route.settings;
        let own_host = endpoint.host();
        let requested = match (&self.settings.request.host, &own_host) {
            (None, Some(own)) => Some(&**own),
            _ => self.target.authority(),
        };
        let host = edit::endpoint_host(&settings.endpoint_host, requested, || own_host.clone());
        let uri = edit::rewrite(&settings.rewrite, self.target.origin_form())?;
        let values = TemplateValues {
            host: self.target.host(),
            uri: self.target.origin_form(),
            secure: true,
            route: &settings.name,
            ..TemplateValues::default()
        };
        let edit = Edit::new(&settings.request_headers, &self.route.reserved, &values);
        let mut request = Vec::new();
        HandshakeRequest {
            parts: self.client.parts(),
            origin_form: &uri,
            host: &host,
            // Many applications redirect what did not come by https.
            forwarding: ForwardingFacts {
                client: None,
                is_known: true,
                proxies: &[],
                secure: true,
                host: requested,
                port: None,
            },
            edit: &edit,
            compression: settings.compression,
            header_case: None,
        }
        .write(&mut request);
        Ok(request)
    }
}

/// Picks an endpoint and connects to it; like a session, tries another one if that fails.
async fn reach(
    upstream: &Upstream,
    settings: &RouteProbe,
    connector: &Connector,
    check: &CheckDeadline,
) -> Result<(Lease, EndpointConnection), ProbeError> {
    let proxy_header = proxy_header::write(upstream.connecting().send_proxy, None);
    let limit = upstream.timeouts().connect.min(settings.timeout);
    let mut tried = Vec::new();
    let mut error = None;
    for _ in 0..upstream.retry().tries.get() {
        let lease = match upstream.pick(Affinity::default(), &tried) {
            Ok(lease) => lease,
            Err(PickError::NotReady) => return Err(error.unwrap_or(Rejection::NoEndpoint.into())),
            Err(PickError::Full) => return Err(error.unwrap_or(ProbeError::Full)),
        };
        let endpoint = lease.endpoint();
        let connecting = connect(upstream, endpoint, connector, &proxy_header, limit);
        let connected = check.within("connection", connecting).await;
        match connected.and_then(|connected| connected.map_err(CheckError::from)) {
            Ok(connection) => return Ok((lease, connection)),
            Err(failed) => error = Some(ProbeError::at(endpoint, failed)),
        }
        tried.push(endpoint.id);
    }
    Err(error.unwrap_or(Rejection::NoEndpoint.into()))
}
