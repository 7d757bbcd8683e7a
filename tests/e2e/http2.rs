//! HTTP/2 towards clients: when it is offered, and WebSockets over it (RFC 8441).

use futures_util::{SinkExt, StreamExt};
use h2::Reason;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::{Random, frame};
use crate::harness::h2_client::{H2Proxy, h2_settings, request, websocket, with_field};
use crate::harness::h2_stream::H2Stream;
use crate::harness::wire::{End, HANDSHAKE, Head, SWITCH, Wire};
use crate::harness::{quiet_for, until, within};

/// Opens a tunnel over HTTP/2 to this endpoint: its two ends, and the request that the endpoint got.
async fn tunnel_to(proxy: &H2Proxy, endpoint: &Endpoint) -> (H2Stream, Wire, Head) {
    let mut client = proxy.client().await;
    let request = websocket("/chat");
    let (opened, (served, head)) = tokio::join!(client.open(request), accepted(endpoint));
    (opened.unwrap().1, served, head)
}

async fn accepted(endpoint: &Endpoint) -> (Wire, Head) {
    let (mut served, head) = endpoint.request().await;
    served.send(switch(&head)).await;
    (served, head)
}

/// The 101 to this request, whose key tidegate has made.
fn switch(head: &Head) -> String {
    let key = head.value("sec-websocket-key").unwrap();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    SWITCH.replace(crate::harness::wire::ACCEPT, &accept)
}

#[tokio::test]
async fn it_is_offered_where_the_listener_says_so() {
    let echo = Echo::start("echo").await;
    for (http2, protocols, agreed) in [
        ("true", &[&b"h2"[..], b"http/1.1"][..], &b"h2"[..]),
        ("true", &[b"http/1.1", b"h2"], b"h2"),
        ("true", &[b"http/1.1"], b"http/1.1"),
        ("false", &[b"h2", b"http/1.1"], b"http/1.1"),
    ] {
        let config = h2_settings(&[echo.address], http2, "", "");
        let proxy = H2Proxy::start(&config).await;
        let stream = proxy.offering(protocols).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed), "{http2}");
        if agreed == b"http/1.1" {
            let mut wire = Wire::over(stream);
            wire.send(HANDSHAKE).await;
            assert_eq!(wire.head().await.status(), 101);
        }
    }
    // A client that offers nothing speaks HTTP/1.1.
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut wire = Wire::over(proxy.offering(&[]).await);
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    let mut client = proxy.client().await;
    assert!(client.takes_websockets().await);
}

#[tokio::test]
async fn websockets_can_be_left_to_http1() {
    let echo = Echo::start("echo").await;
    let config = h2_settings(&[echo.address], "{ websockets = false }", "", "");
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    assert!(!client.takes_websockets().await);
    assert_eq!(
        client
            .fetch(request(http::Method::TRACE, "/"), b"")
            .await
            .unwrap()
            .status,
        405
    );
}

#[tokio::test]
async fn messages_pass_both_ways_untouched() {
    let echo = Echo::with("echo", Unit::Messages, None).await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut client = proxy.client().await;
    let stream = client.tunnel().await;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    let mut random = Random(1);
    for length in [0, 1, 125, 126, 16_384, 65_535, 65_536, 300_000] {
        let message = Message::binary(random.bytes(length));
        socket.send(message.clone()).await.unwrap();
        let echoed = within("an echo", socket.next()).await.unwrap().unwrap();
        assert!(echoed == message, "{length}");
    }
    socket.close(None).await.unwrap();
    until("the tunnel to be logged", || {
        !proxy.proxy.log().events("tunnel ended").is_empty()
    })
    .await;
    let ended = &proxy.proxy.log().events("tunnel ended")[0];
    assert_eq!(ended["reason"], "client-close");
    assert!(!client.has_ended());
    client.tunnel().await;
}

#[tokio::test]
async fn the_endpoint_gets_a_handshake_of_http1_and_the_client_a_200() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let request = with_field(
        websocket("/chat?a=1"),
        "sec-websocket-protocol",
        "chat, other",
    );
    let request = with_field(request, "origin", "https://chat.example.com");
    let deflate = "permessage-deflate; client_max_window_bits";
    let request = with_field(request, "sec-websocket-extensions", deflate);
    let answered = async {
        let (mut served, head) = endpoint.request().await;
        let more = "Sec-WebSocket-Protocol: chat\r\n\
                    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12\r\n\
                    Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n";
        let switch = switch(&head).replace("\r\n\r\n", &format!("\r\n{more}"));
        // Early bytes come with the head.
        served.send(switch + "early").await;
        (served, head)
    };
    let (opened, (_served, head)) = tokio::join!(client.open(request), answered);
    assert_eq!(head.start(), "GET /chat?a=1 HTTP/1.1");
    for (name, value) in [
        ("host", "chat.example.com"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, other"),
        ("sec-websocket-extensions", deflate),
        ("origin", "https://chat.example.com"),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(head.value(name), Some(value), "{head:?}");
    }
    let (fields, stream) = opened.unwrap();
    let value = |name: &str| fields.get(name).map(|it| it.to_str().unwrap());
    assert_eq!(value("sec-websocket-protocol"), Some("chat"));
    let agreed = "permessage-deflate; client_max_window_bits=12";
    assert_eq!(value("sec-websocket-extensions"), Some(agreed));
    assert_eq!(fields.get_all("set-cookie").iter().count(), 2);
    for name in [
        "upgrade",
        "connection",
        "sec-websocket-accept",
        "content-length",
        "transfer-encoding",
    ] {
        assert_eq!(value(name), None, "{fields:?}");
    }
    assert_eq!(Wire::over(stream).exactly(5).await, b"early");
}

