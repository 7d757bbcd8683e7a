//! Plain HTTP on a WebSocket route: what long-polling and event-stream fallbacks need.

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::Random;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{End, HANDSHAKE, Wire};

const GET: &str = "GET /poll?t=1 HTTP/1.1\r\nHost: chat.example.com\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn setup() -> (Endpoint, Proxy, Wire) {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let client = proxy.connect().await;
    (endpoint, proxy, client)
}

#[tokio::test]
async fn events_are_passed_on_as_they_come() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head.value("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        served.send(format!("9\r\n{event}\r\n")).await;
        assert_eq!(client.chunk().await, Some(event.as_bytes().to_vec()));
    }
    // A client that disconnects ends it.
    drop(client);
    served.rest().await;
}

/// A client that has closed its connection looks the same until something is written to it.
#[tokio::test]
async fn a_client_that_ends_its_stream_counts_as_gone() {
    let (endpoint, proxy, _) = setup().await;
    for request in [GET, HANDSHAKE] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (mut served, _) = endpoint.request().await;
        client.finish().await;
        served.rest().await;
        client.closed().await;
    }
}

#[tokio::test]
async fn an_upload_is_passed_on_as_it_comes() {
    let (endpoint, _proxy, mut client) = setup().await;
    client
        .send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("5\r\nfirst\r\n").await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.start(), "POST /up HTTP/1.1");
    assert_eq!(head.value("transfer-encoding"), Some("chunked"));
    assert_eq!(served.chunk().await, Some(b"first".to_vec()));
    client.send("6\r\nsecond\r\n").await;
    assert_eq!(served.chunk().await, Some(b"second".to_vec()));
    client.send("0\r\n\r\n").await;
    assert_eq!(served.chunk().await, None);
    assert_eq!(served.line().await, "");
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let (endpoint, _proxy, mut client) = setup().await;
    let body = Random(4).bytes(20 << 20);
    let request = format!(
        "PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let expected = body.clone();
    let server = tokio::spawn(async move {
        let (mut served, head) = endpoint.request().await;
        let got = served.body(&head).await;
        assert!(got == expected);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", got.len());
        served.send([head.as_bytes(), &got].concat()).await;
        served
    });
    client.send([request.as_bytes(), &body].concat()).await;
    let head = client.head().await;
    assert!(client.body(&head).await == body);
    server.await.unwrap();
}

#[tokio::test]
async fn replies_without_a_body_have_none() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET.replace("GET", "HEAD")).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.start(), "HEAD /poll?t=1 HTTP/1.1");
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(head.value("content-length"), Some("1000"));
    for (answer, status) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
    ] {
        client.send(GET).await;
        // The connection to the endpoint is reused.
        served.head().await;
        served.send(answer).await;
        assert_eq!(client.head().await.status(), status);
    }
    client.send(GET).await;
    served.head().await;
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
}

#[tokio::test]
async fn announced_trailers_pass_both_ways() {
    let (endpoint, _proxy, mut client) = setup().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("trailer"), Some("X-Sum"));
    assert_eq!(head.value("te"), Some("trailers"));
    assert_eq!(served.chunk().await, Some(b"hi".to_vec()));
    assert_eq!(served.chunk().await, None);
    assert_eq!(served.line().await.to_ascii_lowercase(), "x-sum: 1");
    served.line().await;
    served
        .send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert_eq!(head.value("trailer"), Some("X-Sum"));
    assert_eq!(client.chunk().await, Some(b"ok".to_vec()));
    assert_eq!(client.chunk().await, None);
    assert_eq!(client.line().await.to_ascii_lowercase(), "x-sum: 2");
    client.line().await;
    // The response is complete: its connection serves the next request.
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served.head().await;
}

const EXPECTS: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";

#[tokio::test]
async fn the_endpoint_permits_a_body_that_waits_for_100_continue() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(EXPECTS).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("expect"), Some("100-continue"));
    served.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 100);
    client.send("hi").await;
    assert_eq!(served.body(&head).await, b"hi");
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
    // Both connections can be used again.
    client.send(GET).await;
    served.head().await;
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
}

#[tokio::test]
async fn the_endpoint_refuses_a_body_before_the_client_has_sent_it() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(EXPECTS).await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n")
        .await;
    // The response is passed on as it comes, and no 100 before it.
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.value("connection")),
        (401, Some("close"))
    );
    assert_eq!(client.chunk().await, Some(b"no".to_vec()));
    served.send("2\r\nno\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await, Some(b"no".to_vec()));
    assert_eq!((client.chunk().await, &*client.line().await), (None, ""));
    client.closed().await;
    served.closed().await;
}

#[tokio::test]
async fn a_body_is_sent_to_an_endpoint_that_ignores_the_expectation() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(EXPECTS).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(client.head().await.status(), 100);
    client.send("hi").await;
    assert_eq!(served.body(&head).await, b"hi");
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
    // There is nothing to wait for without a body, and other expectations do not exist.
    for request in [
        EXPECTS.replace("Length: 2", "Length: 0"),
        EXPECTS.replace("100-Continue\r\n\r\n", "x\r\n\r\nhi"),
        EXPECTS.replace("HTTP/1.1", "HTTP/1.0") + "hi",
    ] {
        client.send(&request).await;
        let head = served.head().await;
        assert_eq!(head.value("expect"), None, "{request}");
        served.body(&head).await;
        served.send(OK).await;
        assert_eq!(client.reply().await.1, "ok");
    }
}

