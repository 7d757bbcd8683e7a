//! The story of a request: what it is, which route it takes, which endpoint gets it, what comes
//! back, and the tunnel that may come of it.
//!
//! Only this module strings the stages together. It sends nothing to clients itself: what a
//! session came to is an [`Outcome`], which `front` makes into bytes.

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
mod refusal;
mod relay;
mod routed;
mod worker;

use ::http::Request;
use ::http::request::Parts;
use hyper::body::Incoming;

pub use self::connection::{Connection, Place};
use self::incoming::{Arrival, Way};
pub use self::outcome::Outcome;
pub use self::record::Record;
use self::refusal::Refusal;
pub use self::relay::{Opening, relay};
use self::routed::Session;
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
) -> Outcome {
    let (parts, body) = request.into_parts();
    let (arrival, read) = Arrival::new(connection, &parts);
    let answered = match read {
        Ok(()) => answer(&arrival, parts, body, first_head).await,
        Err(rejection) => Err(rejection.into()),
    };
    arrival.is_answered();
    match answered {
        Ok(outcome) => outcome,
        Err(Refusal { rejection, detail }) => {
            access_log::rejected(
                &connection.worker.recorder,
                arrival.facts(),
                rejection,
                detail.as_deref(),
            );
            Outcome::Rejected(rejection)
        }
    }
}

async fn answer(
    arrival: &Arrival<'_>,
    parts: Parts,
    body: Incoming,
    first_head: Option<&[u8]>,
) -> Result<Outcome, Refusal> {
    let intent = Intent::of(&parts)?;
    let target = arrival.asks_for(Target::of(&parts)?);
    let handshake = match &intent {
        Intent::Handshake(handshake) => Some(handshake),
        Intent::Plain => None,
    };
    let route = match arrival.way(&parts, target, handshake)? {
        Way::Route(route) => route,
        Way::Redirect(status, location) => return Ok(Outcome::Redirect(status, location)),
    };
    let upstream = route.upstream.as_deref().ok_or(Rejection::NoRoute)?;
    let tls = arrival.connection.tls.as_ref();
    let traits = affinity::Traits {
        client: arrival.client.address(),
        server_name: tls.and_then(|tls| tls.server_name.as_deref()),
        headers: &parts.headers,
        target,
    };
    let (wish, led) = affinity::of(upstream, traits);
    let session = Session {
        connection: arrival.connection,
        arrival,
        target,
        route: &route,
        upstream,
        wish,
        led,
        uri: &edit::rewrite(&route.settings.rewrite, target.origin_form())?,
        facts: arrival.facts(),
    };
    match intent {
        Intent::Handshake(handshake) => {
            drop(body);
            let shares = arrival.tunnel_shares(&route)?;
            let handshake = match route.settings.compression {
                true => handshake,
                false => handshake.without_compression(),
            };
            handshake::open(&session, &parts, &handshake, first_head, shares).await
        }
        Intent::Plain if route.settings.http == PlainHttp::Reject => {
            Err(Rejection::WebSocketRequired.into())
        }
        Intent::Plain => plain::proxy(&session, parts, body).await,
    }
}
