//! The fields of requests that only tidegate may set.

use std::collections::HashMap;

use http::HeaderName;

use crate::config::model::{AuthMethod, Config, Piece, RouteConfig};

/// The fields that only tidegate may set, by what they depend on.
pub(super) struct ReservedFields<'a> {
    everywhere: Vec<&'a HeaderName>,
    by_upstream: HashMap<&'a str, Vec<&'a HeaderName>>,
}

impl<'a> ReservedFields<'a> {
    /// Those of a configuration.
    ///
    /// The request id and the fields of client certificates of all listeners are reserved on all routes, because
    /// a listener that asks for no certificate may lead to the same endpoints. What a service adds to requests,
    /// and what a route sets to claims, is reserved on all routes that share an upstream with such a route, for the
    /// same reason; not on others, because `Authorization` may be among these fields.
    pub(super) fn of(config: &'a Config) -> Self {
        let certificates = config.listeners.iter().filter_map(|listener| {
            let client_auth = listener.tls.as_ref()?.client_auth.as_ref()?;
            client_auth.header.as_ref()
        });
        let mut by_upstream: HashMap<&str, Vec<&HeaderName>> = HashMap::new();
        for route in &config.routes {
            for upstream in route.leads_to.upstreams() {
                let fields = service_fields(config, route).iter();
                let mut fields = fields.chain(claim_fields(route)).peekable();
                if fields.peek().is_some() {
                    add(by_upstream.entry(upstream).or_default(), fields);
                }
            }
        }
        let mut everywhere = Vec::new();
        add(
            &mut everywhere,
            config.server.request_id.iter().chain(certificates),
        );
        Self {
            everywhere,
            by_upstream,
        }
    }

    /// Those in requests on `route`.
    pub(super) fn on(&self, route: &RouteConfig) -> Box<[HeaderName]> {
        let mut all = self.everywhere.clone();
        let upstreams = route.leads_to.upstreams();
        let of_services = upstreams.filter_map(|upstream| self.by_upstream.get(&**upstream));
        add(&mut all, of_services.flatten().copied());
        all.into_iter().cloned().collect()
    }
}

/// The fields that the service of `route` adds to requests, if a service decides there.
fn service_fields<'a>(config: &'a Config, route: &RouteConfig) -> &'a [HeaderName] {
    let mut all = config.auth.iter();
    let auth = route
        .access
        .auth
        .as_ref()
        .and_then(|name| all.find(|auth| auth.name == *name));
    match auth.map(|auth| &auth.method) {
        Some(AuthMethod::Service(service)) => &service.response_headers,
        Some(AuthMethod::Token(_)) | None => &[],
    }
}

/// The fields that tell the endpoints of `route` claims of the client.
fn claim_fields(route: &RouteConfig) -> impl Iterator<Item = &HeaderName> {
    let set = route.request_headers.set.iter();
    set.filter(|(_, template)| {
        let mut pieces = template.pieces().iter();
        pieces.any(|piece| matches!(piece, Piece::Claim(_)))
    })
    .map(|(name, _)| name)
}

fn add<'a>(to: &mut Vec<&'a HeaderName>, names: impl IntoIterator<Item = &'a HeaderName>) {
    for name in names {
        if !to.contains(&name) {
            to.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn fields_of_services_are_reserved_wherever_their_endpoints_are_reached() {
        let text = r#"
            server.request_id = "x-id"
            [listener.main]
            bind = ["127.0.0.1:0"]
            [auth.one]
            service = { upstream = "login", response_headers = ["remote-user", "authorization"] }
            [auth.two]
            service = { upstream = "login", response_headers = ["x-user", "remote-user"] }
            [[route]]
            path = "/guarded"
            upstream = "a"
            auth = "one"
            request_headers.set = { x-role = "a ${claim_remote-user}", x-plain = "a" }
            [[route]]
            path = "/split"
            split = [{ upstream = "a", weight = 1 }, { upstream = "b", weight = 1 }]
            auth = "two"
            [[route]]
            path = "/open"
            upstream = "a"
            [[route]]
            path = "/half"
            upstream = "b"
            [[route]]
            path = "/login"
            upstream = "login"
            [upstream.a]
            endpoints = ["127.0.0.1:1"]
            [upstream.b]
            endpoints = ["127.0.0.1:2"]
            [upstream.login]
            endpoints = ["127.0.0.1:3"]
        "#;
        let config = crate::config::parse(text, Path::new("a.toml"), &|_| None)
            .unwrap()
            .config;
        let reserved = ReservedFields::of(&config);
        let names = |path: &str| {
            let mut routes = config.routes.iter();
            let route = routes.find(|route| route.path.fits(path)).unwrap();
            let mut names: Vec<String> =
                reserved.on(route).iter().map(ToString::to_string).collect();
            names.sort();
            names.join(" ")
        };
        let of_a = "authorization remote-user x-id x-role x-user";
        for (path, expected) in [
            ("/guarded", of_a),
            ("/split", of_a),
            ("/open", of_a),
            ("/half", "remote-user x-id x-user"),
            ("/login", "x-id"),
        ] {
            assert_eq!(names(path), expected, "{path}");
        }
    }
}
