//! Limits for clients, and the responses when they are exceeded.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{HANDSHAKE, Wire, handshake_with};
use crate::harness::{found, until};

/// The status of a handshake with these fields, and the reason of its refusal.
async fn handshake(wire: &mut Wire, fields: &str) -> (u16, Option<String>) {
    wire.send(handshake_with(fields)).await;
    let head = wire.head().await;
    wire.body(&head).await;
    if matches!(head.status(), 429 | 503) {
        assert!(head.retry_after() >= 1);
    }
    (
        head.status(),
        head.value("tidegate-reason").map(str::to_owned),
    )
}

fn refused(status: u16, reason: &str) -> (u16, Option<String>) {
    (status, Some(reason.to_owned()))
}

const AGREED: (u16, Option<String>) = (101, None);

#[tokio::test]
async fn a_listener_has_a_maximum_of_connections() {
    let echo = Echo::start("echo").await;
    let with = |limits: &str| settings(&[echo.address], limits, "");
    let proxy = Proxy::start(&with("limits.connections = 2")).await;
    let first = proxy.tunnel().await;
    let _second = proxy.tunnel().await;
    proxy.connect().await.closed().await;
    let event = proxy.logged("connections refused").await;
    assert!(
        event["reason"]
            .as_str()
            .unwrap()
            .contains("limits.connections")
    );
    // The count outlives a reload, and goes down when a connection ends.
    proxy
        .reload(&(with("limits.connections = 2") + "# the same\n"))
        .await;
    proxy.connect().await.closed().await;
    drop(first);
    until("the end of the first", || echo.open() == 1).await;
    // The connection of the client counts a little longer than that to the endpoint. One too many is closed at once.
    let _third = found("room", 5, async || {
        let mut wire = proxy.connect().await;
        let closed = timeout(Duration::from_millis(200), wire.closed()).await;
        closed.is_err().then_some(wire)
    })
    .await;
    proxy.connect().await.closed().await;
}

#[tokio::test]
async fn an_address_has_a_maximum_of_connections_and_others_their_own() {
    let echo = Echo::start("echo").await;
    let limits = "limits.connections_per_ip = 1\ntrusted_proxies = [\"127.0.0.9\"]";
    let proxy = Proxy::start(&settings(&[echo.address], limits, "")).await;
    let mut first = proxy.connect_from("127.0.0.1", "main").await;
    assert_eq!(handshake(&mut first, "").await, AGREED);
    proxy.connect_from("127.0.0.1", "main").await.closed().await;
    let mut other = proxy.connect_from("127.0.0.2", "main").await;
    assert_eq!(handshake(&mut other, "").await, AGREED);
    // The limit does not apply to a trusted proxy, which has many clients.
    for _ in 0..3 {
        let mut many = proxy.connect_from("127.0.0.9", "main").await;
        assert_eq!(handshake(&mut many, "").await, AGREED);
    }
    drop(first);
    until("the tunnel to end", || {
        proxy.log().events("tunnel ended").iter().any(|event| {
            event["client"]
                .as_str()
                .is_some_and(|client| client.starts_with("127.0.0.1:"))
        })
    })
    .await;
    let mut again = proxy.connect_from("127.0.0.1", "main").await;
    assert_eq!(handshake(&mut again, "").await, AGREED);
}

#[tokio::test]
async fn handshakes_of_an_address_keep_to_a_rate() {
    let echo = Echo::start("echo").await;
    let limits = "limits.handshakes_per_ip = { rate = \"1/h\", burst = 2 }\n\
        trusted_proxies = [\"127.0.0.9\"]";
    let proxy = Proxy::start(&settings(&[echo.address], limits, "")).await;
    for expected in [AGREED, AGREED, refused(429, "address-rate")] {
        let mut wire = proxy.connect_from("127.0.0.1", "main").await;
        assert_eq!(handshake(&mut wire, "").await, expected);
    }
    let mut other = proxy.connect_from("127.0.0.2", "main").await;
    assert_eq!(handshake(&mut other, "").await, AGREED);
    // The limits use the trusted client address.
    for (client, expected) in [
        ("192.0.2.1", AGREED),
        ("192.0.2.1", AGREED),
        ("192.0.2.1", refused(429, "address-rate")),
        ("192.0.2.2", AGREED),
        ("2001:db8::1", AGREED),
        ("2001:db8::2", AGREED),
        ("2001:db8::3", refused(429, "address-rate")),
    ] {
        let mut wire = proxy.connect_from("127.0.0.9", "main").await;
        let fields = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(handshake(&mut wire, &fields).await, expected, "{client}");
    }
    // Plain requests do not count as handshakes, and the connection can still be used.
    let mut wire = proxy.connect_from("127.0.0.1", "main").await;
    for _ in 0..2 {
        assert_eq!(handshake(&mut wire, "").await, refused(429, "address-rate"));
    }
}

