//! The rules of handshakes, routes and limits are the same over HTTP/1.1 and HTTP/2: the same verdict, with the same
//! reason.

use h2::ext::Protocol;
use http::Request;
use serde_json::Value;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::free_address;
use crate::harness::h2_client::{H2Client, H2Proxy, HOST, get, h2_settings, websocket, with_field};
use crate::harness::h2_frames::{
    END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GET, HEADERS, Outcome, RawH2, block, raw_frame,
};
use crate::harness::wire::{KEY, Wire};

/// A verdict: the status, and the reason of a refusal. A tunnel counts as 101.
type Verdict = (u16, Option<String>);

/// A handshake that both protocols can express.
struct Asked {
    host: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, &'static str)],
}

const VERSION: (&str, &str) = ("sec-websocket-version", "13");
const GOOD: (&str, &str) = ("origin", "https://chat.example.com");
const EVIL: (&str, &str) = ("origin", "https://evil.example.com");

/// A handshake for this path with these fields in addition.
const fn asked(path: &'static str, fields: &'static [(&'static str, &'static str)]) -> Asked {
    Asked {
        host: "chat.example.com",
        path,
        fields,
    }
}

impl Asked {
    async fn over_http1(&self, proxy: &H2Proxy) -> Verdict {
        let mut wire = Wire::over(proxy.offering(&[b"http/1.1"]).await);
        let lines = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        let Self { host, path, .. } = self;
        wire.send(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{lines}\r\n"
        ))
        .await;
        let head = wire.head().await;
        (
            head.status(),
            head.value("tidegate-reason").map(str::to_owned),
        )
    }

    async fn over_http2(&self, client: &mut H2Client) -> Verdict {
        let request = Request::builder().method("CONNECT");
        let mut request = request
            .uri(format!("https://{}{}", self.host, self.path))
            .extension(Protocol::from_static("websocket"))
            .body(())
            .unwrap();
        for (name, value) in self.fields {
            request = with_field(request, name, value);
        }
        match client.open(request).await {
            Ok(_) => (101, None),
            Err(reply) => (reply.status, reply.reason().map(str::to_owned)),
        }
    }
}

/// Routes of every kind that refuses handshakes.
fn routes(echo: &Echo, dead: std::net::SocketAddr) -> String {
    let routes = "hosts = [\"chat.example.com\"]\npath_prefix = \"/chat\"";
    let route = |name: &str, lines: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nhosts = [\"chat.example.com\"]\npath = \"/{name}\"\n{lines}\n"
        )
    };
    [
        h2_settings(&[echo.address], "true", "", routes),
        format!("[upstream.dead]\nendpoints = [\"{dead}\"]\n[auth.key.jwt]\nsecret_file = \"jwt.key\"\nissuer = \"me\"\naudience = [\"chat\"]\n"),
        route("origins", "upstream = \"main\"\norigins = [\"https://chat.example.com\"]\norigins_required = true"),
        route("denied", "upstream = \"main\"\ndeny = [\"127.0.0.0/8\"]"),
        route("graphql", "upstream = \"main\"\nsubprotocols = [\"graphql-ws\"]"),
        route("tenant", "upstream = \"main\"\nheaders = { x-tenant = \"acme\" }"),
        route("query", "upstream = \"main\"\nquery = { v = \"2\" }"),
        route("elsewhere", "redirect = { to = \"https://other.example.com\", status = 308 }"),
        route("token", "upstream = \"main\"\nauth = \"key\""),
        route("dead", "upstream = \"dead\""),
        route("pages", "upstream = \"main\"\nonly = \"plain\""),
    ]
    .concat()
}

