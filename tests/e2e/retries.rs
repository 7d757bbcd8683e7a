//! Retries on another endpoint, and the queue for a free one.

use std::net::SocketAddr;

use futures_util::future::join_all;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::free_address;
use crate::harness::proxy::{Proxy, simple, verbose};
use crate::harness::scrape::{METRICS, Scrape};
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

/// How an endpoint ends a connection after it has read the request.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Close,
    Reset,
    /// It closes in the middle of a response head.
    Partly,
}

async fn end(mut asked: Wire, ending: Ending) {
    match ending {
        Ending::Close => asked.finish().await,
        Ending::Reset => asked.reset(),
        Ending::Partly => {
            asked.send("HTTP/1.1 200 OK\r\nContent-Le").await;
            asked.finish().await;
        }
    }
}

#[tokio::test]
async fn an_end_without_an_answer_leads_to_another_endpoint() {
    let endpoints = endpoints().await;
    let addresses = endpoints.each_ref().map(|each| each.address);
    let proxy = Proxy::start(&config(&addresses, "")).await;
    for (request, answer) in [(HANDSHAKE, SWITCH), (GET, BUSY)] {
        for ending in [Ending::Close, Ending::Reset] {
            let (mut client, asked, next) = ask(&proxy, request, &endpoints).await;
            end(asked, ending).await;
            let (mut wire, head) = next.request().await;
            assert_eq!(head.start(), request.lines().next().unwrap());
            wire.send(answer).await;
            let expected: u16 = answer[9..12].parse().unwrap();
            assert_eq!(client.head().await.status(), expected, "{ending:?}");
        }
        // A part of an answer is an answer.
        let (mut client, asked, next) = ask(&proxy, request, &endpoints).await;
        end(asked, Ending::Partly).await;
        assert_eq!(client.reply().await.0.status(), 502, "{request}");
        next.stays_quiet().await;
    }
    // The last endpoint has nothing after it.
    let (mut client, asked, next) = ask(&proxy, HANDSHAKE, &endpoints).await;
    end(asked, Ending::Close).await;
    drop(next.request().await);
    assert_eq!(client.reply().await.0.status(), 502);
    // Neither is a request sent twice that may have had an effect...
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let (mut client, asked, next) = ask(&proxy, post, &endpoints).await;
    end(asked, Ending::Close).await;
    assert_eq!(client.reply().await.0.status(), 502);
    next.stays_quiet().await;
    // ... nor anything if so configured.
    proxy.reload(&config(&addresses, "retry_on = []")).await;
    for request in [HANDSHAKE, GET] {
        let (mut client, asked, next) = ask(&proxy, request, &endpoints).await;
        end(asked, Ending::Close).await;
        assert_eq!(client.reply().await.0.status(), 502);
        next.stays_quiet().await;
    }
}

/// An endpoint that closes every `nth` handshake without an answer, and accepts the others.
async fn closes_every(nth: usize) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let endpoint = Endpoint::bind().await;
    let address = endpoint.address;
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        for number in 1.. {
            let (mut wire, _) = endpoint.request().await;
            if number % nth != 0 {
                wire.send(SWITCH).await;
                open.push(wire);
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn an_endpoint_that_closes_half_of_its_handshakes_fails_no_client() {
    let (faulty, _task) = closes_every(2).await;
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&verbose(&config(&[faulty, echo.address], ""))).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(proxy.tunnel().await);
    }
    let retried = proxy.logged_by_now("retrying on another endpoint").await;
    assert_eq!(retried.len(), 5, "{retried:#?}");
    assert!(retried.iter().all(|it| it["response"] == "closed"));
}

