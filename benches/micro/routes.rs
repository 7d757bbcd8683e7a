//! Finding the route of a request.

use divan::{Bencher, black_box};
use tidegate::config::model::{HostPattern, PathMatch, PlainHttp, Route, Strictness, TunnelLimits};
use tidegate::route::Table;

/// Routes of a fleet of tenants: exact hosts and wildcards, each with an exact path, a prefix or any.
fn routes(count: usize) -> Vec<Route> {
    (0..count)
        .map(|number| Route {
            name: format!("route-{number}").into(),
            listeners: None,
            hosts: vec![match number % 4 {
                0 => HostPattern::Wildcard(host(number).into()),
                _ => HostPattern::Exact(host(number).into()),
            }],
            path: match number % 3 {
                0 => PathMatch::Exact("/realtime".into()),
                1 => PathMatch::Prefix("/socket.io".into()),
                _ => PathMatch::Any,
            },
            upstream: "backend".into(),
            http: PlainHttp::Proxy,
            handshake: Strictness::Strict,
            preserve_host: true,
            limits: TunnelLimits {
                idle: None,
                half_closed: None,
                message_bytes: None,
            },
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
    let table = Table::new(&routes(count));
    let requests: Vec<_> = (0..count).map(request).collect();
    // In no order, so that nothing is where the last request has just looked.
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7919) % count;
        let (host, path) = &requests[at];
        let found = table.find(black_box("public"), host, path);
        assert_eq!(found, Some(at));
    });
}
