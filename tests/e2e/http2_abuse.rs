//! What a client of HTTP/2 must not do: malformed heads cost it a stream, floods its connection, and no other
//! client notices either.

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::h2_client::{H2Proxy, HOST, h2_settings};
use crate::harness::h2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GET, HEADERS, OPEN, Outcome,
    PING, PROTOCOL_ERROR, RST_STREAM, RawH2, SETTINGS, WINDOW_UPDATE, block, raw_frame,
};

/// CANCEL, of RFC 9113 section 7.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The head with a field in addition, or without one.
fn with<'a>(head: &[(&'a str, &'a str)], name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    [head, &[(name, value)]].concat()
}

fn without<'a>(head: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
    let kept = head.iter().filter(|(each, _)| *each != name);
    kept.copied().collect()
}

/// Heads that are malformed (RFC 9113 sections 8.1.1 to 8.5, RFC 8441 section 4): no endpoint sees them.
fn malformed() -> Vec<Vec<(&'static str, &'static str)>> {
    let mut late = GET.to_vec();
    late.insert(0, ("x-a", "1"));
    vec![
        with(&GET, "connection", "close"),
        with(&GET, "connection", "upgrade"),
        with(&GET, "keep-alive", "timeout=5"),
        with(&GET, "proxy-connection", "keep-alive"),
        with(&GET, "transfer-encoding", "chunked"),
        with(&GET, "upgrade", "websocket"),
        with(&GET, "te", "gzip"),
        without(&GET, ":method"),
        without(&GET, ":scheme"),
        without(&GET, ":path"),
        with(&without(&GET, ":path"), ":path", ""),
        with(&GET, ":method", "GET"),
        with(&GET, ":path", "/"),
        with(&GET, ":authority", HOST),
        with(&GET, ":status", "200"),
        with(&GET, ":protocol", "websocket"),
        late,
        with(&GET, "content-length", "x"),
        without(&OPEN, ":scheme"),
        without(&OPEN, ":path"),
        without(&OPEN, ":authority"),
    ]
}

#[tokio::test]
async fn malformed_heads_cost_their_stream_and_nothing_else() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut raw = RawH2::connect(&proxy).await;
    for (stream, head) in (1..).step_by(2).zip(malformed()) {
        raw.open(stream, &head, END_STREAM).await;
        let outcome = raw.outcome(stream).await;
        let is_refused = matches!(
            outcome,
            Outcome::Reset(PROTOCOL_ERROR) | Outcome::Status(400)
        );
        assert!(is_refused, "{head:?}: {outcome:?}");
    }
    raw.lives().await;
    endpoint.stays_quiet().await;
}

