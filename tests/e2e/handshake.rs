//! The opening handshake with client and endpoint: what passes, and what is refused with which reason.

use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{ACCEPT, HANDSHAKE, Head, KEY, SWITCH, Wire};

/// The response of tidegate itself: status, reason, and whether it closes the connection.
async fn refused(proxy: &Proxy, request: &str) -> (u16, String, bool) {
    let mut client = proxy.connect().await;
    client.send(request).await;
    let (head, body) = client.reply().await;
    assert!(body.len() > 10 && body.ends_with('\n'), "{request}: {body}");
    let closes = head.value("connection") == Some("close");
    if closes {
        client.closed().await;
    }
    let reason = head.value("tidegate-reason").unwrap_or("none").to_owned();
    (head.status(), reason, closes)
}

fn with(line: &str) -> String {
    HANDSHAKE.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

fn without(name: &str) -> String {
    let lines: Vec<&str> = HANDSHAKE
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with(name))
        .collect();
    lines.concat()
}

/// A request, with the expected status and reason, and whether the connection is closed.
type Refused = (String, u16, &'static str, bool);

fn broken_handshakes() -> Vec<Refused> {
    let bad = |request, reason| (request, 400, reason, true);
    let version = |request| (request, 426, "websocket-version", false);
    let key = |text| HANDSHAKE.replace(KEY, text);
    vec![
        version(without("Sec-WebSocket-Version")),
        version(HANDSHAKE.replace("Version: 13", "Version: 8")),
        version(with("Sec-WebSocket-Version: 13")),
        bad(without("Sec-WebSocket-Key"), "websocket-key"),
        bad(key("dGhlIHNhbXBsZQ=="), "websocket-key"),
        bad(key("dGhlIHNhbXBsZSBub25jZQ"), "websocket-key"),
        bad(with(&format!("Sec-WebSocket-Key: {KEY}")), "websocket-key"),
        bad(with("Content-Length: 3") + "abc", "websocket-body"),
        bad(
            with("Transfer-Encoding: chunked") + "0\r\n\r\n",
            "websocket-body",
        ),
    ]
}

fn broken_targets() -> Vec<Refused> {
    let host = "Host: chat.example.com";
    let bad = |request, reason| (request, 400, reason, true);
    let target = |text| HANDSHAKE.replace("/chat", text);
    let method = |text| {
        let request = HANDSHAKE.replace("GET /chat", text);
        (request, 405, "method-not-allowed", false)
    };
    vec![
        bad(without("Host"), "bad-host"),
        bad(with(host), "bad-host"),
        bad(HANDSHAKE.replace(host, "Host: a b"), "bad-host"),
        bad(target("http://other.example.com/chat"), "host-mismatch"),
        bad(target("/a/../chat"), "dot-segment"),
        bad(target("/a/%2e%2e/chat"), "dot-segment"),
        bad(target("/a%2f..%5cchat"), "dot-segment"),
        bad(target("/cha\"t"), "bad-target"),
        bad(target("/cha\\t"), "bad-target"),
        method("TRACE /chat"),
        method("CONNECT chat.example.com:80"),
    ]
}

#[tokio::test]
async fn invalid_handshakes_are_refused_and_reach_no_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let cases = [broken_handshakes(), broken_targets()].concat();
    for (request, status, reason, closes) in &cases {
        let seen = refused(&proxy, request).await;
        assert_eq!(seen, (*status, (*reason).to_owned(), *closes), "{request}");
    }
    endpoint.stays_quiet().await;
    let logged = proxy.logged_by_now("rejected").await;
    let logged = logged.iter().map(|event| event["reason"].as_str().unwrap());
    let expected = cases.iter().map(|(_, _, reason, _)| *reason);
    assert_eq!(logged.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unsupported_version_gets_the_supported_one() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client
        .send(HANDSHAKE.replace("Version: 13", "Version: 25"))
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(head.value("sec-websocket-version"), Some("13"));
    assert_eq!(head.value("upgrade"), Some("websocket"));
    assert_eq!(head.value("connection"), Some("Upgrade"));
    // The connection can still be used.
    client.send(HANDSHAKE).await;
    let _served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn requests_that_the_http_library_refuses_are_counted_and_logged() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let cases = [
        (with("Content-Length: 3, 4"), 400),
        (with("X: a\r\n folded"), 400),
        (with(&format!("X: {}", "a".repeat(20_000))), 431),
        (
            with(&"X: a\r\n".repeat(120)).replace("\r\n\r\n\r\n", "\r\n\r\n"),
            431,
        ),
    ];
    for (times, (request, status)) in (1..).zip(cases) {
        let (seen, _, closes) = refused(&proxy, &request).await;
        assert_eq!((seen, closes), (status, true), "{request}");
        // It is logged by the worker that has the connection.
        proxy.logged_times("rejected", times).await;
    }
    let logged = proxy.logged_times("rejected", 4).await;
    let reasons: Vec<_> = logged
        .iter()
        .map(|event| event["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "bad-request",
            "bad-request",
            "head-too-large",
            "head-too-large"
        ]
    );
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn handshakes_as_real_clients_write_them_pass() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for request in [
        HANDSHAKE.replace("websocket", "WebSocket"),
        HANDSHAKE.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        HANDSHAKE.replace(
            "Connection: Upgrade",
            "Connection: keep-alive\r\nconnection: upgrade",
        ),
        HANDSHAKE.replace("Upgrade: websocket", "Upgrade: h2c, websocket"),
        HANDSHAKE.replace("/chat", "http://chat.example.com/chat"),
        HANDSHAKE.replace("\r\n", "\n"),
        with("Content-Length: 0"),
        // The unused last bits of the key are not checked.
        HANDSHAKE.replace(KEY, "dGhlIHNhbXBsZSBub25jZR=="),
    ] {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        let (mut served, head) = endpoint.request().await;
        assert_eq!(head.start(), "GET /chat HTTP/1.1");
        assert_eq!(head.value("upgrade"), Some("websocket"));
        assert_eq!(head.value("connection"), Some("Upgrade"));
        assert_eq!(head.value("content-length"), None);
        let key = head.value("sec-websocket-key").unwrap();
        assert!(request.contains(key));
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        served.send(SWITCH.replace(ACCEPT, &accept)).await;
        assert_eq!(client.head().await.status(), 101, "{request}");
    }
}

#[tokio::test]
async fn an_upgrade_to_another_protocol_is_plain_http() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for request in [
        HANDSHAKE.replace(
            "Upgrade: websocket",
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ",
        ),
        HANDSHAKE.replace("Connection: Upgrade", "Connection: close"),
        HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"),
        HANDSHAKE
            .replace("GET", "POST")
            .replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        let (mut served, head) = endpoint.request().await;
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(head.value(name), None, "{head:?}");
        }
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .await;
        assert_eq!(client.head().await.status(), 200);
    }
}

