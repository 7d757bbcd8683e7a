//! Whether the route admits the client: by its address, its certificate and its origin.

use http::header::ORIGIN;

use super::{ExplainResponse, Visit};
use crate::config::model::{Access, CertificateRule, Nets};
use crate::protocol::access::{self, AccessSubject};
use crate::protocol::rejection::Rejection;
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

fn in_words(nets: &Nets) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}
