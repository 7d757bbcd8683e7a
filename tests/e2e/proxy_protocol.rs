//! The PROXY header: read from connections that must have one, and written to endpoints.

use tokio_rustls::TlsConnector;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, settings};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 8443\r\n";

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 with this command, family and payload.
fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, payload].concat()
}

/// From 192.0.2.1:56324 to 198.51.100.1:8443.
const IPV4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x20, 0xfb];

async fn start(listener: &str) -> (Endpoint, Proxy) {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&settings(&[endpoint.address], listener, "")).await;
    (endpoint, proxy)
}

#[tokio::test]
async fn the_header_says_who_connected() {
    let (endpoint, proxy) = start(REQUIRED).await;
    let ssl = [IPV4, &[0x20, 0, 5, 1, 0, 0, 0, 0]].concat();
    let mut ipv6 = [0; 36];
    ipv6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    ipv6[15] = 1;
    let long = [IPV4, &[0x04, 0x20, 0], &[0; 0x2000]].concat();
    let cases: [(Vec<u8>, &str, &str); 9] = [
        (V1.to_vec(), "192.0.2.1", "http"),
        (
            b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
            "2001:db8::1",
            "http",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "http"),
        (v2(1, 0x11, IPV4), "192.0.2.1", "http"),
        (v2(1, 0x21, &ipv6), "2001:db8::1", "http"),
        (v2(1, 0x11, &ssl), "192.0.2.1", "https"),
        (v2(1, 0x11, &long), "192.0.2.1", "http"),
        (v2(0, 0x11, IPV4), "127.0.0.1", "http"),
        (v2(1, 0, &[]), "127.0.0.1", "http"),
    ];
    for (header, client, proto) in cases {
        // Header and request at once, and byte by byte.
        for whole in [true, false] {
            let mut wire = proxy.connect().await;
            let bytes = [&header[..], HANDSHAKE.as_bytes()].concat();
            if whole || header.len() > 200 {
                wire.send(&bytes).await;
            } else {
                for byte in &bytes {
                    wire.send([*byte]).await;
                }
            }
            let (mut endpoint, head) = endpoint.request().await;
            assert_eq!(head.value("x-forwarded-for"), Some(client), "{header:?}");
            assert_eq!(head.value("x-forwarded-proto"), Some(proto), "{header:?}");
            endpoint.send(SWITCH).await;
            assert_eq!(wire.head().await.status(), 101);
        }
    }
    let opened = proxy.logged("tunnel opened").await;
    assert_eq!(opened["client"], "192.0.2.1:56324");
}

#[tokio::test]
async fn garbage_and_silence_are_closed_without_an_answer() {
    let listener = format!("{REQUIRED}timeouts.request_header = \"1s\"\n");
    let (endpoint, proxy) = start(&listener).await;
    let huge = [SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat();
    let cases: [&[u8]; 10] = [
        HANDSHAKE.as_bytes(),
        b"PROXY TCP4 1.2.3.4 hello\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 8443\nGET / HTTP/1.1\r\n",
        &[b'P'; 200],
        &[0; 64],
        &v2(1, 0x12, IPV4),
        &v2(2, 0x11, IPV4),
        &v2(1, 0x11, &IPV4[..4]),
        &huge,
        b"PROXY TCP4 192.0",
    ];
    for bytes in cases {
        let mut wire = proxy.connect().await;
        wire.send(bytes).await;
        let (answer, _) = wire.rest().await;
        assert!(answer.is_empty(), "{answer:?} to {bytes:?}");
    }
    let mut silent = proxy.connect().await;
    assert!(silent.rest().await.0.is_empty());
    // A header that ends in the middle must not keep its worker busy, or other clients would notice.
    let mut broken = Vec::new();
    for _ in 0..8 {
        let mut wire = proxy.connect().await;
        wire.send("PROXY ").await;
        wire.finish().await;
        broken.push(wire);
    }
    for _ in 0..8 {
        let mut wire = proxy.connect().await;
        wire.send([V1, b"GET / HTTP/1.1\r\n\r\n"].concat()).await;
        assert_eq!(wire.head().await.status(), 400);
    }
    for wire in &mut broken {
        assert!(wire.rest().await.0.is_empty());
    }
    endpoint.stays_quiet().await;
    let refused = proxy.logged_by_now("connection refused").await;
    assert_eq!(refused.len(), cases.len() + 1 + broken.len());
}

#[tokio::test]
async fn only_trusted_proxies_may_send_a_header() {
    let (_endpoint, proxy) = start(REQUIRED).await;
    let mut wire = proxy.connect_from("127.0.0.2", "main").await;
    wire.send(V1).await;
    assert!(wire.rest().await.0.is_empty());
    let refused = proxy.logged("connection refused").await;
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("trusted_proxies"), "{error}");
}

/// Connections of others count against no limit of the listener, and must not last.
#[tokio::test]
async fn an_untrusted_peer_that_sends_nothing_is_closed_soon() {
    let (_endpoint, proxy) = start(&format!("{REQUIRED}timeouts.request_header = \"1h\"\n")).await;
    let mut wire = proxy.connect_from("127.0.0.2", "main").await;
    assert!(wire.rest().await.0.is_empty());
    let refused = proxy.logged("connection refused").await;
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("trusted_proxies"), "{error}");
}