/// Handshakes, and their verdicts: status and reason.
fn cases() -> Vec<(Asked, (u16, &'static str))> {
    let other_host = Asked {
        host: "other.example.com",
        ..asked("/chat", &[VERSION])
    };
    let opens = (101, "");
    vec![
        (asked("/chat", &[VERSION]), opens),
        (asked("/chat", &[]), (426, "websocket-version")),
        (
            asked("/chat", &[("sec-websocket-version", "8")]),
            (426, "websocket-version"),
        ),
        (
            asked("/chat", &[VERSION, VERSION]),
            (426, "websocket-version"),
        ),
        (
            asked("/chat", &[VERSION, ("content-length", "3")]),
            (400, "websocket-body"),
        ),
        (asked("/chat", &[VERSION, ("content-length", "0")]), opens),
        (asked("/chat/../a", &[VERSION]), (400, "dot-segment")),
        (asked("/chat/%2e%2e/a", &[VERSION]), (400, "dot-segment")),
        (asked("/chat%2f..%5ca", &[VERSION]), (400, "dot-segment")),
        (asked("/chat/%zz", &[VERSION]), (400, "bad-target")),
        (asked("/chat//a", &[VERSION]), opens),
        (other_host, (404, "no-route")),
        (asked("/nowhere", &[VERSION]), (404, "no-route")),
        (asked("/origins", &[VERSION]), (403, "origin-missing")),
        (asked("/origins", &[VERSION, EVIL]), (403, "origin-denied")),
        (
            asked("/origins", &[VERSION, GOOD, GOOD]),
            (403, "origin-denied"),
        ),
        (asked("/origins", &[VERSION, GOOD]), opens),
        (asked("/denied", &[VERSION]), (403, "address-denied")),
        (asked("/graphql", &[VERSION]), (404, "no-route")),
        (
            asked(
                "/graphql",
                &[VERSION, ("sec-websocket-protocol", "a, graphql-ws")],
            ),
            opens,
        ),
        (asked("/tenant", &[VERSION]), (404, "no-route")),
        (asked("/tenant", &[VERSION, ("x-tenant", "acme")]), opens),
        (asked("/query?v=1", &[VERSION]), (404, "no-route")),
        (asked("/query?v=2", &[VERSION]), opens),
        (asked("/elsewhere", &[VERSION]), (403, "redirect-only")),
        (asked("/token", &[VERSION]), (401, "credential-missing")),
        (
            asked("/token", &[VERSION, ("authorization", "Bearer a.b.c")]),
            (401, "credential-invalid"),
        ),
        (asked("/dead", &[VERSION]), (503, "connect-failed")),
        (asked("/pages", &[VERSION]), (404, "no-route")),
    ]
}

#[tokio::test]
async fn handshakes_have_one_verdict() {
    let echo = Echo::start("echo").await;
    let dead = free_address();
    let (authority, folder) = Authority::with_certificate();
    crate::harness::certificates::write(&folder.path().join("jwt.key"), &"7".repeat(64));
    let proxy = H2Proxy::start_in(authority, folder, &routes(&echo, dead)).await;
    let mut client = proxy.client().await;
    for (asked, (status, reason)) in cases() {
        let expected = (status, (!reason.is_empty()).then(|| reason.to_owned()));
        let what = format!("{}{} {:?}", asked.host, asked.path, asked.fields);
        assert_eq!(asked.over_http1(&proxy).await, expected, "HTTP/1.1: {what}");
        assert_eq!(
            asked.over_http2(&mut client).await,
            expected,
            "HTTP/2: {what}"
        );
    }
    // One connection has seen all of this, and serves on.
    client.tunnel().await;
    let events = proxy.proxy.logged_by_now("rejected").await;
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    for pair in reasons.chunks(2) {
        assert_eq!(pair[0], pair[1], "each is logged for both");
    }
    assert_eq!(reasons.len() % 2, 0);
}

#[tokio::test]
async fn rates_and_numbers_count_streams_of_one_connection() {
    let echo = Echo::start("echo").await;
    for (listener, route, allowed, refused) in [
        (
            "limits.handshakes_per_ip = { rate = \"1/h\", burst = 3 }",
            "",
            3,
            (429, "address-rate"),
        ),
        ("", "limits.tunnels = 3", 3, (503, "route-full")),
        // The connection itself is one of them.
        (
            "limits.connections_per_ip = 4",
            "",
            3,
            (429, "address-full"),
        ),
        ("limits.connections = 4", "", 3, (503, "listener-full")),
    ] {
        let proxy = H2Proxy::start(&h2_settings(&[echo.address], "true", listener, route)).await;
        let mut client = proxy.client().await;
        let mut held = Vec::new();
        for _ in 0..allowed {
            held.push(client.tunnel().await);
        }
        let reply = client.open(websocket("/chat")).await.err();
        let reply = reply.unwrap_or_else(|| panic!("{listener}{route}: one too many"));
        assert_eq!((reply.status, reply.reason()), (refused.0, Some(refused.1)));
        if refused.1 != "address-rate" {
            // What has ended does not count.
            held.pop().unwrap().reset(h2::Reason::CANCEL);
            proxy.proxy.logged("tunnel ended").await;
            client.tunnel().await;
        }
    }
}

/// The head of a stream that h2 rejects by itself.
const TWO_LENGTHS: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/"),
    ("content-length", "1"),
    ("content-length", "2"),
];

