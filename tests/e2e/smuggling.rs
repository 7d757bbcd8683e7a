//! Request smuggling: requests that two readers may interpret differently are refused or forwarded in
//! an unambiguous form, and never become bytes of a tunnel that the endpoint has not accepted.

use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{ACCEPT, End, HANDSHAKE, SWITCH, Wire, handshake_with};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// The expected outcome of a request.
#[derive(Debug, Clone, Copy)]
enum Comes {
    /// The endpoint gets this body, with a `Content-Length` or in chunks.
    ToOne(&'static str),
    /// This status and the end of the connection. The endpoint does not get the whole request.
    ToRefusal(u16),
}

use Comes::{ToOne, ToRefusal};

const CHUNKED: &str = "2\r\nhi\r\n0\r\n\r\n";

/// Sends `request` and checks the outcome. Bytes that follow must not become a part of it.
async fn check(proxy: &Proxy, endpoint: &Endpoint, request: &str, comes: Comes) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    match comes {
        ToOne(body) => {
            let (mut served, head) = endpoint.request().await;
            let length = head.value("content-length").is_some();
            let chunked = head.value("transfer-encoding").is_some();
            assert!(!(length && chunked), "{request:?} became {head:?}");
            let got = served.body(&head).await;
            assert_eq!(String::from_utf8_lossy(&got), body, "{request:?}");
            served.send(OK).await;
            let rest = served.rest().await;
            assert_eq!(rest, (Vec::new(), End::Orderly), "{request:?}");
            assert_eq!(client.head().await.status(), 200, "{request:?}");
        }
        ToRefusal(status) => {
            assert_eq!(client.head().await.status(), status, "{request:?}");
            client.rest().await;
        }
    }
}

/// The rest of a POST: header fields, the empty line and the body.
async fn check_bodies(cases: &[(&str, String, Comes)]) {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for (fields, body, comes) in cases {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}");
        check(&proxy, &endpoint, &request, *comes).await;
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn a_length_has_one_reading() {
    let cases = [
        ("Content-Length: 2", ToOne("hi")),
        ("Content-Length: 02", ToOne("hi")),
        ("Content-Length:\t2 ", ToOne("hi")),
        ("Content-Length: 2\r\nContent-Length: 2", ToOne("hi")),
        (
            "Connection: Content-Length\r\nContent-Length: 2",
            ToOne("hi"),
        ),
        ("Content_Length: 1\r\nContent-Length: 2", ToOne("hi")),
        ("Content-Length: 2, 2", ToRefusal(400)),
        ("Content-Length: 2\r\nContent-Length: 3", ToRefusal(400)),
        ("Content-Length: 2\r\nContent-Length: 02", ToOne("hi")),
        ("Content-Length: +2", ToRefusal(400)),
        ("Content-Length: -2", ToRefusal(400)),
        ("Content-Length: 0x2", ToRefusal(400)),
        ("Content-Length: 2.0", ToRefusal(400)),
        ("Content-Length: \u{b}2", ToRefusal(400)),
        ("Content-Length: ", ToRefusal(400)),
        ("Content-Length: 18446744073709551618", ToRefusal(400)),
        ("Content-Length : 2", ToRefusal(400)),
        ("X: a\rContent-Length: 2", ToRefusal(400)),
        ("X: a\0\r\nContent-Length: 2", ToRefusal(400)),
        (
            "X: a\r\n Content-Length: 9\r\nContent-Length: 2",
            ToRefusal(400),
        ),
        (
            "X: a\n\tContent-Length: 9\r\nContent-Length: 2",
            ToRefusal(400),
        ),
        ("Content-Length: 2\r\nno colon", ToRefusal(400)),
        ("Content-Length: 2\r\n: no name", ToRefusal(400)),
    ];
    let cases = cases.map(|(fields, comes)| (fields, "hi".to_owned(), comes));
    check_bodies(&cases).await;
}

#[tokio::test]
async fn a_transfer_coding_is_chunked_or_refused() {
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked";
    let cases = [
        ("Transfer-Encoding: chunked", ToOne("hi")),
        ("Transfer-Encoding: CHUNKED", ToOne("hi")),
        (both, ToOne("hi")),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            ToOne("hi"),
        ),
        (
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
            ToOne("hi"),
        ),
        (
            "Transfer_Encoding: identity\r\nTransfer-Encoding: chunked",
            ToOne("hi"),
        ),
        // The inner bytes are not the body that a careless reader sees.
        ("Transfer-Encoding: gzip, chunked", ToRefusal(501)),
        ("Transfer-Encoding: identity, chunked", ToRefusal(501)),
        ("Transfer-Encoding: chunked, chunked", ToRefusal(501)),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            ToRefusal(501),
        ),
        ("Transfer-Encoding: chunked, identity", ToRefusal(400)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            ToRefusal(400),
        ),
        ("Transfer-Encoding: xchunked", ToRefusal(400)),
        (
            "Transfer-Encoding: xchunked\r\nContent-Length: 12",
            ToRefusal(400),
        ),
        (
            "Transfer-Encoding: identity\r\nContent-Length: 12",
            ToRefusal(400),
        ),
        ("Transfer-Encoding: \"chunked\"", ToRefusal(400)),
        ("Transfer-Encoding: chunked;q=1", ToRefusal(400)),
        ("Transfer-Encoding: \u{b}chunked", ToRefusal(400)),
        ("Transfer-Encoding: chunked\0", ToRefusal(400)),
        ("Transfer-Encoding:\r\n chunked", ToRefusal(400)),
        (
            "Transfer-Encoding : chunked\r\nContent-Length: 12",
            ToRefusal(400),
        ),
        ("X: a\rTransfer-Encoding: chunked", ToRefusal(400)),
    ];
    let cases = cases.map(|(fields, comes)| (fields, CHUNKED.to_owned(), comes));
    check_bodies(&cases).await;
}

