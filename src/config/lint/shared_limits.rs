//! Shared limits that count nothing, or that clients get past.

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::Config;

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
        if limit.key.is_chosen_by_clients() {
            let message = format!(
                "clients choose the key of limit `{}` themselves, and get past the limit with a new one for each request",
                limit.name
            );
            let warning = Diagnostic::warning(Code::ChosenKey, place.key.clone(), message);
            diagnostics.push(warning.hint(
                "use `\"client_ip\"` or a claim; a key that a proxy in front sets is fine: allow the warning (`server.allow_warnings`)",
            ));
        }
    }
}
