//! What an endpoint sends before its final response: interim responses (1xx) for the client, and the permission
//! to send the body of a request that asks for it (`Expect: 100-continue`).
//!
//! hyper's client hands them to a callback, which must be `Send` although all of this is on one thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode};

/// How long an endpoint has to permit the body or to refuse it. There are servers that do neither, so the body is
/// sent then, as clients do by themselves (RFC 9110 section 10.1.1).
pub(super) const PERMISSION_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum number of interim responses to one request that are passed on. Further ones are dropped.
const MAX_INTERIM: usize = 16;

/// The maximum size of the interim responses to one request that are passed on.
const MAX_INTERIM_BYTES: usize = 64 * 1024;

/// An interim response.
#[derive(Debug)]
pub struct InterimResponse {
    /// The status code: neither 100, which permits a body, nor 101.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
}

/// Whether the body of a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyPermission {
    /// The endpoint has not decided.
    Awaited,
    /// It may be sent.
    Given,
    /// The endpoint has responded without it, and its response is on its way to the client.
    Refused,
    /// The response has ended, so that the connection must be closed.
    Abandoned,
}

/// The final response has come without the body, so that the body is never sent.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint has responded without the request body")]
pub(super) struct BodyRefused;

/// What an endpoint sends before its final response to one request.
#[derive(Debug)]
pub struct InterimResponses {
    state: Mutex<InterimState>,
    /// The session, which passes interim responses on.
    session: AtomicWaker,
    /// The task that sends the body.
    body: AtomicWaker,
}

#[derive(Debug)]
struct InterimState {
    waiting: Vec<InterimResponse>,
    received: usize,
    received_bytes: usize,
    permission: BodyPermission,
}

impl InterimResponses {
    /// None so far. With `expects`, the body waits for the endpoint's permission.
    pub fn new(expects: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(InterimState {
                waiting: Vec::new(),
                received: 0,
                received_bytes: 0,
                permission: match expects {
                    true => BodyPermission::Awaited,
                    false => BodyPermission::Given,
                },
            }),
            session: AtomicWaker::new(),
            body: AtomicWaker::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, InterimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives what comes in response to this request.
    pub fn watch<B>(self: &Arc<Self>, request: &mut Request<B>) {
        let responses = Arc::clone(self);
        hyper::ext::on_informational(request, move |response| {
            responses.receive(response.status(), response.headers());
        });
    }

    fn receive(&self, status: StatusCode, headers: &HeaderMap) {
        if status == StatusCode::CONTINUE {
            self.permit_body();
            return;
        }
        let fields = headers.iter();
        let length: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        let mut state = self.lock();
        state.received += 1;
        state.received_bytes += length;
        if state.received <= MAX_INTERIM && state.received_bytes <= MAX_INTERIM_BYTES {
            state.waiting.push(InterimResponse {
                status,
                headers: headers.clone(),
            });
            drop(state);
            self.session.wake();
        }
    }

    /// Waits for interim responses: one or more, in order. Cancel safe.
    pub async fn next(&self) -> Vec<InterimResponse> {
        std::future::poll_fn(|cx| {
            self.session.register(cx.waker());
            match std::mem::take(&mut self.lock().waiting) {
                none if none.is_empty() => Poll::Pending,
                some => Poll::Ready(some),
            }
        })
        .await
    }

    /// The final response has come. If the body still waits for permission, it is refused, until the returned
    /// guard is dropped: then the connection is closed, because the rest of the request is missing on it.
    pub fn finish(self: &Arc<Self>) -> Option<RefusedBody> {
        let mut state = self.lock();
        if state.permission != BodyPermission::Awaited {
            return None;
        }
        state.permission = BodyPermission::Refused;
        Some(RefusedBody(Arc::clone(self)))
    }

    /// The body may be sent, if the endpoint has not decided otherwise.
    pub(super) fn permit_body(&self) {
        let mut state = self.lock();
        if state.permission == BodyPermission::Awaited {
            state.permission = BodyPermission::Given;
            drop(state);
            self.body.wake();
        }
    }

    /// Whether the endpoint may still permit the body.
    pub(super) fn is_undecided(&self) -> bool {
        self.lock().permission == BodyPermission::Awaited
    }

    /// Ready when the body may be sent, or never will be.
    pub(super) fn poll_permission(&self, cx: &Context<'_>) -> Poll<Result<(), BodyRefused>> {
        self.body.register(cx.waker());
        match self.lock().permission {
            BodyPermission::Given => Poll::Ready(Ok(())),
            BodyPermission::Abandoned => Poll::Ready(Err(BodyRefused)),
            BodyPermission::Awaited | BodyPermission::Refused => Poll::Pending,
        }
    }
}

/// The body of a request that the endpoint has refused, while its response is passed on. An error of the body
/// would make hyper drop that response, so it comes when this is dropped.
#[derive(Debug)]
pub struct RefusedBody(Arc<InterimResponses>);

impl Drop for RefusedBody {
    fn drop(&mut self) {
        self.0.lock().permission = BodyPermission::Abandoned;
        self.0.body.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn permission(responses: &InterimResponses) -> Poll<bool> {
        let cx = Context::from_waker(std::task::Waker::noop());
        let polled = responses.poll_permission(&cx);
        polled.map(|permission| permission.is_ok())
    }

    #[test]
    fn a_body_waits_for_a_decision() {
        assert_eq!(permission(&InterimResponses::new(false)), Poll::Ready(true));
        let permitted = InterimResponses::new(true);
        assert_eq!(permission(&permitted), Poll::Pending);
        permitted.receive(StatusCode::EARLY_HINTS, &HeaderMap::new());
        assert_eq!(permission(&permitted), Poll::Pending);
        permitted.receive(StatusCode::CONTINUE, &HeaderMap::new());
        assert_eq!(permission(&permitted), Poll::Ready(true));
        assert!(permitted.finish().is_none());
        let refused = InterimResponses::new(true);
        let guard = refused.finish();
        refused.receive(StatusCode::CONTINUE, &HeaderMap::new());
        assert_eq!(permission(&refused), Poll::Pending);
        drop(guard);
        assert_eq!(permission(&refused), Poll::Ready(false));
    }

    #[test]
    fn interim_responses_have_bounds() {
        let received =
            |responses: &InterimResponses| responses.next().now_or_never().map(|all| all.len());
        let many = InterimResponses::new(false);
        assert_eq!(received(&many), None);
        for _ in 0..MAX_INTERIM + 5 {
            many.receive(StatusCode::EARLY_HINTS, &HeaderMap::new());
        }
        assert_eq!(received(&many), Some(MAX_INTERIM));
        let large = InterimResponses::new(false);
        let value = "x".repeat(MAX_INTERIM_BYTES / 3).parse().unwrap();
        let headers = HeaderMap::from_iter([(http::header::LINK, value)]);
        for _ in 0..3 {
            large.receive(StatusCode::EARLY_HINTS, &headers);
        }
        assert_eq!(received(&large), Some(2));
    }
}