#[tokio::test]
async fn interim_responses_are_passed_on_as_they_come() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Hop: 1\r\n\
        Connection: X-Hop\r\n\r\n";
    let (endpoint, proxy, mut client) = setup().await;
    client.send(GET.repeat(2)).await;
    let (mut served, _) = endpoint.request().await;
    for pipelined in [true, false] {
        served.send(HINTS).await;
        let head = client.head().await;
        assert_eq!(head.start(), "HTTP/1.1 103 Early Hints");
        assert_eq!(head.value("link"), Some("</a.css>; rel=preload"));
        assert_eq!(
            (head.value("x-hop"), head.value("connection")),
            (None, None)
        );
        // Several, and the last one together with the response.
        let both = HINTS.replace("103 Early Hints", "102 Processing") + HINTS;
        // The next client gets a connection of its own, whichever worker it comes to.
        let last = OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let answer = if pipelined { OK } else { &last };
        served.send(both + answer).await;
        assert_eq!(client.head().await.status(), 102);
        assert_eq!(client.head().await.status(), 103);
        assert_eq!(client.reply().await.1, "ok");
        if pipelined {
            served.head().await;
        }
    }
    // HTTP/1.0 has none. The connection could be used again, if the worker is the same.
    drop(served);
    let mut old = proxy.connect().await;
    old.send(GET.replace("HTTP/1.1", "HTTP/1.0")).await;
    let (mut served, _) = endpoint.request().await;
    served.send(format!("{HINTS}{OK}")).await;
    let (head, body) = old.reply().await;
    assert_eq!((head.status(), &*body), (200, "ok"));
}

const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big";

/// The endpoint accepts no more of the body and answers then, so that the write fails before there is anything
/// to read.
#[tokio::test]
async fn an_early_answer_arrives_although_the_rest_of_the_body_cannot_be_written() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("endpoint.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let config = simple(&[]).replace("= []", &format!("= [\"unix:{}\"]", path.display()));
    let proxy = Proxy::start(&config).await;
    let body = Random(7).bytes(4 << 20);
    let mut client = proxy.connect().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await;
    let (socket, _) = listener.accept().await.unwrap();
    socket.readable().await.unwrap();
    rustix::net::shutdown(&socket, rustix::net::Shutdown::Read).unwrap();
    // All of it is accepted, and discarded.
    client.send(&body).await;
    let mut served = Wire::unix(socket);
    served.send(TOO_LARGE).await;
    let (head, body) = client.reply().await;
    assert_eq!((head.status(), &*body), (413, "too big"));
    // The connection cannot carry another request.
    client.send(GET).await;
    let (socket, _) = listener.accept().await.unwrap();
    let mut served = Wire::unix(socket);
    served.head().await;
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
}

/// As servers do that answer and close: the bytes that they have not read reset the connection.
#[tokio::test]
async fn an_early_answer_of_an_endpoint_that_closes_arrives() {
    let (endpoint, proxy, _client) = setup().await;
    let body = Random(7).bytes(1 << 20);
    for _ in 0..10 {
        let mut client = proxy.connect().await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.send(head).await;
        let (mut served, _) = endpoint.request().await;
        let answer = async move {
            served.send(TOO_LARGE).await;
            drop(served);
        };
        futures_util::join!(client.flood_once(&body), answer);
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (413, "too big"));
    }
}

#[tokio::test]
async fn connections_to_endpoints_are_used_again() {
    let (endpoint, proxy, mut client) = setup().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served.send(OK).await;
    client.reply().await;
    // The same client, because another one might be on the other worker.
    for _ in 0..3 {
        client.send(GET).await;
        served.head().await;
        served.send(OK).await;
        assert_eq!(client.reply().await.1, "ok");
    }
    // A connection that the endpoint wants to close is not reused.
    client.send(GET).await;
    served.head().await;
    served
        .send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(head.value("connection"), None);
    served.closed().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served.send(OK).await;
    client.reply().await;
    assert_eq!(proxy.logged_times("request", 6).await.len(), 6);
}

