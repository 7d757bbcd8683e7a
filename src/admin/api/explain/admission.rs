//! Whether the route admits the client: by its address, its certificate and its origin.

use http::header::ORIGIN;
use http::request::Parts;

use super::{ExplainResponse, Visit};
use crate::auth::Authenticator;
use crate::config::model::{Access, AuthMethod, CertificateRule, Nets};
use crate::protocol::access::{self, AccessSubject};
use crate::protocol::credential::{Credential, redaction_unread};
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::snapshot::{Route, RunningLimit};

impl Visit<'_> {
    /// Checks what is known of the client, and notes what else the route wants to know.
    pub(super) fn admit(
        &self,
        access: &Access,
        is_handshake: bool,
        explained: &mut ExplainResponse,
    ) -> Result<(), Rejection> {
        let mut wanted = access.clone();
        explained.allow = in_words(&wanted.allow);
        explained.deny = in_words(&wanted.deny);
        if self.question.client.is_none() && !(wanted.allow.is_empty() && wanted.deny.is_empty()) {
            let depends = "the client's address; set `client` (--client)".to_owned();
            explained.depends_on.push(depends);
            (wanted.allow, wanted.deny) = Default::default();
        }
        explained.origins = wanted.origins.iter().map(ToString::to_string).collect();
        if !wanted.origins.is_empty() && !self.parts.headers.contains_key(ORIGIN) {
            let depends = "the header `Origin`, which browsers send; set it".to_owned();
            explained.depends_on.push(depends);
        }
        if self.question.certificate
            && let Some(rule) = wanted.client_certificate.take()
            && rule != CertificateRule::default()
        {
            let depends = "the names of the client's certificate".to_owned();
            explained.depends_on.push(depends);
        }
        let subject = AccessSubject {
            address: self.question.client,
            is_known: true,
            certificate: None,
            is_handshake,
        };
        access::check(&wanted, subject, &self.parts.headers)
    }
}

/// Notes the limits that the route shares: how much of them is in use depends on the key.
pub(super) fn note_shared_limits(route: &Route, explained: &mut ExplainResponse) {
    for RunningLimit { settings, .. } in &route.shared_limits {
        let depends = format!(
            "what its key (`{}`) has in use of limit `{}`",
            settings.key, settings.name
        );
        explained.depends_on.push(depends);
    }
}

/// What the admission to `route` depends on because of its `auth`.
pub(super) fn on_identity(route: &Route, auth: &Authenticator) -> Vec<String> {
    let settings = &auth.settings;
    let name = &settings.name;
    let mut depends = vec![match &settings.method {
        AuthMethod::Service(service) => format!(
            "what the service of auth `{name}` answers: upstream `{}` is asked about the request",
            service.upstream
        ),
        AuthMethod::Token(token) => format!(
            "the client's token (auth `{name}`): it must be valid, and issued by {}",
            token.issuer
        ),
    }];
    if !route.settings.access.require.is_empty() {
        let claims = route.settings.access.require.iter();
        let claims: Vec<_> = claims.map(|rule| format!("`{}`", rule.claim)).collect();
        depends.push(format!(
            "the claims of the client: `require` names {}",
            claims.join(", ")
        ));
    }
    depends
}

/// The request as endpoints, keys and redirects see it: without its token.
pub(super) fn without_token(
    route: &Route,
    parts: &Parts,
    target: Target,
) -> Result<(Parts, Target), Rejection> {
    let mut public = parts.clone();
    let method = route.auth.as_ref().map(|auth| &auth.settings.method);
    let Some(AuthMethod::Token(token)) = method else {
        return Ok((public, target));
    };
    let headers = &parts.headers;
    let redaction = match Credential::find(&token.from, headers, target.query()) {
        Ok(Some(credential)) => credential.redaction(&token.from, headers, target.origin_form()),
        _ => redaction_unread(&token.from, headers, target.origin_form()),
    };
    redaction.apply(&mut public);
    let target = Target::of(&public)?;
    Ok((public, target))
}

fn in_words(nets: &Nets) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}
