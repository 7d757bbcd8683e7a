//! One client connection: HTTP/1.1 by hyper, our deadlines, and the way from there into a tunnel.
//!
//! hyper never sees an upgrade. When a session has agreed on a tunnel, its service stays pending,
//! the socket and hyper's read-ahead are extracted from the connection, the rest of the request is
//! dropped, and a new task relays.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::client_io::{ClientActivity, ClientIo};
use super::response::{self, Answer, ServedBody};
use crate::config::model::ListenerLimits;
use crate::drain::Urgency;
use crate::net::client_body::ClientBody;
use crate::net::stream::Stream;
use crate::net::turns::TurnTask;
use crate::protocol::rejection::Rejection;
use crate::protocol::target;
use crate::session::{self, Connection, ConnectionGuards, Opening, UnparsedHead};

/// How long a client may go on sending after we have closed our side, so that it sees our last
/// response and not a reset (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// How many bytes it may send in that time.
const LINGER_BYTES: usize = 256 * 1024;

/// Bytes that hyper may buffer in each direction, which is what a stalled client can cost. The
/// limit is higher only where heads may be longer.
const MAX_BUFFER: usize = 64 * 1024;

/// How many lines hyper lets a head have if it is not given a number.
const HYPER_HEADERS: usize = 100;

/// How long a connection that was accepted just before a stop has for its first request: it may
/// have been in the kernel's backlog, together with that request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// When the alarm of a connection goes off that has no deadline: it is set again then.
const FAR: Duration = Duration::from_secs(86_400);

/// How often a client that is not being read is looked at.
const HANGUP_INTERVAL: Duration = Duration::from_secs(1);

/// How the HTTP part of a connection ended.
enum HttpExit {
    /// A session has agreed on a tunnel.
    Tunnel(Box<Opening>),
    /// hyper is done.
    Done(hyper::Result<()>),
    /// The client missed a deadline.
    Expired,
    /// The client left, and the session did not take what it had sent before.
    Left,
    /// The response was broken off, and the client did not accept what had come of it.
    BrokenOff,
}

/// Where a session leaves the tunnel that it has agreed on, for [`drive`] to find.
type OpeningSlot = Rc<Cell<Option<Box<Opening>>>>;

/// Serves a connection until it has ended or has become a tunnel with a task of its own. The
/// deadline of its first request counts from `since`.
pub async fn serve(
    connection: Rc<Connection>,
    stream: Stream,
    guards: ConnectionGuards,
    since: Instant,
) {
    let activity = Rc::new(ClientActivity::new(since));
    let slot = OpeningSlot::default();
    let service = service(&connection, &activity, &slot);
    let interim = Rc::clone(&connection.interim);
    let io = TokioIo::new(ClientIo::new(stream, Rc::clone(&activity), interim));
    let mut http = http_builder(&connection.limits).serve_connection(io, service);
    // hyper must leave the socket open when it is done: a tunnel needs it, and `linger` closes it.
    let exit = TurnTask::new(drive(&connection, &activity, &slot, |cx, drain| {
        if drain {
            Pin::new(&mut http).graceful_shutdown();
        }
        http.poll_without_shutdown(cx)
    }))
    .await;
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner().into_stream();
    match exit {
        HttpExit::Tunnel(opening) if activity.write_blocked() => {
            // With pipelining, part of an earlier response is still in hyper's buffer, and hyper
            // has no way to give it back. Without it, our 101 would stand in the middle of that
            // response.
            drop((opening, stream));
        }
        HttpExit::Tunnel(opening) => {
            session::relay(&connection, *opening, stream, &parts.read_buf, guards);
        }
        HttpExit::Done(Ok(())) => Box::pin(linger(stream, &[])).await,
        HttpExit::BrokenOff => stream.reset_on_close(),
        HttpExit::Done(Err(_)) if activity.must_reset() => stream.reset_on_close(),
        HttpExit::Done(Err(error)) => {
            let response = match reject_unread(&connection, &error) {
                // A response that comes first has not been written to its end.
                Some(_) if activity.owes_response() => Vec::new(),
                Some(rejection) => {
                    let reason_header = connection.worker.snapshot().server.reason_header;
                    response::last_rejection(rejection, reason_header)
                }
                None => Vec::new(),
            };
            Box::pin(linger(stream, &response)).await;
        }
        HttpExit::Left => {
            tracing::debug!(client = %connection.peer, "the client left during its request");
        }
        HttpExit::Expired => {
            connection.counts.expired.add(1);
            // A reset discards what the client has not read. A normal close would leave it in the
            // kernel's send buffer, for as long as a client that does not read cares to stay.
            if activity.write_blocked() {
                stream.reset_on_close();
            }
        }
    }
}