#[tokio::test]
async fn a_get_that_meets_a_closing_connection_is_sent_again() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served.send(OK).await;
    client.reply().await;
    // The endpoint closes at the moment of the next request.
    client.send(GET).await;
    served.head().await;
    drop(served);
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.start(), "GET /poll?t=1 HTTP/1.1");
    served.send(OK).await;
    assert_eq!(client.reply().await.1, "ok");
    // A request that may have had an effect is not repeated.
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let head = served.head().await;
    served.body(&head).await;
    drop(served);
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (502, Some("bad-answer"))
    );
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn hop_by_hop_fields_go_no_further() {
    let (endpoint, _proxy, mut client) = setup().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Hop, Host, Cookie\r\nKeep-Alive: 5\r\n\
             X-Hop: 1\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nCookie: a=b\r\nX-End: 2\r\n\r\n",
        )
        .await;
    let (mut served, head) = endpoint.request().await;
    for name in [
        "connection",
        "keep-alive",
        "x-hop",
        "proxy-connection",
        "te",
    ] {
        assert_eq!(head.value(name), None, "{head:?}");
    }
    assert_eq!(head.value("x-end"), Some("2"));
    // A client cannot have these fields removed.
    assert_eq!(
        (head.value("host"), head.value("cookie")),
        (Some("a"), Some("a=b"))
    );
    served
        .send(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n\
             X-End: 2\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
    let (head, _) = client.reply().await;
    for name in ["connection", "keep-alive", "x-hop", "upgrade"] {
        assert_eq!(head.value(name), None, "{head:?}");
    }
    assert_eq!(head.value("x-end"), Some("2"));
}

#[tokio::test]
async fn a_reply_with_two_lengths_is_502() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (502, Some("bad-answer"))
    );
    served.closed().await;
}

#[tokio::test]
async fn a_reply_that_breaks_off_breaks_off() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        .await;
    drop(served);
    client.head().await;
    assert_eq!(client.rest().await, (b"half".to_vec(), End::Orderly));
}

/// Sends `pieces` chunks of one byte, and returns how many chunks arrive with them.
async fn chunks_that_arrive(from: &mut Wire, to: &mut Wire, pieces: usize) -> usize {
    let sent = "1\r\nx\r\n".repeat(pieces) + "0\r\n\r\n";
    let receive = async {
        let (mut chunks, mut bytes) = (0, 0);
        while let Some(chunk) = to.chunk().await {
            chunks += 1;
            bytes += chunk.len();
        }
        assert_eq!((bytes, &*to.line().await), (pieces, ""));
        chunks
    };
    futures_util::join!(from.send(sent), receive).1
}

#[tokio::test]
async fn small_chunks_are_merged_both_ways() {
    const PIECES: usize = 20_000;
    let (endpoint, _proxy, mut client) = setup().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let (mut served, _) = endpoint.request().await;
    let chunks = chunks_that_arrive(&mut client, &mut served, PIECES).await;
    assert!(chunks < PIECES / 10, "{chunks} chunks reach the endpoint");
    served
        .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.head().await;
    let chunks = chunks_that_arrive(&mut served, &mut client, PIECES).await;
    assert!(chunks < PIECES / 10, "{chunks} chunks reach the client");
}

#[tokio::test]
async fn a_reply_that_is_broken_from_the_start_is_502() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (endpoint, proxy, _client) = setup().await;
    for broken in [
        &format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300_000)),
        "no size\r\n",
        "ffffffffffffffff1\r\n",
        "5\r\nhello, and more\r\n",
        "5\r\nhello\r\nno size\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.send(GET).await;
        let (mut served, _) = endpoint.request().await;
        let response = [chunked, broken].concat();
        served.flood_once(response.as_bytes()).await;
        let (head, _) = client.reply().await;
        let seen = (head.status(), head.value("tidegate-reason"));
        assert_eq!(seen, (502, Some("bad-answer")), "{broken:.40}");
    }
}

#[tokio::test]
async fn a_route_may_refuse_plain_http() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace(
        "upstream = \"main\"",
        "upstream = \"main\"\nhttp = \"reject\"",
    );
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let (head, body) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("upgrade")),
        (426, Some("websocket"))
    );
    assert_eq!(head.value("tidegate-reason"), Some("websocket-required"));
    assert_eq!(body, "Only WebSocket connections are served here.\n");
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn every_wait_has_a_timeout() {
    let endpoint = Endpoint::bind().await;
    let timeouts = "[listener.main.timeouts]\n\
        request_header = \"1s\"\nkeep_alive = \"1s\"\nrequest_body = \"1s\"\n\
        [upstream.main.timeouts]\nresponse = \"1s\"\n";
    let proxy = Proxy::start(&(simple(&[endpoint.address]) + timeouts)).await;
    // The timeout for a missing or incomplete head.
    proxy.connect().await.closed().await;
    let mut client = proxy.connect().await;
    client.send("GET / HT").await;
    client.closed().await;
    // The timeout for the response of the endpoint. The connection stays open.
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let (mut served, _) = endpoint.request().await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (504, Some("response-timeout"))
    );
    served.closed().await;
    // The timeout for the next request.
    client.closed().await;
    // The timeout for a body that stalls.
    let mut client = proxy.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nhi")
        .await;
    let _served = endpoint.request().await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (408, Some("request-body-timeout"))
    );
    client.closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (endpoint, _proxy, mut client) = setup().await;
    client.send(GET.repeat(2)).await;
    let (mut served, _) = endpoint.request().await;
    served.send(OK).await;
    served.head().await;
    served.send(OK.replace("ok", "no")).await;
    assert_eq!(client.reply().await.1, "ok");
    assert_eq!(client.reply().await.1, "no");
}
