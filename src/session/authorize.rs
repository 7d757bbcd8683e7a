//! Whether a request that its route admits may go on: who its client is, and what the route requires of that
//! identity. Plain requests and handshakes pass here alike.

use std::time::{Duration, SystemTime};

use ::http::Method;
use ::http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use ::http::request::Parts;

use super::auth_service;
use super::error::SessionError;
use super::incoming::IncomingRequest;
use super::outcome::SessionOutcome;
use crate::auth::Authenticator;
use crate::auth::identity::EstablishedIdentity;
use crate::auth::service::ServiceVerdict;
use crate::config::model::AuthMethod;
use crate::observe::access_log;
use crate::observe::labels::AuthResult;
use crate::protocol::credential;
use crate::protocol::redaction::Redaction;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::snapshot::Route;

/// The decision about who a client is.
pub(super) enum Authorization {
    /// The request may go on.
    Granted(Grant),
    /// The service that decides has answered the client itself.
    Answered(SessionOutcome),
}

/// What a request goes on with.
#[derive(Default)]
pub(super) struct Grant {
    /// Who the client is; `None` if the route has no `auth`, and for preflight requests.
    pub(super) identity: Option<EstablishedIdentity>,
    /// What is removed from the request.
    pub(super) redaction: Redaction,
}

/// Establishes the identity that `route` requires, if it requires one.
pub(super) async fn authorize(
    incoming: &IncomingRequest<'_>,
    parts: &Parts,
    target: &Target,
    route: &Route,
) -> Result<Authorization, SessionError> {
    let Some(auth) = &route.auth else {
        return Ok(Authorization::Granted(Grant::default()));
    };
    if auth.settings.passes_preflight && is_preflight(parts) {
        return Ok(Authorization::Granted(Grant {
            identity: None,
            redaction: unread(auth, parts, target),
        }));
    }
    let grant = match identify(incoming, parts, target, auth).await? {
        Authorization::Granted(grant) => grant,
        answered @ Authorization::Answered(_) => return Ok(answered),
    };
    let identity = grant.identity.as_ref();
    if identity.is_some_and(|identity| is_revoked(incoming, auth, identity)) {
        return Err(Rejection::CredentialRevoked.into());
    }
    let required = &route.settings.access.require;
    // Without an identity there is no claim either.
    let satisfies = |identity: &EstablishedIdentity| identity.claims.satisfy(required);
    match identity.map_or(required.is_empty(), satisfies) {
        true => Ok(Authorization::Granted(grant)),
        false => Err(Rejection::ClaimDenied.into()),
    }
}

/// Whether the subject was revoked after the credential was issued.
fn is_revoked(
    incoming: &IncomingRequest<'_>,
    auth: &Authenticator,
    identity: &EstablishedIdentity,
) -> bool {
    let revocations = incoming.connection.worker.revocations();
    let Some(subject) = identity
        .subject
        .as_deref()
        .filter(|_| !revocations.is_empty())
    else {
        return false;
    };
    let tag = revocations.tag(&auth.settings.name, subject);
    // The clock of the issuer may be ahead: what it calls later may have been before.
    let leeway = match &auth.settings.method {
        AuthMethod::Token(tokens) => tokens.leeway,
        AuthMethod::Service(_) => Duration::ZERO,
    };
    let issued = identity
        .issued
        .and_then(|issued| issued.checked_sub(leeway));
    revocations.is_revoked(tag, issued, SystemTime::now())
}

/// Asks the service, or looks at the token.
async fn identify(
    incoming: &IncomingRequest<'_>,
    parts: &Parts,
    target: &Target,
    auth: &Authenticator,
) -> Result<Authorization, SessionError> {
    match &auth.settings.method {
        AuthMethod::Service(service) => {
            let verdict = auth_service::identify(incoming, parts, target, auth, service).await?;
            Ok(match verdict {
                ServiceVerdict::Admitted(identity) => Authorization::Granted(Grant {
                    identity: Some(identity),
                    ..Grant::default()
                }),
                ServiceVerdict::Refused(refusal) => {
                    let recorder = &incoming.connection.worker.recorder;
                    access_log::request_denied(recorder, incoming.facts(), refusal.status);
                    Authorization::Answered(SessionOutcome::Refused(Box::new(refusal)))
                }
            })
        }
        AuthMethod::Token(_) => {
            let tokens = auth.tokens.as_ref().ok_or(Rejection::AuthUnavailable)?;
            let worker = &incoming.connection.worker;
            let identified = tokens.identify(&parts.headers, target, &worker.verified_tokens);
            let identified = identified.await;
            let counters = &worker.recorder.counters;
            counters.auth(&auth.settings.name).count(match &identified {
                Ok(_) => AuthResult::Granted,
                Err(error) if error.rejection() == Rejection::AuthUnavailable => {
                    AuthResult::Unavailable
                }
                Err(_) => AuthResult::Denied,
            });
            let (identity, redaction) = identified?;
            Ok(Authorization::Granted(Grant {
                identity: Some(identity),
                redaction,
            }))
        }
    }
}

/// What is removed from a request that needs no identity: scripts write a token into the query of preflights, too.
fn unread(auth: &Authenticator, parts: &Parts, target: &Target) -> Redaction {
    match &auth.settings.method {
        AuthMethod::Token(token) => {
            credential::redaction_unread(&token.from, &parts.headers, target.origin_form())
        }
        AuthMethod::Service(_) => Redaction::default(),
    }
}

/// Whether a browser asks before the request that a page wants to make (CORS, Fetch section 4.8). It sends no
/// credential with this one.
fn is_preflight(parts: &Parts) -> bool {
    let headers = &parts.headers;
    parts.method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
