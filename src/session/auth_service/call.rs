//! A request to a service that decides about requests, over the connections of its upstream.

use std::rc::Rc;
use std::time::{Instant as Moment, SystemTime};

use ::http::header::HOST;
use ::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::auth::question::AuthQuestion;
use crate::auth::service::{ServiceVerdict, judge};
use crate::causes::with_causes;
use crate::config::model::AuthService;
use crate::observe::access_log::SessionId;
use crate::protocol::edit::HOST_OF_UNIX;
use crate::protocol::{connection_auth, hop_by_hop, proxy_header};
use crate::quota::failure_reports::warn_once_a_minute;
use crate::session::attempts::open_connection;
use crate::session::passive_health;
use crate::session::worker::Worker;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::{Affinity, PickError, Upstream};
use crate::upstream::http::{
    self, BorrowedConnection, PoolKey, RequestBody, RequestSender, ResponseBody, ReturnTo,
};
use crate::upstream::unanswered::is_unanswered;

/// The longest body of a refusal that is passed on, and of another response that is read to use its connection
/// again.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A question on its way to a service.
pub(super) struct ServiceCall<'a> {
    pub(super) worker: &'a Worker,
    pub(super) upstream: &'a Upstream,
    pub(super) service: &'a AuthService,
    pub(super) question: &'a AuthQuestion,
    pub(super) session: SessionId,
    pub(super) deadline: Instant,
}

/// Why an endpoint gave no response.
struct CallFault {
    why: String,
    /// Whether another one may be asked.
    may_be_repeated: bool,
}

