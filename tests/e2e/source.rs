//! The local addresses of connections to endpoints.

use std::net::IpAddr;

use tokio::net::TcpListener;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::network;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};
use crate::harness::within;

fn from(sources: &str, listener: &TcpListener) -> String {
    let endpoints = [listener.local_addr().unwrap()];
    format!("{}source = [{sources}]\n", simple(&endpoints))
}

/// Opens tunnels one after the other: the source address of each, and its two ends.
async fn origins(proxy: &Proxy, listener: &TcpListener, count: usize) -> Vec<(IpAddr, [Wire; 2])> {
    let mut origins = Vec::new();
    for _ in 0..count {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let accepted = within("an endpoint's connection", listener.accept()).await;
        let (socket, peer) = accepted.unwrap();
        let mut endpoint = Wire::tcp(socket);
        endpoint.head().await;
        endpoint.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        origins.push((peer.ip(), [client, endpoint]));
    }
    origins
}

fn shown(origins: &[(IpAddr, [Wire; 2])]) -> Vec<String> {
    origins.iter().map(|(ip, _)| ip.to_string()).collect()
}

#[tokio::test]
async fn source_addresses_are_used_in_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = from("\"127.0.0.2\", \"127.0.0.3\", \"::1\"", &listener);
    let proxy = Proxy::start(&(METRICS.to_owned() + &config)).await;
    let free = async || {
        let scrape = Scrape::of(&proxy).await;
        ["127.0.0.2", "127.0.0.3", "::1"].map(|source| {
            let source = format!("source=\"{source}\"");
            scrape.sum("tidegate_source_ports_free", &[&source])
        })
    };
    let [before, other, none] = free().await;
    assert!(before > 0.0 && before == other && none == 0.0);
    let tunnels = origins(&proxy, &listener, 3).await;
    assert_eq!(shown(&tunnels), ["127.0.0.2", "127.0.0.3", "127.0.0.2"]);
    assert_eq!(free().await, [before - 2.0, before - 1.0, 0.0]);
    drop(tunnels);
    proxy.logged_times("tunnel ended", 3).await;
    within("ports to be free again", async {
        while free().await != [before, before, 0.0] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An idle connection between two plain requests uses a port, too.
#[tokio::test]
async fn idle_connections_count_as_ports_in_use() {
    let endpoint = Endpoint::bind().await;
    let config = METRICS.to_owned() + &simple(&[endpoint.address]);
    let proxy = Proxy::start(&config).await;
    let free = async || {
        let scrape = Scrape::of(&proxy).await;
        scrape.sum("tidegate_source_ports_free", &["source=\"default\""])
    };
    let before = free().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut wire, _) = endpoint.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.reply().await;
    assert_eq!(free().await, before - 1.0);
    drop(wire);
    within("the port to be free again", async {
        while free().await != before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_source_address_that_is_not_local_is_skipped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The first address is reserved for documentation (RFC 5737), so it is not local.
    let proxy = Proxy::start(&from("\"192.0.2.1\", \"127.0.0.2\"", &listener)).await;
    let tunnels = origins(&proxy, &listener, 4).await;
    assert_eq!(shown(&tunnels), ["127.0.0.2"; 4]);
    let events = proxy
        .logged_by_now("source address unavailable or out of ports")
        .await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["source"], "192.0.2.1");
}

/// Few local ports, in a network namespace of its own.
const PORTS: usize = 8;

const NARROWED: &str = "ip link set lo up && \
    echo 40000 40007 > /proc/sys/net/ipv4/ip_local_port_range";

#[test]
fn a_source_address_without_a_free_port_is_skipped() {
    network::run_in_own(NARROWED, "source::in_a_network_with_few_ports");
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn in_a_network_with_few_ports() {
    let echoes = [
        Echo::bytes_at("127.0.0.1:9000".parse().unwrap()).await,
        Echo::bytes_at("127.0.0.1:9001".parse().unwrap()).await,
    ];
    // One port is enough for both endpoints.
    let each = PORTS * echoes.len();
    // Over a Unix socket, because clients would use up ports, too.
    let config =
        simple(&echoes.each_ref().map(|echo| echo.address)).replace("127.0.0.1:0", "unix:in.sock");
    let config = config.replace("unix:", "unix:FOLDER/") + "tries = 1\n";
    let folder = tempfile::TempDir::new().unwrap();
    let config = config.replace("FOLDER", folder.path().to_str().unwrap());
    let with = |sources: &str| format!("{config}source = [{sources}]\n");
    let proxy = Proxy::start_in(folder, &with("\"127.0.0.2\"")).await;
    let mut held = Vec::new();
    let open = async |held: &mut Vec<Wire>| {
        let mut wire = proxy.connect_unix("in.sock").await;
        wire.send(HANDSHAKE).await;
        let head = wire.head().await;
        held.push(wire);
        head.status()
    };
    for _ in 0..each {
        assert_eq!(open(&mut held).await, 101);
    }
    assert_eq!(open(&mut held).await, 503);
    proxy.reload(&with("\"127.0.0.2\", \"127.0.0.3\"")).await;
    for _ in 0..each {
        assert_eq!(open(&mut held).await, 101);
    }
    assert_eq!(open(&mut held).await, 503);
    let rejected = proxy.logged_times("rejected", 2).await;
    let detail = rejected[1]["detail"].as_str().unwrap();
    assert!(detail.contains("no free local port"), "{detail}");
    assert_eq!(echoes.each_ref().map(Echo::open), [2 * PORTS; 2]);
    // The ports of the first source for both endpoints, and of the second for the last one tried.
    let events = proxy
        .logged_by_now("source address unavailable or out of ports")
        .await;
    assert_eq!(events.len(), 3, "{events:?}");
}