/// How hyper reads heads that may have these limits.
fn http_builder(limits: &ListenerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(limits.header_bytes.max(MAX_BUFFER))
        .max_header_size(limits.header_bytes)
        // hyper has one timer for heads and keep-alive. It is off: `drive` enforces our deadlines.
        .header_read_timeout(None);
    // Its own number needs no list whose length is known only at run time: that list is filled for each head.
    if limits.header_count != HYPER_HEADERS {
        builder.max_headers(limits.header_count);
    }
    builder
}

/// The service that hyper calls with each request of a connection.
fn service(
    connection: &Rc<Connection>,
    activity: &Rc<ClientActivity>,
    slot: &OpeningSlot,
) -> impl Service<Request<Incoming>, Response = Response<ServedBody>, Error = Infallible, Future: Unpin>
+ Unpin {
    let (connection, activity, slot) =
        (Rc::clone(connection), Rc::clone(activity), Rc::clone(slot));
    // Boxed, because `poll_without_shutdown` requires a service future that is `Unpin`.
    service_fn(move |request| {
        Box::pin(respond(
            Rc::clone(&connection),
            Rc::clone(&activity),
            Rc::clone(&slot),
            request,
        ))
    })
}

/// Serves one request.
async fn respond(
    connection: Rc<Connection>,
    activity: Rc<ClientActivity>,
    slot: OpeningSlot,
    request: Request<Incoming>,
) -> Result<Response<ServedBody>, Infallible> {
    let busy = activity.busy(!request.body().is_end_stream());
    activity.set_version(request.version());
    let line = activity.take_line();
    let head = UnparsedHead {
        first: activity.take_first_head(),
        has_fragment: line
            .is_some_and(|line| target::had_fragment(&line, request.method(), request.uri())),
    };
    let outcome = session::serve(&connection, request.map(ClientBody::Http1), &head).await;
    let reason_header = connection.worker.snapshot().server.reason_header;
    let response = match response::answer(outcome, reason_header) {
        Answer::Response(response) => response,
        Answer::Tunnel(opening) => {
            slot.set(Some(opening));
            // `drive` finds the opening in the slot right after this poll and drops this future. To
            // return would make hyper write a response, and finish it.
            std::future::pending().await
        }
    };
    Ok(response.map(|content| ServedBody::new(content, busy)))
}

/// How far a connection has come in a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainStep {
    /// No drain has begun.
    NotDraining,
    /// A drain has begun, but the first request may be on its way and has until then.
    AwaitingFirstRequest(Instant),
    /// hyper has been asked to finish.
    Finishing,
}

impl DrainStep {
    /// Advances if the first request has been received or its time is over. Returns whether hyper
    /// must be asked to finish now.
    fn advance(&mut self, activity: &ClientActivity) -> bool {
        let Self::AwaitingFirstRequest(until) = *self else {
            return false;
        };
        let finish = !activity.awaits_first() || until <= Instant::now();
        if finish {
            *self = Self::Finishing;
        }
        finish
    }

    /// When the wait for the first request is over, if there is one.
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::AwaitingFirstRequest(until) => Some(until),
            Self::NotDraining | Self::Finishing => None,
        }
    }
}

