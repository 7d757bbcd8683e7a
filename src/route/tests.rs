//! Which route a request takes.

use super::*;
use crate::config::model::loose_path;
use crate::protocol::handshake::Intent;
use http::{HeaderName, HeaderValue};

fn route(listeners: &[&str], hosts: &[&str], path: PathMatch) -> RouteConfig {
    let pattern = |host: &&str| match host.strip_prefix("*.") {
        Some(parent) => HostPattern::Wildcard(parent.into()),
        None => HostPattern::Exact((*host).into()),
    };
    RouteConfig {
        listeners: (!listeners.is_empty())
            .then(|| listeners.iter().map(|name| Arc::from(*name)).collect()),
        hosts: hosts.iter().map(pattern).collect(),
        path,
        ..RouteConfig::to_upstream("r", "u")
    }
}

fn find(table: &RouteTable, listener: &str, host: &str, path: &str) -> Option<usize> {
    table.find(&RouteQuery {
        listener,
        bound_only: false,
        host,
        path,
        loose_path: None,
        query: None,
        method: &Method::GET,
        headers: &HeaderMap::new(),
        handshake: None,
    })
}

fn exact(path: &str) -> PathMatch {
    PathMatch::Exact(path.into())
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

#[track_caller]
fn check(routes: &[RouteConfig], cases: &[(&str, &str, Option<usize>)]) {
    let table = RouteTable::new(routes);
    for (host, path, expected) in cases {
        assert_eq!(
            find(&table, "public", host, path),
            *expected,
            "{host}{path}"
        );
    }
}

#[test]
fn exact_host_before_wildcard_before_any() {
    let routes = [
        route(&[], &[], PathMatch::Any),
        route(&[], &["*.example.com"], PathMatch::Any),
        route(&[], &["a.example.com"], PathMatch::Any),
    ];
    check(
        &routes,
        &[
            ("a.example.com", "/", Some(2)),
            ("b.example.com", "/", Some(1)),
            ("example.com", "/", Some(0)),
            ("a.b.example.com", "/", Some(0)),
            (".example.com", "/", Some(0)),
            ("localhost", "/", Some(0)),
        ],
    );
}

#[test]
fn exact_path_before_longest_prefix_before_any() {
    let routes = [
        route(&[], &[], PathMatch::Any),
        route(&[], &[], prefix("/chat")),
        route(&[], &[], prefix("/chat/rooms")),
        route(&[], &[], exact("/chat/rooms/1")),
    ];
    check(
        &routes,
        &[
            ("h", "/chat/rooms/1", Some(3)),
            ("h", "/chat/rooms/2", Some(2)),
            ("h", "/chat/rooms", Some(2)),
            ("h", "/chat/roomservice", Some(1)),
            ("h", "/chat/", Some(1)),
            ("h", "/chat", Some(1)),
            ("h", "/chatter", Some(0)),
            ("h", "/", Some(0)),
        ],
    );
}

/// Everything is open but `/app/admin`.
#[test]
fn no_spelling_leads_past_a_stricter_route() {
    let literal = "/app/a%2Fb";
    let paths = [
        PathMatch::Any,
        prefix("/app"),
        prefix("/app/admin"),
        exact(literal),
        prefix("/app/open"),
    ];
    let mut routes = paths.map(|path| route(&[], &["a"], path));
    routes[2].access.client_certificate = Some(Default::default());
    let table = RouteTable::new(&routes);
    for (host, path, expected) in [
        ("a", "/app%5Cadmin", Err(Rejection::EncodedSlash)),
        ("a", "/app%2Fadmin", Err(Rejection::EncodedSlash)),
        ("a", "/app%255Cadmin/x", Err(Rejection::EncodedSlash)),
        ("a", "/app/admin%2Fx", Err(Rejection::EncodedSlash)),
        ("a", "/app%2Fx", Err(Rejection::EncodedSlash)),
        ("a", "/x%2Fy", Ok(Some(0))),
        ("a", "/app/x%2Fy", Ok(Some(1))),
        ("a", "/app/a%5Cb", Ok(Some(1))),
        ("a", "/app/admin/x%5Cy", Ok(Some(2))),
        // The route is written with the escape, so it means the path as it is.
        ("a", literal, Ok(Some(3))),
        ("b", "/app%2Fadmin", Ok(None)),
        ("a", "/app//admin", Err(Rejection::EncodedSlash)),
        ("a", "//app/admin/x", Err(Rejection::EncodedSlash)),
        ("a", "/app%2F/admin", Err(Rejection::EncodedSlash)),
        ("a", "/app%5C%5Cadmin", Err(Rejection::EncodedSlash)),
        ("a", "/app;x/admin", Err(Rejection::EncodedSlash)),
        ("a", "/app/admin;x", Err(Rejection::EncodedSlash)),
        ("a", "/app%3Bx/admin", Err(Rejection::EncodedSlash)),
        ("a", "/app%2525%2532Fadmin", Err(Rejection::EncodedSlash)),
        ("a", "/app/%2561dmin", Err(Rejection::EncodedSlash)),
        // Where no route is stricter, it goes where it has always gone.
        ("a", "//app/open", Ok(Some(0))),
        ("a", "/app//open;x", Ok(Some(1))),
        ("a", "/app%2F/open", Err(Rejection::EncodedSlash)),
        ("a", "/app/admin//x;y", Ok(Some(2))),
        ("b", "//app/admin", Ok(None)),
    ] {
        let loose = loose_path(path);
        let query = RouteQuery {
            listener: "public",
            bound_only: false,
            host,
            path,
            loose_path: loose.as_deref(),
            query: None,
            method: &Method::GET,
            headers: &HeaderMap::new(),
            handshake: None,
        };
        let is_restricted =
            |found: usize, other: usize| routes[found].is_restricted_by(&routes[other]);
        let seen = table.decide(&query, is_restricted);
        assert_eq!(seen, expected, "{host}{path}");
    }
}

#[test]
fn a_host_without_a_matching_path_falls_back_to_less_specific_hosts() {
    let routes = [
        route(&[], &["a.example.com"], exact("/only")),
        route(&[], &["*.example.com"], prefix("/w")),
        route(&[], &[], exact("/any")),
    ];
    check(
        &routes,
        &[
            ("a.example.com", "/only", Some(0)),
            ("a.example.com", "/w/x", Some(1)),
            ("a.example.com", "/any", Some(2)),
            ("a.example.com", "/none", None),
        ],
    );
}

#[test]
fn equal_routes_of_a_listener_match_in_the_order_of_the_file() {
    let routes = [
        route(&["internal"], &[], prefix("/x")),
        route(&["public", "internal"], &[], prefix("/x")),
        route(&[], &[], prefix("/x")),
    ];
    let table = RouteTable::new(&routes);
    assert_eq!(find(&table, "internal", "h", "/x"), Some(0));
    assert_eq!(find(&table, "public", "h", "/x"), Some(1));
    assert_eq!(find(&table, "other", "h", "/x"), Some(2));
}

#[test]
fn a_listener_that_redirects_uses_only_routes_that_name_it() {
    let routes = [
        route(&[], &["a.example.com"], PathMatch::Any),
        route(&["plain"], &[], prefix("/.well-known")),
    ];
    let table = RouteTable::new(&routes);
    for (bound_only, expected) in [(false, Some(0)), (true, Some(1))] {
        let found = table.find(&RouteQuery {
            listener: "plain",
            bound_only,
            host: "a.example.com",
            path: "/.well-known/acme-challenge/x",
            loose_path: None,
            query: None,
            method: &Method::GET,
            headers: &HeaderMap::new(),
            handshake: None,
        });
        assert_eq!(found, expected);
    }
}

/// Routes of one path that differ in their conditions.
fn routes_with_conditions() -> Vec<RouteConfig> {
    let with = |conditions: Conditions| RouteConfig {
        conditions,
        ..RouteConfig::to_upstream("r", "u")
    };
    let tenant = |value: &'static str| {
        let name = HeaderName::from_static("x-tenant");
        vec![(name, HeaderValue::from_static(value))]
    };
    vec![
        with(Conditions::default()),
        with(Conditions {
            headers: tenant("acme"),
            ..Conditions::default()
        }),
        with(Conditions {
            headers: tenant("acme"),
            query: vec![("v".into(), "2 3".into())],
            ..Conditions::default()
        }),
        with(Conditions {
            subprotocols: vec!["graphql-ws".into(), "chat".into()],
            ..Conditions::default()
        }),
        with(Conditions {
            methods: vec![Method::POST],
            ..Conditions::default()
        }),
    ]
}

