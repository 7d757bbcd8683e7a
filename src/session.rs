//! A session: from the head of a request to the response, or to the end of the tunnel that the
//! request opened.
//!
//! Only this module strings the stages together: recognising a handshake, finding a route, picking
//! an endpoint, forwarding the request, judging the response. It sends nothing to clients itself:
//! the result of a session is a [`SessionOutcome`], which `front` writes to the client.

pub mod affinity;
mod agreed_handshake;
mod attempts;
pub mod auth_service;
mod authorize;
pub mod binding;
mod client;
mod connection;
mod error;
mod handshake;
mod incoming;
mod outcome;
mod passive_health;
mod plain_exchange;
mod plain_http;
mod recheck;
mod recheck_list;
mod relay;
mod routed;
mod shared_limits;
mod trace;
mod traced_tunnels;
mod service_desk;
mod shared_connection;
mod stream_record;
pub mod split;
mod tunnel_record;
mod worker;

use std::sync::Arc;

use ::http::Request;
use ::http::request::Parts;

use self::authorize::{Authorization, Grant};
pub use self::connection::{ClientSide, Connection, ConnectionGuards, InterimHeads};
use self::error::SessionError;
use self::incoming::{FoundRoute, IncomingRequest, OwnAnswer};
pub use self::outcome::SessionOutcome;
use self::plain_http::PlainRequest;
pub use self::relay::{Opening, relay};
use self::routed::RequestOnRoute;
pub use self::shared_connection::SharedConnection;
use self::split::Branches;
pub use self::stream_record::StreamRecord;
pub use self::tunnel_record::TunnelRecord;
pub use self::worker::{Shared, Worker};
use crate::config::model::PlainHttp;
use crate::net::client_body::ClientBody;
use crate::observe::access_log;
use crate::protocol::edit;
use crate::protocol::handshake::{Handshake, Intent};
use crate::protocol::redaction::Redaction;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::snapshot::Route;
use crate::upstream::group::Upstream;

/// What hyper does not say about the head of a request.
#[derive(Debug)]
pub struct UnparsedHead {
    /// The head as received, if it is the first on its connection.
    pub first: Option<Vec<u8>>,
    /// Whether the target is known to have had a fragment, which hyper removes: the endpoint would get another
    /// target than the client has sent.
    pub has_fragment: bool,
}

/// Serves one request.
pub async fn serve(
    connection: &Connection,
    request: Request<ClientBody>,
    head: &UnparsedHead,
) -> SessionOutcome {
    let (parts, body) = request.into_parts();
    let (incoming, read) = IncomingRequest::new(connection, &parts);
    let result = match read {
        Ok(()) => respond(&incoming, parts, body, head).await,
        Err(rejection) => Err(rejection.into()),
    };
    // From here on there is a response: a client that disconnects now has not abandoned its
    // handshake.
    incoming.mark_answered();
    match result {
        Ok(outcome) => outcome,
        Err(SessionError {
            rejection,
            detail,
            wait,
        }) => {
            if rejection.is_rate() {
                incoming.trace.give_up();
            }
            access_log::request_rejected(
                &connection.worker.recorder,
                incoming.facts(),
                rejection,
                detail.as_deref(),
            );
            SessionOutcome::Rejected(rejection, wait)
        }
    }
}

/// Carries a request through all stages. Cheap checks come before expensive ones, and nothing is
/// held for a request before it is known to be admitted.
async fn respond(
    incoming: &IncomingRequest<'_>,
    mut parts: Parts,
    body: ClientBody,
    head: &UnparsedHead,
) -> Result<SessionOutcome, SessionError> {
    let (route, redaction) = match admit(incoming, &parts, head).await? {
        ForwardDecision::Route(route, redaction) => (route, redaction),
        ForwardDecision::Answered(outcome) => return Ok(outcome),
    };
    // From here on the request has no credential that its endpoint must not see.
    redaction.apply(&mut parts);
    let handshake = Intent::of(&parts).handshake()?;
    let cleaned;
    let target = match (redaction.is_empty(), incoming.target()) {
        (true, Some(target)) => target,
        _ => {
            cleaned = Target::of(&parts)?;
            &cleaned
        }
    };
    let traits = incoming.key_traits(&parts.headers, target);
    let reserved = |upstream: &Upstream| incoming.connection.reserved.endpoint(upstream);
    let branches = split::branches(&route, traits, reserved, fastrand::f64)?;
    let request = RequestOnRoute {
        incoming,
        target,
        route: &route,
        uri: &edit::rewrite(&route.settings.rewrite, target.origin_form())?,
    };
    match handshake {
        Some(handshake) => {
            // A valid handshake has no body.
            drop(body);
            let handshake = match route.settings.compression {
                true => handshake,
                false => handshake.without_compression(),
            };
            let handshake = handshake.answered_with(redaction.marker.as_deref());
            let first_head = head.first.as_deref();
            let opening = open_tunnel(&request, &branches, &parts, &handshake, first_head);
            tokio::select! {
                outcome = opening => outcome,
                () = incoming.given_way() => Err(SessionError {
                    detail: Some("a newer handshake of the key has taken its place".to_owned()),
                    ..Rejection::LimitFull.into()
                }),
            }
        }
        None if route.settings.http == PlainHttp::Reject => {
            Err(Rejection::WebSocketRequired.into())
        }
        None => forward_plain(&request, &branches, parts, body).await,
    }
}