#[tokio::test]
async fn chunks_have_one_reading_and_malformed_ones_are_client_errors() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, comes) in [
        ("2;a=b;c=\"d\"\r\nhi\r\n0\r\n\r\n", ToOne("hi")),
        ("0002\r\nhi\r\n0\r\n\r\n", ToOne("hi")),
        ("2 \r\nhi\r\n0\r\n\r\n", ToOne("hi")),
        ("1\r\nh\r\n1\r\ni\r\n000\r\n\r\n", ToOne("hi")),
        // Fields that frame or route a request are not allowed as trailers.
        (
            "2\r\nhi\r\n0\r\nContent-Length: 9\r\nHost: b\r\n\r\n",
            ToOne("hi"),
        ),
        ("2;a\nhi\r\n0\r\n\r\n", ToRefusal(400)),
        ("2\nhi\n0\n\n", ToRefusal(400)),
        ("2\r\nhiX\r\n0\r\n\r\n", ToRefusal(400)),
        ("-2\r\nhi\r\n0\r\n\r\n", ToRefusal(400)),
        ("0x2\r\nhi\r\n0\r\n\r\n", ToRefusal(400)),
        (" 2\r\nhi\r\n0\r\n\r\n", ToRefusal(400)),
        ("\r\nhi\r\n0\r\n\r\n", ToRefusal(400)),
        ("10000000000000002\r\nhi\r\n0\r\n\r\n", ToRefusal(400)),
    ] {
        let request = format!("{head}{body}");
        if let ToRefusal(_) = comes {
            let (mut served, ()) =
                tokio::join!(endpoint.accept(), check(&proxy, &endpoint, &request, comes));
            // Perhaps a part of it, but not the last chunk, without which it is incomplete.
            let (rest, _) = served.rest().await;
            assert!(!rest.ends_with(b"0\r\n\r\n"), "{body:?} became {rest:?}");
        } else {
            check(&proxy, &endpoint, &request, comes).await;
        }
    }
    let refused = proxy.logged_by_now("rejected").await;
    assert!(refused.iter().all(|event| event["reason"] == "bad-request"));
}

#[tokio::test]
async fn a_first_line_has_one_reading() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let chunks = format!("Transfer-Encoding: chunked\r\n\r\n{CHUNKED}");
    for (request, comes) in [
        (
            "POST / HTTP/1.1\nHost: a\nContent-Length: 2\n\nhi",
            ToOne("hi"),
        ),
        (
            "\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            ToOne("hi"),
        ),
        // A body is kept even for methods that rarely have one.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            ToOne("hi"),
        ),
        (
            &format!("GET / HTTP/1.1\r\nHost: a\r\n{chunks}"),
            ToOne("hi"),
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", ToOne("")),
        ("POST  / HTTP/1.1\r\nHost: a\r\n\r\n", ToRefusal(400)),
        ("POST\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", ToRefusal(400)),
        ("POST / HTTP/1.1\rHost: a\r\n\r\n", ToRefusal(400)),
        ("POST / HTTP/1.1\r\n Host: a\r\n\r\n", ToRefusal(400)),
        ("POST /a\nb HTTP/1.1\r\nHost: a\r\n\r\n", ToRefusal(400)),
        ("POST / HTTP/1.2\r\nHost: a\r\n\r\n", ToRefusal(400)),
        ("POST / HTTP/1.10\r\nHost: a\r\n\r\n", ToRefusal(400)),
        ("GET /\r\n\r\n", ToRefusal(400)),
        (
            &format!("POST / HTTP/1.0\r\nHost: a\r\n{chunks}"),
            ToRefusal(400),
        ),
    ] {
        check(&proxy, &endpoint, request, comes).await;
    }
    endpoint.stays_quiet().await;
}

