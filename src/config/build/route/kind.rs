//! `route.only`: which kind of requests a route matches, and the keys that mean nothing for that kind.

use super::super::Builder;
use crate::config::diagnostic::Code;
use crate::config::model::RequestKind;
use crate::config::raw::Section;

/// Keys that have no meaning on a route for handshakes only.
const OF_PLAIN_REQUESTS: [&str; 3] = ["methods", "http", "redirect"];

/// Keys that have no meaning on a route for plain requests only.
const OF_HANDSHAKES: [&str; 7] = [
    "subprotocols",
    "handshake",
    "compression",
    "origins_required",
    "timeouts",
    "probe",
    "limits",
];

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
        let (keys, matched): (&[&str], _) = match kind {
            RequestKind::Handshake => (&OF_PLAIN_REQUESTS, "handshakes"),
            RequestKind::Plain => (&OF_HANDSHAKES, "plain requests"),
        };
        for name in keys {
            let Some(at) = section.written(name) else {
                continue;
            };
            let message = format!("`{name}` has no meaning on a route that matches only {matched}");
            self.error(Code::Conflict, at, &message);
        }
    }
}
