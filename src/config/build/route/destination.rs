//! Where a route leads: to an upstream, to one of several, to another address, or nowhere, because tidegate itself responds.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::super::Builder;
use super::literal::has_host;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    FixedResponse, LeadsTo, Piece, Redirect, Respond, Split, SplitBranch, Template, Variable,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::sources::Span;

/// The keys that say where a route leads. A route has exactly one of them.
const DESTINATIONS: [&str; 4] = ["upstream", "split", "redirect", "respond"];

/// Keys that have no meaning on a route that does not lead to an upstream.
const UPSTREAM_ONLY: [&str; 12] = [
    "endpoint",
    "endpoint_fallback",
    "http",
    "handshake",
    "preserve_host",
    "host",
    "rewrite",
    "request_headers",
    "response_headers",
    "compression",
    "timeouts",
    "probe",
];

/// Where a route leads, and the places where that is written.
pub(super) struct Destination {
    pub(super) leads_to: LeadsTo,
    pub(super) place: Span,
    /// The place of each upstream's name.
    pub(super) upstreams: Vec<Span>,
}

impl Builder<'_> {
    pub(super) fn destination(
        &mut self,
        at: &Located<ConfigValue>,
        section: &Section,
    ) -> Option<Destination> {
        let written = |name: &&str| section.written(name).is_some();
        let mut named = DESTINATIONS.into_iter().filter(written);
        let Some(name) = named.next() else {
            // A misspelt key, which was reported, may be one of them.
            if section.may_mean(&DESTINATIONS) {
                return None;
            }
            let message =
                "the route leads nowhere: it has no `upstream`, `split`, `redirect` or `respond`";
            self.diagnostics
                .push(Diagnostic::error(Code::Missing, at.span.clone(), message));
            return None;
        };
        let place = section.written(name)?;
        if let Some(other) = named.next() {
            let message = format!("`{name}` and `{other}` exclude each other");
            self.error(Code::Conflict, section.written(other)?, &message);
            return None;
        }
        if name != "split" {
            self.refuse_keys(section, "", ["split_by"], "without `split`");
        }
        let mut upstreams = Vec::new();
        let leads_to = match name {
            "split" => LeadsTo::Split(self.split(section, &mut upstreams)?),
            "redirect" => {
                self.needs_upstream(section, "redirects");
                LeadsTo::Redirect(self.redirect(&section.section(name))?)
            }
            "respond" => {
                self.needs_upstream(section, "responds itself");
                LeadsTo::Respond(self.respond(&section.section(name))?)
            }
            _ => {
                upstreams.push(place.span.clone());
                LeadsTo::Upstream(section.text(name)?.into())
            }
        };
        Some(Destination {
            leads_to,
            place: place.span.clone(),
            upstreams,
        })
    }

    /// Reports the keys that have no meaning without an upstream.
    fn needs_upstream(&mut self, section: &Section, instead: &str) {
        let why = format!("on a route that {instead}");
        self.refuse_keys(section, "", UPSTREAM_ONLY, &why);
        // Requests that lead nowhere may be counted as well.
        let limits = section.section("limits");
        let refused = limits.written.keys().copied();
        let refused = refused.filter(|name| *name != "shared");
        self.refuse_keys(&limits, "limits.", refused, &why);
    }

    /// Reports those of `keys` that are written, although they have no meaning here. `table` stands before
    /// their names.
    pub(super) fn refuse_keys(
        &mut self,
        section: &Section,
        table: &str,
        keys: impl IntoIterator<Item = &'static str>,
        why: &str,
    ) {
        for key in keys {
            if let Some(at) = section.written(key) {
                let message = format!("`{table}{key}` has no meaning {why}");
                self.error(Code::Conflict, at, &message);
            }
        }
    }

    fn split(&mut self, section: &Section, places: &mut Vec<Span>) -> Option<Split> {
        let at = section.written("split")?;
        let by = section
            .written("split_by")
            .and_then(|at| self.request_key(at));
        let mut branches: Vec<SplitBranch> = Vec::new();
        let listed = section.list("split");
        for branch in &listed {
            let ConfigValue::Section(branch) = &branch.value else {
                continue;
            };
            let (Some(upstream), Some(name)) =
                (branch.written("upstream"), branch.text("upstream"))
            else {
                continue;
            };
            if branches.iter().any(|known| *known.upstream == *name) {
                let message = format!("upstream `{name}` is listed twice");
                self.error(Code::Duplicate, upstream, &message);
                continue;
            }
            let weight = branch.integer("weight").unwrap_or(1);
            places.push(upstream.span.clone());
            branches.push(SplitBranch {
                upstream: name.into(),
                weight: u32::try_from(weight).unwrap_or_default(),
            });
        }
        if at.value != ConfigValue::Broken && listed.len() < 2 {
            let message =
                "a split requires at least two upstreams; for a single one, use `upstream`";
            self.error(Code::Value, at, message);
        } else if !branches.is_empty() && branches.iter().all(|branch| branch.weight == 0) {
            let message = "at least one upstream of a split requires a weight above 0";
            self.error(Code::Value, at, message);
        }
        Some(Split { branches, by })
    }

    fn redirect(&mut self, section: &Section) -> Option<Redirect> {
        let to = section.written("to")?;
        let ConfigValue::Template(template) = &to.value else {
            return None;
        };
        let is_target = leads_somewhere(template) && Self::is_writable(template);
        if !is_target {
            let message = "this is not a valid redirect target; use e.g. `https://${host}${uri}`";
            self.error(Code::Value, to, message);
        }
        let status = section.integer("status")?;
        if let Some(at) = section.written("status").filter(|_| !is_redirect(status)) {
            let message = "the status of a redirect must be 301, 302, 303, 307 or 308";
            self.error(Code::Value, at, message);
            return None;
        }
        is_target.then_some(())?;
        Some(Redirect {
            to: template.clone(),
            status: status_code(status)?,
        })
    }

    fn respond(&mut self, section: &Section) -> Option<Respond> {
        let Some(status) = section.integer("status") else {
            let keys = ["body", "content_type", "retry_after"];
            self.refuse_keys(section, "", keys, "with `status = \"ready\"`");
            return Some(Respond::Readiness);
        };
        if let Some(at) = section.written("status").filter(|_| is_redirect(status)) {
            let message = "a redirect requires an address; use `redirect` instead of `respond`";
            self.error(Code::Value, at, message);
            return None;
        }
        let body = section.text("body").unwrap_or_default();
        if let Some(at) = section.written("body")
            && matches!(status, 204 | 205 | 304)
            && !body.is_empty()
        {
            let message = format!("a response with status {status} has no body");
            self.error(Code::Conflict, at, &message);
        }
        if body.is_empty() {
            self.refuse_keys(section, "", ["content_type"], "without `body`");
        }
        let content_type = section.text("content_type")?;
        let content_type = HeaderValue::try_from(content_type).ok();
        if let (Some(at), None) = (section.written("content_type"), &content_type) {
            self.error(Code::Value, at, "this is not a valid header value");
        }
        Some(Respond::Fixed(FixedResponse {
            status: status_code(status)?,
            content_type: content_type.filter(|_| !body.is_empty()),
            body: Bytes::from(body),
            retry_after: section.duration("retry_after").map(whole_seconds),
        }))
    }
}

