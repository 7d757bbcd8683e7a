//! One client connection: HTTP/1.1 by hyper, our deadlines, and the way out of it into a tunnel.
//!
//! hyper never sees an upgrade. When a session has agreed on a tunnel, its service stays pending,
//! the socket and what hyper read ahead are taken out of the connection, everything else of the
//! request is dropped, and a fresh task relays.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::client_io::{ClientActivity, ClientIo};
use super::response::{self, Content, ServedBody};
use crate::drain::Urgency;
use crate::net::stream::Stream;
use crate::observe::access_log::{self, RequestFacts};
use crate::protocol::rejection::Rejection;
use crate::session::{self, Connection, ConnectionGuards, Opening, SessionOutcome};

/// How long a client may go on sending after we have closed our side, so that it sees our last
/// answer rather than a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that it may go on sending meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

/// Bytes that hyper may read ahead of a client, and as many that it may have ready for it: a client
/// that stalls costs no more. More only where heads may be longer.
const MAX_BUFFER: usize = 64 * 1024;

/// How long a connection that was accepted when the process began to stop may take to send its first
/// request: it may have been in the kernel's queue, request and all.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How the HTTP part of a connection came to its end.
enum HttpExit {
    /// A session has agreed on a tunnel.
    Tunnel(Box<Opening>),
    /// hyper is done.
    Done(hyper::Result<()>),
    /// The client did not go on in time.
    Expired,
}

/// Serves a connection until it has ended, or has become a tunnel with a task of its own.
/// Its first request is due as if it had been expected since `since`.
pub async fn serve(
    connection: Rc<Connection>,
    stream: Stream,
    place: ConnectionGuards,
    since: Instant,
) {
    let activity = Rc::new(ClientActivity::new(since));
    let slot: Rc<Cell<Option<Box<Opening>>>> = Rc::default();
    let service = {
        let (connection, activity, slot) = (
            Rc::clone(&connection),
            Rc::clone(&activity),
            Rc::clone(&slot),
        );
        // Boxed, because hyper lets a connection be taken apart only if its future may move.
        service_fn(move |request| {
            Box::pin(answer(
                Rc::clone(&connection),
                Rc::clone(&activity),
                Rc::clone(&slot),
                request,
            ))
        })
    };
    let io = TokioIo::new(ClientIo::new(stream, Rc::clone(&activity)));
    let mut http = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(connection.limits.header_bytes.max(MAX_BUFFER))
        .max_header_size(connection.limits.header_bytes)
        .max_headers(connection.limits.header_count)
        .header_read_timeout(None)
        .serve_connection(io, service);
    let next = drive(&connection, &activity, &slot, |cx, drain| {
        if drain {
            Pin::new(&mut http).graceful_shutdown();
        }
        http.poll_without_shutdown(cx)
    })
    .await;
    let parts = http.into_parts();
    let stream = parts.io.into_inner().into_stream();
    match next {
        HttpExit::Tunnel(opening) if activity.write_blocked() => {
            // An answer before this one is stuck: what the client would read next is not the 101.
            drop((opening, stream));
        }
        HttpExit::Tunnel(opening) => {
            session::relay(&connection, *opening, stream, &parts.read_buf, place);
        }
        HttpExit::Done(Ok(())) => Box::pin(linger(stream)).await,
        HttpExit::Done(Err(error)) => {
            record_refusal_by_hyper(&connection, &error);
            Box::pin(linger(stream)).await;
        }
        HttpExit::Expired => {
            connection.counts.expired.add(1);
            // What it has not read by now would stay with the kernel until it does.
            if activity.write_blocked() {
                stream.reset_on_close();
            }
        }
    }
}

/// Answers one request.
async fn answer(
    connection: Rc<Connection>,
    activity: Rc<ClientActivity>,
    slot: Rc<Cell<Option<Box<Opening>>>>,
    request: Request<Incoming>,
) -> Result<Response<ServedBody>, Infallible> {
    let busy = activity.busy();
    let first_head = activity.take_first_head();
    let response = match session::serve(&connection, request, first_head.as_deref()).await {
        SessionOutcome::Response(response) => response.map(Content::Endpoint),
        SessionOutcome::Redirect(status, location) => response::redirect(status, location),
        SessionOutcome::Rejected(refusal) => {
            response::rejection(refusal, connection.worker.snapshot().server.reason_header)
        }
        SessionOutcome::Tunnel(opening) => {
            slot.set(Some(opening));
            // Whoever polled us looks into the slot; there is nothing to come back to.
            std::future::pending().await
        }
    };
    Ok(response.map(|content| ServedBody::new(content, busy)))
}

