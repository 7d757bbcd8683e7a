//! Which listener receives a request, by its URL.

use http::Uri;

use crate::admin::error::ApiError;
use crate::admin::view::ListenerState;

/// The listener with this name, or the first that has the URL's port and scheme.
///
/// # Errors
/// [`ApiError`], if there is none, or if it is drained.
pub(super) fn receiving<'a>(
    listening: &'a [ListenerState],
    name: Option<&str>,
    secure: bool,
    url: &Uri,
) -> Result<&'a ListenerState, ApiError> {
    let accepting = |it: &'a ListenerState| match it.is_drained {
        true => Err(ApiError::conflict(format!(
            "listener `{}` is drained by an operator: connections to it are refused",
            it.name
        ))),
        false => Ok(it),
    };
    if let Some(name) = name {
        let named = listening.iter().find(|it| *it.name == *name);
        let names = listening.iter().map(|it| &*it.name);
        let unknown = || ApiError::unknown("listener", name, names);
        return named.ok_or_else(unknown).and_then(accepting);
    }
    let port = port(url, secure)?;
    let ends = format!(":{port}");
    let is_there = |at: &String| !at.starts_with("unix:") && at.ends_with(&ends);
    let has_port = |it: &&ListenerState| it.addresses.iter().any(is_there);
    let mut on_port = listening.iter().filter(has_port).peekable();
    if on_port.peek().is_none() {
        let why = format!("no listener has port {port}");
        return Err(no_listener(&why, listening));
    }
    let mut fitting = on_port.filter(|it| it.tls == secure);
    let Some(first) = fitting.next() else {
        let (schemes, lacks) = match secure {
            true => ("wss:// and https://", "does not use TLS"),
            false => ("ws:// and http://", "uses TLS"),
        };
        let why = format!("the listener of port {port} {lacks}, so that {schemes} do not work");
        return Err(no_listener(&why, listening));
    };
    let open = std::iter::once(first)
        .chain(fitting)
        .find(|it| !it.is_drained);
    accepting(open.unwrap_or(first))
}

/// The port of the URL, or that of its scheme.
fn port(url: &Uri, secure: bool) -> Result<u16, ApiError> {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let written = authority.rsplit_once(':').map(|(_, port)| port);
    let digits = |port: &&str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match written.filter(digits) {
        Some(port) => port
            .parse()
            .map_err(|_| ApiError::bad_request(format!("{port} is not a valid port"))),
        None => Ok(if secure { 443 } else { 80 }),
    }
}

/// The refusal of a URL that leads to no listener, with a line for each listener.
fn no_listener(why: &str, listening: &[ListenerState]) -> ApiError {
    let each = |it: &ListenerState| {
        let schemes = match it.tls {
            true => "wss, https",
            false => "ws, http",
        };
        let addresses = it.addresses.join(", ");
        format!("listener `{}`: {schemes} at {addresses}", it.name)
    };
    ApiError::conflict(format!(
        "{why}; if a proxy in front forwards such requests, name the listener that receives them (`listener`, \
         --listener)"
    ))
    .with_details(listening.iter().map(each).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(name: &str, address: &str, is_drained: bool) -> ListenerState {
        ListenerState {
            name: name.into(),
            addresses: vec![address.to_owned()],
            tls: true,
            redirect_to_https: false,
            limits_handshakes: false,
            limits_requests: false,
            is_drained,
        }
    }

    #[test]
    fn a_url_leads_to_a_listener_that_has_its_port_and_scheme() {
        let plain = ListenerState {
            tls: false,
            ..listening("plain", "[::]:80", false)
        };
        let all = [
            listening("out", "10.0.0.1:443", true),
            listening("in", "10.0.0.2:443", false),
            listening("alone", "10.0.0.1:8443", true),
            listening("local", "unix:/run/in:9443", false),
            plain,
        ];
        let of = |name, url: &'static str| {
            let secure = url.starts_with("wss:");
            let found = receiving(&all, name, secure, &Uri::from_static(url));
            found
                .map(|it| it.name.to_string())
                .map_err(|error| (error.status.as_u16(), error.body.error))
        };
        #[track_caller]
        fn refused(found: Result<String, (u16, String)>, status: u16, why: &str) {
            let (is, error) = found.unwrap_err();
            assert!(is == status && error.starts_with(why), "{is} {error}");
        }
        assert_eq!(of(None, "wss://a.example/"), Ok("in".to_owned()));
        assert_eq!(of(None, "ws://a.example/"), Ok("plain".to_owned()));
        assert_eq!(of(None, "ws://a.example:/"), Ok("plain".to_owned()));
        assert_eq!(of(Some("in"), "ws://a:9443/"), Ok("in".to_owned()));
        let drained = "is drained by an operator";
        refused(
            of(None, "wss://a.example:8443/"),
            409,
            &format!("listener `alone` {drained}"),
        );
        refused(
            of(Some("out"), "wss://a.example/"),
            409,
            &format!("listener `out` {drained}"),
        );
        refused(
            of(None, "wss://a.example:9443/"),
            409,
            "no listener has port 9443; if",
        );
        refused(
            of(None, "ws://[::1]:8080/"),
            409,
            "no listener has port 8080; if",
        );
        refused(
            of(None, "ws://a:443/"),
            409,
            "the listener of port 443 uses TLS, so that ws://",
        );
        refused(
            of(None, "wss://a:80/"),
            409,
            "the listener of port 80 does not use TLS",
        );
        refused(of(None, "ws://a:99999/"), 400, "99999 is not a valid port");
        refused(
            of(Some("none"), "wss://a.example/"),
            404,
            "there is no listener `none`; known: out",
        );
    }
}