fn status_code(status: i64) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(status).ok()?).ok()
}

/// Whether a response with this status sends clients to another address.
fn is_redirect(status: i64) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The time in seconds, rounded up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Whether a redirect target is safe: nothing that the client writes can become its host. It is a URL
/// with a scheme, or a path whose first segment is fixed.
fn leads_somewhere(template: &Template) -> bool {
    let mut pieces = template.pieces().iter().filter(|piece| match piece {
        Piece::Text(text) => !text.is_empty(),
        Piece::Variable(_) | Piece::Claim(_) => true,
    });
    match (pieces.next(), pieces.next()) {
        (Some(Piece::Variable(Variable::Scheme)), Some(Piece::Text(text))) => {
            text.starts_with("://")
        }
        (Some(Piece::Text(text)), next) => {
            let absolute = ["http://", "https://"]
                .into_iter()
                .find_map(|scheme| text.strip_prefix(scheme));
            let local = text.strip_prefix('/');
            match (absolute, local) {
                (Some(rest), _) => has_host(rest) || rest.is_empty() && next.is_some(),
                // Browsers read `//host` and `/\host` as another host (WHATWG URL), so the text after the
                // slash must be fixed and must not begin with a slash.
                (None, Some(rest)) => {
                    !rest.starts_with(['/', '\\']) && (!rest.is_empty() || next.is_none())
                }
                (None, None) => false,
            }
        }
        _ => false,
    }
}
