//! Asking a service whether a request is admitted.

mod call;

use std::sync::Arc;
use std::time::Instant;

use ::http::request::Parts;

use self::call::ServiceCall;
use super::error::SessionError;
use super::incoming::IncomingRequest;
use super::service_desk::ServiceDesk;
use super::worker::Worker;
use crate::auth::Authenticator;
use crate::auth::identity::EstablishedIdentity;
use crate::auth::question::{AskedRequest, AuthQuestion, QuestionDigest};
use crate::auth::service::ServiceVerdict;
use crate::config::model::{AuthMethod, AuthService};
use crate::observe::access_log::SessionId;
use crate::observe::labels::AuthResult;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::quota::failure_reports::warn_once_a_minute;
use crate::snapshot::Snapshot;

/// Why a service has decided nothing.
#[derive(Debug)]
pub enum NoVerdict {
    /// As many requests wait for it as may, or this one did not have its turn in time.
    Busy,
    /// It does not respond, or not as it should: what is wrong.
    Unavailable(String),
}

/// Asks the service about a request.
pub(super) async fn identify(
    incoming: &IncomingRequest<'_>,
    parts: &Parts,
    target: &Target,
    auth: &Authenticator,
    service: &AuthService,
) -> Result<ServiceVerdict, SessionError> {
    let worker = &incoming.connection.worker;
    let desk = worker.service_desk(auth, service);
    let question = question(incoming, parts, target, service);
    let digest = desk.digest(&question);
    if let Some(verdict) = desk.remembered(digest.as_ref()) {
        desk.series.count(AuthResult::Cached);
        return Ok(with_question(verdict, question));
    }
    let asking = Asking {
        worker,
        snapshot: &incoming.snapshot,
        desk: &desk,
        service,
        session: incoming.facts().session,
    };
    match asking.ask(&question, digest).await {
        Ok(verdict) => {
            desk.series.count(match verdict {
                ServiceVerdict::Admitted(_) => AuthResult::Granted,
                ServiceVerdict::Refused(_) => AuthResult::Denied,
            });
            Ok(with_question(verdict, question))
        }
        Err(NoVerdict::Busy) => {
            desk.series.count(AuthResult::Busy);
            Err(Rejection::AuthBusy.into())
        }
        Err(NoVerdict::Unavailable(why)) if service.passes_on_error => {
            desk.series.count(AuthResult::Allowed);
            warn_once_a_minute!(
                desk.reports,
                &why,
                "authentication service unavailable; requests pass without an identity",
                session = %asking.session,
                auth = %auth.settings.name,
                upstream = %service.upstream,
                why
            );
            // Nothing is known about the client, so that `require` refuses it.
            let unknown = ServiceVerdict::Admitted(EstablishedIdentity::default());
            Ok(with_question(unknown, question))
        }
        Err(NoVerdict::Unavailable(why)) => {
            desk.series.count(AuthResult::Unavailable);
            Err(SessionError {
                detail: Some(format!("upstream {}: {why}", service.upstream)),
                ..Rejection::AuthUnavailable.into()
            })
        }
    }
}

/// Asks the service again what it was asked about an earlier request. What it has decided lately does not count,
/// and nothing is counted.
///
/// # Errors
/// [`NoVerdict`].
pub async fn ask_again(
    worker: &Worker,
    auth: &Authenticator,
    question: &AuthQuestion,
    session: SessionId,
) -> Result<ServiceVerdict, NoVerdict> {
    let AuthMethod::Service(service) = &auth.settings.method else {
        return Err(NoVerdict::Unavailable("no service decides".to_owned()));
    };
    let snapshot = Arc::clone(&worker.snapshot());
    let asking = Asking {
        worker,
        snapshot: &snapshot,
        desk: &worker.service_desk(auth, service),
        service,
        session,
    };
    asking.ask(question, None).await
}

/// What the service is asked about a request.
fn question(
    incoming: &IncomingRequest<'_>,
    parts: &Parts,
    target: &Target,
    service: &AuthService,
) -> AuthQuestion {
    let forwarding = incoming.client.forwarding(target, None);
    let asked = AskedRequest {
        method: &parts.method,
        uri: target.origin_form(),
        secure: forwarding.secure,
        host: forwarding.host,
        client: forwarding.client.filter(|_| forwarding.is_known),
        headers: &parts.headers,
        request_id: incoming
            .snapshot
            .server
            .request_id
            .as_ref()
            .map(|name| (name, &*incoming.id)),
    };
    AuthQuestion::about(&asked, service)
}

/// A verdict with what can be asked again if it admits a client.
fn with_question(verdict: ServiceVerdict, question: AuthQuestion) -> ServiceVerdict {
    match verdict {
        ServiceVerdict::Admitted(identity) => ServiceVerdict::Admitted(EstablishedIdentity {
            question: Some(question),
            ..identity
        }),
        refused @ ServiceVerdict::Refused(_) => refused,
    }
}

/// A service that is asked something on behalf of a session.
struct Asking<'a> {
    worker: &'a Worker,
    snapshot: &'a Snapshot,
    desk: &'a ServiceDesk,
    service: &'a AuthService,
    session: SessionId,
}

impl Asking<'_> {
    /// Asks, once it is this question's turn.
    async fn ask(
        &self,
        question: &AuthQuestion,
        digest: Option<QuestionDigest>,
    ) -> Result<ServiceVerdict, NoVerdict> {
        let deadline = Instant::now() + self.service.timeout;
        let slot = self.desk.slot(self.service.at_once, deadline);
        let slot = slot.await.ok_or(NoVerdict::Busy)?;
        // Those that wait together often ask the same.
        if let Some(verdict) = self.desk.remembered(digest.as_ref()) {
            return Ok(verdict);
        }
        let upstream = self.snapshot.upstream(&self.service.upstream);
        let unknown = || NoVerdict::Unavailable("the upstream does not exist".to_owned());
        let call = ServiceCall {
            worker: self.worker,
            upstream: upstream.ok_or_else(unknown)?,
            service: self.service,
            question,
            session: self.session,
            deadline: deadline.into(),
        };
        let began = Instant::now();
        let verdict = call.verdict(slot).await;
        let verdict = verdict.map_err(NoVerdict::Unavailable)?;
        self.desk.series.seconds.observe(began.elapsed());
        self.desk.remember(digest, &verdict, self.service);
        Ok(verdict)
    }
}