/// Polls hyper until a tunnel is in the slot, the connection has ended, or a deadline has passed.
/// With `true`, `poll_http` asks hyper to finish the current request and accept no further one.
async fn drive(
    connection: &Connection,
    activity: &ClientActivity,
    slot: &OpeningSlot,
    mut poll_http: impl FnMut(&mut Context<'_>, bool) -> Poll<hyper::Result<()>>,
) -> HttpExit {
    let mut drain = connection.listener.drain.watch();
    let mut drain_step = DrainStep::NotDraining;
    // One timer for all deadlines of the connection, and it is moved rarely: most of them are met,
    // and a timer that is reset with every request costs more than one that goes off for nothing.
    let far = Cell::new(Instant::now() + FAR);
    let mut alarm = std::pin::pin!(tokio::time::sleep_until(far.get()));
    let due = || {
        let due = activity.deadline(&connection.timeouts);
        due.unwrap_or(far.get())
    };
    let mut poll = |cx: &mut Context<'_>, finish: bool| {
        let done = poll_http(cx, finish);
        // The slot comes first: once it is full, hyper's own result no longer matters.
        match (slot.take(), done) {
            (Some(opening), _) => Poll::Ready(HttpExit::Tunnel(opening)),
            (None, Poll::Ready(result)) => Poll::Ready(HttpExit::Done(result)),
            (None, Poll::Pending) if activity.is_broken_off() => Poll::Ready(HttpExit::BrokenOff),
            (None, Poll::Pending) => Poll::Pending,
        }
    };
    loop {
        let mut finish = drain_step.advance(activity);
        let armed = due();
        let awaited = drain_step.deadline();
        let mut wake_at = awaited.map_or(armed, |until| armed.min(until));
        let is_watched = activity.is_unread();
        if is_watched {
            wake_at = wake_at.min(Instant::now() + HANGUP_INTERVAL);
        }
        if alarm.deadline() != wake_at {
            alarm.as_mut().reset(wake_at);
        }
        // A deadline that has moved to later needs nothing: when the alarm of the old one goes off,
        // the loop sees that nothing is due. Only one that has become earlier needs the alarm
        // reset.
        let is_stale = || {
            due() < armed
                || (awaited.is_some() && !activity.awaits_first())
                || (activity.is_unread() && !is_watched)
        };
        // The order is that of the branches: a drain must be known before hyper starts the next
        // request, and a response that is ready wins against a deadline that passes in the same
        // moment.
        tokio::select! {
            biased;
            urgency = drain.begun(), if drain_step == DrainStep::NotDraining => {
                drain_step = DrainStep::AwaitingFirstRequest(match urgency {
                    // No hurry: the first request has its ordinary deadline.
                    Urgency::Unbounded | Urgency::Low => far.get(),
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
                let now = Instant::now();
                if activity.deadline(&connection.timeouts).is_some_and(|due| due <= now) {
                    return HttpExit::Expired;
                }
                if far.get() <= now {
                    far.set(now + FAR);
                }
                if activity.has_left() {
                    return HttpExit::Left;
                }
            }
        }
    }
}

/// The message of hyper's error for a request target that it does not accept. It has no other sign.
const INVALID_TARGET: &str = "invalid URI";

/// Rejects, logs and counts a request whose head hyper could not read; `None` if the connection has ended
/// in another way. All that is known of the request is the connection's error.
fn reject_unread(connection: &Connection, error: &hyper::Error) -> Option<Rejection> {
    let rejection = if error.is_parse_too_large() {
        Rejection::HeadTooLarge
    } else if error.is_parse() && error.to_string() == INVALID_TARGET {
        Rejection::BadTarget
    } else if error.is_parse() {
        Rejection::BadRequest
    } else {
        tracing::debug!(client = %connection.peer, %error, "connection ended");
        return None;
    };
    response::log_unserved(connection, rejection, Some(&error.to_string()));
    Some(rejection)
}

/// Writes `last`, closes our side and reads on for a moment: a close with unread bytes would be a reset,
/// which may destroy our last response before the client has read it (RFC 9112 section 9.6).
pub(super) async fn linger(mut stream: Stream, last: &[u8]) {
    let work = async {
        stream.write_all(last).await?;
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
    // The connection is closed in any case, whether the client has closed it or did not in time.
    let _ = tokio::time::timeout(LINGER, work).await;
}
