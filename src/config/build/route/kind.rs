//! `route.only`: which kind of requests a route matches, and the keys that mean nothing for that kind.

use super::super::Builder;
use crate::config::diagnostic::Code;
use crate::config::model::RequestKind;
use crate::config::raw::Section;

/// Keys that have no meaning on a route for handshakes only.
const OF_PLAIN_REQUESTS: [&str; 3] = ["methods", "http", "redirect"];

/// Keys that have no meaning on a route for plain requests only.
const OF_HANDSHAKES: [&str; 6] = [
    "subprotocols",
    "handshake",
    "compression",
    "origins_required",
    "timeouts",
    "probe",
];

/// The keys of `limits` that limit plain requests. All others limit tunnels, except `shared`, which limits both.
const LIMITS_OF_PLAIN_REQUESTS: [&str; 1] = ["body_bytes"];

pub(super) fn request_kind(section: &Section) -> Option<RequestKind> {
    match section.text("only")?.as_str() {
        "handshakes" => Some(RequestKind::Handshake),
        "plain" => Some(RequestKind::Plain),
        _ => None,
    }
}

impl Builder<'_> {
    /// Reports the keys that have no meaning for the kind of requests that the route matches.
    pub(super) fn check_kind(&mut self, section: &Section) {
        let Some(kind) = request_kind(section) else {
            return;
        };
        let (keys, matched): (&[&'static str], _) = match kind {
            RequestKind::Handshake => (&OF_PLAIN_REQUESTS, "handshakes"),
            RequestKind::Plain => (&OF_HANDSHAKES, "plain requests"),
        };
        if kind == RequestKind::Plain
            && section
                .text("http")
                .is_some_and(|http| http.as_str() == "reject")
            && let Some(at) = section.written("http")
        {
            let message = "a route that matches only plain requests and rejects them serves nothing: remove `http` or `only`";
            self.error(Code::Conflict, at, message);
        }
        let why = format!("on a route that matches only {matched}");
        self.refuse_keys(section, "", keys.iter().copied(), &why);
        let limits = section.section("limits");
        let refused = limits.written.keys().copied().filter(|name| {
            let is_plain = LIMITS_OF_PLAIN_REQUESTS.contains(name);
            *name != "shared" && is_plain == (kind == RequestKind::Handshake)
        });
        self.refuse_keys(&limits, "limits.", refused, &why);
    }
}
