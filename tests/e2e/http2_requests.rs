//! Plain requests over HTTP/2: what an endpoint of HTTP/1.1 gets, and what the client gets back.

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::Random;
use crate::harness::h2_client::{
    H2Proxy, H2Reply, get, h2_settings, request, websocket, with_field,
};
use crate::harness::h2_frames::{DATA, END_STREAM, GET, RawH2, WINDOW_UPDATE, raw_frame};
use crate::harness::wire::Wire;
use crate::harness::{quiet_for, within};

#[tokio::test]
async fn a_request_is_one_of_http1_for_the_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let asked = get("/a/b?c=d");
    let asked = with_field(asked, "cookie", "a=1");
    let asked = with_field(asked, "x-a", "1");
    let asked = with_field(asked, "cookie", "b=2; c=3");
    let asked = with_field(asked, "te", "trailers");
    let answered = async {
        let (mut wire, head) = endpoint.request().await;
        wire.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-hop\r\n\
             Keep-Alive: timeout=5\r\nX-Hop: 1\r\nX-B: 1\r\nX-B: 2\r\nSet-Cookie: a=1\r\n\r\nok",
        )
        .await;
        (wire, head)
    };
    let (reply, (_wire, head)) = tokio::join!(client.fetch(asked, b""), answered);
    assert_eq!(head.start(), "GET /a/b?c=d HTTP/1.1");
    for (name, value) in [
        ("host", Some("chat.example.com")),
        ("cookie", Some("a=1; b=2; c=3")),
        ("x-a", Some("1")),
        ("x-forwarded-proto", Some("https")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("te", Some("trailers")),
        ("content-length", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(head.value(name), value, "{head:?}");
    }
    let reply = reply.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "ok"));
    assert_eq!(reply.value("content-length"), Some("2"));
    assert_eq!(reply.fields.get_all("x-b").iter().count(), 2);
    for name in ["connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert_eq!(reply.value(name), None, "{reply:?}");
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_with_a_length_or_without() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let body = Random(7).bytes(300_000);
    for with_length in [true, false] {
        let mut asked = request(Method::POST, "/upload");
        if with_length {
            asked = with_field(asked, "content-length", "300000");
        }
        let echoed = async {
            let (mut wire, head) = endpoint.request().await;
            let body = wire.body(&head).await;
            let length = match with_length {
                true => format!("Content-Length: {}", body.len()),
                false => "Transfer-Encoding: chunked".to_owned(),
            };
            wire.send(format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n"))
                .await;
            match with_length {
                true => wire.send(&body).await,
                false => {
                    for part in body.chunks(10_000) {
                        wire.send(format!("{:x}\r\n", part.len())).await;
                        wire.send(part).await;
                        wire.send("\r\n").await;
                    }
                    wire.send("0\r\n\r\n").await;
                }
            }
            (wire, head)
        };
        let (reply, (_wire, head)) = tokio::join!(client.fetch(asked, &body), echoed);
        let length = head.value("content-length");
        assert_eq!(length.is_some(), with_length, "{head:?}");
        let reply = reply.unwrap();
        assert_eq!(reply.value("content-length").is_some(), with_length);
        assert!(reply.body == body);
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let asked = with_field(request(Method::POST, "/"), "te", "trailers");
    let asked = with_field(asked, "trailer", "x-sum");
    let (response, mut send) = client.begin(asked, false).await.unwrap();
    send.send_data(Bytes::from_static(b"body"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", http::HeaderValue::from_static("7"));
    send.send_trailers(trailers).unwrap();
    let (mut wire, _) = endpoint.request().await;
    assert_eq!(wire.chunk().await.unwrap(), b"body");
    assert_eq!(wire.chunk().await, None);
    assert_eq!(wire.line().await.to_lowercase(), "x-sum: 7");
    assert_eq!(wire.line().await, "");
    wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n")
        .await;
    wire.send("2\r\nok\r\n0\r\nx-end: 8\r\n\r\n").await;
    let response = within("a response", response).await.unwrap();
    let reply = H2Reply::of(response).await.unwrap();
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.trailers.unwrap()["x-end"], "8");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    for (method, answer, status, length) in [
        (
            Method::HEAD,
            "200 OK\r\nContent-Length: 5000",
            200,
            Some("5000"),
        ),
        (Method::GET, "204 No Content", 204, None),
        (Method::GET, "304 Not Modified\r\nETag: \"a\"", 304, None),
        (Method::GET, "200 OK\r\nContent-Length: 0", 200, Some("0")),
    ] {
        let answered = async {
            let (mut wire, _) = endpoint.request().await;
            wire.send(format!("HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n"))
                .await;
            wire
        };
        let (reply, _wire) = tokio::join!(client.fetch(request(method, "/"), b""), answered);
        let reply = reply.unwrap();
        assert_eq!((reply.status, reply.body.len()), (status, 0), "{answer}");
        assert_eq!(reply.value("content-length"), length, "{answer}");
    }
}

#[tokio::test]
async fn interim_responses_are_passed_on() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let asked = with_field(request(Method::POST, "/"), "expect", "100-continue");
    let (mut response, mut send) = client.begin(asked, false).await.unwrap();
    let (mut wire, _) = endpoint.request().await;
    wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        .await;
    let mut statuses = Vec::new();
    loop {
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let Some(interim) = within("an interim response", interim).await else {
            break;
        };
        statuses.push(interim.unwrap().status().as_u16());
        match statuses.last() {
            Some(103) => wire.send("HTTP/1.1 100 Continue\r\n\r\n").await,
            _ => break,
        }
    }
    assert_eq!(statuses, [103, 100]);
    send.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(wire.chunk().await.unwrap(), b"body");
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let response = within("a response", response).await.unwrap();
    assert_eq!(H2Reply::of(response).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_body_that_breaks_off_never_looks_whole() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    for head in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
        let (response, _send) = client.begin(get("/"), true).await.unwrap();
        let (mut wire, _) = endpoint.request().await;
        wire.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n3\r\nabc"))
            .await;
        let response = within("a response", response).await.unwrap();
        drop(wire);
        let reply = H2Reply::of(response).await;
        assert!(reply.is_err_and(|error| error.is_reset()), "{head}");
    }
    // And towards the endpoint.
    let (_response, mut send) = client
        .begin(request(Method::POST, "/"), false)
        .await
        .unwrap();
    send.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let (mut wire, _) = endpoint.request().await;
    assert_eq!(wire.chunk().await.unwrap(), b"abc");
    send.send_reset(h2::Reason::CANCEL);
    let (rest, _) = wire.rest().await;
    assert_eq!(rest, b"");
    client.ping().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_request_leaves_the_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let (response, mut send) = client.begin(get("/slow"), true).await.unwrap();
    let (mut wire, _) = endpoint.request().await;
    send.send_reset(h2::Reason::CANCEL);
    drop(response);
    wire.until_gone().await;
    // The connection serves on.
    let answered = async {
        let (mut wire, _) = endpoint.request().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        wire
    };
    let (reply, _wire) = tokio::join!(client.get("/"), answered);
    assert_eq!(reply.text(), "ok");
}

#[tokio::test]
async fn many_requests_are_served_at_once() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    let mut waiting = Vec::new();
    for number in 0..20 {
        let path = format!("/{number}");
        let (response, _) = client.begin(get(&path), true).await.unwrap();
        let (wire, head) = endpoint.request().await;
        assert_eq!(head.start(), format!("GET {path} HTTP/1.1"));
        waiting.push((response, wire, number));
    }
    // The last one is answered first.
    for (response, wire, number) in waiting.iter_mut().rev() {
        let body = format!("{number:04}");
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"
        ))
        .await;
        let response = within("a response", response).await.unwrap();
        assert_eq!(H2Reply::of(response).await.unwrap().text(), body);
    }
}