#[tokio::test]
async fn the_end_of_one_direction_is_the_end_of_that_direction_on_the_other_side() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    // The client first.
    let (stream, mut served, _) = tunnel_to(&proxy, &endpoint).await;
    let mut stream = Wire::over(stream);
    stream.send("last words").await;
    stream.finish().await;
    assert_eq!(served.rest().await, (b"last words".to_vec(), End::Orderly));
    served.send("goodbye").await;
    served.finish().await;
    assert_eq!(stream.rest().await, (b"goodbye".to_vec(), End::Orderly));
    // The endpoint first.
    let (stream, mut served, _) = tunnel_to(&proxy, &endpoint).await;
    let mut stream = Wire::over(stream);
    served.send("last words").await;
    served.finish().await;
    assert_eq!(stream.rest().await, (b"last words".to_vec(), End::Orderly));
    stream.send("goodbye").await;
    stream.finish().await;
    assert_eq!(served.rest().await, (b"goodbye".to_vec(), End::Orderly));
    let ended = proxy.proxy.logged_times("tunnel ended", 2).await;
    let ended: Vec<_> = ended.iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(ended, ["client-eof", "upstream-eof"]);
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        let (stream, mut served, _) = tunnel_to(&proxy, &endpoint).await;
        stream.reset(reason);
        assert_eq!(served.rest().await, (Vec::new(), End::Reset), "{reason:?}");
    }
    let (mut stream, served, _) = tunnel_to(&proxy, &endpoint).await;
    served.reset();
    assert_eq!(stream.was_reset().await, Reason::CANCEL);
    let ended = proxy.proxy.logged_times("tunnel ended", 4).await;
    let ended: Vec<_> = ended.iter().map(|event| event["reason"].clone()).collect();
    let expected = [
        "client-reset",
        "client-reset",
        "client-reset",
        "upstream-reset",
    ];
    assert_eq!(ended, expected);
}

#[tokio::test]
async fn a_connection_that_breaks_ends_all_of_its_tunnels() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let request = websocket("/chat");
        let (opened, (served, _)) = tokio::join!(client.open(request), accepted(&endpoint));
        tunnels.push((opened.unwrap(), served));
    }
    client.vanish();
    for (_, served) in &mut tunnels {
        served.until_gone().await;
    }
    let ended = proxy.proxy.logged_times("tunnel ended", 3).await;
    assert!(
        ended
            .iter()
            .all(|it| it["reason"] == "client-reset" || it["reason"] == "client-eof")
    );
}

#[tokio::test]
async fn a_hundred_tunnels_on_one_connection_carry_traffic() {
    const TUNNELS: usize = 100;
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut client = proxy.client().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TUNNELS {
        let stream = client.tunnel().await;
        tasks.spawn(async move {
            let mut stream = Wire::over(stream);
            let mut random = Random(number as u64);
            for _ in 0..20 {
                let length = random.up_to(4000);
                let message = frame(0x82, Some([1, 2, 3, 4]), &random.bytes(length));
                stream.send(&message).await;
                assert!(stream.exactly(message.len()).await == message, "{number}");
            }
            stream
        });
    }
    let mut open = Vec::new();
    while let Some(stream) = tasks.join_next().await {
        open.push(stream.unwrap());
    }
    // There is room for no further one, until one of them has ended.
    let (response, _send) = client.begin(websocket("/chat"), false).await.unwrap();
    let mut response = std::pin::pin!(response);
    quiet_for(150, response.as_mut()).await;
    open.pop();
    let response = within("a response", response).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn other_protocols_and_methods_are_refused_and_the_connection_serves_on() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let mut udp = request(http::Method::CONNECT, "/chat");
    let protocol = h2::ext::Protocol::from_static("connect-udp");
    udp.extensions_mut().insert(protocol);
    let (response, _send) = client.begin(udp, false).await.unwrap();
    let response = within("a response", response).await.unwrap();
    assert_eq!(response.status(), 501);
    assert_eq!(
        response.headers()["tidegate-reason"],
        "protocol-unsupported"
    );
    let trace = request(http::Method::TRACE, "/");
    let reply = client.fetch(trace, b"").await.unwrap();
    assert_eq!(
        (reply.status, reply.reason()),
        (405, Some("method-not-allowed"))
    );
    let (opened, _served) = tokio::join!(client.open(websocket("/chat")), accepted(&endpoint));
    assert!(opened.is_ok());
}
