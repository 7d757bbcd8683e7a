//! What is wrong between routes and the ways to establish an identity.

use std::collections::HashSet;

use http::HeaderName;

use super::known_names::KnownNames;
use crate::config::build::{AuthPlaces, Places};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    AuthMethod, AuthService, Balance, Config, LeadsTo, Piece, RequestKey, RouteConfig,
    same_variable,
};

/// Names must refer to something, and what depends on an identity needs one.
pub(super) fn check(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let upstreams = KnownNames::new("upstream", places.upstream_names.as_ref());
    for (auth, place) in config.auth.iter().zip(&places.auth) {
        match (&auth.method, &place.upstream) {
            (AuthMethod::Service(service), Some(span)) => {
                diagnostics.extend(upstreams.check(&service.upstream, span));
                diagnostics.extend(written_by_others(config, service, place));
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

/// The faults that endpoints or the service would get a field both from tidegate and from others.
fn written_by_others(
    config: &Config,
    service: &AuthService,
    place: &AuthPlaces,
) -> Vec<Diagnostic> {
    let certificates = config.listeners.iter().filter_map(|listener| {
        let client_auth = listener.tls.as_ref()?.client_auth.as_ref()?;
        client_auth.header.as_ref()
    });
    let ours: Vec<_> = certificates.chain(&config.server.request_id).collect();
    let lists = [
        (
            "request_headers",
            &service.request_headers,
            &place.request_headers,
        ),
        (
            "response_headers",
            &service.response_headers,
            &place.response_headers,
        ),
    ];
    let faults = lists.into_iter().filter_map(|(key, names, span)| {
        let is_ours = |name: &&HeaderName| {
            let mut ours = ours.iter();
            ours.any(|ours| same_variable(ours.as_str(), name.as_str()))
        };
        let name = names.iter().find(is_ours)?;
        let message = format!("`{name}` cannot be in `{key}`: tidegate writes it itself");
        Some(Diagnostic::error(Code::Conflict, span.clone()?, message))
    });
    faults.collect()
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

/// Warns about upstreams that hash a claim which no request to them can have. The configuration has no error.
pub(super) fn check_hashes(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        let (Balance::Hash(hash), Some(span)) = (&upstream.picking.balance, &place.hash) else {
            continue;
        };
        let leads_here = |route: &&RouteConfig| {
            let mut upstreams = route.leads_to.upstreams();
            upstreams.any(|name| *name == upstream.name)
        };
        let mut routes = config.routes.iter().filter(leads_here).peekable();
        let is_claim = matches!(hash.key, RequestKey::Claim(_));
        if is_claim && routes.peek().is_some() && routes.all(|it| it.access.auth.is_none()) {
            let message = "no route to this upstream has `auth`: without an identity, requests have no claim to hash";
            let warning = Diagnostic::warning(Code::NoEffect, span.clone(), message);
            diagnostics.push(warning.hint("add `auth = \"…\"` to the routes"));
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