/// TCP health checks connect and close, in order or with a reset, from addresses of their own.
#[tokio::test]
async fn an_empty_probe_is_counted_and_not_logged() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], REQUIRED, "");
    let proxy = Proxy::start(&(METRICS.to_owned() + &config)).await;
    for from in ["127.0.0.1", "127.0.0.2"] {
        for with_reset in [false, true] {
            let mut wire = proxy.connect_from(from, "main").await;
            if with_reset {
                wire.reset();
            } else {
                wire.finish().await;
                assert!(wire.rest().await.0.is_empty());
            }
        }
    }
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    client.rest().await;
    let name = "tidegate_connections_refused_total";
    let scrape = Scrape::until(&proxy, name, &["reason=\"empty\""], 4.0).await;
    assert_eq!(scrape.sum(name, &["reason=\"proxy-header\""]), 1.0);
    assert_eq!(proxy.logged_by_now("connection refused").await.len(), 1);
}

/// Behind two load balancers, the header names the first one, and forwarding headers name the client.
#[tokio::test]
async fn forwarding_headers_are_trusted_by_the_address_in_the_header() {
    let (endpoint, proxy) = start(REQUIRED).await;
    for (source, expected) in [
        ("127.0.0.1", "203.0.113.7, 127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
    ] {
        let mut wire = proxy.connect().await;
        wire.send(format!(
            "PROXY TCP4 {source} 198.51.100.1 1 443\r\n\
             GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
        ))
        .await;
        let (_wire, head) = endpoint.request().await;
        assert_eq!(head.value("x-forwarded-for"), Some(expected));
    }
}

/// A header may leave the client unknown. Forwarding headers of such a connection are not trusted.
#[tokio::test]
async fn forwarding_headers_of_an_unknown_client_are_not_trusted() {
    let (endpoint, proxy) = start(REQUIRED).await;
    let anonymous: [Vec<u8>; 4] = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(1, 0, &[]),
        v2(1, 0x31, &[0; 216]),
        v2(0, 0x11, &[]),
    ];
    for header in anonymous {
        let mut wire = proxy.connect().await;
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
        wire.send([&header[..], request].concat()).await;
        let (_wire, head) = endpoint.request().await;
        assert_eq!(
            head.value("x-forwarded-for"),
            Some("127.0.0.1"),
            "{header:?}"
        );
    }
}

#[tokio::test]
async fn tls_begins_after_the_header() {
    let (authority, folder) = Authority::with_certificate();
    let echo = Echo::start("echo").await;
    let listener = format!(
        "{REQUIRED}[listener.main.tls]\ncertificates = [{{ cert = \"chat.pem\", key = \"chat.key\" }}]\n"
    );
    let proxy = Proxy::start_in(folder, &settings(&[echo.address], &listener, "")).await;
    let mut socket = tokio::net::TcpStream::connect(proxy.address())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, V1)
        .await
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from("chat.example.com").unwrap();
    let stream = TlsConnector::from(authority.client())
        .connect(name, socket)
        .await;
    let mut wire = Wire::over(stream.unwrap());
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    assert_eq!(
        proxy.logged("tunnel opened").await["client"],
        "192.0.2.1:56324"
    );
}

fn sending(version: &str, endpoint: &Endpoint) -> String {
    let listener = "trusted_proxies = [\"127.0.0.1\"]\n";
    settings(&[endpoint.address], listener, "") + &format!("send_proxy = \"{version}\"\n")
}

#[tokio::test]
async fn endpoints_get_a_header_of_version_1() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&sending("v1", &endpoint)).await;
    let port = proxy.address().port();
    // The address of the socket, and one from a trusted proxy, which does not know the port.
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let mut wire = endpoint.accept().await;
    let line = wire.line().await;
    let parts: Vec<&str> = line.split(' ').collect();
    assert_eq!(
        parts[..4],
        ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"],
        "{line}"
    );
    assert_eq!(parts[5], port.to_string());
    assert!(wire.head().await.start().starts_with("GET /chat"));
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);

    let mut client = proxy.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n\r\n")
        .await;
    let line = endpoint.accept().await.line().await;
    assert_eq!(
        line,
        format!("PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 0 {port}")
    );
}

#[tokio::test]
async fn endpoints_get_a_header_of_version_2_and_no_connection_is_reused() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&sending("v2", &endpoint)).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
            .await;
        let mut wire = endpoint.accept().await;
        let header = wire.exactly(28).await;
        let port = proxy.address().port().to_be_bytes();
        let addresses = [&[192, 0, 2, 1, 127, 0, 0, 1, 0, 0][..], &port].concat();
        assert_eq!(header, v2(1, 0x11, &addresses));
        assert!(wire.head().await.start().starts_with("GET / "));
        wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 204);
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_reload_switches_the_header_on_for_new_connections_only() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&settings(&[echo.address], "", "")).await;
    let mut before = proxy.tunnel().await;
    proxy.reload(&settings(&[echo.address], REQUIRED, "")).await;
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    assert!(wire.rest().await.0.is_empty());
    let mut wire = proxy.connect().await;
    wire.send([V1, HANDSHAKE.as_bytes()].concat()).await;
    assert_eq!(wire.head().await.status(), 101);
    before.send([0x81, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(before.exactly(2).await, [0x81, 0]);
    until("both tunnels", || echo.open() == 2).await;
}
