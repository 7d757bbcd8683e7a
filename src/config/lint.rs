//! What a good configuration may still not mean: habits that cost tunnels, or let strangers in.
//!
//! Everything here is a warning, told of files without errors only. A lint speaks up where the file
//! itself says that it matters; a default that nobody wrote down is not blamed.

use std::time::Duration;

use http::HeaderName;

use super::build::{Built, Places, RoutePlaces, UpstreamPlaces};
use super::check::{is_bound_to, upstream_of};
use super::descriptors;
use super::diagnostic::{Code, Diagnostic, Severity};
use super::model::{Bind, Config, LeadsTo, Listener, PathMatch, PlainHttp, Probe, Route, Upstream};

/// A tunnel that lives shorter is hardly worth its handshake.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// How long nginx and AWS' load balancers leave a quiet connection open by default; Cloudflare waits
/// for 100 s.
const OUTER_IDLE: Duration = Duration::from_secs(60);

/// What browsers send by themselves, and pages cannot choose for a handshake.
const FROM_BROWSERS: [HeaderName; 6] = [
    http::header::ACCEPT_ENCODING,
    http::header::ACCEPT_LANGUAGE,
    http::header::CACHE_CONTROL,
    http::header::COOKIE,
    http::header::PRAGMA,
    http::header::USER_AGENT,
];

/// Warns about everything.
pub(super) fn lint(built: &Built, found: &mut Vec<Diagnostic>) {
    let Built { config, places, .. } = built;
    // Of a file with errors, parts are missing in the model.
    if found.iter().any(|each| each.severity == Severity::Error) {
        return;
    }
    for (route, place) in config.routes.iter().zip(&places.routes) {
        lint_age(route, place, found);
        lint_ping(route, place, found);
        lint_idle(config, route, place, found);
        lint_origins(config, route, place, found);
    }
    for (upstream, place) in config.upstreams.iter().zip(&places.upstreams) {
        lint_sticky(config, upstream, place, found);
        lint_check(config, upstream, place, found);
    }
    lint_tickets(config, places, found);
    lint_admin(config, places, found);
    if let Some(most) = descriptors::most() {
        lint_descriptors(config, places, most, found);
    }
}

/// Whether something in front tells this listener who is asking: a load balancer, a CDN.
fn is_behind_something(listener: &Listener) -> bool {
    listener.trust.proxy_protocol || !listener.trust.proxies.is_empty()
}

/// The listeners that requests for `route` come in by.
fn listeners_of<'a>(config: &'a Config, route: &'a Route) -> impl Iterator<Item = &'a Listener> {
    let listeners = config.listeners.iter();
    listeners.filter(|listener| is_bound_to(route, listener))
}

/// The routes that lead to `upstream`.
fn routes_to<'a>(config: &'a Config, upstream: &'a Upstream) -> impl Iterator<Item = &'a Route> {
    let routes = config.routes.iter();
    routes.filter(|route| upstream_of(route) == Some(&upstream.name))
}

fn lint_admin(config: &Config, places: &Places, found: &mut Vec<Diagnostic>) {
    let Some(Bind::Tcp(address)) = &config.admin.bind else {
        return;
    };
    if let Some(span) = places
        .admin_bind
        .clone()
        .filter(|_| !address.ip().is_loopback())
    {
        let message = format!("whoever reaches `{address}` sees all clients and the configuration");
        let hint = "bind a unix socket, or a loopback address";
        found.push(Diagnostic::warning(Code::OpenAdmin, span, message).hint(hint));
    }
}