/// Bytes that no field may have (RFC 9113 section 8.2.1). The library finds most of them while it decompresses the
/// head, and takes them for an error of the connection, which the RFC allows. Blanks around a value are ours to find.
#[tokio::test]
async fn fields_that_http1_would_read_differently_reach_no_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    for (name, value, expected) in [
        ("X-Upper", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x a", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x:a", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        (":unknown", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x-a\r\nx-b", "1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x-a", "a\r\nx-b: 1", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x-a", "a\nb", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x-a", "a\rb", Outcome::GoAway(PROTOCOL_ERROR)),
        ("x-a", "a\0b", Outcome::GoAway(PROTOCOL_ERROR)),
        (":path", "/a\r\nb", Outcome::Reset(PROTOCOL_ERROR)),
        ("x-a", " a", Outcome::Status(400)),
        ("x-a", "a ", Outcome::Status(400)),
        ("x-a", "\ta", Outcome::Status(400)),
    ] {
        let mut raw = RawH2::connect(&proxy).await;
        let head = with(&without(&GET, name), name, value);
        raw.open(1, &head, END_STREAM).await;
        assert_eq!(raw.outcome(1).await, expected, "{name:?} {value:?}");
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn a_body_of_another_length_than_announced_never_looks_whole() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let post = with(&GET[1..], "content-length", "3");
    let post = with(&post, "x-a", "1");
    let post = [vec![(":method", "POST")], post].concat();
    let mut raw = RawH2::connect(&proxy).await;
    // Too short, and too long.
    for (stream, body) in [(1, "ab"), (3, "abcd")] {
        raw.open(stream, &post, 0).await;
        raw.send(raw_frame(DATA, END_STREAM, stream, body.as_bytes()))
            .await;
        assert_eq!(
            raw.outcome(stream).await,
            Outcome::Reset(PROTOCOL_ERROR),
            "{body}"
        );
    }
    raw.lives().await;
    // If an endpoint has seen the head, its connection ended before the body did.
    while let Ok(mut wire) =
        tokio::time::timeout(std::time::Duration::from_millis(150), endpoint.accept()).await
    {
        if let Some(head) = wire.head_or_end().await {
            let (rest, _) = wire.rest().await;
            assert!(rest.len() < 3, "{head:?} {rest:?}");
        }
    }
}

/// A CDN may carry the streams of many users on one connection.
#[tokio::test]
async fn a_connect_with_a_length_costs_its_stream_and_no_other() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut raw = RawH2::connect(&proxy).await;
    raw.open(1, &OPEN, 0).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    for (stream, field) in [(3, ("content-length", "3")), (5, ("content-length", "0"))] {
        raw.open(stream, &with(&OPEN, field.0, field.1), 0).await;
        let outcome = raw.outcome(stream).await;
        match field.1 {
            "3" => assert_eq!(outcome, Outcome::Status(400)),
            // Without a body there is nothing to refuse, as in HTTP/1.1.
            _ => assert!(matches!(
                outcome,
                Outcome::Status(200) | Outcome::Status(400)
            )),
        }
    }
    raw.open(7, &OPEN, END_STREAM).await;
    assert_eq!(raw.outcome(7).await, Outcome::Status(400));
    // The first tunnel has not noticed: a message comes back.
    raw.send(raw_frame(DATA, 0, 1, b"\x81\x84\0\0\0\0ping"))
        .await;
    loop {
        let frame = raw.frame_of(DATA).await.unwrap();
        if frame.stream == 1 {
            assert_eq!(frame.payload, b"\x81\x04ping");
            return;
        }
    }
}

/// CVE-2023-44487, and CVE-2025-8671, where the client has the server reset the stream.
#[tokio::test]
async fn opening_streams_only_to_have_them_reset_costs_the_connection() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut beside = proxy.client().await;
    let _tunnel = beside.tunnel().await;
    let head = block(&OPEN);
    let too_much_credit = [0x7f, 0xff, 0xff, 0xff];
    for (kind, payload) in [(RST_STREAM, CANCEL), (WINDOW_UPDATE, too_much_credit)] {
        let before = echo.served();
        let mut raw = RawH2::connect(&proxy).await;
        for stream in (1..20_000).step_by(2) {
            let open = raw_frame(HEADERS, END_HEADERS, stream, &head);
            let reset = raw_frame(kind, 0, stream, &payload);
            if !raw.try_send(&[open, reset].concat()).await {
                break;
            }
        }
        assert_eq!(raw.ended().await, Some(ENHANCE_YOUR_CALM), "{kind}");
        let dials = echo.served() - before;
        assert!(dials < 1000, "{dials} dials");
    }
    beside.ping().await;
}

/// CVE-2024-27316 and its relatives.
#[tokio::test]
async fn heads_without_an_end_cost_the_connection() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    for piece in [Vec::new(), block(&[("x-a", &"a".repeat(1000))])] {
        let mut raw = RawH2::connect(&proxy).await;
        let head = raw_frame(HEADERS, END_STREAM, 1, &block(&GET));
        raw.send(head).await;
        let more = raw_frame(CONTINUATION, 0, 1, &piece);
        let mut taken = 0_u32;
        while taken < 200_000 && raw.try_send(&more).await {
            taken += 1;
        }
        assert!(taken < 200_000, "the head goes on");
        raw.ended().await;
    }
    endpoint.stays_quiet().await;
}

/// One field of the table that is named many times: a small block that means much.
#[tokio::test]
async fn a_small_block_that_means_a_large_head_is_refused() {
    let endpoint = Endpoint::bind().await;
    let proxy = H2Proxy::simple(&[endpoint.address]).await;
    let mut raw = RawH2::connect(&proxy).await;
    // A field that enters the table (RFC 7541 section 6.2.1), which has room for 4096 bytes.
    let mut bomb = block(&GET);
    bomb.extend([0x40, 3]);
    bomb.extend(b"x-a");
    bomb.extend([0x7f, 0x81, 0x1e]);
    bomb.extend([b'a'; 4000]);
    bomb.extend([0xbe; 10_000]);
    raw.send(raw_frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb))
        .await;
    let outcome = raw.outcome(1).await;
    let is_refused = matches!(
        outcome,
        Outcome::Status(431) | Outcome::Reset(_) | Outcome::GoAway(_)
    );
    assert!(is_refused, "{outcome:?}");
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn heads_have_the_limits_of_the_listener() {
    let endpoint = Endpoint::bind().await;
    let limits = "limits = { header_bytes = \"4KiB\", header_count = 20 }";
    let proxy = H2Proxy::start(&h2_settings(&[endpoint.address], "true", limits, "")).await;
    let mut raw = RawH2::connect(&proxy).await;
    let large = "a".repeat(5000);
    raw.open(1, &with(&GET, "x-a", &large), END_STREAM).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(431));
    let many = [&GET[..], &[("x-a", "1"); 21]].concat();
    raw.open(3, &many, END_STREAM).await;
    assert_eq!(raw.outcome(3).await, Outcome::Status(431));
    raw.lives().await;
    endpoint.stays_quiet().await;
}