/// Sends a handshake and this response to it. Returns what the client gets.
async fn answered(proxy: &Proxy, endpoint: &Endpoint, answer: &str) -> (Wire, Wire, Head) {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    served.send(answer).await;
    let head = client.head().await;
    (client, served, head)
}

#[tokio::test]
async fn a_bad_answer_is_502_and_never_a_tunnel() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let extra = |line: &str| SWITCH.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
    let line = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let cases = [
        (SWITCH.replace("HTTP/1.1", "HTTP/1.0"), "bad-switch"),
        (SWITCH.replace("Upgrade: websocket\r\n", ""), "bad-switch"),
        (SWITCH.replace("websocket", "h2c"), "bad-switch"),
        (SWITCH.replace("Connection: Upgrade\r\n", ""), "bad-switch"),
        (SWITCH.replace(&line, ""), "bad-switch"),
        (
            SWITCH.replace(ACCEPT, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            "bad-switch",
        ),
        (extra("Sec-WebSocket-Protocol: never-offered"), "bad-switch"),
        (
            extra("Sec-WebSocket-Extensions: permessage-deflate"),
            "bad-switch",
        ),
        ("not http at all\r\n\r\n".to_owned(), "bad-answer"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
            "bad-answer",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "bad-answer",
        ),
        (
            format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(70_000)),
            "bad-answer",
        ),
    ];
    for (answer, reason) in cases {
        let (mut client, mut served, head) = answered(&proxy, &endpoint, &answer).await;
        assert_eq!(head.status(), 502, "{answer}");
        assert_eq!(head.value("tidegate-reason"), Some(reason), "{answer}");
        client.body(&head).await;
        // The connection to the endpoint is closed, and that of the client can still be used.
        served.rest().await;
        client.send(HANDSHAKE).await;
        let _served = endpoint.tunnel().await;
        assert_eq!(client.head().await.status(), 101, "{answer}");
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_up_is_502_and_gets_no_second_request() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    drop(endpoint.request().await);
    let (head, _) = client.reply().await;
    assert_eq!(head.value("tidegate-reason"), Some("bad-answer"));
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn lenient_mode_accepts_missing_fields_but_no_wrong_ones() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace(
        "upstream = \"main\"",
        "upstream = \"main\"\nhandshake = \"lenient\"",
    );
    let proxy = Proxy::start(&config).await;
    let bare = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let (mut client, mut served, head) = answered(&proxy, &endpoint, bare).await;
    assert_eq!(head.status(), 101);
    // The client still gets a complete response.
    assert_eq!(head.value("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(head.value("connection"), Some("Upgrade"));
    served.send("x").await;
    assert_eq!(client.exactly(1).await, b"x");
    let logged = proxy.logged("lenient handshake accepted").await;
    assert_eq!(logged["route"], "main");
    let wrong = SWITCH.replace(ACCEPT, "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let (_, _, head) = answered(&proxy, &endpoint, &wrong).await;
    assert_eq!(head.value("tidegate-reason"), Some("bad-switch"));
}

#[tokio::test]
async fn lenient_mode_accepts_an_old_version_and_an_unoffered_subprotocol_and_counts_them() {
    let endpoint = Endpoint::bind().await;
    let config = METRICS.to_owned() + &settings(&[endpoint.address], "", "handshake = \"lenient\"");
    let proxy = Proxy::start(&config).await;
    let old = SWITCH.replace("HTTP/1.1", "HTTP/1.0");
    let (mut client, mut served, head) = answered(&proxy, &endpoint, &old).await;
    assert_eq!(head.start(), "HTTP/1.1 101 Switching Protocols");
    served.send("x").await;
    assert_eq!(client.exactly(1).await, b"x");
    let unoffered = SWITCH.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n");
    let (mut client, mut served, head) = answered(&proxy, &endpoint, &unoffered).await;
    // Browsers would close a connection with a subprotocol that they did not ask for.
    assert_eq!(
        (head.status(), head.value("sec-websocket-protocol")),
        (101, None)
    );
    served.send("x").await;
    assert_eq!(client.exactly(1).await, b"x");
    let logged = proxy.logged_times("lenient handshake accepted", 2).await;
    let excused: Vec<_> = logged.iter().map(|event| &event["excused"]).collect();
    assert_eq!(excused, ["HTTP/1.0", "a subprotocol that was not offered"]);
    Scrape::until(
        &proxy,
        "tidegate_handshakes_excused_total",
        &["route=\"main\""],
        2.0,
    )
    .await;
}

#[tokio::test]
async fn a_blank_before_a_colon_is_removed_from_a_response() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let blank = SWITCH
        .replace(": ", " : ")
        .replace("\r\n\r\n", "\r\nSet-Cookie\t: a\r\n\r\n");
    let (_, _, head) = answered(&proxy, &endpoint, &blank).await;
    assert_eq!((head.status(), head.value("set-cookie")), (101, Some("a")));
    let found = "HTTP/1.1 302 Found\r\nLocation : /a\r\nContent-Length : 0\r\n\r\n";
    let (_, _, head) = answered(&proxy, &endpoint, found).await;
    assert_eq!((head.status(), head.value("location")), (302, Some("/a")));
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut served, _) = endpoint.request().await;
    served
        .send("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length : 2\r\n\r\nok")
        .await;
    let (head, body) = client.reply().await;
    assert_eq!((head.value("x-a"), &*body), (Some("1"), "ok"));
}

/// With one more than the default, the endpoint's response is rejected; the setting allows it.
#[tokio::test]
async fn the_number_of_header_lines_of_a_response_is_a_setting() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]);
    let proxy = Proxy::start(&config).await;
    let lines = |count: usize| "X-A: b\r\n".repeat(count);
    let switch =
        |count: usize| SWITCH.replace("\r\n\r\n", &format!("\r\n{}\r\n", lines(count - 3)));
    let plain = |count: usize| {
        format!(
            "HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n",
            lines(count - 1)
        )
    };
    for (max, raised) in [(100, None), (300, Some("limits.header_count = 300\n"))] {
        if let Some(raised) = raised {
            proxy.reload(&(config.clone() + raised)).await;
        }
        for (count, statuses) in [(max, (101, 200)), (max + 1, (502, 502))] {
            let (_, _, head) = answered(&proxy, &endpoint, &switch(count)).await;
            let mut client = proxy.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let (mut served, _) = endpoint.request().await;
            served.send(plain(count)).await;
            let of_plain = client.head().await.status();
            assert_eq!((head.status(), of_plain), statuses, "{count} of {max}");
        }
    }
    let details = proxy.logged_times("rejected", 4).await;
    for event in details {
        let detail = event["detail"].as_str().unwrap();
        assert!(detail.contains("`limits.header_count`"), "{detail}");
    }
}

