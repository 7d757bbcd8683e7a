//! Streams in a stop and in an upgrade: they are closed one by one, together with tunnels.

use serde_json::{Value, json};

use crate::harness::endpoint::Endpoint;
use crate::harness::operator::{Operator, upgradable};
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};
use crate::harness::within;

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A client, and the endpoint's side of its connection.
type Pair = (Wire, Wire);

/// A plain request with this response, of which the client has the head.
async fn answered(proxy: &Proxy, endpoint: &Endpoint, response: &str) -> Pair {
    let (mut client, mut served) = asked(proxy, endpoint).await;
    served.send(response).await;
    assert_eq!(client.head().await.status(), 200);
    (client, served)
}

/// A plain request without a response.
async fn asked(proxy: &Proxy, endpoint: &Endpoint) -> Pair {
    let mut client = proxy.connect().await;
    client.send("GET /poll HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (served, _) = endpoint.request().await;
    (client, served)
}

async fn tunnel(proxy: &Proxy, endpoint: &Endpoint) -> Pair {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    served.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    (client, served)
}

/// Passes this on as a chunk.
async fn pass((client, served): &mut Pair, data: &str) {
    served.send(format!("{:x}\r\n{data}\r\n", data.len())).await;
    assert_eq!(client.chunk().await, Some(data.as_bytes().to_vec()));
}

fn stopping(grace: &str, endpoint: &Endpoint) -> String {
    let server =
        format!("[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"{grace}\"\n");
    let admin = crate::harness::operator::ADMIN;
    server + admin + &simple(&[endpoint.address])
}

/// Waits until as many streams are listed.
async fn streams(operator: &Operator, query: &str, count: usize) {
    within("the streams to be listed", async {
        loop {
            let listing = operator
                .get(&format!("/v1/tunnels?kind=stream{query}"))
                .await;
            if listing["tunnels"].as_array().unwrap().len() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What has ended so far, in the order of the log: its kind and its reason.
fn ends(proxy: &Proxy) -> Vec<(&'static str, String)> {
    let text = proxy.log().text();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ends = events.filter_map(|event| {
        let kind = match event["message"].as_str()? {
            "tunnel ended" => "tunnel",
            "stream ended" => "stream",
            _ => return None,
        };
        Some((kind, event["reason"].as_str()?.to_owned()))
    });
    ends.collect()
}

/// The turns are a second and more apart.
#[tokio::test]
async fn tunnels_and_streams_are_closed_one_by_one_the_oldest_first() {
    let endpoint = Endpoint::bind().await;
    let (mut proxy, operator) = Operator::start_whole(&stopping("7s", &endpoint)).await;
    let mut first = answered(&proxy, &endpoint, EVENTS).await;
    pass(&mut first, "data: 1\n\n").await;
    let mut second = tunnel(&proxy, &endpoint).await;
    let mut third = answered(&proxy, &endpoint, CHUNKED).await;
    pass(&mut third, "half").await;
    let mut fourth = tunnel(&proxy, &endpoint).await;
    let mut fifth = asked(&proxy, &endpoint).await;
    streams(&operator, "", 3).await;
    proxy.signal(Signal::TERM);
    let draining = proxy.logged("draining").await;
    assert_eq!(
        (&draining["tunnels"], &draining["streams"]),
        (&json!(2), &json!(3))
    );
    // Each in its way, while those after it are still served.
    assert_eq!(first.0.chunk().await, None);
    second.1.send("still").await;
    assert_eq!(second.0.exactly(5).await, b"still");
    second.0.rest().await;
    pass(&mut third, "and more").await;
    assert_eq!(third.0.rest().await.0, b"");
    fourth.1.send("still").await;
    assert_eq!(fourth.0.exactly(5).await, b"still");
    fourth.0.rest().await;
    let (head, _) = fifth.0.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (503, Some("stream-ended"))
    );
    assert_eq!(proxy.exit().await, 0);
    let kinds: Vec<&str> = ends(&proxy).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["stream", "tunnel", "stream", "tunnel", "stream"]);
    assert!(ends(&proxy).iter().all(|(_, reason)| reason == "shutdown"));
}

#[tokio::test]
async fn a_request_that_waits_for_an_endpoint_is_answered_at_the_end() {
    let endpoint = Endpoint::bind().await;
    let address = format!("\"{}\"", endpoint.address);
    let full = format!("{{ address = {address}, max_tunnels = 1 }}");
    let config = stopping_alone("2s", &endpoint).replace(&address, &full);
    let queue = "queue = { size = 9, timeout = \"1m\" }\n";
    let mut proxy = Proxy::start(&(config + queue)).await;
    let _held = tunnel(&proxy, &endpoint).await;
    let mut waiting = proxy.connect().await;
    waiting.send("GET /poll HTTP/1.1\r\nHost: a\r\n\r\n").await;
    proxy.signal(Signal::TERM);
    let (head, _) = waiting.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (503, Some("stream-ended"))
    );
    assert_eq!(proxy.exit().await, 0);
}

/// An event stream lasts, however young it is: if it was not in line, the tunnel would come first.
#[tokio::test]
async fn an_event_stream_that_has_just_begun_has_its_turn() {
    let endpoint = Endpoint::bind().await;
    let mut proxy = Proxy::start(&stopping_alone("4s", &endpoint)).await;
    let mut first = answered(&proxy, &endpoint, EVENTS).await;
    let mut second = answered(&proxy, &endpoint, EVENTS).await;
    let mut third = tunnel(&proxy, &endpoint).await;
    proxy.signal(Signal::TERM);
    assert_eq!(first.0.chunk().await, None);
    pass(&mut second, "data: 1\n\n").await;
    assert_eq!(second.0.chunk().await, None);
    third.0.rest().await;
    assert_eq!(proxy.exit().await, 0);
    let kinds: Vec<&str> = ends(&proxy).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["stream", "stream", "tunnel"]);
}

/// Nothing of an event has come, so that there is none to wait for: these streams are whole.
#[tokio::test]
async fn an_event_stream_without_an_event_is_not_broken_off() {
    let endpoint = Endpoint::bind().await;
    let mut proxy = Proxy::start(&stopping_alone("1s", &endpoint)).await;
    let mut streams = Vec::new();
    for beginning in [
        "\u{feff}",
        "\u{feff}: hello\n",
        "retry: 3000\n",
        ": hello\n",
    ] {
        let mut stream = answered(&proxy, &endpoint, EVENTS).await;
        pass(&mut stream, beginning).await;
        streams.push(stream);
    }
    proxy.signal(Signal::TERM);
    for (client, _) in &mut streams {
        assert_eq!(client.chunk().await, None);
    }
    assert_eq!(proxy.exit().await, 0);
}

fn stopping_alone(grace: &str, endpoint: &Endpoint) -> String {
    stopping(grace, endpoint).replace(crate::harness::operator::ADMIN, "")
}

/// At the end of the grace period nothing is waited for: no event under way, no client that reads nothing, no
/// endpoint that has not responded to a request that is a second old.
#[tokio::test]
async fn what_is_left_at_the_end_of_the_grace_period_is_cut() {
    let endpoint = Endpoint::bind().await;
    let mut proxy = Proxy::start(&stopping_alone("1s", &endpoint)).await;
    let mut event = answered(&proxy, &endpoint, EVENTS).await;
    pass(&mut event, "data: 1").await;
    let mut stuck = answered(&proxy, &endpoint, CHUNKED).await;
    let piece = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    stuck.1.flood(piece.as_bytes()).await;
    let mut waiting = asked(&proxy, &endpoint).await;
    let mut half = answered(&proxy, &endpoint, CHUNKED).await;
    pass(&mut half, "half").await;
    proxy.signal(Signal::TERM);
    assert_eq!(waiting.0.reply().await.0.status(), 503);
    assert_eq!(event.0.rest().await.0, b"");
    assert_eq!(half.0.rest().await.0, b"");
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(proxy.logged("stopped").await["forced"], false);
    let ended = ends(&proxy);
    assert!(
        ended
            .iter()
            .all(|end| *end == ("stream", "shutdown".to_owned()))
    );
    assert_eq!(ended.len(), 4, "{ended:?}");
}

async fn upgrade(operator: &Operator) {
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
}

fn with_drain(drain: &str, endpoint: &Endpoint) -> String {
    let server = format!("upgrade = {{ settle = \"200ms\", drain = \"{drain}\" }}");
    upgradable(&server, &simple(&[endpoint.address]))
}

/// With `drain = "off"` an old process waits for streams as it does for tunnels, and an operator sees and ends them.
#[tokio::test]
async fn streams_of_an_old_generation_are_shown_and_closed() {
    let endpoint = Endpoint::bind().await;
    let (mut proxy, operator) = Operator::start_whole(&with_drain("off", &endpoint)).await;
    let mut events = answered(&proxy, &endpoint, EVENTS).await;
    streams(&operator, "", 1).await;
    upgrade(&operator).await;
    let second = proxy.successor(1).await;
    streams(&operator, "&generation=1", 1).await;
    let old = within("the old generation to report", async {
        loop {
            let status = operator.get("/v1/status").await;
            let old = status["generations"][1].clone();
            if old["streams"] == 1 {
                return old;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(old.await["tunnels"], 0);
    let printed = operator.run(&["status"]).await;
    assert!(
        printed.out.contains("0 tunnels, 1 stream and"),
        "{}",
        printed.out
    );
    pass(&mut events, "data: 1\n\n").await;
    // Tunnels alone are meant without a kind.
    let close = ["close", "--generation", "1", "--all", "--yes"];
    assert_eq!(
        operator.run(&close).await.out,
        "closed 0 of 0 tunnels with 1012\n"
    );
    pass(&mut events, "data: 2\n\n").await;
    let printed = operator
        .run(&[&close[..], &["--kind", "stream"]].concat())
        .await;
    assert_eq!(printed.out, "closed 1 of 1 stream\n");
    assert_eq!(events.0.chunk().await, None);
    assert_eq!(proxy.exit().await, 0);
    kill(second, Signal::TERM);
    proxy.logged_times("stopped", 2).await;
}

#[tokio::test]
async fn an_old_generation_closes_its_streams_as_it_closes_its_tunnels() {
    let endpoint = Endpoint::bind().await;
    let (mut proxy, operator) = Operator::start_whole(&with_drain("4s", &endpoint)).await;
    let mut first = tunnel(&proxy, &endpoint).await;
    let mut second = answered(&proxy, &endpoint, EVENTS).await;
    streams(&operator, "", 1).await;
    upgrade(&operator).await;
    let successor = proxy.successor(1).await;
    // Its Close frame.
    first.0.at_least(2).await;
    pass(&mut second, "data: 1\n\n").await;
    assert_eq!(second.0.chunk().await, None);
    assert_eq!(proxy.exit().await, 0);
    kill(successor, Signal::TERM);
    proxy.logged_times("stopped", 2).await;
}