fn lint_age(route: &Route, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let Some(max_age) = route.limits.max_age else {
        return;
    };
    if let Some(span) = place.max_age.clone().filter(|_| max_age.age < LEAST_AGE) {
        let message = "every tunnel is closed within a minute, and comes back with a new handshake";
        let hint = "`idle` ends quiet tunnels; an age is for moving clients on, after hours";
        found.push(Diagnostic::warning(Code::ShortMaxAge, span, message).hint(hint));
    }
    let together = place.max_age_jitter.clone();
    if let Some(span) = together.filter(|_| max_age.jitter == 0) {
        let message = "tunnels that were opened together are closed together, and come back so";
        let hint = "leave it at 0.2: ages are spread over a fifth of `max_age`";
        found.push(Diagnostic::warning(Code::NoJitter, span, message).hint(hint));
    }
}

fn lint_ping(route: &Route, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let Some(ping) = &place.ping else {
        return;
    };
    let idle = route.limits.idle.filter(|_| place.idle.is_some());
    let (message, hint) = if ping.value >= OUTER_IDLE {
        (
            "what stands between the two ends may have dropped the tunnel by then",
            "nginx and AWS' load balancers wait for 60 s: write less",
        )
    } else if idle.is_some_and(|idle| ping.value >= idle / 2) {
        (
            "`idle` ends a quiet tunnel before a lost answer to a ping tells anything",
            "write less than half of `idle`",
        )
    } else {
        return;
    };
    found.push(Diagnostic::warning(Code::LatePing, ping.span.clone(), message).hint(hint));
}

/// The default of `idle` says nothing about how long somebody wants quiet tunnels to live.
fn lint_idle(config: &Config, route: &Route, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let long = route.limits.idle.is_none_or(|idle| idle > OUTER_IDLE);
    let Some(span) = place.idle.clone().filter(|_| long && place.ping.is_none()) else {
        return;
    };
    if listeners_of(config, route).any(is_behind_something) {
        let message = "what is in front may end quiet tunnels sooner";
        let hint = "nginx and AWS' load balancers wait for 60 s, Cloudflare for 100 s: raise that \
                    (nginx: `proxy_read_timeout`), or have applications send something in time";
        found.push(Diagnostic::warning(Code::LongIdle, span, message).hint(hint));
    }
}

/// A browser lets any page open a WebSocket to any host, and sends its cookies along.
fn lint_origins(config: &Config, route: &Route, place: &RoutePlaces, found: &mut Vec<Diagnostic>) {
    let access = &route.access;
    if !matches!(route.leads_to, LeadsTo::Upstream(_)) || !access.origins.is_empty() {
        return;
    }
    let changes = &route.request_headers;
    let cookies = changes.remove.iter();
    let mut cookies = cookies.chain(changes.set.iter().map(|(name, _)| name));
    let mut conditions = route.conditions.headers.iter();
    let for_programs = !access.allow.is_empty()
        || access.client_certificate
        || cookies.any(|name| name == http::header::COOKIE)
        || conditions.any(|(name, _)| !FROM_BROWSERS.contains(name));
    if !for_programs && listeners_of(config, route).any(takes_browsers) {
        let message = format!(
            "pages of any site may connect by route `{}`, with the cookies of whoever looks at them",
            route.name
        );
        found.push(
            Diagnostic::warning(Code::AnyOrigin, place.route.clone(), message).hint(
                "list yours in `origins`; where cookies mean nothing, `request_headers.remove` them",
            ),
        );
    }
}

/// Whether browsers on other machines get to it.
fn takes_browsers(listener: &Listener) -> bool {
    let tls = listener.tls.as_ref();
    let auth = tls.and_then(|tls| tls.client_auth.as_ref());
    let mut binds = listener.binds.iter();
    let open = binds.any(|bind| match bind {
        Bind::Tcp(address) => !address.ip().is_loopback(),
        Bind::Unix { .. } => false,
        // Where that is, only the socket unit knows; most are for everybody.
        Bind::Systemd(_) => true,
    });
    (open || is_behind_something(listener)) && !auth.is_some_and(|auth| auth.required)
}

