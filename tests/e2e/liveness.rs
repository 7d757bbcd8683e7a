//! Pings to idle sides of tunnels, and dead peers.

use std::net::{TcpListener, TcpStream};

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{close, close_payload, frame, frames};
use crate::harness::network::{self, LINKS, Link};
use crate::harness::proxy::{Proxy, Signal, settings};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Wire};

const PINGS: &str = "timeouts = { ping = \"1s\", pong = \"2s\" }";

/// The length of a Ping to a client, and that of a masked one to an endpoint.
const PING: usize = 10;
const MASKED_PING: usize = 14;

async fn tunnel(route: &str) -> (Proxy, Endpoint, Wire, Wire) {
    let endpoint = Endpoint::bind().await;
    let config = METRICS.to_owned() + &settings(&[endpoint.address], "", route);
    let proxy = Proxy::start(&config).await;
    let (client, served) = proxy.tunnel_to(&endpoint).await;
    (proxy, endpoint, client, served)
}

/// Reads a Ping: its payload.
async fn ping(wire: &mut Wire, length: usize) -> Vec<u8> {
    let bytes = wire.exactly(length).await;
    let (first, payload) = frames(&bytes).pop().unwrap();
    assert_eq!(first, 0x89, "{bytes:?}");
    assert_eq!(payload.len(), 8);
    payload
}

/// The next short frame that is not a Ping.
async fn message(wire: &mut Wire) -> Vec<u8> {
    loop {
        let head = wire.exactly(2).await;
        let mask = if head[1] & 0x80 == 0 { 0 } else { 4 };
        let rest = wire.exactly(usize::from(head[1] & 0x7f) + mask).await;
        if head[0] != 0x89 {
            return [head, rest].concat();
        }
    }
}

/// Answers the next Ping as a client.
async fn answer_as_client(client: &mut Wire) {
    let payload = ping(client, PING).await;
    client.send(frame(0x8a, Some([7, 0, 7, 0]), &payload)).await;
}

/// Answers the next Ping as an endpoint.
async fn answer_as_endpoint(served: &mut Wire) {
    let payload = ping(served, MASKED_PING).await;
    served.send(frame(0x8a, None, &payload)).await;
}

/// Answers Pings as an endpoint until the Close, which is longer. Returns everything from there on.
async fn endpoint_until_close(served: &mut Wire) -> Vec<u8> {
    loop {
        let bytes = served.exactly(MASKED_PING).await;
        if bytes[0] != 0x89 {
            return [bytes, served.rest().await.0].concat();
        }
        let (_, payload) = frames(&bytes).remove(0);
        served.send(frame(0x8a, None, &payload)).await;
    }
}

/// The same for a client.
async fn client_until_close(client: &mut Wire) -> Vec<u8> {
    loop {
        let bytes = client.exactly(PING).await;
        if bytes[0] != 0x89 {
            return [bytes, client.rest().await.0].concat();
        }
        let (_, payload) = frames(&bytes).remove(0);
        client.send(frame(0x8a, Some([0; 4]), &payload)).await;
    }
}

#[tokio::test]
async fn both_sides_are_pinged_and_their_pongs_are_not_forwarded() {
    let (proxy, _endpoint, mut client, mut served) = tunnel(PINGS).await;
    for _ in 0..2 {
        tokio::join!(
            answer_as_client(&mut client),
            answer_as_endpoint(&mut served)
        );
    }
    // The next bytes on each side are those that the other side has sent.
    let (hello, reply) = (
        frame(0x81, Some([1; 4]), b"hello"),
        frame(0x81, None, b"hi"),
    );
    client.send(&hello).await;
    assert_eq!(message(&mut served).await, hello);
    served.send(&reply).await;
    assert_eq!(message(&mut client).await, reply);
    let scrape = Scrape::of(&proxy).await;
    for side in ["side=\"client\"", "side=\"endpoint\""] {
        assert!(scrape.sum("tidegate_ping_rtt_seconds_count", &[side]) >= 2.0);
    }
    // Pings and Pongs are not counted as bytes of the tunnel either.
    let from = |direction| scrape.sum("tidegate_tunnel_bytes_total", &[direction]);
    assert_eq!(from("direction=\"from_client\""), hello.len() as f64);
    assert_eq!(from("direction=\"from_endpoint\""), reply.len() as f64);
}

#[tokio::test]
async fn a_dead_client_is_detected_and_its_endpoint_gets_a_close() {
    let (proxy, _endpoint, _client, mut served) = tunnel(PINGS).await;
    let ended = async { proxy.logged("tunnel ended").await };
    let (ended, last) = tokio::join!(ended, endpoint_until_close(&mut served));
    assert_eq!(ended["reason"], "dead-client");
    assert_eq!(close_payload(&last), close(1001, "dead-client"));
}

#[tokio::test]
async fn a_dead_endpoint_is_detected_and_its_client_gets_a_close() {
    let (proxy, _endpoint, mut client, _served) = tunnel(PINGS).await;
    let ended = async { proxy.logged("tunnel ended").await };
    let (ended, last) = tokio::join!(ended, client_until_close(&mut client));
    assert_eq!(ended["reason"], "dead-upstream");
    assert_eq!(close_payload(&last), close(1001, "dead-upstream"));
}

