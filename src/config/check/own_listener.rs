//! Endpoints that are listeners of the same configuration: their requests would come back for ever.

use super::is_bound_to;
use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    Address, Bind, Config, EndpointHost, ListenerConfig, RouteConfig, UpstreamConfig,
};

/// A route may lead to another listener on purpose. One that leads to its own and changes nothing about the
/// request goes round in a circle.
pub(super) fn check(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        for (at, endpoint) in upstream.endpoints.iter().enumerate() {
            let own = config.listeners.iter().find(|listener| {
                let mut binds = listener.binds.iter();
                binds.any(|bind| leads_to(&endpoint.address, bind))
            });
            let Some(listener) = own else {
                continue;
            };
            let Some(route) = circular_route(config, upstream, listener) else {
                continue;
            };
            let message = format!(
                "`{}` is listener `{}` itself: requests of route `{}` would go round in a circle",
                endpoint.address, listener.name, route.name
            );
            let span = place.endpoints.get(at).unwrap_or(&place.name).clone();
            let hint = "write the address of your backend";
            diagnostics.push(Diagnostic::error(Code::Loop, span, message).hint(hint));
        }
    }
}

/// A route that takes requests of `listener` and sends them on to `upstream` as they are.
fn circular_route<'a>(
    config: &'a Config,
    upstream: &UpstreamConfig,
    listener: &ListenerConfig,
) -> Option<&'a RouteConfig> {
    let mut routes = config.routes_to(&upstream.name);
    routes.find(|route| {
        is_bound_to(route, listener)
            && !listener.redirect_to_https
            && route.endpoint_host == EndpointHost::Clients
            && route.rewrite.strip.is_none()
            && route.rewrite.add.is_none()
            && route.request_headers.names().next().is_none()
    })
}

/// Whether connections to `address` arrive at a socket that is bound to `bind`.
fn leads_to(address: &Address, bind: &Bind) -> bool {
    match (address, bind) {
        (Address::Ip(to), Bind::Tcp(bound)) => {
            // Linux connects to the unspecified address as to the loopback one.
            let is_local = to.ip().is_loopback() || to.ip().is_unspecified();
            let any = bound.ip().is_unspecified() && is_local;
            to.port() == bound.port()
                && to.is_ipv4() == bound.is_ipv4()
                && (any || to.ip() == bound.ip())
        }
        (Address::Name { host, port }, Bind::Tcp(bound)) => {
            let is_local = bound.ip().is_loopback() || bound.ip().is_unspecified();
            &**host == "localhost" && *port == bound.port() && is_local
        }
        (Address::Unix(to), Bind::Unix { path, .. }) => to == path,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_to_a_listener() {
        let check = |address: &str, bind: &str, expected| {
            let address = crate::config::value::address(address).unwrap();
            let bind = crate::config::value::bind(bind).unwrap();
            assert_eq!(leads_to(&address, &bind), expected, "{address} {bind}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.2:80", "0.0.0.0:80", true);
        check("0.0.0.0:80", "0.0.0.0:80", true);
        check("localhost:80", "[::]:80", true);
        check("[::1]:80", "[::]:80", true);
        check("unix:/run/a.sock", "unix:/run/a.sock", true);
        check("127.0.0.1:81", "0.0.0.0:80", false);
        check("10.0.0.1:80", "0.0.0.0:80", false);
        check("127.0.0.1:80", "[::]:80", false);
        check("chat.internal:80", "0.0.0.0:80", false);
        check("unix:/run/a.sock", "unix:/run/b.sock", false);
    }
}