/// If every endpoint fails, an upstream gets a fifth more requests than without retries, not twice as many.
#[tokio::test]
async fn retries_are_a_fifth_of_the_requests_and_the_others_are_counted() {
    let (one, _task) = closes_every(1).await;
    let (two, _other) = closes_every(1).await;
    let proxy = Proxy::start(&[METRICS, &config(&[one, two], "")].concat()).await;
    let visit = async || {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let (head, _) = client.reply().await;
        let reason = head.value("tidegate-reason").map(str::to_owned);
        (head.status(), reason)
    };
    let answers = join_all((0..60).map(|_| visit())).await;
    let bad = (502, Some("bad-answer".to_owned()));
    assert!(answers.iter().all(|answer| *answer == bad), "{answers:?}");
    let scrape = Scrape::of(&proxy).await;
    let upstream = ["upstream=\"main\""];
    let [retried, refused] = ["tidegate_retries_total", "tidegate_retries_refused_total"]
        .map(|name| scrape.sum(name, &upstream) as usize);
    assert_eq!(retried + refused, 60);
    // On a machine so slow that this took more than ten seconds, more are allowed.
    assert!((12..60).contains(&retried), "{retried}");
}

/// A request that every endpoint closes is suspect, not the endpoints: a client must not get them ejected.
#[tokio::test]
async fn a_close_without_an_answer_counts_once_another_endpoint_has_answered() {
    const EJECTION: &str = "ejection = { failures = 2, window = \"10m\" }\n";
    let (one, _task) = closes_every(1).await;
    let (two, _other) = closes_every(1).await;
    let proxy = Proxy::start(&config(&[one, two], EJECTION)).await;
    // Few enough for the upstream's budget of retries.
    for _ in 0..4 {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        assert_eq!(client.reply().await.0.status(), 502);
    }
    let ejected = proxy.logged_by_now("endpoint ejected").await;
    assert!(ejected.is_empty(), "{ejected:#?}");
    // Where the other one answers, the endpoint is to blame.
    let echo = Echo::start("echo").await;
    proxy.reload(&config(&[one, echo.address], EJECTION)).await;
    for _ in 0..6 {
        proxy.tunnel().await;
    }
    let ejected = proxy.logged_by_now("endpoint ejected").await;
    assert_eq!(ejected.len(), 1, "{ejected:#?}");
    assert_eq!(ejected[0]["endpoint"], one.to_string());
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
    assert_eq!(head.status(), 503);
    assert!((1..=5).contains(&head.retry_after()));
    assert_eq!(head.value("tidegate-reason"), Some("endpoints-full"));
}

/// A dead endpoint has room, and is asked while the others are full: the request waits for those nevertheless.
#[tokio::test]
async fn a_request_that_a_dead_endpoint_fails_waits_in_the_queue() {
    let (dead, echo) = (free_address(), Echo::start("echo").await);
    let listed = format!("\"{}\"", echo.address);
    let limited = format!("{{ address = {listed}, max_tunnels = 1 }}");
    let config = config(&[dead, echo.address], "queue = { timeout = \"60s\" }");
    let proxy = Proxy::start(&verbose(&config.replace(&listed, &limited))).await;
    let held = proxy.tunnel().await;
    let failed = "cannot connect to endpoint";
    let before = proxy.logged_by_now(failed).await.len();
    let mut waiting = proxy.connect().await;
    waiting.send(HANDSHAKE).await;
    proxy.logged_times(failed, before + 1).await;
    let rejected = proxy.logged_by_now("rejected").await;
    assert!(rejected.is_empty(), "{rejected:#?}");
    drop(held);
    assert_eq!(waiting.head().await.status(), 101);
}

#[tokio::test]
async fn clients_stay_away_longer_while_the_queue_is_full() {
    let echo = Echo::start("echo").await;
    let queue = "queue = { size = 1, timeout = \"50s\" }";
    let proxy = Proxy::start(&full(&echo, queue)).await;
    let _held = proxy.tunnel().await;
    let mut wires = Vec::new();
    let mut seconds = Vec::new();
    // One of them waits, the others are refused.
    for _ in 0..60 {
        let mut wire = proxy.connect().await;
        wire.send(HANDSHAKE).await;
        wires.push(wire);
    }
    let mut heads = tokio::task::JoinSet::new();
    for mut wire in wires {
        heads.spawn(async move { wire.head().await.retry_after() });
    }
    while seconds.len() < 59 {
        seconds.push(heads.join_next().await.unwrap().unwrap());
    }
    assert!(
        seconds.iter().all(|it| (1..=55).contains(it)),
        "{seconds:?}"
    );
    assert!(seconds.iter().any(|it| *it > 5), "{seconds:?}");
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
