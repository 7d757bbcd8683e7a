//! What is wrong between the upstreams of a split.

use crate::config::build::RoutePlaces;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, LeadsTo, UpstreamConfig};

/// The sticky cookies of a split's upstreams must have different names: a client may have one of each.
pub(super) fn check_cookies(
    config: &Config,
    places: &[RoutePlaces],
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (route, place) in config.routes.iter().zip(places) {
        if !matches!(route.leads_to, LeadsTo::Split(_)) {
            continue;
        }
        let mut known: Vec<(&UpstreamConfig, &str)> = Vec::new();
        for (name, span) in route.leads_to.upstreams().zip(&place.upstreams) {
            let upstream = config.upstream(name);
            let Some((upstream, sticky)) = upstream.and_then(|it| Some((it, it.sticky.as_ref()?)))
            else {
                continue;
            };
            let same = known.iter().find(|(_, cookie)| *cookie == &*sticky.cookie);
            if let Some((other, cookie)) = same {
                let message = format!(
                    "the sticky cookies of `{}` and `{name}` have the same name, `{cookie}`",
                    other.name
                );
                let error = Diagnostic::error(Code::Duplicate, span.clone(), message);
                let hint = format!(
                    "add e.g. `sticky.cookie = \"{cookie}-{name}\"` to `[upstream.{name}]`"
                );
                diagnostics.push(error.hint(hint));
            }
            known.push((upstream, &sticky.cookie));
        }
    }
}