#[tokio::test]
async fn subprotocols_and_extensions_pass_through_if_offered() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client
        .send(with(
            "Sec-WebSocket-Protocol: chat, v2.chat\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
             Origin: https://chat.example.com\r\n\
             Cookie: a=b\r\n\
             Keep-Alive: 5\r\n\
             Proxy-Authorization: secret\r\n\
             X-Forwarded-For: 6.6.6.6\r\n\
             X_Forwarded_Proto: https\r\n\
             X-Real-IP: 6.6.6.6\r\n\
             Forwarded: for=6.6.6.6",
        ))
        .await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("sec-websocket-protocol"), Some("chat, v2.chat"));
    assert_eq!(
        head.value("sec-websocket-extensions"),
        Some("permessage-deflate; client_max_window_bits")
    );
    assert_eq!(head.value("origin"), Some("https://chat.example.com"));
    assert_eq!(head.value("cookie"), Some("a=b"));
    assert_eq!(head.value("host"), Some("chat.example.com"));
    for gone in [
        "keep-alive",
        "proxy-authorization",
        "x-real-ip",
        "x_forwarded_proto",
    ] {
        assert_eq!(head.value(gone), None, "{head:?}");
    }
    let port = proxy.address().port().to_string();
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.value("x-forwarded-proto"), Some("http"));
    assert_eq!(head.value("x-forwarded-host"), Some("chat.example.com"));
    assert_eq!(head.value("x-forwarded-port"), Some(port.as_str()));
    assert_eq!(
        head.value("forwarded"),
        Some("for=127.0.0.1;host=\"chat.example.com\";proto=http")
    );
    served
        .send(SWITCH.replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Protocol: v2.chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\
             Set-Cookie: s=1\r\nSet-Cookie: t=2\r\nKeep-Alive: 5\r\nServer: theirs\r\n\r\n",
        ))
        .await;
    let head = client.head().await;
    assert_eq!(head.value("sec-websocket-protocol"), Some("v2.chat"));
    assert_eq!(
        head.value("sec-websocket-extensions"),
        Some("permessage-deflate")
    );
    assert_eq!(head.values("set-cookie"), ["s=1", "t=2"]);
    assert_eq!(head.value("server"), Some("theirs"));
    assert_eq!(head.value("keep-alive"), None);
    let opened = proxy.logged("tunnel opened").await;
    assert_eq!(opened["subprotocol"], "v2.chat");
}