/// `Retry-After` of so many handshakes, those that are accepted left out.
async fn retry_afters(proxy: &Proxy, handshakes: usize) -> Vec<u64> {
    let mut seconds = Vec::new();
    for _ in 0..handshakes {
        let mut wire = proxy.connect().await;
        wire.send(HANDSHAKE).await;
        let head = wire.head().await;
        if head.status() != 101 {
            seconds.push(head.retry_after());
        }
    }
    seconds
}

/// They come back within these bounds, and not in the same second.
fn assert_spread(seconds: &[u64], bounds: std::ops::RangeInclusive<u64>) {
    assert!(seconds.iter().all(|it| bounds.contains(it)), "{seconds:?}");
    let distinct: std::collections::HashSet<_> = seconds.iter().collect();
    assert!(distinct.len() > 2, "{seconds:?}");
}

#[tokio::test]
async fn refused_clients_do_not_come_back_together() {
    let echo = Echo::start("echo").await;
    let with = |limits: &str, route: &str| settings(&[echo.address], limits, route);
    // Nothing is known of others.
    let proxy = Proxy::start(&with("", "limits.tunnels = 1")).await;
    let _tunnel = proxy.tunnel().await;
    assert_spread(&retry_afters(&proxy, 60).await, 1..=5);
    // The rate of a client, and its burst.
    let limits = "limits.handshakes_per_ip = { rate = \"6/m\", burst = 3 }";
    proxy.reload(&with(limits, "")).await;
    assert_spread(&retry_afters(&proxy, 60).await, 10..=44);
    // Those that were refused before.
    proxy
        .reload(&with("limits.handshakes_per_second = 1", ""))
        .await;
    let seconds = retry_afters(&proxy, 150).await;
    assert_spread(&seconds, 1..=64);
    assert!(seconds.iter().any(|it| *it > 20), "{seconds:?}");
}

#[tokio::test]
async fn handshakes_of_a_listener_keep_to_a_rate() {
    let echo = Echo::start("echo").await;
    let limits = "limits.handshakes_per_second = 3";
    let proxy = Proxy::start(&settings(&[echo.address], limits, "")).await;
    let mut agreed = 0;
    let mut last = AGREED;
    // More than three in one second: how many more pass depends on how long this takes.
    for _ in 0..40 {
        last = handshake(&mut proxy.connect().await, "").await;
        agreed += usize::from(last == AGREED);
        if last != AGREED {
            break;
        }
    }
    assert!(agreed >= 3);
    assert_eq!(last, refused(503, "handshake-rate"));
}

#[tokio::test]
async fn request_heads_have_a_maximum_size() {
    let endpoint = Endpoint::bind().await;
    let limits = "limits = { header_bytes = \"8KiB\", header_count = 20 }";
    let proxy = Proxy::start(&settings(&[endpoint.address], limits, "")).await;
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let long = format!("X-Long: {}\r\n", "x".repeat(9000));
    let many: String = (0..25).map(|number| format!("X-{number}: 1\r\n")).collect();
    for fields in [long, many] {
        let mut client = proxy.connect().await;
        client.send(request(&fields)).await;
        assert_eq!(client.head().await.status(), 431);
    }
    let mut client = proxy.connect().await;
    let few: String = (0..15).map(|number| format!("X-{number}: 1\r\n")).collect();
    client.send(request(&few)).await;
    endpoint.request().await;
    // The endpoint closes without a response, which has another reason.
    let refused = proxy.logged_times("rejected", 3).await;
    let reasons = refused.iter().map(|event| &event["reason"]);
    assert_eq!(reasons.filter(|it| *it == "head-too-large").count(), 2);
}

/// hyper has a number of its own, which is used for this one.
#[tokio::test]
async fn a_request_head_has_at_most_a_hundred_lines_by_default() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&settings(&[endpoint.address], "", "")).await;
    let request = |lines: usize| {
        let fields: String = (1..lines)
            .map(|number| format!("X-{number}: 1\r\n"))
            .collect();
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    let mut client = proxy.connect().await;
    client.send(request(101)).await;
    assert_eq!(client.head().await.status(), 431);
    let mut client = proxy.connect().await;
    client.send(request(100)).await;
    endpoint.request().await;
}

#[tokio::test]
async fn a_route_has_a_maximum_of_tunnels() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "", "limits.tunnels = 2");
    let proxy = Proxy::start(&config).await;
    let first = proxy.tunnel().await;
    let _second = proxy.tunnel().await;
    let mut third = proxy.connect().await;
    assert_eq!(handshake(&mut third, "").await, refused(503, "route-full"));
    proxy.reload(&(config.clone() + "# the same\n")).await;
    assert_eq!(handshake(&mut third, "").await, refused(503, "route-full"));
    drop(first);
    until("room", || echo.open() == 1).await;
    proxy.logged("tunnel ended").await;
    assert_eq!(handshake(&mut third, "").await, AGREED);
}

