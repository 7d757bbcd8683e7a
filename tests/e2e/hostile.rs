//! Hostile clients and endpoints, and others that must not notice them.

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::{Random, frame};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

/// Core dumps, so that a test without root can read /proc of the process.
const LOOKED_INTO: &str = "[server]\nworkers = 2\nlog.format = \"json\"\ncore_dumps = true\n";

/// The number of open descriptors of the process.
fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid()))
        .unwrap()
        .count()
}

#[tokio::test]
async fn two_thousand_handshakes_that_are_dropped_leave_nothing_behind() {
    let endpoint = Endpoint::bind().await;
    let config = LOOKED_INTO.to_owned() + &simple(&[endpoint.address]);
    let proxy = Proxy::start(&config).await;
    let before = descriptors(&proxy);
    // Dropped before, in and after the head, in order and by a reset. The endpoint never responds.
    for number in 0..2000 {
        let mut client = proxy.connect().await;
        let most = HANDSHAKE.len() * 2;
        let length = (number * 37) % most;
        let bytes = HANDSHAKE.as_bytes();
        client.send(&bytes[..length.min(bytes.len())]).await;
        if number % 3 == 0 {
            client.reset();
        }
    }
    until("all descriptors to be free again", || {
        descriptors(&proxy) <= before
    })
    .await;
    // Every lease has been returned: another client gets a tunnel.
    drop(endpoint);
    let echo = Echo::start("echo").await;
    proxy
        .reload(&(LOOKED_INTO.to_owned() + &simple(&[echo.address])))
        .await;
    proxy.tunnel().await;
}

#[tokio::test]
async fn a_hundred_thousand_tiny_frames_are_a_hundred_thousand_messages() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    let mut neighbour = proxy.tunnel().await;
    let mut client = proxy.tunnel().await;
    let burst = frame(0x82, Some([1, 2, 3, 4]), b"").repeat(100_000);
    client.send(&burst).await;
    neighbour.send("neighbour").await;
    assert_eq!(neighbour.exactly(9).await, b"neighbour");
    assert_eq!(client.exactly(burst.len()).await, burst);
    client.finish().await;
    client.rest().await;
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["messages_from_client"], 100_000);
}

/// Valid beginnings of requests, TLS records and PROXY headers, which random bytes would not hit.
const BEGINNINGS: [&[u8]; 10] = [
    b"",
    b"GET / HTTP/1.1\r\n",
    HANDSHAKE.as_bytes(),
    b"\x16\x03\x01",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PROXY TCP4 ",
    b"PROXY UNKNOWN\r\n\x16\x03\x01",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
];

#[tokio::test]
async fn random_bytes_on_any_port_do_no_harm() {
    const PROXY: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let (authority, folder) = Authority::with_certificate();
    let echo = Echo::start("echo").await;
    let tls = "tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let proxied = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let mut config = simple(&[echo.address]);
    for (name, keys) in [
        ("tls", tls),
        ("proxied", proxied),
        ("both", &(tls.to_owned() + proxied)),
    ] {
        config += &format!("[listener.{name}]\nbind = [\"127.0.0.1:0\"]\n{keys}");
    }
    let proxy = Proxy::start_in(folder, &config).await;
    let mut neighbour = proxy.tunnel().await;
    let mut random = Random(7);
    for beginning in BEGINNINGS {
        for listener in ["main", "tls", "proxied", "both"].repeat(6) {
            let mut client = Wire::connect(proxy.address_of(listener)).await;
            let length = random.up_to(3000);
            let bytes = random.bytes(length);
            client.flood_once(&[beginning, &bytes].concat()).await;
            client.reset();
        }
    }
    neighbour.send(frame(0x81, Some([0; 4]), b"hello")).await;
    assert_eq!(neighbour.exactly(7).await, b"\x81\x05hello");
    drop(neighbour);
    until("every connection to end", || echo.open() == 0).await;
    // Every port still works.
    let mut proxied = Wire::connect(proxy.address_of("proxied")).await;
    proxied.send(PROXY).await;
    let tls = proxy.connect_tls_at("tls", authority.client(), "chat.example.com");
    for mut client in [proxy.connect().await, proxied, tls.await] {
        client.send(HANDSHAKE).await;
        assert_eq!(client.head().await.status(), 101);
    }
}