#[tokio::test]
async fn header_names_have_the_case_of_the_rfc_or_of_the_sender() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    let request = HANDSHAKE
        .to_ascii_lowercase()
        .replace("get", "GET")
        .replace("http/1.1", "HTTP/1.1");
    let request = request.replace(&KEY.to_ascii_lowercase(), KEY);
    client
        .send(request.replace("\r\n\r\n", "\r\nX-TeNaNT: acme\r\n\r\n"))
        .await;
    let (mut served, head) = endpoint.request().await;
    for line in [
        "Host: chat.example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        &format!("Sec-WebSocket-Key: {KEY}"),
        "X-TeNaNT: acme",
        "X-Forwarded-Proto: http",
    ] {
        assert!(head.has_line(line), "{line} in {head:?}");
    }
    let answer = SWITCH.to_ascii_lowercase().replace("http/1.1", "HTTP/1.1");
    let answer = answer.replace(&ACCEPT.to_ascii_lowercase(), ACCEPT);
    served
        .send(answer.replace("\r\n\r\n", "\r\nx-ServedBY: one\r\n\r\n"))
        .await;
    let head = client.head().await;
    for line in [
        "Upgrade: websocket",
        "Connection: Upgrade",
        &format!("Sec-WebSocket-Accept: {ACCEPT}"),
        "x-ServedBY: one",
    ] {
        assert!(head.has_line(line), "{line} in {head:?}");
    }
}

