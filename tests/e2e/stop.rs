//! Stopping, and exit codes.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

fn with_grace(grace: &str, config: &str) -> String {
    format!("[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"{grace}\"\n{config}")
}

#[tokio::test]
async fn requests_finish_and_tunnels_have_their_grace() {
    let endpoint = Endpoint::bind().await;
    let mut proxy = Proxy::start(&with_grace("30s", &simple(&[endpoint.address]))).await;
    let mut tunnel = proxy.connect().await;
    tunnel.send(HANDSHAKE).await;
    let mut tunnelled = endpoint.tunnel().await;
    assert_eq!(tunnel.head().await.status(), 101);
    let mut opening = proxy.connect().await;
    opening.send(HANDSHAKE).await;
    let (mut answering, _) = endpoint.request().await;
    let mut plain = proxy.connect().await;
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut replying, _) = endpoint.request().await;
    let mut idle = proxy.connect().await;

    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    proxy.logged("no longer listening").await;
    assert!(TcpStream::connect(proxy.address()).await.is_err());
    idle.closed().await;
    replying
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(plain.reply().await.1, "ok");
    plain.closed().await;
    answering.send(SWITCH).await;
    assert_eq!(opening.head().await.status(), 101);
    tunnel.send("still").await;
    assert_eq!(tunnelled.exactly(5).await, b"still");
    // The process exits after the last tunnel.
    drop((tunnel, opening));
    assert_eq!(proxy.exit().await, 0);
    let stopped = proxy.logged("stopped").await;
    assert_eq!(
        (&stopped["tunnels"], &stopped["requests"]),
        (&2.into(), &1.into())
    );
}

#[tokio::test]
async fn tunnels_that_outlive_the_grace_are_ended() {
    let echo = Echo::start("echo").await;
    let mut proxy = Proxy::start(&with_grace("200ms", &simple(&[echo.address]))).await;
    let mut tunnel = proxy.tunnel().await;
    proxy.signal(Signal::INT);
    tunnel.rest().await;
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "shutdown");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let echo = Echo::start("echo").await;
    let mut proxy = Proxy::start(&with_grace("1h", &simple(&[echo.address]))).await;
    let _tunnel = proxy.tunnel().await;
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 4);
}

/// Connections in the backlog at the time of the signal are served and not reset.
#[tokio::test]
async fn connections_in_the_backlog_are_served() {
    let echo = Echo::start("echo").await;
    let mut proxy = Proxy::start(&with_grace("30s", &simple(&[echo.address]))).await;
    proxy.signal(Signal::STOP);
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(HANDSHAKE).await;
        waiting.push(client);
    }
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    for client in &mut waiting {
        assert_eq!(client.head().await.status(), 101);
    }
    drop(waiting);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn connections_are_accepted_during_the_delay() {
    let echo = Echo::start("echo").await;
    let config = with_grace("30s", &simple(&[echo.address]))
        .replace("shutdown.grace", "shutdown.delay = \"3s\"\nshutdown.grace");
    let mut proxy = Proxy::start(&config).await;
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    drop(proxy.tunnel().await);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn an_invalid_configuration_is_exit_code_1() {
    let mut proxy = Proxy::spawn(Arc::new(TempDir::new().unwrap()), "nonsense", |_| {});
    assert_eq!(proxy.exit().await, 1);
    until("the reason", || proxy.log().text().contains("config.toml")).await;
}