/// The decision whether a request is forwarded.
enum ForwardDecision {
    /// It goes to an upstream of this route, without what is to be removed from it.
    Route(Arc<Route>, Redaction),
    /// It was answered, which is already logged and counted.
    Answered(SessionOutcome),
}

/// Decides whether a request is forwarded. Handshakes and plain requests pass the same steps in the same order:
/// rates of the listener, route, addresses, certificates and origins, identity, limits that routes share.
async fn admit(
    incoming: &IncomingRequest<'_>,
    parts: &Parts,
    head: &UnparsedHead,
) -> Result<ForwardDecision, SessionError> {
    let intent = Intent::of(parts);
    let target = Target::of(parts).map(|target| incoming.set_target(target));
    if matches!(intent, Intent::Plain)
        && let Some(answer) = incoming.challenge_answer(parts)
    {
        return Ok(ForwardDecision::Answered(SessionOutcome::Fixed(answer)));
    }
    if let Intent::WebSocket(handshake) = &intent {
        incoming.sample();
        if handshake.is_ok() {
            incoming.mark_handshake();
        }
    }
    // Before all errors: a client that is over its rate must not get away with requests that are not valid.
    incoming.check_rates(matches!(intent, Intent::WebSocket(_)))?;
    let handshake = intent.handshake()?;
    if head.has_fragment {
        return Err(Rejection::BadTarget.into());
    }
    let target = target?;
    let route = match incoming.find_route(parts, target, handshake.as_ref())? {
        FoundRoute::Route(route) => route,
        FoundRoute::Redirect(answer) => return Ok(ForwardDecision::Answered(outcome(answer))),
    };
    let redaction = match authorize::authorize(incoming, parts, target, &route).await? {
        Authorization::Granted(Grant {
            identity,
            redaction,
        }) => {
            identity
                .into_iter()
                .for_each(|it| incoming.set_identity(it));
            redaction
        }
        Authorization::Answered(outcome) => return Ok(ForwardDecision::Answered(outcome)),
    };
    // A redirect may lead to another host, which must not get the credential.
    let public = redaction.path_and_query.as_ref();
    let public = public.map(|public| target.with_origin_form(public.as_str()));
    let target = public.as_ref().unwrap_or(target);
    let traits = incoming.key_traits(&parts.headers, target);
    incoming.count(&route, &traits, handshake.is_some())?;
    match incoming.own_answer(&route, target, handshake.is_some())? {
        Some(answer) => Ok(ForwardDecision::Answered(outcome(answer))),
        None => Ok(ForwardDecision::Route(route, redaction)),
    }
}

fn outcome(answer: OwnAnswer) -> SessionOutcome {
    match answer {
        OwnAnswer::Redirect(status, location) => SessionOutcome::Redirect(status, location),
        OwnAnswer::Fixed(response) => SessionOutcome::Fixed(response),
    }
}

/// Opens a tunnel to the first branch that has an endpoint for it.
async fn open_tunnel(
    request: &RequestOnRoute<'_>,
    branches: &Branches<'_>,
    parts: &Parts,
    handshake: &Handshake<'_>,
    first_head: Option<&[u8]>,
) -> Result<SessionOutcome, SessionError> {
    let mut permits = request.incoming.tunnel_permits(request.route)?;
    let edit = request.request_edit();
    let mut failure = SessionError::from(Rejection::NoEndpoint);
    for branch in branches.iter() {
        let routed = request.to(branch, &edit);
        let opened = handshake::open(&routed, parts, handshake, first_head, &mut permits).await;
        match opened {
            Ok(outcome) => return Ok(outcome),
            Err(unserved) => (_, failure) = unserved.for_another()?,
        }
    }
    Err(failure)
}

/// Forwards a plain request to the first branch that has an endpoint for it.
async fn forward_plain(
    request: &RequestOnRoute<'_>,
    branches: &Branches<'_>,
    parts: Parts,
    body: ClientBody,
) -> Result<SessionOutcome, SessionError> {
    let edit = request.request_edit();
    let mut plain = PlainRequest::new(request, &edit, parts, body)?;
    let slot = plain.slot();
    let served = async {
        let mut failure = SessionError::from(Rejection::NoEndpoint);
        for branch in branches.iter() {
            match plain_http::proxy(&request.to(branch, &edit), plain).await {
                Ok(outcome) => return Ok(outcome),
                Err(unserved) => (plain, failure) = unserved.for_another()?,
            }
        }
        Err(failure)
    };
    // Wherever it waits: for an endpoint, for a connection to one, for its response.
    let served = tokio::select! {
        biased;
        reason = slot.exchange().verdict_reached() => Err(SessionError {
            detail: Some(format!("no response yet; ended: {reason}")),
            ..Rejection::StreamEnded.into()
        }),
        served = served => served,
    };
    if served.is_err() {
        slot.exchange().rejected();
    }
    served
}
