//! Retries on another endpoint, and the queue for a free one.

use std::net::SocketAddr;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

const GET: &str = "GET /poll HTTP/1.1\r\nHost: a\r\n\r\n";
/// A response that closes its connection, so that each request has a connection of its own.
const BUSY: &str = "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy";

/// Round robin over these endpoints, with these settings of the upstream.
fn config(endpoints: &[SocketAddr], settings: &str) -> String {
    let settings = format!("balance = \"round_robin\"\n{settings}\nendpoints");
    simple(endpoints).replace("endpoints", &settings)
}

/// A client that has sent this request, and the endpoint that got it first.
async fn ask<'a>(
    proxy: &Proxy,
    request: &str,
    endpoints: &'a [Endpoint; 2],
) -> (Wire, Wire, &'a Endpoint) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    let [one, two] = endpoints;
    tokio::select! {
        (wire, _) = one.request() => (client, wire, two),
        (wire, _) = two.request() => (client, wire, one),
    }
}

async fn endpoints() -> [Endpoint; 2] {
    [Endpoint::bind().await, Endpoint::bind().await]
}

#[tokio::test]
async fn an_answer_that_is_listed_leads_to_another_endpoint() {
    let endpoints = endpoints().await;
    let addresses = endpoints.each_ref().map(|each| each.address);
    let proxy = Proxy::start(&config(&addresses, "retry_on = [\"503\"]")).await;
    let (mut client, mut asked, next) = ask(&proxy, HANDSHAKE, &endpoints).await;
    asked.send(BUSY).await;
    let (mut wire, _) = next.request().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    // The same for plain requests that can be repeated.
    let (mut client, mut asked, next) = ask(&proxy, GET, &endpoints).await;
    asked.send(BUSY).await;
    let (mut wire, head) = next.request().await;
    assert!(head.start().starts_with("GET /poll "), "{head:?}");
    wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.reply().await.1, "ok");
    // The response of the last endpoint is passed on.
    for request in [HANDSHAKE, GET] {
        let (mut client, mut asked, next) = ask(&proxy, request, &endpoints).await;
        asked.send(BUSY).await;
        let (mut wire, _) = next.request().await;
        wire.send(BUSY).await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), body.as_str()), (503, "busy"));
        assert_eq!(head.value("tidegate-reason"), None);
    }
    // Another status is passed on, too.
    let (mut client, mut asked, next) = ask(&proxy, HANDSHAKE, &endpoints).await;
    asked.send(BUSY.replace("503", "500")).await;
    assert_eq!(client.reply().await.0.status(), 500);
    next.stays_quiet().await;
}

#[tokio::test]
async fn nothing_is_sent_twice_unless_the_configuration_says_so() {
    let endpoints = endpoints().await;
    let addresses = endpoints.each_ref().map(|each| each.address);
    let proxy = Proxy::start(&config(&addresses, "")).await;
    for request in [HANDSHAKE, GET] {
        let (mut client, mut asked, next) = ask(&proxy, request, &endpoints).await;
        asked.send(BUSY).await;
        assert_eq!(client.reply().await.0.status(), 503);
        next.stays_quiet().await;
    }
    // A request with a body or an unsafe method is never retried.
    proxy
        .reload(&config(&addresses, "retry_on = [\"503\"]"))
        .await;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let (mut client, mut asked, next) = ask(&proxy, post, &endpoints).await;
    asked.send(BUSY).await;
    assert_eq!(client.reply().await.0.status(), 503);
    next.stays_quiet().await;
}

#[tokio::test]
async fn a_timeout_leads_to_another_endpoint_if_so_configured() {
    let endpoints = endpoints().await;
    let addresses = endpoints.each_ref().map(|each| each.address);
    let timeouts = "timeouts = { handshake = \"1s\", response = \"1s\" }\n";
    let settings = format!("{timeouts}retry_on = [\"timeout\"]");
    let proxy = Proxy::start(&config(&addresses, &settings)).await;
    for (request, answer) in [(HANDSHAKE, SWITCH), (GET, BUSY)] {
        let (mut client, _silent, next) = ask(&proxy, request, &endpoints).await;
        let (mut wire, _) = next.request().await;
        wire.send(answer).await;
        let expected: u16 = answer[9..12].parse().unwrap();
        assert_eq!(client.head().await.status(), expected);
    }
    proxy.reload(&config(&addresses, timeouts)).await;
    let (mut client, _silent, next) = ask(&proxy, HANDSHAKE, &endpoints).await;
    assert_eq!(client.reply().await.0.status(), 504);
    next.stays_quiet().await;
}

fn full(echo: &Echo, queue: &str) -> String {
    let listed = format!("\"{}\"", echo.address);
    let limited = format!("{{ address = {listed}, max_tunnels = 1 }}");
    config(&[echo.address], queue).replace(&listed, &limited)
}

#[tokio::test]
async fn a_queued_handshake_gets_the_next_free_tunnel_or_a_503() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&full(&echo, "queue = { size = 2 }")).await;
    let first = proxy.tunnel().await;
    let mut waiting = proxy.connect().await;
    waiting.send(HANDSHAKE).await;
    let mut second = proxy.connect().await;
    second.send(HANDSHAKE).await;
    // The queue has two positions: one of these three is rejected at once.
    let mut third = proxy.connect().await;
    third.send(HANDSHAKE).await;
    let refused = proxy.logged("rejected").await;
    assert_eq!(refused["reason"], "endpoints-full");
    // The tunnel ends: one queued handshake gets its slot, and the other one after that.
    drop(first);
    let mut served = Vec::new();
    for mut wire in [waiting, second, third] {
        served.push(tokio::spawn(async move {
            let status = wire.head().await.status();
            drop(wire);
            status
        }));
    }
    let mut statuses = Vec::new();
    for wire in served {
        statuses.push(wire.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [101, 101, 503]);
    // The queue has a timeout.
    proxy
        .reload(&full(&echo, "queue = { timeout = \"200ms\" }"))
        .await;
    until("the last of them to end", || echo.open() == 0).await;
    let _held = proxy.tunnel().await;
    let mut late = proxy.connect().await;
    late.send(HANDSHAKE).await;
    let (head, _) = late.reply().await;
    assert_eq!((head.status(), head.value("retry-after")), (503, Some("1")));
    assert_eq!(head.value("tidegate-reason"), Some("endpoints-full"));
}

#[tokio::test]
async fn a_client_that_leaves_gives_up_its_queue_position() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&full(&echo, "queue = { size = 1 }")).await;
    let held = proxy.tunnel().await;
    for _ in 0..3 {
        let mut gone = proxy.connect().await;
        gone.send(HANDSHAKE).await;
        gone.reset();
    }
    drop(held);
    // If one of them had kept its queue position, this one would be rejected or wait.
    until("a place", || echo.open() == 0).await;
    proxy.tunnel().await;
}
