//! `[route.probe]`.

use super::super::{Builder, duration};
use crate::config::diagnostic::Code;
use crate::config::model::{HostPattern, PathMatch, RouteProbe};
use crate::config::raw::Section;
use crate::config::value;

impl Builder<'_> {
    /// The probe of a route with these hosts and paths.
    pub(super) fn route_probe(
        &mut self,
        section: &Section,
        hosts: &[HostPattern],
        path: &PathMatch,
    ) -> Option<RouteProbe> {
        let at = section.written("probe")?;
        let section = section.section("probe");
        let own_path = match path {
            PathMatch::Any => "/",
            PathMatch::Exact(path) | PathMatch::Prefix(path) => &**path,
        };
        let path = match section.written("path") {
            Some(_) => self.probe_path(&section),
            None if value::is_sendable_path(own_path) => Some(own_path.into()),
            None => {
                let message = "the route's path must be encoded in a request; set `path`";
                self.error(Code::Missing, at, message);
                None
            }
        };
        let mut request = self.websocket_probe(&section, path)?;
        if request.host.is_none() {
            request.host = hosts.iter().find_map(|host| match host {
                HostPattern::Exact(name) => Some(name.clone()),
                HostPattern::Wildcard(_) => None,
            });
            if request.host.is_none() && !hosts.is_empty() {
                let message = "the route has wildcard hosts only; set the `host` to probe";
                self.error(Code::Missing, at, message);
                return None;
            }
        }
        request.add_user_agent();
        Some(RouteProbe {
            interval: duration(&section, "interval"),
            timeout: duration(&section, "timeout"),
            request,
        })
    }
}