#[tokio::test]
async fn a_host_that_contradicts_the_authority_is_refused() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut client = proxy.client().await;
    for asked in [get("/"), websocket("/chat")] {
        let asked = with_field(asked, "host", "other.example.com");
        let (response, _send) = client.begin(asked, false).await.unwrap();
        let response = within("a response", response).await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["tidegate-reason"], "host-mismatch");
    }
    endpoint.stays_quiet().await;
}

/// A client that reads nothing of one response gets the others.
#[tokio::test]
async fn a_response_that_is_not_read_holds_up_no_other() {
    let endpoint = Endpoint::bind().await;
    let config = h2_settings(
        &[endpoint.address],
        "true",
        "timeouts.response_body = \"1s\"",
        "",
    );
    let proxy = H2Proxy::start(&config).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let mut client = proxy.client_with(&builder).await;
    let (response, _) = client.begin(get("/large"), true).await.unwrap();
    let (mut wire, _) = endpoint.request().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    wire.flood_up_to(&[b'x'; 65_536], 100).await;
    let unread = within("a response", response).await.unwrap();
    let answered = async {
        let (mut wire, _) = endpoint.request().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        wire
    };
    let (reply, _wire) = tokio::join!(client.get("/small"), answered);
    assert_eq!(reply.text(), "ok");
    // After a while, it is given up: the endpoint need not wait for ever.
    wire.until_gone().await;
    assert!(H2Reply::of(unread).await.is_err());
    client.ping().await;
}

/// tidegate has passed all of it on, so that the connection carries nothing any more.
#[tokio::test]
async fn a_client_that_reads_late_gets_its_responses() {
    let endpoint = Endpoint::bind().await;
    let listener = "timeouts = { keep_alive = \"1s\", response_body = \"1m\" }";
    let proxy = H2Proxy::start(&h2_settings(&[endpoint.address], "true", listener, "")).await;
    let mut raw = RawH2::connect(&proxy).await;
    let credit = [0, 0xff, 0xff, 0xff];
    raw.send(raw_frame(WINDOW_UPDATE, 0, 0, &credit)).await;
    /// More than the kernel has room for.
    const RESPONSES: u32 = 40;
    for number in 0..RESPONSES {
        raw.open(number * 2 + 1, &GET, END_STREAM).await;
    }
    let response = [
        "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
        &"x".repeat(60_000),
    ]
    .concat();
    let mut served = Vec::new();
    for _ in 0..RESPONSES {
        let (mut wire, _) = endpoint.request().await;
        wire.send(&response).await;
        served.push(wire);
    }
    // Longer than a connection that carries nothing stays.
    quiet_for(3000, std::future::pending::<()>()).await;
    let mut received = 0;
    while received < RESPONSES as usize * 60_000 {
        received += raw.frame_of(DATA).await.expect("all of it").payload.len();
    }
}

#[tokio::test]
async fn http1_on_the_same_listener_is_as_it_was() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut wire = Wire::over(proxy.offering(&[b"http/1.1"]).await);
    wire.send("GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n")
        .await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let (head, body) = wire.reply().await;
    assert_eq!((head.status(), body.as_str()), (200, "ok"));
}
