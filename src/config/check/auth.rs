//! What is wrong between routes and the ways to establish an identity.

use std::collections::HashSet;

use super::known_names::KnownNames;
use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{AuthMethod, Config, LeadsTo, Piece, RequestKey, RouteConfig};

/// Names must refer to something, and what depends on an identity needs one.
pub(super) fn check(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let upstreams = KnownNames::new("upstream", places.upstream_names.as_ref());
    for (auth, place) in config.auth.iter().zip(&places.auth) {
        match (&auth.method, &place.upstream) {
            (AuthMethod::Service(service), Some(span)) => {
                diagnostics.extend(upstreams.check(&service.upstream, span));
            }
            (AuthMethod::Token(_), _) => {
                if let Some(span) = &place.recheck {
                    let message = "`recheck` has no effect on tokens, which say themselves for how long they hold";
                    let warning = Diagnostic::warning(Code::NoEffect, span.clone(), message);
                    diagnostics.push(warning);
                }
            }
            (AuthMethod::Service(_), None) => {}
        }
    }
    let known = KnownNames::new("auth", places.auth_names.as_ref());
    for (route, place) in config.routes.iter().zip(&places.routes) {
        if let (Some(name), Some(span)) = (&route.access.auth, &place.auth) {
            diagnostics.extend(known.check(name, span));
            continue;
        }
        let (span, what) = match &place.require {
            Some(span) => (span, "`require`"),
            None if depends_on_claims(route) => (&place.route, "a claim"),
            None => continue,
        };
        let message = format!("{what} means nothing without `auth`, which establishes an identity");
        let error = Diagnostic::error(Code::Missing, span.clone(), message);
        diagnostics.push(error.hint("add `auth = \"…\"` to the route"));
    }
}

/// Warns about those that no route refers to. The configuration has no error.
pub(super) fn check_unused(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let routes = config.routes.iter();
    let used: HashSet<&str> = routes.filter_map(|it| it.access.auth.as_deref()).collect();
    for (auth, place) in config.auth.iter().zip(&places.auth) {
        if !used.contains(&*auth.name) {
            let message = format!("no route uses auth `{}`", auth.name);
            let warning = Diagnostic::warning(Code::Unused, place.name.clone(), message);
            diagnostics.push(warning);
        }
    }
}

fn depends_on_claims(route: &RouteConfig) -> bool {
    let headers = route.request_headers.set.iter();
    let headers = headers.chain(&route.response_headers.set);
    let in_headers = headers.flat_map(|(_, template)| template.pieces());
    let in_redirect = match &route.leads_to {
        LeadsTo::Redirect(redirect) => redirect.to.pieces(),
        _ => &[],
    };
    let has_claim = in_headers
        .chain(in_redirect)
        .any(|piece| matches!(piece, Piece::Claim(_)));
    let splits_by_claim = match &route.leads_to {
        LeadsTo::Split(split) => matches!(split.by, Some(RequestKey::Claim(_))),
        _ => false,
    };
    let names_by_claim = route.naming.as_ref().is_some_and(|it| it.claim().is_some());
    has_claim || splits_by_claim || names_by_claim
}