#[tokio::test]
async fn the_process_has_a_maximum_of_tunnels() {
    let echo = Echo::start("echo").await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nmax_tunnels = 1\n";
    let proxy = Proxy::start(&(server.to_owned() + &simple(&[echo.address]))).await;
    let _first = proxy.tunnel().await;
    let mut second = proxy.connect().await;
    assert_eq!(
        handshake(&mut second, "").await,
        refused(503, "tunnels-full")
    );
}

#[tokio::test]
async fn an_endpoint_has_a_maximum_of_tunnels() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let tables = format!(
        "endpoints = [{{ address = \"{}\", max_tunnels = 1 }}, {{ address = \"{}\", max_tunnels = 2 }}]",
        one.address, two.address
    );
    let config = simple(&[one.address]);
    let config = config.replace(&format!("endpoints = [\"{}\"]", one.address), &tables);
    let proxy = Proxy::start(&config).await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(proxy.tunnel().await);
    }
    assert_eq!((one.open(), two.open()), (1, 2));
    let mut fourth = proxy.connect().await;
    assert_eq!(
        handshake(&mut fourth, "").await,
        refused(503, "endpoints-full")
    );
    tunnels.clear();
    until("room", || one.open() + two.open() == 0).await;
    proxy.logged_times("tunnel ended", 3).await;
    assert_eq!(handshake(&mut fourth, "").await, AGREED);
}

/// A request with a body of this framing.
fn post(framing: &str, body: &str) -> String {
    format!("POST /upload HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_reaches_no_endpoint() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", "limits.body_bytes = \"8B\"");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    // The client waits for permission, and gets the response instead.
    client
        .send(post("Content-Length: 9\r\nExpect: 100-continue", ""))
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (413, Some("body-too-large"))
    );
    client.closed().await;
    endpoint.stays_quiet().await;
    // As much as the limit is within it, and handshakes have no body.
    let mut client = proxy.connect().await;
    client.send(post("Content-Length: 8", "12345678")).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("content-length"), Some("8"));
    assert_eq!(served.exactly(8).await, b"12345678");
    proxy.tunnel_to(&endpoint).await;
}

#[tokio::test]
async fn a_body_that_becomes_too_large_is_cut_off() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", "limits.body_bytes = \"8B\"");
    let proxy = Proxy::start(&config).await;
    let chunked = "Transfer-Encoding: chunked";
    let mut client = proxy.connect().await;
    client.send(post(chunked, "4\r\n1234\r\n")).await;
    let (mut served, _) = endpoint.request().await;
    assert_eq!(served.chunk().await.unwrap(), b"1234");
    client.send("4\r\n5678\r\n").await;
    assert_eq!(served.chunk().await.unwrap(), b"5678");
    client.send("1\r\n9\r\n").await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (413, Some("body-too-large"))
    );
    client.closed().await;
    // The endpoint sees neither the rest nor an end of the body.
    assert_eq!(served.rest().await.0, b"");
    let mut client = proxy.connect().await;
    client
        .send(post(chunked, "8\r\n12345678\r\n0\r\n\r\n"))
        .await;
    let (mut served, _) = endpoint.request().await;
    assert_eq!(served.chunk().await.unwrap(), b"12345678");
    assert_eq!(served.chunk().await, None);
}

/// Then it is too late for a 413.
#[tokio::test]
async fn a_body_that_becomes_too_large_during_the_response_is_logged() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", "limits.body_bytes = \"8B\"");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client
        .send(post("Transfer-Encoding: chunked", "4\r\n1234\r\n"))
        .await;
    let (mut served, _) = endpoint.request().await;
    assert_eq!(served.chunk().await.unwrap(), b"1234");
    served
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.chunk().await, Some(b"ok".to_vec()));
    client.send("5\r\n56789\r\n").await;
    client.closed().await;
    let logged = proxy
        .logged("request body cut off during the response")
        .await;
    assert_eq!(logged["reason"], "body-too-large");
}

#[tokio::test]
async fn a_limit_of_bodies_is_explained_and_planned() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "", "limits.body_bytes = \"8B\"");
    let (proxy, operator) = Operator::start(&config).await;
    let explain = |url: &'static str| {
        let operator = &operator;
        async move {
            let request = json!({ "url": url, "listener": "main" });
            operator.explain(request).await
        }
    };
    let plain = explain("http://a/upload").await;
    assert_eq!(
        plain["depends_on"],
        json!(["the size of its body: more than 8 bytes are rejected with 413"])
    );
    assert!(explain("ws://a/upload").await["depends_on"].is_null());
    proxy.rewrite(&(ADMIN.to_owned() + &config.replace("8B", "9B")));
    assert_eq!(operator.plan().await["routes"][0]["change"], "changed");
}