/// The client gets the bytes sent before, and then the end at once.
#[tokio::test]
async fn an_endpoint_that_dies_in_mid_stream_ends_its_tunnels_at_once() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for with_reset in [false, true] {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let (mut wire, _) = endpoint.request().await;
        wire.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        let last = frame(0x82, None, &[7; 200_000]);
        wire.send(&last[..150_000]).await;
        client.exactly(100_000).await;
        if with_reset {
            wire.reset();
        } else {
            drop(wire);
        }
        let (rest, _) = client.rest().await;
        assert!(rest.len() <= 50_000, "{}", rest.len());
        if !with_reset {
            assert_eq!(rest.len(), 50_000);
        }
    }
}

/// A client that disconnects while its endpoint delays the 101 frees the endpoint.
#[tokio::test]
async fn a_client_that_does_not_wait_for_the_101_frees_the_endpoint() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]);
    let limited = format!(
        "endpoints = [{{ address = \"{}\", max_tunnels = 1 }}]",
        endpoint.address
    );
    let plain = format!("endpoints = [\"{}\"]", endpoint.address);
    let proxy = Proxy::start(&config.replace(&plain, &limited)).await;
    for _ in 0..3 {
        let (client, mut kept) = let_in(&proxy, &endpoint).await;
        let mut second = proxy.connect().await;
        second.send(HANDSHAKE).await;
        let (head, _) = second.reply().await;
        assert_eq!(head.value("tidegate-reason"), Some("endpoints-full"));
        drop(client);
        kept.rest().await;
    }
    let (mut last, mut wire) = let_in(&proxy, &endpoint).await;
    wire.send(SWITCH).await;
    assert_eq!(last.head().await.status(), 101);
}

/// A handshake that reaches the endpoint. The slot of the previous client is free only a moment after
/// it has disconnected.
async fn let_in(proxy: &Proxy, endpoint: &Endpoint) -> (Wire, Wire) {
    loop {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        tokio::select! {
            (wire, _) = endpoint.request() => return (client, wire),
            head = client.head() => {
                assert_eq!(head.value("tidegate-reason"), Some("endpoints-full"));
            }
        }
    }
}

/// Responses that two readers may interpret differently.
#[tokio::test]
async fn broken_answers_are_never_passed_on() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-A: 1\r\n".repeat(20_000));
    let cases: [&[u8]; 17] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\r\n Content-Length: 9\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\n",
        endless.as_bytes(),
    ];
    for answer in cases {
        for request in [HANDSHAKE, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let mut client = proxy.connect().await;
            client.send(request).await;
            let (mut wire, _) = endpoint.request().await;
            wire.flood_once(answer).await;
            wire.finish_anyway().await;
            let (head, _) = client.reply().await;
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(90)]);
            assert_eq!(head.status(), 502, "{shown} to {request}");
            assert_eq!(head.value("tidegate-reason"), Some("bad-answer"), "{shown}");
        }
    }
}

/// An endpoint that accepts connections and never responds is 504 for handshakes and plain requests.
#[tokio::test]
async fn an_endpoint_that_says_nothing_is_504() {
    let endpoint = Endpoint::bind().await;
    let timeouts = "[upstream.main.timeouts]\nhandshake = \"200ms\"\nresponse = \"200ms\"\n";
    let proxy = Proxy::start(&(simple(&[endpoint.address]) + timeouts)).await;
    // Connections in the backlog, which are not accepted, are just as silent.
    for accepts in [true, false] {
        for (request, reason) in [
            (HANDSHAKE, "handshake-timeout"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "response-timeout"),
        ] {
            let mut client = proxy.connect().await;
            client.send(request).await;
            if accepts {
                let (mut wire, _) = endpoint.request().await;
                wire.rest().await;
            }
            let (head, _) = client.reply().await;
            assert_eq!(
                (head.status(), head.value("tidegate-reason")),
                (504, Some(reason))
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_an_answer() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, answer) in [(HANDSHAKE, SWITCH), (HANDSHAKE, ok), (get, ok)] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (mut wire, _) = endpoint.request().await;
        for byte in answer.bytes() {
            wire.send([byte]).await;
        }
        let (head, body) = client.reply().await;
        assert!(head.start().starts_with(&answer[..12]), "{head:?}");
        assert!(answer.ends_with(&body));
    }
}