#[test]
fn conditions_distinguish_routes_of_one_path() {
    let table = RouteTable::new(&routes_with_conditions());
    let check = |method: &str, query, lines: &[(&'static str, &str)], expected| {
        let mut request = http::Request::builder().method(method).uri("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let handshake = Intent::of(&parts).handshake().ok().flatten();
        let found = table.find(&RouteQuery {
            listener: "public",
            bound_only: false,
            host: "h",
            path: "/",
            loose_path: None,
            query,
            method: &parts.method,
            headers: &parts.headers,
            handshake: handshake.as_ref(),
        });
        assert_eq!(found, Some(expected), "{method} {query:?} {lines:?}");
    };
    check("GET", None, &[], 0);
    check("GET", None, &[("x-tenant", "acme")], 1);
    check("GET", None, &[("x-tenant", "other")], 0);
    check(
        "GET",
        None,
        &[("x-tenant", "other"), ("x-tenant", "acme")],
        1,
    );
    check("GET", Some("a=b&v=2+3"), &[("x-tenant", "acme")], 2);
    check("GET", Some("%76=2%203"), &[("x-tenant", "acme")], 2);
    check("GET", Some("v=2"), &[("x-tenant", "acme")], 1);
    check("POST", None, &[], 4);
    let offer = |list| {
        [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", list),
        ]
    };
    check("GET", None, &offer("mqtt, chat"), 3);
    check("GET", None, &offer("graphql-ws"), 3);
    check("GET", None, &offer("mqtt, chatter"), 0);
    check("GET", None, &[("sec-websocket-protocol", "chat")], 0);
}

fn kinds(kinds: &[Option<RequestKind>]) -> RouteTable {
    let route = |only: &Option<RequestKind>| RouteConfig {
        conditions: Conditions {
            only: *only,
            ..Conditions::default()
        },
        ..RouteConfig::to_upstream("r", "u")
    };
    RouteTable::new(&kinds.iter().map(route).collect::<Vec<_>>())
}

#[test]
fn a_route_may_be_for_one_kind_of_requests_only() {
    let handshake = http::Request::get("/")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let (handshake, plain) = (handshake.body(()).unwrap(), http::Request::new(()));
    let find = |table: &RouteTable, request: http::Request<()>| {
        let parts = request.into_parts().0;
        let handshake = Intent::of(&parts).handshake().ok().flatten();
        table.find(&RouteQuery {
            listener: "public",
            bound_only: false,
            host: "h",
            path: "/",
            loose_path: None,
            query: None,
            method: &parts.method,
            headers: &parts.headers,
            handshake: handshake.as_ref(),
        })
    };
    let check = |table: &[Option<RequestKind>], of_handshake, of_plain| {
        let table = kinds(table);
        assert_eq!(find(&table, handshake.clone()), of_handshake);
        assert_eq!(find(&table, plain.clone()), of_plain);
    };
    let (handshakes, plain) = (Some(RequestKind::Handshake), Some(RequestKind::Plain));
    check(&[handshakes, plain], Some(0), Some(1));
    check(&[None, handshakes], Some(1), Some(0));
    check(&[None, plain], Some(0), Some(1));
    check(&[handshakes], Some(0), None);
    check(&[plain], None, Some(0));
}

proptest::proptest! {
    /// The table finds the same route as a plain reading of the rule.
    #[test]
    fn the_table_agrees_with_the_rule(
        specs in proptest::collection::vec((0..4usize, 0..3usize, "(/[ab]){1,3}"), 1..12),
        host in "[ab]\\.c|c|d",
        path in "(/[ab]){1,4}",
    ) {
        let hosts: [&[&str]; 4] = [&[], &["a.c"], &["*.c"], &["c", "b.c"]];
        let routes: Vec<RouteConfig> = specs.iter().map(|(host, kind, path)| {
            let path = match kind {
                0 => PathMatch::Any,
                1 => exact(path),
                _ => prefix(path),
            };
            route(&[], hosts[*host], path)
        }).collect();
        let rank = |route: &RouteConfig| {
            let host_rank = if route.hosts.is_empty() {
                1
            } else {
                route.hosts.iter().filter(|pattern| pattern.fits(&host)).map(|pattern| {
                    if matches!(pattern, HostPattern::Exact(_)) { 3 } else { 2 }
                }).max()?
            };
            let path_rank = match &route.path {
                PathMatch::Any => 0,
                PathMatch::Exact(exact) => if **exact == *path { usize::MAX } else { return None },
                PathMatch::Prefix(prefix) => {
                    let below = path.strip_prefix(&**prefix)?;
                    if !below.is_empty() && !below.starts_with('/') { return None }
                    prefix.len()
                }
            };
            Some((host_rank, path_rank))
        };
        let expected = (0..routes.len())
            .filter_map(|at| rank(&routes[at]).map(|rank| (rank, std::cmp::Reverse(at))))
            .max()
            .map(|(_, at)| at.0);
        proptest::prop_assert_eq!(find(&RouteTable::new(&routes), "l", &host, &path), expected);
    }
}

#[test]
fn a_handshake_without_a_route_for_get_takes_a_route_for_other_methods() {
    let routes = [RouteConfig {
        conditions: Conditions {
            methods: vec![Method::POST],
            ..Conditions::default()
        },
        ..RouteConfig::to_upstream("r", "u")
    }];
    let parts = http::Request::builder()
        .uri("/")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let Intent::WebSocket(Ok(handshake)) = Intent::of(&parts) else {
        panic!("not a handshake")
    };
    let table = RouteTable::new(&routes);
    for (handshake, expected) in [(Some(&handshake), Some(0)), (None, None)] {
        let found = table.find(&RouteQuery {
            listener: "public",
            bound_only: false,
            host: "h",
            path: "/",
            loose_path: None,
            query: None,
            method: &Method::GET,
            headers: &parts.headers,
            handshake,
        });
        assert_eq!(found, expected);
    }
}
