//! TLS towards endpoints: trust, the client certificate, and session resumption.

use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

async fn to_endpoint(tls: &str, hosts: &[&str], mutual: bool) -> (Echo, Proxy) {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    Authority::new().write(&folder.path().join("other.pem"));
    authority.issue(folder.path(), "own", &["tidegate"]);
    let server = authority.server(folder.path(), hosts, mutual);
    let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
    let config = simple(&[echo.address]) + tls;
    let proxy = Proxy::start_in(folder, &config).await;
    (echo, proxy)
}

#[tokio::test]
async fn endpoints_over_tls_are_verified() {
    for (tls, hosts, mutual, good) in [
        ("tls = { ca = \"ca.pem\" }\n", "127.0.0.1", false, true),
        (
            "tls = { ca = \"ca.pem\", server_name = \"chat.internal\" }\n",
            "chat.internal",
            false,
            true,
        ),
        ("tls = { ca = \"ca.pem\" }\n", "chat.internal", false, false),
        ("tls = { ca = \"other.pem\" }\n", "127.0.0.1", false, false),
        (
            "tls = { ca = \"ca.pem\", client_cert = \"own.pem\", client_key = \"own.key\" }\n",
            "127.0.0.1",
            true,
            true,
        ),
    ] {
        let (_echo, proxy) = to_endpoint(tls, &[hosts], mutual).await;
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let head = client.head().await;
        if good {
            assert_eq!(head.status(), 101, "{tls}{}", proxy.log().text());
        } else {
            assert_eq!(
                head.value("tidegate-reason"),
                Some("connect-failed"),
                "{tls}"
            );
            let failure = proxy.logged("cannot connect to endpoint").await;
            let error = failure["error"].as_str().unwrap();
            assert!(
                error.contains("TLS handshake failed: invalid peer certificate"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn health_checks_use_tls() {
    let health = "health = { websocket = { ping = true }, interval = \"50ms\", fall = 1, \
                  timeout = \"30s\" }\n";
    let good = format!("{health}tls = {{ ca = \"ca.pem\" }}\n");
    let (echo, proxy) = to_endpoint(&good, &["127.0.0.1"], false).await;
    until("checks", || echo.served() > 3).await;
    assert!(proxy.logged_by_now("endpoint down").await.is_empty());
    let other = format!("{health}tls = {{ ca = \"other.pem\" }}\n");
    let (_echo, proxy) = to_endpoint(&other, &["127.0.0.1"], false).await;
    let down = proxy.logged("endpoint down").await;
    let why = down["why"].as_str().unwrap();
    assert!(
        why.starts_with("TLS handshake failed: invalid peer certificate"),
        "{why}"
    );
}

#[tokio::test]
async fn plain_requests_reuse_tls_connections() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let server = authority.server(folder.path(), &["127.0.0.1"], false);
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "tls = { ca = \"ca.pem\" }\n";
    let proxy = Proxy::start_in(folder, &config).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let accepted = TlsAcceptor::from(server)
        .accept(endpoint.accept().await)
        .await;
    let mut served = Wire::over(accepted.unwrap());
    for _ in 0..3 {
        served.head().await;
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.reply().await.1, "ok");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    until("three requests", || {
        proxy.log().events("request").len() == 3
    })
    .await;
}

/// The next tunnel at `endpoint`: the kind of TLS handshake, and the ALPN protocol.
async fn next_tunnel(
    endpoint: &Endpoint,
    server: &Arc<ServerConfig>,
    proxy: &Proxy,
) -> (HandshakeKind, Vec<u8>) {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let acceptor = TlsAcceptor::from(Arc::clone(server));
    let stream = acceptor.accept(endpoint.accept().await).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let protocol = stream.get_ref().1.alpn_protocol().unwrap().to_owned();
    let mut wire = Wire::over(stream);
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    (kind, protocol)
}

#[tokio::test]
async fn sessions_resume_even_after_a_reload_and_only_http_1_1_is_offered() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let mut server = (*authority.server(folder.path(), &["127.0.0.1"], false)).clone();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Arc::new(server);
    let endpoint = Endpoint::bind().await;
    let with = |tls: &str| simple(&[endpoint.address]) + tls;
    let config = with("tls = { ca = \"ca.pem\" }\n");
    let proxy = Proxy::start_in(folder, &config).await;
    let (first, protocol) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_ne!(first, HandshakeKind::Resumed);
    assert_eq!(protocol, b"http/1.1");
    let (second, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_eq!(second, HandshakeKind::Resumed);
    proxy.reload(&format!("{config}# the same\n")).await;
    let (after, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_eq!(after, HandshakeKind::Resumed);
    // Changed settings start with new sessions, because the trust may have changed.
    proxy
        .reload(&with(
            "tls = { ca = \"ca.pem\", server_name = \"127.0.0.1\" }\n",
        ))
        .await;
    let (other, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_ne!(other, HandshakeKind::Resumed);
}

#[tokio::test]
async fn the_authorities_of_the_operating_system_are_the_default() {
    for (bundle, good) in [("ca.pem", true), ("other.pem", false)] {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.write(&folder.path().join("ca.pem"));
        Authority::new().write(&folder.path().join("other.pem"));
        let server = authority.server(folder.path(), &["127.0.0.1"], false);
        let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
        let config = simple(&[echo.address]) + "tls = {}\n";
        let bundle = folder.path().join(bundle);
        let proxy = Proxy::spawn(Arc::new(folder), &config, |command| {
            command
                .env("SSL_CERT_FILE", bundle)
                .env_remove("SSL_CERT_DIR");
        });
        proxy.logged("ready").await;
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let status = client.head().await.status();
        assert_eq!(status, if good { 101 } else { 503 });
    }
}
