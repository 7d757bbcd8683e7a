//! Faults of other proxies and servers with upgrades, as they were published, against tidegate in front of a server
//! that has the same fault. docs/upgrade-bugs.md names the test of each.

use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{End, Head, Wire, handshake_with};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What an attacker wants to reach the endpoint, past the route.
const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: chat.example.com\r\n\r\n";

/// A tidegate whose only route is `/chat`.
async fn guarded(endpoint: &Endpoint) -> Proxy {
    Proxy::start(&settings(&[endpoint.address], "", "path = \"/chat\"")).await
}

/// Asserts that the client's second request was one of its own, to which no route leads, and that the endpoint gets no
/// other connection.
async fn assert_judged(endpoint: &Endpoint, client: &mut Wire) {
    let head = client.head().await;
    assert_eq!(head.status(), 404, "{head:?}");
    assert_eq!(head.value("tidegate-reason"), Some("no-route"));
    endpoint.stays_quiet().await;
}

/// Pingora, CVE-2026-2833: any `Upgrade` turned the connection into a tunnel before the answer came.
#[tokio::test]
async fn bytes_after_an_upgrade_are_the_next_request() {
    let endpoint = Endpoint::bind().await;
    let proxy = guarded(&endpoint).await;
    for protocol in ["foo", "h2c", "websocket, foo", "WebSocket/13"] {
        let mut client = proxy.connect().await;
        let head = format!(
            "GET /chat HTTP/1.1\r\nHost: chat.example.com\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        client.send(format!("{head}{SMUGGLED}")).await;
        let Some((mut served, head)) = asked(&endpoint, &mut client).await else {
            continue;
        };
        assert_eq!(head.value("upgrade"), None, "{protocol}: {head:?}");
        served.send(OK).await;
        assert_eq!(client.reply().await.1, "ok", "{protocol}");
        assert_judged(&endpoint, &mut client).await;
        served.stays_quiet().await;
    }
}

/// What the endpoint is asked; `None` if tidegate refuses, and judges what follows by itself.
async fn asked(endpoint: &Endpoint, client: &mut Wire) -> Option<(Wire, Head)> {
    tokio::select! {
        asked = endpoint.request() => Some(asked),
        (head, _) = client.reply() => {
            assert_eq!(head.status() / 100, 4, "{head:?}");
            assert_judged(endpoint, client).await;
            None
        }
    }
}

/// Envoy, CVE-2024-23326: a 200 that repeats `Upgrade` counted as an upgrade. Kemal (2026) kept the connection open
/// after it had refused a handshake, and read what followed as a request.
#[tokio::test]
async fn a_handshake_that_is_declined_opens_nothing() {
    let endpoint = Endpoint::bind().await;
    let proxy = guarded(&endpoint).await;
    let upgrading = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (status, fields) in [("200 OK", upgrading), ("403 Forbidden", ""), ("200 OK", "")] {
        let mut client = proxy.connect().await;
        client
            .send(format!("{}{SMUGGLED}", handshake_with("")))
            .await;
        let (mut served, _) = endpoint.request().await;
        let answer = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 2\r\n\r\nok");
        served.send(&answer).await;
        let (head, body) = client.reply().await;
        assert_eq!(
            (head.value("upgrade"), body.as_str()),
            (None, "ok"),
            "{answer}"
        );
        assert_judged(&endpoint, &mut client).await;
        assert_eq!(served.rest().await, (Vec::new(), End::Orderly), "{answer}");
    }
}

/// nghttpx, CVE-2026-58055, and aiohttp, GHSA-mfx4-hv73-q22v: a handshake with a body, which one side skips and the
/// other takes for the next request.
#[tokio::test]
async fn a_handshake_has_no_body() {
    let endpoint = Endpoint::bind().await;
    let proxy = guarded(&endpoint).await;
    let length = format!("Content-Length: {}\r\n", SMUGGLED.len());
    for (fields, body) in [
        (length.as_str(), SMUGGLED.to_owned()),
        (
            "Transfer-Encoding: chunked\r\n",
            format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len()),
        ),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(format!("{}{body}", handshake_with(fields)))
            .await;
        let head = client.head().await;
        assert_eq!(
            head.value("tidegate-reason"),
            Some("websocket-body"),
            "{fields}: {head:?}"
        );
    }
    // With another protocol it is a request with a body, which stays one.
    let mut client = proxy.connect().await;
    let head =
        "POST /chat HTTP/1.1\r\nHost: chat.example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n";
    client.send(format!("{head}{length}\r\n{SMUGGLED}")).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("upgrade"), None);
    assert_eq!(served.body(&head).await, SMUGGLED.as_bytes());
    endpoint.stays_quiet().await;
}

/// Netty, CVE-2026-50020: control characters before a request line were skipped.
#[tokio::test]
async fn control_characters_before_a_request_are_an_error() {
    let endpoint = Endpoint::bind().await;
    let proxy = guarded(&endpoint).await;
    for before in ["\0", "\x01", "\x1f", "\x7f", "\r\n\x02"] {
        let mut client = proxy.connect().await;
        client.send(format!("{before}{}", handshake_with(""))).await;
        assert_eq!(client.head().await.status(), 400, "{before:?}");
    }
    endpoint.stays_quiet().await;
}

/// HAProxy (haproxy/haproxy#2928) passed on an `Upgrade` that no `Connection` named.
#[tokio::test]
async fn an_upgrade_without_connection_is_none() {
    let endpoint = Endpoint::bind().await;
    let proxy = guarded(&endpoint).await;
    let mut client = proxy.connect().await;
    let request = "GET /chat HTTP/1.1\r\nHost: chat.example.com\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(format!("{request}{SMUGGLED}")).await;
    let Some((mut served, head)) = asked(&endpoint, &mut client).await else {
        return;
    };
    assert_eq!(head.value("upgrade"), None, "{head:?}");
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
    assert_judged(&endpoint, &mut client).await;
    served.stays_quiet().await;
}