#[test]
fn an_endpoint_that_vanishes_without_a_packet_is_detected() {
    network::run_in_own(LINKS, "liveness::an_endpoint_behind_a_link_vanishes");
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn an_endpoint_behind_a_link_vanishes() {
    let link = Link::new();
    let listener = link.beyond(|| TcpListener::bind((Link::FAR, 0)).unwrap());
    let endpoint = Endpoint::on(listener);
    let proxy = Proxy::start(&settings(&[endpoint.address], "", PINGS)).await;
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    // Both ends run and answer all the time; only the link is down.
    tokio::join!(
        answer_as_client(&mut client),
        answer_as_endpoint(&mut served)
    );
    link.take_down();
    tokio::spawn(async move { endpoint_until_close(&mut served).await });
    let ended = async { proxy.logged("tunnel ended").await };
    let (ended, last) = tokio::join!(ended, client_until_close(&mut client));
    assert_eq!(ended["reason"], "dead-upstream");
    assert_eq!(close_payload(&last), close(1001, "dead-upstream"));
}

#[test]
fn a_client_that_vanishes_without_a_packet_is_detected() {
    network::run_in_own(LINKS, "liveness::a_client_behind_a_link_vanishes");
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn a_client_behind_a_link_vanishes() {
    let link = Link::new();
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", PINGS);
    let near = format!("{}:0", Link::NEAR);
    let proxy = Proxy::start(&config.replace("127.0.0.1:0", &near)).await;
    let address = proxy.address();
    let socket = link.beyond(|| TcpStream::connect(address).unwrap());
    let mut client = Wire::std(socket);
    client.send(HANDSHAKE).await;
    let mut served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    tokio::join!(
        answer_as_client(&mut client),
        answer_as_endpoint(&mut served)
    );
    link.take_down();
    tokio::spawn(async move { client_until_close(&mut client).await });
    let ended = async { proxy.logged("tunnel ended").await };
    let (ended, last) = tokio::join!(ended, endpoint_until_close(&mut served));
    assert_eq!(ended["reason"], "dead-client");
    assert_eq!(close_payload(&last), close(1001, "dead-client"));
}

#[tokio::test]
async fn pongs_do_not_count_as_activity() {
    let route = "timeouts = { ping = \"1s\", pong = \"5s\", idle = \"3s\" }";
    let (proxy, _endpoint, mut client, mut served) = tunnel(route).await;
    // Both tasks end with the tunnel.
    tokio::spawn(async move {
        loop {
            answer_as_client(&mut client).await;
        }
    });
    tokio::spawn(async move {
        loop {
            answer_as_endpoint(&mut served).await;
        }
    });
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "idle");
    assert!(ended["idle_ms"].as_f64().unwrap() >= 3000.0, "{ended}");
    let scrape = Scrape::of(&proxy).await;
    let answered = scrape.sum("tidegate_ping_rtt_seconds_count", &[]);
    assert!(answered >= 2.0, "both sides have answered meanwhile");
}

/// The endpoint does not read, so nothing more is read from the client: its Pongs stay in its socket.
#[tokio::test]
async fn a_side_that_is_not_read_is_not_dead() {
    let (proxy, _endpoint, mut client, mut served) = tunnel(PINGS).await;
    client.flood(&frame(0x82, Some([7; 4]), &[1; 60_000])).await;
    let news = frame(0x81, None, b"news");
    for _ in 0..60 {
        served.send(&news).await;
        // Answers Pings in between, if there are any.
        loop {
            let bytes = client.exactly(news.len()).await;
            if bytes == news {
                break;
            }
            let bytes = [bytes, client.exactly(PING - news.len()).await].concat();
            let (_, payload) = frames(&bytes).remove(0);
            client
                .flood_once(&frame(0x8a, Some([0; 4]), &payload))
                .await;
        }
        crate::harness::quiet_for(100, client.at_least(PING + 1)).await;
    }
    assert_eq!(proxy.logged_by_now("tunnel ended").await.len(), 0);
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.contains("State:\tT")
    })
}

/// While the process is stopped it hears nothing, and blames its peers for nothing.
#[tokio::test]
async fn tunnels_survive_a_process_that_was_stopped() {
    let route = "timeouts = { ping = \"2s\", pong = \"1s\", idle = \"3s\" }";
    let (proxy, _endpoint, mut client, mut served) = tunnel(route).await;
    let (hello, reply) = (
        frame(0x81, Some([1; 4]), b"hello"),
        frame(0x81, None, b"hi"),
    );
    client.send(&hello).await;
    assert_eq!(served.exactly(hello.len()).await, hello);
    proxy.signal(Signal::STOP);
    crate::harness::until("a stopped process", || is_stopped(proxy.pid())).await;
    client.send(&hello).await;
    served.send(&reply).await;
    crate::harness::quiet_for(8_000, client.at_least(1)).await;
    proxy.signal(Signal::CONT);
    assert_eq!(message(&mut served).await, hello);
    assert_eq!(message(&mut client).await, reply);
    assert_eq!(proxy.logged_by_now("tunnel ended").await.len(), 0);
}

#[tokio::test]
async fn an_active_side_is_not_pinged() {
    let pings = PINGS.replace("ping = \"1s\"", "ping = \"3s\"");
    let (proxy, _endpoint, mut client, mut served) = tunnel(&pings).await;
    let (hello, reply) = (frame(0x81, Some([1; 4]), b"x"), frame(0x81, None, b"x"));
    for _ in 0..120 {
        client.send(&hello).await;
        assert_eq!(served.exactly(hello.len()).await, hello);
        served.send(&reply).await;
        assert_eq!(client.exactly(reply.len()).await, reply);
        // Far less than the time after which an idle side is pinged.
        crate::harness::quiet_for(50, client.at_least(1)).await;
    }
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_ping_rtt_seconds_count", &[]), 0.0);
}
