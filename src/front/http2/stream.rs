//! One stream: from its head to the end of its response, or to a tunnel.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::carrier::{Carrier, StreamGuard};
use super::receiving::Receiving;
use super::sending::Sending;
use crate::front::response::{self, Answer};
use crate::net::client_body::ClientBody;
use crate::net::http2::{SendBuffer, TunnelReceiver, TunnelStream, Upload};
use crate::net::listener_limits::LimitReached;
use crate::net::stream::Stream;
use crate::protocol::hop_by_hop;
use crate::protocol::http2_head::{self, StreamKind};
use crate::protocol::rejection::Rejection;
use crate::protocol::retry_after::ClientWait;
use crate::session::{
    self, ClientSide, Connection, ConnectionGuards, InterimHeads, Opening, UnparsedHead,
};

/// A stream that a client has opened.
pub(super) type OpenedStream = (Request<RecvStream>, SendResponse<SendBuffer>);

/// Whether the client begins a handshake with this.
pub(super) fn is_handshake(request: &Request<RecvStream>) -> bool {
    request.extensions().get::<Protocol>().is_some()
}

/// Serves a stream until its response has been sent, or it has become a tunnel.
pub(super) async fn serve(entered: StreamGuard, (request, mut respond): OpenedStream) {
    let carrier = entered.carrier();
    let connection = carrier.connection.stream();
    let is_refused = carrier.refuses(is_handshake(&request));
    let (mut parts, recv) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    if is_refused {
        // The client may open it on another connection by itself (RFC 9113 section 8.7).
        response::log_unserved(&connection, Rejection::Draining, None);
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let reason_header = connection.worker.snapshot().server.reason_header;
    let (guards, kind) = match admit(carrier, &mut parts, &recv) {
        Ok(admitted) => admitted,
        Err(rejected) => {
            let rejected = counted(&connection, rejected);
            response::log_unserved(&connection, rejected, None);
            let response = response::rejection(rejected, ClientWait::default(), reason_header);
            return Sending::begin(response, is_head, &mut respond)
                .finish(&connection, None)
                .await;
        }
    };
    let handshake = (kind == StreamKind::WebSocket).then(|| carrier.begin_handshake());
    let (body, mut receiving) = match kind {
        StreamKind::WebSocket => (
            ClientBody::Empty,
            Receiving::Tunnel(TunnelReceiver::new(recv)),
        ),
        StreamKind::Plain => {
            let (upload, reader) = Upload::new(recv, announced_length(&parts.headers));
            (ClientBody::Http2(upload), Receiving::Body(reader))
        }
    };
    let head = UnparsedHead {
        first: None,
        has_fragment: false,
    };
    let expects = hop_by_hop::expects_continue(&parts.headers);
    let request = Request::from_parts(parts, body);
    let outcome = {
        let mut serving = pin!(session::serve(&connection, request, &head));
        std::future::poll_fn(|cx| {
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            receiving.take_in(cx);
            let outcome = serving.as_mut().poll(cx);
            send_interim(&connection.interim, &mut respond, cx);
            if receiving.is_awaited() && expects {
                // A client that has left sends nothing anyway.
                let _ = respond.send_informational(permission());
            }
            outcome.map(Some)
        })
        .await
    };
    let Some(outcome) = outcome else {
        return carrier.note_unanswered();
    };
    match (response::answer(outcome, reason_header), receiving) {
        (Answer::Tunnel(opening), Receiving::Tunnel(receiver)) => {
            open_tunnel(&connection, *opening, respond, receiver, guards);
        }
        (Answer::Response(response), receiving) => {
            drop(handshake);
            let sending = Sending::begin(response, is_head, &mut respond);
            sending.finish(&connection, Some(receiving)).await;
        }
        // Only a handshake has a tunnel for its result.
        (Answer::Tunnel(_), Receiving::Body(_)) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// Counts a request that gets no session against the listener's rate of requests: the reason that it is rejected for, or
/// that it is one too many. A client that is over its rate must not get away with requests that are not valid.
fn counted(connection: &Connection, rejected: Rejection) -> Rejection {
    let settings = connection.listener.settings.load();
    let address = settings.trust.single_client(connection.peer.ip());
    match connection.listener.gate.request(&settings.limits, address) {
        Ok(()) => rejected,
        Err(_) => Rejection::RequestRate,
    }
}

/// Counts and logs a stream that h2 has rejected by itself: its head is not known.
pub(super) fn count_rejected(carrier: &Carrier) {
    let rejected = counted(&carrier.connection, Rejection::BadRequest);
    let detail = "a head that is not valid or too large, or one stream too many";
    response::log_unserved(&carrier.connection, rejected, Some(detail));
    carrier.note_unanswered();
}

/// Admits a stream with what it costs, and turns its head into one that a session can read.
fn admit(
    carrier: &Rc<Carrier>,
    parts: &mut Parts,
    recv: &RecvStream,
) -> Result<(ConnectionGuards, StreamKind), Rejection> {
    let connection = &carrier.connection;
    let kind = http2_head::to_http1(parts, connection.limits.header_count, random_key)?;
    let mut permit = carrier.permit().ok_or(Rejection::DescriptorsExhausted)?;
    if kind == StreamKind::WebSocket {
        if recv.is_end_stream() {
            // There is nothing that such a client could say.
            return Err(Rejection::BadRequest);
        }
        // A tunnel counts as the connection that it would be without HTTP/2.
        let settings = connection.listener.settings.load();
        let address = settings.trust.single_client(connection.peer.ip());
        let entered = connection.listener.gate.enter(&settings.limits, address);
        permit.hold(entered.map_err(|limit| match limit {
            LimitReached::ConnectionsPerIp => Rejection::AddressFull,
            _ => Rejection::ListenerFull,
        })?);
    }
    let side = ClientSide::Stream(Rc::clone(&carrier.shared));
    Ok((ConnectionGuards { permit, side }, kind))
}

/// A key for a handshake whose client has none. It is not a secret: the endpoint's answer to it shows that the
/// endpoint has understood this very request (RFC 6455 section 1.3).
fn random_key() -> HeaderValue {
    let mut key = [0; 16];
    // Without random bytes the key is still one, and the answer to it still has to fit.
    let _ = rand::fill(&mut key);
    HeaderValue::try_from(STANDARD.encode(key)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The length that the client has announced. h2 resets a stream that has another.
fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The permission to send a body, which a client may wait for.
fn permission() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::CONTINUE;
    response
}

/// Hands the interim responses of a session to the connection, which sends them as soon as it can.
fn send_interim(
    interim: &InterimHeads,
    respond: &mut SendResponse<SendBuffer>,
    cx: &mut Context<'_>,
) {
    let heads = interim.unwritten();
    let mut rest = &heads[..];
    while let Some((head, length)) = http2_head::response(rest) {
        // A client that has left needs none.
        let _ = respond.send_informational(head);
        rest = rest.get(length..).unwrap_or_default();
    }
    if !heads.is_empty() {
        interim.wrote(heads.len(), cx);
    }
}

/// Answers an extended CONNECT and starts the tunnel (RFC 8441 section 5).
fn open_tunnel(
    connection: &Connection,
    mut opening: Opening,
    mut respond: SendResponse<SendBuffer>,
    receiver: TunnelReceiver,
    guards: ConnectionGuards,
) {
    let Some(response) = http2_head::of_switch(&opening.take_head()) else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    // It fails if the client has left just now: then the tunnel ends as any other that its client leaves.
    if let Ok(send) = respond.send_response(response, false) {
        let stream = Stream::Http2(Box::new(TunnelStream::new(send, receiver)));
        session::relay(connection, opening, stream, &[], guards);
    }
}
