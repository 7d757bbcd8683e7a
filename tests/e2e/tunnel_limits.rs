//! Limits of a tunnel: messages, bytes, and the time that a slow reader may take.

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::frame;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{HANDSHAKE, Wire};

fn config(address: std::net::SocketAddr, limits: &str) -> String {
    settings(&[address], "", &format!("limits = {{ {limits} }}"))
}

/// A text message, masked as by a client.
fn text(payload: &[u8]) -> Vec<u8> {
    frame(0x81, Some([1, 2, 3, 4]), payload)
}

#[tokio::test]
async fn a_client_that_floods_is_closed_with_1008() {
    let echo = Echo::start("echo").await;
    for (limits, reason) in [
        ("messages_per_second = 20", "message-rate"),
        (
            "bytes_per_second = { rate = \"2KiB\", action = \"close\" }",
            "byte-rate",
        ),
    ] {
        let proxy = Proxy::start(&config(echo.address, limits)).await;
        let mut calm = proxy.tunnel().await;
        let mut flooding = proxy.tunnel().await;
        flooding.send(text(&[b'x'; 100]).repeat(40)).await;
        let (rest, _) = flooding.rest().await;
        let close = [
            &[0x88, 2 + reason.len() as u8, 0x03, 0xf0],
            reason.as_bytes(),
        ]
        .concat();
        assert!(
            rest.ends_with(&close),
            "{:?}",
            String::from_utf8_lossy(&rest)
        );
        assert_eq!(proxy.logged("tunnel ended").await["reason"], reason);
        calm.send(text(b"calm")).await;
        assert_eq!(calm.exactly(6).await, b"\x81\x04calm");
    }
}

#[tokio::test]
async fn invalid_framing_does_not_bypass_a_limit() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = Proxy::start(&config(echo.address, "messages_per_second = 1000")).await;
    let mut client = proxy.tunnel().await;
    client.send([0xff; 64]).await;
    client.rest().await;
    assert_eq!(
        proxy.logged("tunnel ended").await["reason"],
        "protocol-error"
    );
}

#[tokio::test]
async fn a_throttled_client_loses_nothing() {
    let endpoint = Endpoint::bind().await;
    let limited = |rate: &str| {
        let limits = format!("bytes_per_second = {{ rate = \"{rate}\" }}");
        config(endpoint.address, &limits)
    };
    let proxy = Proxy::start(&limited("1B")).await;
    let (mut client, mut wire) = proxy.tunnel_to(&endpoint).await;
    // The first read passes; at this rate, the next byte would take a day.
    client.flood(&text(&[b'x'; 60_000])).await;
    wire.exactly(16_000).await;
    let passed = wire.until_quiet().await;
    assert!(passed < 200_000, "{passed}");
    // The other direction still works.
    wire.send(frame(0x81, None, b"down")).await;
    assert_eq!(client.exactly(6).await, b"\x81\x04down");
    // A client below its rate is not slowed down.
    proxy.reload(&limited("1GiB")).await;
    let (mut client, mut wire) = proxy.tunnel_to(&endpoint).await;
    let message = text(&[b'x'; 60_000]);
    for _ in 0..50 {
        client.send(&message).await;
        assert_eq!(wire.exactly(message.len()).await, message);
    }
}

#[tokio::test]
async fn a_stalled_reader_is_disconnected_and_the_other_side_gets_a_close() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&config(endpoint.address, "slow_reader = \"2s\"")).await;
    let chunk = frame(0x82, None, &[7; 64 * 1024]);
    // A client that does not read.
    let (_client, mut wire) = proxy.tunnel_to(&endpoint).await;
    wire.flood(&chunk).await;
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "slow-client");
    let (rest, _) = wire.rest().await;
    // A Close with the code 1001.
    assert_eq!(rest.first(), Some(&0x88), "{rest:?}");
    // An endpoint that does not read.
    let (mut client, _wire) = proxy.tunnel_to(&endpoint).await;
    client.flood(&text(&[b'x'; 64 * 1024])).await;
    let ended = proxy.logged_times("tunnel ended", 2).await;
    assert_eq!(ended[1]["reason"], "slow-upstream");
    let (rest, _) = client.rest().await;
    assert_eq!(rest.get(..4), Some(&[0x88, 15, 0x03, 0xf0][..]), "{rest:?}");
}

/// Frames that fit into the buffers of TLS, which then never drain.
#[tokio::test]
async fn a_slow_reader_over_tls_is_detected() {
    let (authority, folder) = Authority::with_certificate();
    let endpoint = Endpoint::bind().await;
    let config = config(endpoint.address, "slow_reader = \"2s\"")
        + "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let proxy = Proxy::start_in(folder, &config).await;
    let mut client = proxy
        .connect_tls(authority.client(), "chat.example.com")
        .await;
    client.send(HANDSHAKE).await;
    let mut wire: Wire = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    wire.flood(&frame(0x82, None, &[7; 64 * 1024])).await;
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "slow-client");
}

/// The kernel finds a socket writable when a third of its buffer is free, for which these clients need far
/// longer than `slow_reader`.
#[tokio::test]
async fn a_client_that_reads_slowly_and_steadily_is_not_slow() {
    let (authority, folder) = Authority::with_certificate();
    let endpoint = Endpoint::bind().await;
    let config = config(endpoint.address, "slow_reader = \"2s\"")
        + "[listener.tls]\nbind = [\"127.0.0.1:0\"]\n\
           tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let proxy = Proxy::start_in(folder, &config).await;
    let narrow = async |listener: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(proxy.address_of(listener)).await.unwrap()
    };
    let name = rustls::pki_types::ServerName::try_from("chat.example.com").unwrap();
    let connector = tokio_rustls::TlsConnector::from(authority.client());
    let tls = connector.connect(name, narrow("tls").await).await.unwrap();
    let clients = [Wire::tcp(narrow("main").await), Wire::over(tls)];
    let reading = clients.into_iter().map(async |mut client| {
        client.send(HANDSHAKE).await;
        let mut wire = endpoint.tunnel().await;
        assert_eq!(client.head().await.status(), 101);
        wire.flood(&frame(0x82, None, &[7; 64 * 1024])).await;
        for _ in 0..24 {
            client.exactly(32 * 1024).await;
            crate::harness::quiet_for(250, std::future::pending::<()>()).await;
        }
        (client, wire)
    });
    let _open = futures_util::future::join_all(reading).await;
    assert_eq!(proxy.logged_by_now("tunnel ended").await.len(), 0);
}
