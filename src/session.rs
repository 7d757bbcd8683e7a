//! The story of a request: what it is, which route it takes, which endpoint gets it, what comes
//! back, and the tunnel that may come of it.
//!
//! Only this module strings the stages together. It sends nothing to clients itself: what a
//! session came to is an [`SessionOutcome`], which `front` makes into bytes.

pub mod affinity;
mod attempts;
mod client;
mod connection;
mod handshake;
mod incoming;
mod outcome;
mod passive_health;
mod plain;
mod record;
mod error;
mod relay;
mod routed;
mod worker;

use ::http::Request;
use ::http::request::Parts;
use hyper::body::Incoming;

pub use self::connection::{Connection, ConnectionGuards};
use self::error::SessionError;
use self::incoming::{IncomingRequest, RouteDecision};
pub use self::outcome::SessionOutcome;
pub use self::record::TunnelRecord;
pub use self::relay::{Opening, relay};
use self::routed::RoutedRequest;
pub use self::worker::{Shared, Worker};
use crate::config::model::PlainHttp;
use crate::observe::access_log;
use crate::protocol::edit;
use crate::protocol::handshake::Intent;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;

/// Serves one request. `first_head` is its head as it came, if it is the connection's first.
pub async fn serve(
    connection: &Connection,
    request: Request<Incoming>,
    first_head: Option<&[u8]>,
) -> SessionOutcome {
    let (parts, body) = request.into_parts();
    let (incoming, read) = IncomingRequest::new(connection, &parts);
    let answered = match read {
        Ok(()) => respond(&incoming, parts, body, first_head).await,
        Err(rejection) => Err(rejection.into()),
    };
    incoming.mark_answered();
    match answered {
        Ok(outcome) => outcome,
        Err(SessionError { rejection, detail }) => {
            access_log::rejected(
                &connection.worker.recorder,
                incoming.facts(),
                rejection,
                detail.as_deref(),
            );
            SessionOutcome::Rejected(rejection)
        }
    }
}

async fn respond(
    incoming: &IncomingRequest<'_>,
    parts: Parts,
    body: Incoming,
    first_head: Option<&[u8]>,
) -> Result<SessionOutcome, SessionError> {
    let intent = Intent::of(&parts)?;
    let target = incoming.set_target(Target::of(&parts)?);
    let handshake = match &intent {
        Intent::Handshake(handshake) => Some(handshake),
        Intent::Plain => None,
    };
    let route = match incoming.decide_route(&parts, target, handshake)? {
        RouteDecision::Route(route) => route,
        RouteDecision::Redirect(status, location) => {
            return Ok(SessionOutcome::Redirect(status, location));
        }
    };
    let upstream = route.upstream.as_deref().ok_or(Rejection::NoRoute)?;
    let tls = incoming.connection.tls.as_ref();
    let traits = affinity::AffinityTraits {
        client: incoming.client.address(),
        server_name: tls.and_then(|tls| tls.server_name.as_deref()),
        headers: &parts.headers,
        target,
    };
    let (affinity, sticky_cookie) = affinity::of(upstream, traits);
    let routed = RoutedRequest {
        connection: incoming.connection,
        incoming,
        target,
        route: &route,
        upstream,
        affinity,
        sticky_cookie,
        uri: &edit::rewrite(&route.settings.rewrite, target.origin_form())?,
        facts: incoming.facts(),
    };
    match intent {
        Intent::Handshake(handshake) => {
            drop(body);
            let shares = incoming.tunnel_permits(&route)?;
            let handshake = match route.settings.compression {
                true => handshake,
                false => handshake.without_compression(),
            };
            handshake::open(&routed, &parts, &handshake, first_head, shares).await
        }
        Intent::Plain if route.settings.http == PlainHttp::Reject => {
            Err(Rejection::WebSocketRequired.into())
        }
        Intent::Plain => plain::proxy(&routed, parts, body).await,
    }
}