/// After a request with both a length and chunks, it is unclear where the next one begins.
#[tokio::test]
async fn after_two_lengths_the_connection_ends() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    let next = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}"
        ))
        .await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(served.body(&head).await, b"");
    served.send(OK).await;
    assert_eq!(client.reply().await.0.value("connection"), Some("close"));
    client.rest().await;
    endpoint.stays_quiet().await;
}

/// A single public route.
async fn public_chat() -> (Endpoint, Proxy, Wire) {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&settings(&[endpoint.address], "", "path = \"/chat\"")).await;
    let client = proxy.connect().await;
    (endpoint, proxy, client)
}

/// A request for another path, disguised as the first bytes of a tunnel.
const INTERNAL: &str = "GET /internal HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// The request after the handshake is handled as a request, and no route matches it.
async fn internal_is_refused(client: &mut Wire) {
    let (head, _) = client.reply().await;
    assert_eq!(head.status(), 404);
    assert_eq!(head.value("tidegate-reason"), Some("no-route"));
}

/// The first published attack: the endpoint refuses the version, a careless proxy assumes a tunnel,
/// and the bytes that follow reach the endpoint as another request.
#[tokio::test]
async fn a_refused_version_does_not_bypass_the_routes() {
    let (endpoint, proxy, mut client) = public_chat().await;
    for version in ["1337", "8", "12, 13", "013", ""] {
        let handshake = HANDSHAKE.replace("Version: 13", &format!("Version: {version}"));
        // At once, and after the response.
        client.send(format!("{handshake}{INTERNAL}")).await;
        assert_eq!(client.reply().await.0.status(), 426, "{version}");
        internal_is_refused(&mut client).await;
        client.send(INTERNAL).await;
        internal_is_refused(&mut client).await;
    }
    endpoint.stays_quiet().await;
    // If the endpoint refuses, nothing more of the client goes over its connection.
    for refusal in [
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.send(format!("{HANDSHAKE}{INTERNAL}")).await;
        let (mut served, _) = endpoint.request().await;
        served.stays_quiet().await;
        served.send(refusal).await;
        let expected = refusal[9..12].parse::<u16>().unwrap();
        assert_eq!(client.reply().await.0.status(), expected);
        internal_is_refused(&mut client).await;
        served.closed().await;
    }
    endpoint.stays_quiet().await;
}

/// The second attack: a 101 that the endpoint has got from a server of the attacker.
#[tokio::test]
async fn a_101_for_another_protocol_opens_no_tunnel() {
    let (endpoint, proxy, _) = public_chat().await;
    let plain = |line: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n");
    let requests = [
        (HANDSHAKE.to_owned(), "bad-switch"),
        (
            handshake_with("X-Fetch: http://example.org/\r\n"),
            "bad-switch",
        ),
        (
            plain("POST /chat")
                + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
            "unexpected-switch",
        ),
        (
            plain("GET /chat?fetch=http://example.org/") + "\r\n",
            "unexpected-switch",
        ),
        (
            plain("GET /chat") + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "unexpected-switch",
        ),
    ];
    let foreign = [
        "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
        "HTTP/1.1 101 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        SWITCH.replace(ACCEPT, "kPFnAhfaHbyRxH8xO8xg3q8cGyI="),
    ];
    for (request, reason) in &requests {
        for answer in &foreign {
            let mut client = proxy.connect().await;
            client.send(format!("{request}{INTERNAL}")).await;
            let (mut served, _) = endpoint.request().await;
            served.send(answer).await;
            let (head, _) = client.reply().await;
            assert_eq!(head.status(), 502, "{answer} to {request}");
            assert_eq!(head.value("tidegate-reason"), Some(*reason), "{request}");
            internal_is_refused(&mut client).await;
            let (rest, _) = served.rest().await;
            assert_eq!(rest, b"", "{answer} to {request}");
        }
    }
}

/// A response sent before a request must not become the response to the next request.
#[tokio::test]
async fn bytes_after_a_response_are_dropped_with_the_connection() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{text}");
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        client.send(get).await;
        let (mut served, _) = endpoint.request().await;
        served.send(answer("good") + &answer("evil")).await;
        assert_eq!(client.reply().await.1, "good");
        // The next request gets its response over another connection.
        client.send(get).await;
        let (mut next, _) = endpoint.request().await;
        next.send(answer("next").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
            .await;
        assert_eq!(client.reply().await.1, "next");
    }
}