#[tokio::test]
async fn heads_that_nothing_reads_count_against_the_rate_and_are_logged() {
    let echo = Echo::start("echo").await;
    let listener = "limits.requests_per_ip = { rate = \"1/h\", burst = 2 }";
    let proxy = H2Proxy::start(&h2_settings(&[echo.address], "true", listener, "")).await;
    let mut raw = RawH2::connect(&proxy).await;
    for stream in [1, 3] {
        raw.open(stream, &TWO_LENGTHS, 0).await;
        assert!(matches!(raw.outcome(stream).await, Outcome::Reset(_)));
    }
    raw.open(5, &GET, END_STREAM).await;
    assert_eq!(raw.outcome(5).await, Outcome::Status(429));
    let reasons: Vec<Value> = proxy.proxy.logged_times("rejected", 3).await;
    let reasons: Vec<&Value> = reasons.iter().map(|event| &event["reason"]).collect();
    assert_eq!(reasons, ["bad-request", "bad-request", "request-rate"]);
}

/// A client that goes on and on with them is served no further.
#[tokio::test]
async fn heads_that_nothing_reads_end_the_connection_in_the_end() {
    let echo = Echo::start("echo").await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut raw = RawH2::connect(&proxy).await;
    let mut stream = 1;
    while stream < 1000 {
        let frame = raw_frame(HEADERS, END_HEADERS, stream, &block(&TWO_LENGTHS));
        if !raw.try_send(&frame).await {
            break;
        }
        stream += 2;
    }
    assert_eq!(raw.ended().await, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn requests_that_are_not_valid_count_against_the_rate() {
    let echo = Echo::start("echo").await;
    let listener = "limits.requests_per_ip = { rate = \"1/h\", burst = 2 }";
    let proxy = H2Proxy::start(&h2_settings(&[echo.address], "true", listener, "")).await;
    let mut client = proxy.client().await;
    for expected in [
        "protocol-unsupported",
        "protocol-unsupported",
        "request-rate",
    ] {
        let request = Request::builder().method("CONNECT");
        let request = request
            .uri("https://chat.example.com/chat")
            .extension(Protocol::from_static("connect-udp"))
            .body(());
        let reply = client.open(request.unwrap()).await.err().unwrap();
        assert_eq!(reply.reason(), Some(expected));
    }
}

#[tokio::test]
async fn a_sticky_cookie_leads_back_over_either_protocol() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let config = h2_settings(&[one.address, two.address], "true", "", "");
    let config = config.replace("endpoints", "balance = \"round_robin\"\nendpoints");
    let config = config + "[upstream.main.sticky]\ncookie = \"node\"\n";
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    let (fields, _first) = client.open(websocket("/chat")).await.unwrap();
    let cookie = fields["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let mut held = Vec::new();
    for _ in 0..4 {
        // In pieces, as browsers send cookies over HTTP/2.
        let request = with_field(websocket("/chat"), "cookie", "a=1");
        let request = with_field(request, "cookie", &cookie);
        let (fields, stream) = client.open(request).await.unwrap();
        assert!(
            !fields.contains_key("set-cookie"),
            "the client has a good one"
        );
        held.push(stream);
    }
    let mut wire = Wire::over(proxy.offering(&[b"http/1.1"]).await);
    let field = format!("Cookie: {cookie}\r\n");
    wire.send(crate::harness::wire::handshake_with(&field))
        .await;
    let head = wire.head().await;
    assert_eq!((head.status(), head.value("set-cookie")), (101, None));
    let mut open = [one.open(), two.open()];
    open.sort_unstable();
    assert_eq!(open, [0, 6]);
}

#[tokio::test]
async fn a_dead_endpoint_leads_to_another_one() {
    let echo = Echo::start("echo").await;
    let dead = free_address();
    let config = h2_settings(&[dead, echo.address], "true", "", "");
    let config = config.replace("endpoints", "balance = \"round_robin\"\nendpoints");
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(client.tunnel().await);
    }
    assert_eq!(echo.served(), 4);
}

#[tokio::test]
async fn a_listed_answer_leads_to_another_endpoint() {
    let endpoints = [Endpoint::bind().await, Endpoint::bind().await];
    let addresses = endpoints.each_ref().map(|each| each.address);
    let config = h2_settings(&addresses, "true", "", "");
    let config = config.replace("endpoints", "retry_on = [\"503\"]\nendpoints");
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    let answered = async {
        let [one, two] = &endpoints;
        let ((mut wire, _), next) = tokio::select! {
            asked = one.request() => (asked, two),
            asked = two.request() => (asked, one),
        };
        wire.send("HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbusy")
            .await;
        let (mut wire, _) = next.request().await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
        wire
    };
    let (reply, _wire) = tokio::join!(client.fetch(get("/poll"), b""), answered);
    assert_eq!(reply.unwrap().text(), "ok");
}