fn lint_sticky(
    config: &Config,
    upstream: &Upstream,
    place: &UpstreamPlaces,
    found: &mut Vec<Diagnostic>,
) {
    let alone = upstream.sticky.as_ref();
    let alone = alone.is_some_and(|sticky| sticky.secret.is_none());
    let Some(span) = place.sticky.clone().filter(|_| alone) else {
        return;
    };
    let mut routes = routes_to(config, upstream);
    if routes.any(|route| listeners_of(config, route).any(is_behind_something)) {
        let message = "only the process that sets these cookies understands them";
        let hint = "another node, or this one after a restart, does not: write `secret_file`";
        found.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
    }
}

/// Who speaks HTTP in front keeps its connections; who passes bytes spreads clients over nodes.
fn lint_tickets(config: &Config, places: &Places, found: &mut Vec<Diagnostic>) {
    for (listener, place) in config.listeners.iter().zip(&places.listeners) {
        let tls = listener.tls.as_ref();
        // Where certificates are asked for, there are no tickets.
        let alone = tls.is_some_and(|tls| tls.ticket_keys.is_none() && tls.client_auth.is_none());
        let alone = alone && listener.trust.proxy_protocol;
        if let Some(span) = place.tls.clone().filter(|_| alone) {
            let message = "only the process that makes TLS session tickets opens them";
            let hint =
                "another node behind the same load balancer does not: write `ticket_keys_file`";
            found.push(Diagnostic::warning(Code::UnsharedKey, span, message).hint(hint));
        }
    }
}

fn lint_check(
    config: &Config,
    upstream: &Upstream,
    place: &UpstreamPlaces,
    found: &mut Vec<Diagnostic>,
) {
    /// What a WebSocket server says to plain requests.
    const REFUSALS: [u16; 2] = [400, 426];
    let Some(Probe::Http(probe)) = upstream.health.as_ref().map(|health| &health.probe) else {
        return;
    };
    let expects = |status| probe.expect.iter().any(|range| range.contains(&status));
    if REFUSALS.into_iter().any(expects) {
        return;
    }
    let path = probe.path.split('?').next().unwrap_or_default();
    let mut routes = routes_to(config, upstream).peekable();
    let reject = |route: &Route| route.http == PlainHttp::Reject;
    // Another path than those of WebSockets is there for checks.
    let is_tunnels = |route: &Route| match &route.path {
        PathMatch::Any => path == "/",
        PathMatch::Exact(own) | PathMatch::Prefix(own) => path == "/" || *path == **own,
    };
    let alike = routes.peek().is_some() && routes.all(|route| reject(route) && is_tunnels(route));
    if let Some(span) = place.http_check.clone().filter(|_| alike) {
        let message = "what speaks WebSocket only refuses plain requests, and will count as down";
        let hint = "check it by a handshake, `websocket = { path = \"…\" }`, or expect \"426\"";
        found.push(Diagnostic::warning(Code::HttpCheck, span, message).hint(hint));
    }
}