/// The client reads nothing: what the server would answer must not pile up.
#[tokio::test]
async fn floods_that_ask_for_answers_are_not_kept_in_memory() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    for flood in [
        raw_frame(PING, 0, 0, b"12345678"),
        raw_frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
    ] {
        let before = proxy.proxy.resident_kib();
        let mut raw = RawH2::connect(&proxy).await;
        let sent = raw.flood(&flood.repeat(1000), 2000).await;
        let grown = proxy.proxy.resident_kib().saturating_sub(before);
        assert!(grown < 20_000, "{grown} KiB for {sent} bytes");
    }
    let mut client = proxy.client().await;
    client.tunnel().await;
}

#[tokio::test]
async fn frames_without_content_do_not_go_on_forever() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut raw = RawH2::connect(&proxy).await;
    raw.open(1, &OPEN, 0).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    let empty = raw_frame(DATA, 0, 1, b"").repeat(100);
    let mut times = 0;
    while times < 1000 && raw.try_send(&empty).await {
        times += 1;
    }
    assert_eq!(raw.ended().await, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn errors_of_the_connection_end_it_and_no_other() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut beside = proxy.client().await;
    let _tunnel = beside.tunnel().await;
    for (what, frames) in [
        (
            "a stream of the server's",
            raw_frame(HEADERS, END_HEADERS, 2, &block(&GET)),
        ),
        ("data of an idle stream", raw_frame(DATA, 0, 9, b"a")),
        (
            "a reset of an idle stream",
            raw_frame(RST_STREAM, 0, 9, &CANCEL),
        ),
        ("no credit", raw_frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "too much credit",
            raw_frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        (
            "a block that cannot be read",
            raw_frame(HEADERS, END_HEADERS, 1, &[0xff; 20]),
        ),
        (
            "a frame that is too long",
            raw_frame(DATA, 0, 1, &[0; 20_000]),
        ),
        (
            "settings of a wrong length",
            raw_frame(SETTINGS, 0, 0, &[0; 5]),
        ),
        (
            "a window that is too large",
            raw_frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0, 0, 0]),
        ),
        ("a ping of a wrong length", raw_frame(PING, 0, 0, &[0; 7])),
        (
            "a continuation of nothing",
            raw_frame(CONTINUATION, END_HEADERS, 1, &block(&GET)),
        ),
        ("another stream within a head", {
            let begun = raw_frame(HEADERS, 0, 1, &block(&GET));
            [begun, raw_frame(PING, 0, 0, &[0; 8])].concat()
        }),
        (
            "no HTTP/2 at all",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ),
    ] {
        let mut raw = RawH2::connect(&proxy).await;
        raw.try_send(&frames).await;
        let code = raw.ended().await;
        assert!(code.is_none_or(|code| code != 0), "{what}: {code:?}");
    }
    beside.ping().await;
    assert!(!beside.has_ended());
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let endpoint = Endpoint::bind().await;
    let config = h2_settings(&[endpoint.address], "{ streams = 2 }", "", "");
    let proxy = H2Proxy::start(&config).await;
    let mut raw = RawH2::connect(&proxy).await;
    // The client knows of the limit: otherwise it might have sent them before.
    raw.lives().await;
    raw.send(raw_frame(SETTINGS, 1, 0, &[])).await;
    for stream in [1, 3, 5] {
        raw.open(stream, &OPEN, 0).await;
    }
    /// REFUSED_STREAM: the client may try it again.
    const REFUSED_STREAM: u32 = 7;
    assert_eq!(raw.outcome(5).await, Outcome::Reset(REFUSED_STREAM));
    let _first = endpoint.request().await;
    let _second = endpoint.request().await;
    endpoint.stays_quiet().await;
    raw.lives().await;
}