/// How far a connection has come in taking its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainStep {
    /// No drain has begun.
    No,
    /// One has, but the first request, which may be on its way, has until then.
    AfterFirst(Instant),
    /// hyper knows.
    Taken,
}

/// Polls hyper until there is something to do after it: a tunnel in the slot, its end, a deadline.
/// `poll_http` is told when to finish what runs and take nothing new.
async fn drive(
    connection: &Connection,
    activity: &ClientActivity,
    slot: &Cell<Option<Box<Opening>>>,
    mut poll_http: impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
) -> HttpExit {
    let mut drain = connection.listener.drain.watch();
    let mut leave = DrainStep::No;
    let far = Instant::now() + Duration::from_secs(86_400);
    let mut alarm = std::pin::pin!(tokio::time::sleep_until(far));
    let due = || activity.deadline(&connection.timeouts).unwrap_or(far);
    let mut poll = |cx: &mut Context<'_>, finish: bool| {
        let done = poll_http(cx, finish);
        match (slot.take(), done) {
            (Some(opening), _) => Poll::Ready(HttpExit::Tunnel(opening)),
            (None, Poll::Ready(result)) => Poll::Ready(HttpExit::Done(result)),
            (None, Poll::Pending) => Poll::Pending,
        }
    };
    loop {
        let mut finish = false;
        let mut wake_at = due();
        if let DrainStep::AfterFirst(until) = leave {
            finish = !activity.awaits_first() || until <= Instant::now();
            leave = if finish { DrainStep::Taken } else { leave };
            wake_at = wake_at.min(until);
        }
        if alarm.deadline() != wake_at {
            alarm.as_mut().reset(wake_at);
        }
        let armed = due();
        let awaited = matches!(leave, DrainStep::AfterFirst(_));
        // A deadline that has moved on is looked at when the alarm for the old one goes off.
        let is_stale = || due() < armed || (awaited && !activity.awaits_first());
        tokio::select! {
            biased;
            urgency = drain.begun(), if leave == DrainStep::No => {
                leave = DrainStep::AfterFirst(match urgency {
                    // Until it is due anyway.
                    Urgency::Low => far,
                    Urgency::High => Instant::now() + FIRST_REQUEST,
                });
            }
            next = std::future::poll_fn(|cx| match poll(cx, std::mem::take(&mut finish)) {
                Poll::Ready(next) => Poll::Ready(Some(next)),
                Poll::Pending if is_stale() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }) => {
                if let Some(next) = next {
                    return next;
                }
            }
            () = alarm.as_mut() => {
                if due() <= Instant::now() {
                    return HttpExit::Expired;
                }
            }
        }
    }
}

/// hyper has answered these by itself: they are counted from the connection's error.
fn record_refusal_by_hyper(connection: &Connection, error: &hyper::Error) {
    let rejection = if error.is_parse_too_large() {
        Rejection::HeadTooLarge
    } else if error.is_parse() {
        Rejection::BadRequest
    } else {
        tracing::debug!(client = %connection.peer, %error, "connection ended");
        return;
    };
    let facts = RequestFacts {
        session: connection.worker.next_session(),
        client: connection.peer,
        listener: &connection.counts,
        route: None,
        is_handshake: false,
        request_id: None,
        trace: None,
        method: None,
        host: None,
        path: None,
        started: StdInstant::now(),
    };
    access_log::rejected(
        &connection.worker.recorder,
        facts,
        rejection,
        Some(&error.to_string()),
    );
}

/// Closes our side and gives the client a moment to see it.
async fn linger(mut stream: Stream) {
    let work = async {
        stream.shutdown().await?;
        let mut discarded = [0; 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            let length = stream.read(&mut discarded).await?;
            if length == 0 {
                break;
            }
            left = left.saturating_sub(length);
        }
        std::io::Result::Ok(())
    };
    // A client that is gone, or will not go, is closed either way.
    let _ = tokio::time::timeout(LINGER, work).await;
}