/// `most` is what the process may raise its limit to.
fn lint_descriptors(config: &Config, places: &Places, most: u64, found: &mut Vec<Diagnostic>) {
    let listeners = config.listeners.iter().zip(&places.listeners);
    let connections = listeners.map(|(listener, place)| {
        let wanted = listener.limits.connections;
        ("connections", wanted, &place.connections)
    });
    let tunnels = ("tunnels", config.server.max_tunnels, &places.max_tunnels);
    for (what, wanted, span) in connections.chain([tunnels]) {
        let (Some(wanted), Some(span)) = (wanted, span) else {
            continue;
        };
        let needed = descriptors::needed(wanted);
        if needed > most {
            let message =
                format!("{wanted} {what} take {needed} open files, and there may be {most} here");
            let hint = "raise `LimitNOFILE=` of the unit, or `ulimit -Hn`; where it runs, the limit \
                        may be another one than where it is checked";
            found.push(Diagnostic::warning(Code::Descriptors, span.clone(), message).hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    const CERTIFICATE: &str = "tls.certificates = [{ cert = \"a.pem\", key = \"a.key\" }]\n";
    const BEHIND: &str = "trusted_proxies = [\"10.0.0.0/8\"]\n";

    /// A folder with the files that the configurations here name.
    fn folder() -> tempfile::TempDir {
        use base64::Engine as _;
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let tickets = base64::engine::general_purpose::STANDARD.encode([7; 80]);
        for (name, text) in [
            ("a.pem", made.cert.pem()),
            ("a.key", made.signing_key.serialize_pem()),
            ("tickets.key", tickets),
            ("sticky.key", "7".repeat(64)),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        folder
    }

    /// One of each, with these lines besides.
    fn whole(listener: &str, route: &str, upstream: &str) -> String {
        let bind = "bind = [\"127.0.0.1:8080\"]\n";
        let bind = if listener.contains("bind") { "" } else { bind };
        let endpoints = "endpoints = [\"127.0.0.1:9000\"]\n";
        format!(
            "[listener.a]\n{bind}{listener}\n[[route]]\nupstream = \"a\"\n{route}\n\
             [upstream.a]\n{endpoints}{upstream}\n"
        )
    }

    #[test]
    fn operators_are_not_for_everybody() {
        let folder = folder();
        let admin = |bind: &str| format!("[admin]\nbind = \"{bind}\"\n{}", whole("", "", ""));
        assert_eq!(
            warned(folder.path(), &admin("0.0.0.0:9900")),
            ["open-admin"]
        );
        for quiet in [
            "127.0.0.1:9900",
            "[::1]:9900",
            "unix:/run/admin.sock",
            "off",
        ] {
            assert!(warned(folder.path(), &admin(quiet)).is_empty(), "{quiet}");
        }
    }

    fn warned(folder: &Path, source: &str) -> Vec<&'static str> {
        match super::super::parse(source, &folder.join("a.toml"), &|_| None) {
            Ok(loaded) => {
                let found = loaded.warnings.diagnostics().iter();
                found.map(|each| each.code.token()).collect()
            }
            Err(report) => panic!("{source}\n{}", report.render(false)),
        }
    }

    /// What is warned about with each of these lines of a listener, a route and an upstream.
    #[track_caller]
    fn check(cases: &[(&str, &str, &str, &[&str])]) {
        let folder = folder();
        for (listener, route, upstream, expected) in cases {
            let source = whole(listener, route, upstream);
            assert_eq!(warned(folder.path(), &source), *expected, "{source}");
        }
    }

    #[test]
    fn ages_that_nobody_means() {
        check(&[
            ("", "timeouts.max_age = \"59s\"", "", &["short-max-age"]),
            ("", "timeouts.max_age = \"1m\"", "", &[]),
            ("", "timeouts.max_age = \"off\"", "", &[]),
            (
                "",
                "timeouts = { max_age = \"12h\", max_age_jitter = 0 }",
                "",
                &["no-jitter"],
            ),
            (
                "",
                "timeouts = { max_age = \"12h\", max_age_jitter = 0.1 }",
                "",
                &[],
            ),
            ("", "timeouts.max_age_jitter = 0", "", &[]),
        ]);
    }

    #[test]
    fn pings_that_come_too_late() {
        let late: &[&str] = &["late-ping"];
        let check = |timeouts: &str, late| {
            let folder = folder();
            let source = whole("", &format!("timeouts = {{ {timeouts} }}"), "");
            let mut warned = warned(folder.path(), &source);
            warned.sort_unstable();
            assert_eq!(warned, late, "{timeouts}");
        };
        check("ping = \"60s\"", late);
        check("ping = \"59s\"", &late[1..]);
        check("ping = \"15s\", idle = \"30s\"", late);
        check("ping = \"14s\", idle = \"30s\"", &late[1..]);
        check("ping = \"50s\", idle = \"off\"", &late[1..]);
        check("ping = \"off\", idle = \"30s\"", &[]);
    }

    #[test]
    fn quiet_tunnels_that_something_in_front_ends() {
        let route = |idle: &str| format!("allow = [\"10.0.0.1\"]\ntimeouts.idle = \"{idle}\"");
        check(&[
            (BEHIND, &route("61s"), "", &["long-idle"]),
            (BEHIND, &route("off"), "", &["long-idle"]),
            (BEHIND, &route("60s"), "", &[]),
            (BEHIND, "allow = [\"10.0.0.1\"]", "", &[]),
            ("", &route("1h"), "", &[]),
            (
                BEHIND,
                "allow = [\"10.0.0.1\"]\ntimeouts = { idle = \"1h\", ping = \"25s\" }",
                "",
                &[],
            ),
        ]);
        // Only the listeners that it is bound to count.
        let other = "[listener.b]\nbind = [\"127.0.0.1:8081\"]\ntrusted_proxies = [\"10.0.0.1\"]\n";
        let bound = |name: &str| {
            let route = route("1h");
            format!(
                "{}{other}",
                whole("", &format!("listeners = [\"{name}\"]\n{route}"), "")
            )
        };
        let folder = folder();
        assert_eq!(warned(folder.path(), &bound("b")), ["long-idle"]);
        assert!(warned(folder.path(), &bound("a")).is_empty());
    }

    #[test]
    fn pages_of_any_site() {
        let open = "bind = [\"0.0.0.0:80\"]\n";
        let local = "bind = [\"127.0.0.1:80\", \"[::1]:80\", \"unix:/run/a.sock\"]\n";
        check(&[
            (open, "", "", &["any-origin"]),
            ("bind = [\"[::]:80\"]\n", "", "", &["any-origin"]),
            (local, "", "", &[]),
            (BEHIND, "", "", &["any-origin"]),
            (open, "origins_required = true", "", &["any-origin"]),
            (open, "origins = [\"https://a.example\"]", "", &[]),
            (open, "allow = [\"10.0.0.0/8\"]", "", &[]),
            (open, "deny = [\"10.0.0.0/8\"]", "", &["any-origin"]),
            (open, "request_headers.remove = [\"Cookie\"]", "", &[]),
            (
                open,
                "request_headers.remove = [\"x-a\"]",
                "",
                &["any-origin"],
            ),
            (open, "request_headers.set.cookie = \"a=b\"", "", &[]),
            (open, "headers.x-token = \"a\"", "", &[]),
            (open, "headers.user-agent = \"a\"", "", &["any-origin"]),
        ]);
        let folder = folder();
        let auth = format!("{open}{CERTIFICATE}tls.client_auth = {{ ca = \"a.pem\" }}\n");
        assert!(warned(folder.path(), &whole(&auth, "", "")).is_empty());
        let redirect = "[listener.a]\nbind = [\"0.0.0.0:80\"]\n[[route]]\n\
                        redirect.to = \"https://a.example\"\n";
        assert!(warned(folder.path(), redirect).is_empty());
    }

    #[test]
    fn cookies_and_tickets_that_nobody_else_understands() {
        let mine = "origins = [\"https://a.example\"]";
        let sticky = "sticky = { cookie = \"a\" }";
        let shared = "sticky = { cookie = \"a\", secret_file = \"sticky.key\" }";
        let tls = format!("{CERTIFICATE}{BEHIND}proxy_protocol = \"required\"\n");
        let tickets = "tls.ticket_keys_file = \"tickets.key\"\n";
        check(&[
            (BEHIND, mine, sticky, &["unshared-key"]),
            (BEHIND, mine, shared, &[]),
            ("", mine, sticky, &[]),
            (&tls, mine, "", &["unshared-key"]),
            (&format!("{tls}{tickets}"), mine, "", &[]),
            (&format!("{CERTIFICATE}{BEHIND}"), mine, "", &[]),
            (CERTIFICATE, mine, "", &[]),
        ]);
    }

    #[test]
    fn checks_that_would_be_refused() {
        let reject = "http = \"reject\"";
        let path = "http = \"reject\"\npath = \"/ws\"";
        let check_of = |http: &str| format!("health.http = {{ {http} }}");
        check(&[
            ("", reject, &check_of(""), &["http-check"]),
            ("", path, &check_of(""), &["http-check"]),
            ("", path, &check_of("path = \"/ws?a=1\""), &["http-check"]),
            ("", path, &check_of("path = \"/health\""), &[]),
            ("", reject, &check_of("path = \"/health\""), &[]),
            ("", reject, &check_of("expect = \"426\""), &[]),
            ("", "", &check_of(""), &[]),
            ("", reject, "health.tcp = {}", &[]),
            ("", reject, "health.websocket = {}", &[]),
        ]);
        let two = format!("{}[[route]]\nupstream = \"a\"\npath = \"/b\"\n", {
            whole("", reject, &check_of(""))
        });
        assert!(warned(folder().path(), &two).is_empty());
    }

    #[test]
    fn more_tunnels_than_files_may_be_open() {
        let folder = folder();
        let at_most = |source: &str, most: u64| {
            let mut found = Vec::new();
            let root = crate::config::raw::read(source, &|_| None, &mut found);
            let built = crate::config::build::build(&root, folder.path(), &mut found);
            lint_descriptors(&built.config, &built.places, most, &mut found);
            let told = |each: &Diagnostic| format!("{}: {}", each.code, each.message);
            found.iter().map(told).collect::<Vec<_>>()
        };
        let tunnels = format!("[server]\nmax_tunnels = 1000\n{}", whole("", "", ""));
        assert!(at_most(&tunnels, 2192).is_empty());
        assert_eq!(
            at_most(&tunnels, 2191),
            ["descriptors: 1000 tunnels take 2192 open files, and there may be 2191 here"]
        );
        let connections = whole("limits.connections = 1000", "", "");
        assert!(at_most(&connections, 2192).is_empty());
        assert_eq!(at_most(&connections, 2191).len(), 1);
        assert!(at_most(&whole("", "", ""), 64).is_empty());
        // Nowhere may there be so many.
        let most = format!(
            "[server]\nmax_tunnels = 1_000_000_000\n{}",
            whole("", "", "")
        );
        assert_eq!(warned(folder.path(), &most), ["descriptors"]);
    }

    #[test]
    fn a_file_with_errors_is_told_about_those_alone() {
        let source = whole("bind = [\"0.0.0.0:80\"]\n", "http = 1", "");
        let report = super::super::parse(&source, Path::new("a.toml"), &|_| None).unwrap_err();
        assert_eq!(report.count(Severity::Warning), 0);
    }

    #[test]
    fn what_is_allowed_is_not_told_and_what_is_no_warning_cannot_be() {
        let folder = folder();
        let source = |allowed: &str| {
            let whole = whole("bind = [\"0.0.0.0:80\"]\n", "timeouts.max_age = \"1s\"", "");
            format!("[server]\nallow_warnings = [{allowed}]\n{whole}")
        };
        assert_eq!(
            warned(folder.path(), &source("")),
            ["any-origin", "short-max-age"]
        );
        assert_eq!(
            warned(folder.path(), &source("\"any-origin\"")),
            ["short-max-age"]
        );
        let all = Code::WARNINGS.iter().map(|code| format!("\"{code}\""));
        let all: Vec<String> = all.collect();
        assert!(warned(folder.path(), &source(&all.join(", "))).is_empty());
        for (wrong, hint) in [
            ("any-origins", "did you mean `\"any-origin\"`?"),
            ("dangling", "known here: unreachable, not-in-effect, "),
        ] {
            let source = source(&format!("\"{wrong}\""));
            let report = super::super::parse(&source, Path::new("a.toml"), &|_| None).unwrap_err();
            let error = &report.diagnostics()[0];
            assert_eq!(error.code, Code::Value);
            assert!(error.hint.as_ref().unwrap().starts_with(hint));
        }
    }
}
