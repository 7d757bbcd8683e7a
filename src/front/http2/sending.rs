//! Sending a response: its head, then its body, as fast as the client gives credit.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Sleep;

use super::receiving::Receiving;
use crate::front::response::Content;
use crate::net::http2::SendBuffer;
use crate::observe::labels::Http2Reset;
use crate::protocol::http2_head;
use crate::session::Connection;
use crate::streams::body::BodyBroken;

/// A response on its way.
pub(super) struct Sending {
    body: Content,
    /// `None` if the head has ended the stream, or the client has left.
    send: Option<SendStream<SendBuffer>>,
}

/// A piece of a body.
enum BodyPiece {
    Data(Bytes),
    /// The stream has ended, as it should or by a reset.
    Ended,
}

impl Sending {
    /// Sends the head. The response to a HEAD request has no body, whatever the head says.
    pub(super) fn begin(
        response: Response<Content>,
        is_head: bool,
        respond: &mut SendResponse<SendBuffer>,
    ) -> Self {
        let (mut head, body) = response.into_parts();
        http2_head::strip_connection(&mut head.headers);
        if let Some(length) = body.size_hint().exact()
            && !is_head
            && has_length(head.status)
        {
            let length = HeaderValue::from(length);
            head.headers.entry(CONTENT_LENGTH).or_insert(length);
        }
        if !head.headers.contains_key(DATE)
            && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
        {
            head.headers.insert(DATE, now);
        }
        let ends = is_head || body.is_end_stream();
        let sent = respond.send_response(Response::from_parts(head, ()), ends);
        Self {
            body,
            // A client that has left gets nothing: what comes next has nothing to do.
            send: sent.ok().filter(|_| !ends),
        }
    }

    /// Sends the body, and takes in what still comes from the client meanwhile.
    pub(super) async fn finish(self, connection: &Connection, mut receiving: Option<Receiving>) {
        let Self { mut body, send } = self;
        let Some(mut send) = send else {
            return;
        };
        let patience = connection.timeouts.response_body;
        let mut piece = Bytes::new();
        let mut alarm: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            if send.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if let Some(receiving) = &mut receiving {
                receiving.take_in(cx);
            }
            loop {
                let before = piece.len();
                let polled = poll_send(&mut send, &mut piece, cx);
                if matches!(polled, Poll::Ready(Err(_))) {
                    return Poll::Ready(());
                }
                if piece.len() < before {
                    alarm = None;
                }
                if polled.is_pending() && body.is_broken_off() {
                    send.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                if polled.is_pending() {
                    // The client gives no credit. It is not blamed for the time in which there was nothing to send.
                    let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                    ready!(alarm.as_mut().poll(cx));
                    connection.counts.count_http2_reset(Http2Reset::NoCredit);
                    send.send_reset(Reason::CANCEL);
                    return Poll::Ready(());
                }
                alarm = None;
                body.note_passed_on();
                match ready!(poll_piece(&mut body, (connection, &mut send), cx)) {
                    BodyPiece::Data(data) => piece = data,
                    BodyPiece::Ended => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

/// Whether a response may say how long it is (RFC 9110 section 8.6).
fn has_length(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Hands what is left of `piece` to the connection. Ready when nothing is left of it, with an error if the client has
/// left.
fn poll_send(
    send: &mut SendStream<SendBuffer>,
    piece: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    while !piece.is_empty() {
        // Only with bytes in hand: what is reserved is taken from all streams.
        send.reserve_capacity(piece.len());
        let room = send.capacity();
        if room == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity?),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
            continue;
        }
        let part = piece.split_to(piece.len().min(room));
        send.send_data(SendBuffer::Shared(part), false)?;
    }
    Poll::Ready(Ok(()))
}

/// The next piece of the body, or its end, which is passed on. A body that breaks off is never made to look whole.
fn poll_piece(
    body: &mut Content,
    (connection, send): (&Connection, &mut SendStream<SendBuffer>),
    cx: &mut Context<'_>,
) -> Poll<BodyPiece> {
    loop {
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        // What fails here fails because the client has left.
        let _ = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => return Poll::Ready(BodyPiece::Data(data)),
                Err(frame) => match frame.into_trailers() {
                    Ok(mut trailers) => {
                        http2_head::strip_connection(&mut trailers);
                        body.note_passed_on();
                        send.send_trailers(trailers)
                    }
                    Err(_) => continue,
                },
            },
            None => send.send_data(SendBuffer::empty(), true),
            Some(Err(BodyBroken::Endpoint(_))) => {
                connection.counts.count_http2_reset(Http2Reset::BrokenBody);
                send.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
            // Closed on purpose: it is recorded as the end of a stream.
            Some(Err(BodyBroken::Ended(_))) => {
                send.send_reset(Reason::CANCEL);
                Ok(())
            }
        };
        return Poll::Ready(BodyPiece::Ended);
    }
}
