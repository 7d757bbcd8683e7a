//! Plain HTTP: a request passed on and its reply passed back, both streaming.
//!
//! Long-polling and event streams live here, so nothing is collected, in either direction.

use std::rc::Rc;

use ::http::header::HOST;
use ::http::request::Parts;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::outcome::Outcome;
use super::refusal::Refusal;
use super::routed::Session;
use crate::observe::access_log;
use crate::protocol::edit::Edit;
use crate::protocol::rejection::Rejection;
use crate::protocol::{forwarded, hop};
use crate::upstream::endpoint::Lease;
use crate::upstream::http::{self, Barred, Key, Loan, ReplyBody, RequestBody, Sender, Upload};

/// Passes the request on and the reply back.
pub(super) async fn proxy(
    session: &Session<'_>,
    parts: Parts,
    body: Incoming,
) -> Result<Outcome, Refusal> {
    if !hop::is_simply_coded(&parts.headers) {
        return Err(Rejection::TransferCoding.into());
    }
    let edit = session.request_edit();
    let limit = session.connection.timeouts.request_body;
    let (body, upload) = RequestBody::new(body, limit, || Barred(edit.barred().cloned().collect()));
    let mut request = Request::from_parts(parts, body);
    let mut attempts = Attempts::new(session);
    let mut lease = attempts.next().await?;
    loop {
        prepare(session, &mut request, &lease, &edit)?;
        let spare = attempts.may_repeat().then(|| spare(&request)).flatten();
        let asked = ask(session, &mut attempts, &lease, request, &upload).await;
        if let Asked::Replied(response, _) = &asked {
            session.replied(lease.endpoint(), response.status());
        }
        let next = spare.and_then(|spare| {
            let next = match &asked {
                Asked::Replied(response, _) => attempts.instead_of(&lease, response.status()),
                Asked::Failed(Failure::TooSlow) => attempts.instead_of_silent(&lease),
                Asked::Failed(_) | Asked::NotReached(_) => None,
            };
            Some((spare, next?))
        });
        match (next, asked) {
            (Some(next), _) => (request, lease) = next,
            (None, Asked::Replied(response, sender)) => {
                return finish(session, response, sender, lease);
            }
            (None, Asked::Failed(failure)) => return Err(failure.into_refusal(&lease)),
            (None, Asked::NotReached(unsent)) => {
                // Its count ends before another is picked.
                drop(lease);
                lease = attempts.next().await?;
                request = *unsent;
            }
        }
    }
}

/// What came of asking one endpoint.
enum Asked {
    Replied(Response<Incoming>, Sender),
    Failed(Failure),
    /// There is no connection: the request as it was.
    NotReached(Box<Request<RequestBody>>),
}

/// Asks the leased endpoint, over an idle connection or a fresh one.
async fn ask(
    session: &Session<'_>,
    attempts: &mut Attempts<'_>,
    lease: &Lease,
    mut request: Request<RequestBody>,
    upload: &Upload,
) -> Asked {
    let worker = &session.connection.worker;
    let key = Key::of(session.upstream, lease);
    if let Some(mut sender) = key.and_then(|key| worker.pool.take(key)) {
        match reuse(session, &mut sender, request, upload).await {
            Ok(response) => return Asked::Replied(response, sender),
            Err(Failure::Retry(again)) => request = *again,
            Err(failure) => return Asked::Failed(failure),
        }
    }
    let Some(reached) = attempts.connect(lease).await else {
        return Asked::NotReached(Box::new(request));
    };
    match http::open(reached.stream, reached.share, &worker.tasks).await {
        Err(error) => Asked::Failed(Failure::NoReply(error)),
        Ok(mut sender) => match send(session, &mut sender, request, upload).await {
            Ok(response) => Asked::Replied(response, sender),
            Err(failure) => Asked::Failed(failure),
        },
    }
}

/// The same request once more, if sending it twice does no harm (RFC 9110 section 9.2.2).
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    (safe && request.body().is_empty()).then(|| {
        let mut copy = Request::new(RequestBody::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        copy
    })
}

/// Why a request has no reply.
enum Failure {
    /// It may be sent again, elsewhere or over another connection.
    Retry(Box<Request<RequestBody>>),
    /// The endpoint did not answer, or not in HTTP.
    NoReply(hyper::Error),
    /// What the client sent is no body.
    UploadBroken(hyper::Error),
    /// The client did not go on sending.
    UploadStalled,
    /// The endpoint did not answer in time.
    TooSlow,
}