impl ServiceCall<'_> {
    /// What the service decides. `slot` is held until the connection is free again.
    ///
    /// # Errors
    /// What is wrong: it has decided nothing.
    pub(super) async fn verdict(
        self,
        slot: OwnedSemaphorePermit,
    ) -> Result<ServiceVerdict, String> {
        let deadline = self.deadline;
        let response = timeout_at(deadline, self.response()).await;
        let (response, connection) = response.map_err(|_| "no response in time".to_owned())??;
        let (parts, body) = response.into_parts();
        let verdict = judge(
            self.service,
            parts.status,
            &parts.headers,
            SystemTime::now(),
        )?;
        let body = whole(body, connection);
        match verdict {
            ServiceVerdict::Admitted(_) => {
                // The client does not wait for a body that is of no use.
                self.worker.tasks.spawn(async move {
                    let _ = timeout_at(deadline, body).await;
                    drop(slot);
                });
                Ok(verdict)
            }
            ServiceVerdict::Refused(mut refusal) => {
                // The status has decided already, whatever happens to the body.
                refusal.body = timeout_at(deadline, body).await.ok().flatten();
                Ok(ServiceVerdict::Refused(refusal))
            }
        }
    }

    /// The response of the first endpoint that has one.
    async fn response(&self) -> Result<(Response<Incoming>, BorrowedConnection), String> {
        let upstream = self.upstream;
        upstream.count_request(Moment::now());
        let mut tried = Vec::new();
        let mut why = None;
        for _ in 0..upstream.retry().tries.get() {
            let lease = match upstream.pick_in_turn(Affinity::default(), &tried).await {
                Ok(lease) => lease,
                Err(PickError::Full) => {
                    why = why.or_else(|| Some("all endpoints are full".to_owned()));
                    break;
                }
                Err(PickError::NotReady) => break,
            };
            tried.push(lease.endpoint().id);
            match self.ask_endpoint(lease).await {
                Ok(response) => return Ok(response),
                Err(fault) => {
                    why = Some(fault.why);
                    if !fault.may_be_repeated {
                        break;
                    }
                }
            }
        }
        Err(why.unwrap_or_else(|| "no endpoint is available".to_owned()))
    }

    /// Asks the leased endpoint, over an idle connection or a new one.
    async fn ask_endpoint(
        &self,
        lease: Lease,
    ) -> Result<(Response<Incoming>, BorrowedConnection), CallFault> {
        let request = self.request(&lease);
        // With NTLM and its like, a connection is one client's.
        let is_shared = !connection_auth::is_in_request(request.headers());
        let key = PoolKey::of(self.upstream, &lease).filter(|_| is_shared);
        if let Some(mut sender) = key.and_then(|key| self.worker.pool.take(key)) {
            match self.send(&mut sender, request, &lease).await {
                Ok(response) => return self.answered(response, sender, lease, key),
                // It may have been closing: the question is asked again over a new connection.
                Err(fault) if fault.may_be_repeated => {}
                Err(fault) => return Err(fault),
            }
        }
        let mut sender = self.connect(&lease).await?;
        let response = self.send(&mut sender, self.request(&lease), &lease).await;
        let response = response.map_err(|fault| CallFault {
            may_be_repeated: fault.may_be_repeated
                && self.upstream.retry().on.closed
                && self.upstream.take_retry(Moment::now()),
            ..fault
        })?;
        self.answered(response, sender, lease, key)
    }

    /// The request: a GET without a body.
    fn request(&self, lease: &Lease) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        if let Ok(path) = self.service.path.parse() {
            *request.uri_mut() = path;
        }
        let headers = request.headers_mut();
        let host = lease.endpoint().host();
        let host = HeaderValue::from_str(host.as_deref().unwrap_or(HOST_OF_UNIX));
        headers.extend(host.map(|host| (HOST, host)));
        for (name, value) in self.question.fields() {
            headers.append(name, value.clone());
        }
        request
    }

    async fn connect(&self, lease: &Lease) -> Result<RequestSender, CallFault> {
        let endpoint = lease.endpoint();
        // The connection is our own: it does not carry one client's requests.
        let proxy_header = proxy_header::write(self.upstream.connecting().send_proxy, None);
        // An endpoint that does not respond at all must leave time for another one.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = self.upstream.timeouts().connect.min(left / 2);
        let (worker, upstream) = (self.worker, self.upstream);
        let connected = open_connection(worker, upstream, endpoint, &proxy_header, limit).await;
        let fault = |why: String| CallFault {
            why: format!("{}: {why}", endpoint.label),
            may_be_repeated: true,
        };
        let reached = match connected {
            Ok(reached) => reached,
            Err(error) => {
                warn_once_a_minute!(
                    endpoint.reports,
                    &error.cause(),
                    "cannot connect to endpoint",
                    session = %self.session,
                    upstream = %self.upstream.name,
                    endpoint = %endpoint.label,
                    %error
                );
                passive_health::connect_failed(self.upstream, endpoint, &error, self.session);
                return Err(fault(error.to_string()));
            }
        };
        passive_health::connected(self.upstream, endpoint);
        let max_lines = self.upstream.settings.max_header_lines;
        let opened = http::open(reached.stream, reached.port, max_lines, &self.worker.tasks).await;
        opened.map_err(|error| fault(with_causes(&error)))
    }

    async fn send(
        &self,
        sender: &mut RequestSender,
        request: Request<RequestBody>,
        lease: &Lease,
    ) -> Result<Response<Incoming>, CallFault> {
        let mut failure = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        let is_unsent = failure.take_message().is_some();
        let error = failure.into_error();
        Err(CallFault {
            why: format!("{}: {}", lease.endpoint().label, with_causes(&error)),
            may_be_repeated: is_unsent
                || is_unanswered(&error)
                || error.is_closed()
                || error.is_canceled(),
        })
    }

    fn answered(
        &self,
        response: Response<Incoming>,
        sender: RequestSender,
        lease: Lease,
        key: Option<PoolKey>,
    ) -> Result<(Response<Incoming>, BorrowedConnection), CallFault> {
        let headers = response.headers();
        let label = &lease.endpoint().label;
        let fault = |why: &str| CallFault {
            why: format!("{label}: {why}"),
            may_be_repeated: false,
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(fault("a 101 that was not requested"));
        }
        if let Some(why) = hop_by_hop::framing_error(headers) {
            return Err(fault(why));
        }
        passive_health::responded(self.upstream, lease.endpoint(), response.status());
        let key = key.filter(|_| !connection_auth::is_in_response(headers));
        let connection = BorrowedConnection {
            sender,
            lease,
            return_to: key.map(|key| (ReturnTo::Pool(Rc::clone(&self.worker.pool)), key)),
            refused: None,
        };
        Ok((response, connection))
    }
}

/// The body of a response, and its connection back in the pool; `None` if it is broken or too long.
async fn whole(body: Incoming, connection: BorrowedConnection) -> Option<Bytes> {
    let body = ResponseBody::begin(body, connection).await.ok()?;
    let collected = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?;
    Some(collected.to_bytes())
}