/// The status of a plain request with these fields, and the reason of its refusal.
async fn plain(wire: &mut Wire, fields: &str) -> (u16, Option<String>) {
    wire.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
        .await;
    let (head, _) = wire.reply().await;
    if head.status() == 429 {
        assert!(head.retry_after() >= 1);
    }
    (
        head.status(),
        head.value("tidegate-reason").map(str::to_owned),
    )
}

/// Otherwise what is refused early would be a way around the rates.
#[tokio::test]
async fn requests_that_are_not_valid_count_against_the_rates() {
    let endpoint = Endpoint::bind().await;
    let limits = "limits.requests_per_ip = { rate = \"1/h\", burst = 2 }\n\
        limits.handshakes_per_ip = { rate = \"1/h\", burst = 2 }";
    let proxy = Proxy::start(&settings(&[endpoint.address], limits, "")).await;
    let bad_version = HANDSHAKE.replace("Version: 13", "Version: 12");
    for (address, request, seen, limited) in [
        (
            "127.0.0.1",
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "request-rate",
        ),
        (
            "127.0.0.2",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "request-rate",
        ),
        ("127.0.0.1", &*bad_version, 426, "address-rate"),
    ] {
        for expected in [seen, seen, 429, 429] {
            let mut wire = proxy.connect_from(address, "main").await;
            wire.send(request).await;
            let (head, _) = wire.reply().await;
            assert_eq!(head.status(), expected, "{request}");
            if expected == 429 {
                assert_eq!(head.value("tidegate-reason"), Some(limited), "{request}");
            }
        }
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn plain_requests_of_an_address_keep_to_a_rate() {
    let endpoint = Endpoint::bind().await;
    let limits = "limits.requests_per_ip = { rate = \"1/h\", burst = 2 }\n\
        trusted_proxies = [\"127.0.0.9\"]";
    let route = "path = \"/chat\"";
    let served = "[[route]]\nrespond.status = 204\n";
    let config = settings(&[endpoint.address], limits, route) + served;
    let (proxy, operator) = Operator::start(&config).await;
    let accepted = (204, None);
    let mut wire = proxy.connect_from("127.0.0.1", "main").await;
    // The connection can still be used.
    for expected in [
        accepted.clone(),
        accepted.clone(),
        refused(429, "request-rate"),
        refused(429, "request-rate"),
    ] {
        assert_eq!(plain(&mut wire, "").await, expected);
    }
    let mut other = proxy.connect_from("127.0.0.2", "main").await;
    assert_eq!(plain(&mut other, "").await, accepted);
    // The limit uses the trusted client address.
    for (client, expected) in [
        ("192.0.2.1", accepted.clone()),
        ("192.0.2.1", accepted.clone()),
        ("192.0.2.1", refused(429, "request-rate")),
        ("192.0.2.2", accepted.clone()),
        ("2001:db8::1", accepted.clone()),
        ("2001:db8::2", accepted.clone()),
        ("2001:db8::3", refused(429, "request-rate")),
    ] {
        let mut wire = proxy.connect_from("127.0.0.9", "main").await;
        let fields = format!("X-Forwarded-For: {client}\r\n");
        assert_eq!(plain(&mut wire, &fields).await, expected, "{client}");
    }
    // Handshakes are not counted, and requests count before a route is found.
    proxy.tunnel_to(&endpoint).await;
    let unrouted = config.replace("[[route]]\nrespond", "[[route]]\npath = \"/x\"\nrespond");
    proxy.rewrite(&(ADMIN.to_owned() + &unrouted));
    assert_eq!(operator.plan().await["listeners"], json!([]));
    proxy.reload(&(ADMIN.to_owned() + &unrouted)).await;
    let mut wire = proxy.connect_from("127.0.0.1", "main").await;
    assert_eq!(plain(&mut wire, "").await, refused(429, "request-rate"));
    // A reload changes the limit, and the counts outlive it.
    let raised = unrouted.replace("burst = 2", "burst = 3");
    proxy.rewrite(&(ADMIN.to_owned() + &raised));
    let plan = operator.plan().await;
    assert_eq!(plan["listeners"][0]["change"], "changed");
    proxy.reload(&(ADMIN.to_owned() + &raised)).await;
    for expected in [refused(404, "no-route"), refused(429, "request-rate")] {
        assert_eq!(plain(&mut wire, "").await, expected);
    }
    let asked = |url: &str| json!({ "url": url, "listener": "main" });
    let explained = operator.explain(asked("http://a/x")).await;
    assert_eq!(
        explained["depends_on"],
        json!(["how often such requests come: the listener limits their rate"])
    );
    let explained = operator.explain(asked("ws://a/chat")).await;
    assert!(explained["depends_on"].is_null());
}