#[tokio::test]
async fn an_answer_other_than_101_passes_with_its_body_and_the_connection_stays() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    for (answer, status, body) in [
        (
            "HTTP/1.1 403 No\r\nContent-Length: 6\r\nX-Why: login\r\n\r\nlog in",
            403,
            "log in",
        ),
        (
            "HTTP/1.1 401 Who\r\nTransfer-Encoding: chunked\r\nX-Why: login\r\n\r\n3\r\nlog\r\n3\r\n in\r\n0\r\n\r\n",
            401,
            "log in",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nX-Why: login\r\nContent-Length: 0\r\n\r\n",
            302,
            "",
        ),
    ] {
        client.send(HANDSHAKE).await;
        let (mut served, _) = endpoint.request().await;
        served.send(answer).await;
        let (head, got) = client.reply().await;
        assert_eq!((head.status(), got.as_str()), (status, body));
        assert_eq!(head.value("x-why"), Some("login"));
        assert_eq!(head.value("tidegate-reason"), None);
    }
    client.send(HANDSHAKE).await;
    let _served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn interim_answers_before_the_101_are_dropped() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let early =
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n{SWITCH}");
    let (_, _, head) = answered(&proxy, &endpoint, &early).await;
    assert_eq!(head.status(), 101);
}

#[tokio::test]
async fn an_unrequested_101_is_502() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut served, _) = endpoint.request().await;
    served.send(SWITCH).await;
    let (head, _) = client.reply().await;
    assert_eq!(head.status(), 502);
    served.rest().await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_101_frees_the_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    drop(client);
    served.closed().await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_504() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "timeouts.handshake = \"200ms\"\n";
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    let (head, _) = client.reply().await;
    assert_eq!(head.status(), 504);
    assert_eq!(head.value("tidegate-reason"), Some("handshake-timeout"));
    served.closed().await;
    client.send(HANDSHAKE).await;
    let _served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn the_reason_header_can_be_left_out() {
    let endpoint = Endpoint::bind().await;
    let config = format!(
        "[server]\nlog.format = \"json\"\nreason_header = false\n{}",
        simple(&[endpoint.address])
    );
    let proxy = Proxy::start(&config).await;
    let (status, reason, _) = refused(&proxy, &without("Sec-WebSocket-Key")).await;
    assert_eq!((status, reason.as_str()), (400, "none"));
}
