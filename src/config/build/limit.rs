//! `[limit.NAME]`.

use std::sync::Arc;

use super::{Builder, LimitPlaces, count, positive};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{MissingKey, Rate, SharedLimitConfig, WhenFull};
use crate::config::raw::{Located, Section};

/// The rate and the burst in the table of this name.
pub(super) fn rate(section: &Section, name: &str) -> Option<Rate> {
    let section = section.optional(name)?;
    Some(Rate {
        per_second: section.rate("rate")?,
        burst: positive(&section, "burst")?,
    })
}

impl Builder<'_> {
    pub(super) fn shared_limits(&mut self, root: &Section) -> Vec<Arc<SharedLimitConfig>> {
        let mut limits = Vec::new();
        for (name, section) in root.named("limit") {
            if let Some(limit) = self.shared_limit(&name, &section.value) {
                let key = section.value.written("key").map(|at| at.span.clone());
                self.places.limits.push(LimitPlaces {
                    name: name.span.clone(),
                    key: key.unwrap_or_else(|| name.span.clone()),
                });
                limits.push(Arc::new(limit));
            }
        }
        limits
    }

    fn shared_limit(
        &mut self,
        name: &Located<String>,
        section: &Section,
    ) -> Option<SharedLimitConfig> {
        let key = self.request_key(section.written("key")?)?;
        let limits = ["tunnels", "handshakes", "requests"];
        if limits.iter().all(|it| !section.has_any(it)) && !section.may_mean(&limits) {
            let message = format!("limit `{}` limits nothing", name.value);
            let error = Diagnostic::error(Code::Missing, name.span.clone(), message);
            self.diagnostics
                .push(error.hint("add `tunnels`, `handshakes` or `requests`"));
        }
        let closes = section.text("when_full").as_deref() == Some("close_oldest");
        if let Some(at) = section.written("when_full")
            && closes
            && !section.has_any("tunnels")
        {
            let message = "`when_full` has no effect without `tunnels`";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        Some(SharedLimitConfig {
            name: name.value.as_str().into(),
            key,
            missing: match section.text("missing").as_deref() {
                Some("refuse") => MissingKey::Refuse,
                _ => MissingKey::ClientIp,
            },
            tunnels: positive(section, "tunnels"),
            when_full: match closes {
                true => WhenFull::CloseOldest,
                false => WhenFull::Refuse,
            },
            handshakes: rate(section, "handshakes"),
            requests: rate(section, "requests"),
            keys: count(section, "keys").unwrap_or(1),
        })
    }
}
