//! Shared limits that count nothing, or that clients get past.

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, PathMatch, RequestKey, SharedLimitConfig};

pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (limit, place) in config.limits.iter().zip(&places.limits) {
        let mut routes = config.routes.iter();
        if !routes.any(|route| route.shared_limits.contains(&limit.name)) {
            let message = format!("no route uses limit `{}`", limit.name);
            let warning = Diagnostic::warning(Code::Unused, place.name.clone(), message);
            diagnostics.push(warning.hint(format!(
                "add `limits.shared = [\"{}\"]` to the routes whose requests count",
                limit.name
            )));
        }
        if may_be_invented(config, limit) {
            let message = format!(
                "clients choose the key of limit `{}` themselves, and get past the limit with a new one for each request",
                limit.name
            );
            let warning = Diagnostic::warning(Code::ChosenKey, place.key.clone(), message);
            diagnostics.push(warning.hint(match limit.key {
                RequestKey::Path => "use the limit only on routes with an exact `path`, or `\"client_ip\"` or a claim as the key",
                _ => "use `\"client_ip\"` or a claim; a key that a proxy in front sets is fine: allow the warning (`server.allow_warnings`)",
            }));
        }
    }
}

/// Whether a client can send a new key with each request.
fn may_be_invented(config: &Config, limit: &SharedLimitConfig) -> bool {
    let mut routes = config.routes.iter();
    match &limit.key {
        RequestKey::Sni => true,
        RequestKey::Path => routes.any(|route| {
            let is_exact = matches!(route.path, PathMatch::Exact(_));
            route.shared_limits.contains(&limit.name) && !is_exact
        }),
        key => key.is_chosen_by_clients(),
    }
}
