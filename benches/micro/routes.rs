//! What does it cost to find the route of a request?

use divan::{Bencher, black_box};
use http::{HeaderMap, Method};
use tidegate::config::model::{HostPattern, PathMatch, RouteConfig};
use tidegate::route::{RouteQuery, RouteTable};

/// Routes of a fleet of tenants: exact hosts and wildcards, each with an exact path, a prefix or any.
fn routes(count: usize) -> Vec<RouteConfig> {
    (0..count)
        .map(|number| RouteConfig {
            hosts: vec![match number % 4 {
                0 => HostPattern::Wildcard(host(number).into()),
                _ => HostPattern::Exact(host(number).into()),
            }],
            path: match number % 3 {
                0 => PathMatch::Exact("/realtime".into()),
                1 => PathMatch::Prefix("/socket.io".into()),
                _ => PathMatch::Any,
            },
            ..RouteConfig::to_upstream("route", "backend")
        })
        .collect()
}

fn host(number: usize) -> String {
    format!("tenant-{number}.example.com")
}

/// A request for each of them.
fn request(number: usize) -> (String, &'static str) {
    let host = match number % 4 {
        0 => format!("eu.{}", host(number)),
        _ => host(number),
    };
    let path = match number % 3 {
        0 => "/realtime",
        1 => "/socket.io/v4/websocket",
        _ => "/",
    };
    (host, path)
}

#[divan::bench(args = [10, 1000, 10_000])]
fn find(bencher: Bencher<'_, '_>, count: usize) {
    let table = RouteTable::new(&routes(count));
    let headers = HeaderMap::new();
    let requests: Vec<_> = (0..count).map(request).collect();
    // In a scattered order, so that the cache does not hold what the last request has just used.
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7919) % count;
        let (host, path) = &requests[at];
        let found = table.find(&RouteQuery {
            listener: black_box("public"),
            bound_only: false,
            host,
            path,
            loose_path: None,
            query: None,
            method: &Method::GET,
            headers: &headers,
            handshake: None,
        });
        assert_eq!(found, Some(at));
    });
}