impl Failure {
    fn into_refusal(self, lease: &Lease) -> Refusal {
        let endpoint = &lease.endpoint().label;
        match self {
            Self::Retry(_) => Refusal {
                rejection: Rejection::BadAnswer,
                detail: Some(format!("{endpoint}: closed before the request was sent")),
            },
            Self::NoReply(error) => Refusal::because(Rejection::BadAnswer, endpoint, &error),
            Self::UploadBroken(error) => Refusal::because(Rejection::BadRequest, "body", &error),
            Self::UploadStalled => Rejection::RequestBodyTimeout.into(),
            Self::TooSlow => Refusal {
                rejection: Rejection::ResponseTimeout,
                detail: Some(format!("{endpoint}: no reply in time")),
            },
        }
    }
}

/// Makes the request one of ours to this endpoint.
fn prepare(
    session: &Session<'_>,
    request: &mut Request<RequestBody>,
    lease: &Lease,
    edit: &Edit<'_>,
) -> Result<(), Refusal> {
    *request.uri_mut() = session.uri.parse().map_err(|_| Rejection::BadTarget)?;
    *request.version_mut() = Version::HTTP_11;
    let length = request.body().length();
    let headers = request.headers_mut();
    hop::strip_request(headers);
    hop::frame_request(headers, length);
    forwarded::write(headers, &session.via());
    edit.apply(headers);
    let host = session.host_for(lease);
    headers.insert(
        HOST,
        HeaderValue::from_str(host).map_err(|_| Rejection::BadHost)?,
    );
    Ok(())
}

/// Sends over a connection that was used before: the endpoint may be closing it right now. What it
/// cannot have acted on is sent again.
async fn reuse(
    session: &Session<'_>,
    sender: &mut Sender,
    request: Request<RequestBody>,
    upload: &Upload,
) -> Result<Response<Incoming>, Failure> {
    let again = spare(&request);
    match (send(session, sender, request, upload).await, again) {
        // No byte of a reply: hyper would have called it a parse error otherwise.
        (Err(Failure::NoReply(error)), Some(again))
            if error.is_incomplete_message() || error.is_closed() || error.is_canceled() =>
        {
            Err(Failure::Retry(Box::new(again)))
        }
        (result, _) => result,
    }
}

/// Sends, and waits for the head of the reply: so long after the last piece of the request. While
/// the client has to go on sending, the endpoint need not answer.
async fn send(
    session: &Session<'_>,
    sender: &mut Sender,
    request: Request<RequestBody>,
    upload: &Upload,
) -> Result<Response<Incoming>, Failure> {
    let limit = session.upstream.timeouts().response;
    let mut reply = std::pin::pin!(sender.try_send_request(request));
    let mut deadline = Instant::now() + limit;
    loop {
        match tokio::time::timeout_at(deadline, &mut reply).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut failure)) => {
                return Err(match failure.take_message() {
                    Some(request) => Failure::Retry(Box::new(request)),
                    None if upload.expired() => Failure::UploadStalled,
                    None if upload.is_broken() => Failure::UploadBroken(failure.into_error()),
                    None => Failure::NoReply(failure.into_error()),
                });
            }
            Err(_) => {
                let last = if upload.is_waiting() {
                    Instant::now()
                } else {
                    upload.last_progress()
                };
                if last + limit <= deadline {
                    return Err(Failure::TooSlow);
                }
                deadline = last + limit;
            }
        }
    }
}

fn finish(
    session: &Session<'_>,
    response: Response<Incoming>,
    sender: Sender,
    lease: Lease,
) -> Result<Outcome, Refusal> {
    let home = Key::of(session.upstream, &lease);
    let home = home.map(|key| (Rc::clone(&session.connection.worker.pool), key));
    reply(
        session,
        response,
        Loan {
            sender,
            lease,
            home,
        },
    )
}

/// Makes an endpoint's reply one of ours to the client.
pub(super) fn reply(
    session: &Session<'_>,
    response: Response<Incoming>,
    loan: Loan,
) -> Result<Outcome, Refusal> {
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rejection::UnexpectedSwitch.into());
    }
    if let Some(fault) = hop::framing_fault(&parts.headers) {
        return Err(Refusal {
            rejection: Rejection::BadAnswer,
            detail: Some(format!("{}: {fault}", loan.lease.endpoint().label)),
        });
    }
    hop::strip_response(&mut parts.headers);
    session.response_edit(&loan.lease).apply(&mut parts.headers);
    parts.version = Version::HTTP_11;
    access_log::replied(
        &session.connection.worker.recorder,
        session.facts,
        Some(loan.lease.endpoint()),
        parts.status.as_u16(),
    );
    Ok(Outcome::Reply(Response::from_parts(
        parts,
        ReplyBody::new(body, loan),
    )))
}
