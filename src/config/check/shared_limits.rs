//! What routes say about limits that they share.

use std::collections::HashSet;

use super::known_names::KnownNames;
use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, RequestKey};

/// Each name refers to a limit, and is listed once. A claim is known only where a route has `auth`.
pub(super) fn check(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let limits = KnownNames::new("limit", places.limit_names.as_ref());
    for (route, place) in config.routes.iter().zip(&places.routes) {
        let mut seen = HashSet::new();
        for (name, span) in route.shared_limits.iter().zip(&place.shared_limits) {
            diagnostics.extend(limits.check(name, span));
            if !seen.insert(name) {
                let message = format!("limit `{name}` is listed twice");
                diagnostics.push(Diagnostic::error(Code::Duplicate, span.clone(), message));
            }
            let mut limits = config.limits.iter();
            let limit = limits.find(|limit| limit.name == *name);
            let is_claim = limit.is_some_and(|it| matches!(it.key, RequestKey::Claim(_)));
            if is_claim && place.auth.is_none() {
                let message = format!(
                    "limit `{name}` counts by a claim, which means nothing without `auth`, which establishes an identity"
                );
                let error = Diagnostic::error(Code::Missing, span.clone(), message);
                diagnostics.push(error.hint("add `auth = \"…\"` to the route"));
            }
        }
    }
}
