//! Streams: plain requests that last are listed, limited and closed like tunnels.

use serde_json::{Value, json};

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Endpoint;
use crate::harness::h2_client::{self, H2Proxy, H2Reply, h2_settings};
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::scrape::Scrape;
use crate::harness::wire::{End, Head, Wire};
use crate::harness::within;

const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";

const METRICS: &str = "[admin]\nmetrics_bind = \"127.0.0.1:0\"\nbind = \"127.0.0.1:0\"\n\
    token_file = \"admin.token\"\n";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n\r\n")
}

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// A client, and the endpoint's side of its request.
struct Exchange {
    client: Wire,
    served: Wire,
}

impl Exchange {
    /// Sends `request`, and waits until the endpoint has it.
    async fn begin(proxy: &Proxy, endpoint: &Endpoint, request: &str) -> Self {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (served, _) = endpoint.request().await;
        Self { client, served }
    }

    /// The same, with a response that begins with `bytes`.
    async fn answered(proxy: &Proxy, endpoint: &Endpoint, path: &str, response: &str) -> Self {
        let mut exchange = Self::begin(proxy, endpoint, &get(path)).await;
        exchange.served.send(response).await;
        assert_eq!(exchange.client.head().await.status(), 200);
        exchange
    }

    /// Passes a chunk on.
    async fn passes(&mut self, data: &str) {
        self.served.send(chunk(data)).await;
        assert_eq!(self.client.chunk().await, Some(data.as_bytes().to_vec()));
    }
}

/// The streams that match, once there are as many.
async fn streams(operator: &Operator, count: usize, filter: &str) -> Vec<Value> {
    listed(operator, count, &format!("kind=stream&sort=age{filter}")).await
}

async fn listed(operator: &Operator, count: usize, query: &str) -> Vec<Value> {
    let all = |rows: &[Value]| rows.len() == count;
    listed_until(operator, query, all).await
}

/// The rows of a listing, once they are as `expected`.
async fn listed_until(
    operator: &Operator,
    query: &str,
    expected: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    within(&format!("the listing of {query}"), async {
        loop {
            let listing = operator.get(&format!("/v1/tunnels?{query}")).await;
            let rows = listing["tunnels"].as_array().unwrap();
            if expected(rows) {
                return rows.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn reason(head: &Head) -> (u16, Option<&str>) {
    (head.status(), head.value("tidegate-reason"))
}

/// A tunnel, and three plain requests that last.
struct Lasting {
    proxy: Proxy,
    operator: Operator,
    endpoint: Endpoint,
    _tunnel: (Wire, Wire),
    events: Exchange,
    upload: Exchange,
    _poll: Exchange,
}

impl Lasting {
    async fn begin() -> Self {
        let endpoint = Endpoint::bind().await;
        let config = METRICS.to_owned() + &simple(&[endpoint.address]);
        let (proxy, operator) = Operator::start_whole(&config).await;
        let tunnel = proxy.tunnel_to(&endpoint).await;
        let mut events = Exchange::answered(&proxy, &endpoint, "/events?token=x", EVENTS).await;
        events.passes("data: 1\n\n").await;
        let post =
            "POST /up HTTP/1.1\r\nHost: files.example.com\r\nContent-Length: 100\r\n\r\n12345";
        let mut upload = Exchange::begin(&proxy, &endpoint, post).await;
        assert_eq!(upload.served.exactly(5).await, b"12345");
        let poll = Exchange::begin(&proxy, &endpoint, &get("/poll")).await;
        Self {
            proxy,
            operator,
            endpoint,
            _tunnel: tunnel,
            events,
            upload,
            _poll: poll,
        }
    }
}

/// What lasts is listed by kind, with its traffic; a tunnel is listed as before, and a short request never.
#[tokio::test]
async fn what_lasts_is_listed() {
    let lasting = Lasting::begin().await;
    let (endpoint, operator) = (&lasting.endpoint, &lasting.operator);
    let mut short = Exchange::begin(&lasting.proxy, endpoint, &get("/short")).await;
    short
        .served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(short.client.reply().await.1, "ok");
    let rows = streams(operator, 3, "").await;
    let seen = |row: &Value| {
        let texts = ["kind", "host", "path"].map(|name| row[name].as_str().unwrap().to_owned());
        let bytes = ["bytes_from_client", "bytes_from_endpoint"].map(|name| row[name].clone());
        (texts, bytes)
    };
    let text = |path: &str, host: &str| ["stream", host, path].map(str::to_owned);
    let expected = [
        (text("/events", "chat.example.com"), [json!(0), json!(9)]),
        (text("/up", "files.example.com"), [json!(5), json!(0)]),
        (text("/poll", "chat.example.com"), [json!(0), json!(0)]),
    ];
    assert_eq!(rows.iter().map(seen).collect::<Vec<_>>(), expected);
    for row in &rows {
        assert_eq!(row["endpoint"], endpoint.address.to_string());
        assert_eq!(
            (&row["listener"], &row["upstream"]),
            (&json!("main"), &json!("main"))
        );
        assert!(row["age_seconds"].as_f64().unwrap() >= 3.0, "{row}");
        assert!(row["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    let of_host = streams(operator, 1, "&host=files.example.com").await;
    assert_eq!(of_host[0]["path"], "/up");
    let id = rows[2]["id"].as_str().unwrap();
    let of_id = streams(operator, 1, &format!("&id={id}")).await;
    assert_eq!(of_id[0]["path"], "/poll");
    streams(
        operator,
        3,
        "&older_than=3s&idle_for=1s&client=127.0.0.0%2F8",
    )
    .await;
    streams(operator, 0, "&older_than=1h").await;
    // Without a kind, tunnels alone are meant.
    let tunnels = listed(operator, 1, "sort=age").await;
    assert_eq!(
        (&tunnels[0]["kind"], &tunnels[0]["path"]),
        (&json!("tunnel"), &json!("/chat"))
    );
    let all = listed(operator, 4, "kind=all&sort=age").await;
    assert_eq!(all.iter().filter(|row| row["kind"] == "stream").count(), 3);
    // Page by page, over both tables.
    let (mut paths, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator
            .get(&format!("/v1/tunnels?kind=all&limit=1{after}"))
            .await;
        let rows = page["tunnels"].as_array().unwrap().iter();
        paths.extend(rows.map(|row| row["path"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    paths.sort_unstable();
    assert_eq!(paths, ["/chat", "/events", "/poll", "/up"]);
}

#[tokio::test]
async fn what_lasts_is_counted_shown_and_logged() {
    let mut lasting = Lasting::begin().await;
    let (proxy, operator) = (&lasting.proxy, &lasting.operator);
    let rows = streams(operator, 3, "").await;
    let status = operator.get("/v1/status").await;
    assert_eq!(
        (&status["tunnels"], &status["streams"]),
        (&json!(1), &json!(3))
    );
    let scrape = Scrape::of(proxy).await;
    let main = ["listener=\"main\"", "route=\"main\""];
    assert_eq!(scrape.sum("tidegate_streams_open", &main), 3.0);
    assert_eq!(scrape.sum("tidegate_tunnels_open", &[]), 1.0);

    let printed = operator.run(&["tunnels", "--kind", "stream"]).await;
    assert!(printed.out.contains("KIND") && printed.out.contains("chat.example.com/poll"));
    let printed = operator.run(&["tunnels"]).await;
    assert!(!printed.out.contains("KIND") && !printed.out.contains("/poll"));
    let printed = operator.run(&["status"]).await;
    assert!(printed.out.contains("(3 streams)"), "{}", printed.out);

    // They end by themselves.
    let Exchange { client, served } = &mut lasting.upload;
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 200);
    proxy.logged_times("stream ended", 1).await;
    drop(lasting.events.client);
    let ended = proxy.logged_times("stream ended", 2).await;
    let of = |row: &Value| (row["reason"].clone(), row["bytes_from_endpoint"].clone());
    assert_eq!(of(&ended[0]), (json!("complete"), json!(0)));
    assert_eq!(of(&ended[1]), (json!("client-left"), json!(9)));
    assert_eq!(ended[0]["bytes_from_client"], 5);
    assert_eq!(ended[1]["session"], rows[0]["id"]);
    let scrape = Scrape::until(proxy, "tidegate_streams_open", &[], 1.0).await;
    let left = ["reason=\"client-left\""];
    assert_eq!(scrape.sum("tidegate_streams_ended_total", &left), 1.0);
}

/// Without a kind, `close` means tunnels; with it, each kind of stream ends in its own way.
#[tokio::test]
async fn an_operator_closes_streams() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let (mut tunnel, mut tunnelled) = proxy.tunnel_to(&endpoint).await;
    let mut between = Exchange::answered(&proxy, &endpoint, "/between", EVENTS).await;
    between.passes("data: 1\n\n").await;
    let mut within = Exchange::answered(&proxy, &endpoint, "/within", EVENTS).await;
    within.passes("data: 1\n\ndata: 2").await;
    let mut stuck = Exchange::answered(&proxy, &endpoint, "/stuck", EVENTS).await;
    stuck.passes("data: 1").await;
    let mut chunked = Exchange::answered(&proxy, &endpoint, "/chunked", CHUNKED).await;
    chunked.passes("half").await;
    let mut sized = Exchange::answered(&proxy, &endpoint, "/sized", SIZED).await;
    sized.served.send("half").await;
    assert_eq!(sized.client.exactly(4).await, b"half");
    let mut poll = Exchange::begin(&proxy, &endpoint, &get("/poll")).await;
    let upload = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12345";
    let mut upload = Exchange::begin(&proxy, &endpoint, upload).await;
    streams(&operator, 7, "").await;

    let printed = operator.run(&["close", "--kind", "stream", "--all"]).await;
    assert_eq!(
        printed.out,
        "would close 7 streams; add --yes to close them\n"
    );
    let all = json!({ "filter": { "kind": "stream" } });
    assert_eq!(
        operator.post("/v1/tunnels/close", &all).await.0,
        400,
        "without `all`"
    );
    let printed = operator
        .run(&["close", "--kind", "stream", "--all", "--yes"])
        .await;
    assert_eq!(printed.out, "closed 7 of 7 streams\n");

    // Whole, because it was between two events. The client may go on with the connection.
    assert_eq!(between.client.chunk().await, None);
    between.served.rest().await;
    between.client.line().await;
    between.client.send(get("/again")).await;
    let (mut again, _) = endpoint.request().await;
    again
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(between.client.reply().await.1, "ok");
    // Whole after the end of the event, and nothing of the next one.
    within.served.send(chunk("\n\ndata: 3")).await;
    assert_eq!(within.client.chunk().await, Some(b"\n\n".to_vec()));
    assert_eq!(within.client.chunk().await, None);
    within.served.rest().await;
    // Broken off: no last chunk, not all bytes. The event that does not end has a few seconds.
    assert_eq!(chunked.client.rest().await.0, b"");
    chunked.served.rest().await;
    assert_eq!(sized.client.rest().await.0, b"");
    assert_eq!(stuck.client.rest().await.0, b"");
    // What has no response gets one.
    for client in [&mut poll.client, &mut upload.client] {
        let head = client.head().await;
        assert_eq!(reason(&head), (503, Some("stream-ended")));
        assert!(head.retry_after() > 0);
    }
    upload.client.rest().await;
    poll.served.rest().await;
    let ended = proxy.logged_times("stream ended", 7).await;
    assert!(ended.iter().all(|it| it["reason"] == "killed"), "{ended:?}");
    // The tunnel is not meant.
    tunnel.send("still").await;
    assert_eq!(tunnelled.exactly(5).await, b"still");
}

/// A client of HTTP/1.0 would take the end of its connection for the end of the body.
#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_reset() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let request = get("/old").replace("HTTP/1.1", "HTTP/1.0");
    let mut old = Exchange::begin(&proxy, &endpoint, &request).await;
    old.served.send(CHUNKED.to_owned() + &chunk("half")).await;
    old.client.head().await;
    assert_eq!(old.client.exactly(4).await, b"half");
    streams(&operator, 1, "").await;
    operator
        .run(&["close", "--kind", "stream", "--all", "--yes"])
        .await;
    assert_eq!(old.client.rest().await, (Vec::new(), End::Reset));
}

/// A client that reads nothing does not keep its stream open.
#[tokio::test]
async fn a_stream_whose_client_reads_nothing_is_closed() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let mut exchange = Exchange::answered(&proxy, &endpoint, "/big", CHUNKED).await;
    exchange
        .served
        .flood(chunk(&"x".repeat(60_000)).as_bytes())
        .await;
    streams(&operator, 1, "").await;
    operator
        .run(&["close", "--kind", "stream", "--all", "--yes"])
        .await;
    exchange.served.until_gone().await;
    let ended = proxy.logged("stream ended").await;
    assert_eq!(ended["reason"], "killed");
}

/// An hour of silence is nothing unusual for an event stream: no default ends it.
#[tokio::test]
async fn a_quiet_event_stream_passes_at_defaults() {
    let folder = tempfile::TempDir::new().unwrap();
    let config = simple(&["127.0.0.1:1".parse().unwrap()]);
    std::fs::write(folder.path().join("config.toml"), config).unwrap();
    let loaded = tidegate::config::load(&folder.path().join("config.toml")).unwrap();
    let (route, upstream) = (&loaded.config.routes[0], &loaded.config.upstreams[0]);
    assert_eq!(
        (route.stream_limits.idle, route.stream_limits.max_age),
        (None, None)
    );
    assert_eq!(upstream.timeouts.body, None);

    // Every deadline on the way is much shorter here than the silence, by which it would be found.
    let endpoint = Endpoint::bind().await;
    let listener = "timeouts = { request_header = \"1s\", keep_alive = \"1s\", request_body = \"1s\", \
        response_body = \"1s\" }";
    let route = "timeouts = { idle = \"1s\", half_closed = \"1s\", max_age = \"1s\" }";
    let upstream =
        "[upstream.main.timeouts]\nconnect = \"1s\"\nhandshake = \"1s\"\nresponse = \"1s\"\n";
    let config = settings(&[endpoint.address], listener, route) + upstream;
    let (proxy, operator) = Operator::start(&config).await;
    let mut events = Exchange::answered(&proxy, &endpoint, "/events", EVENTS).await;
    events.passes("data: 1\n\n").await;
    let is_quiet = |rows: &[Value]| {
        let idle = rows
            .first()
            .map(|row| row["idle_seconds"].as_u64().unwrap());
        idle.is_some_and(|idle| idle >= 6)
    };
    listed_until(&operator, "kind=stream", is_quiet).await;
    events.passes("data: 2\n\n").await;
}

#[tokio::test]
async fn limits_of_a_route_end_streams() {
    let endpoint = Endpoint::bind().await;
    let second = "[[route]]\nname = \"aged\"\npath_prefix = \"/aged\"\nupstream = \"main\"\n\
        timeouts = { stream_max_age = \"4s\" }\n";
    let config = settings(
        &[endpoint.address],
        "",
        "timeouts = { stream_idle = \"2s\" }",
    ) + second;
    let proxy = Proxy::start(&config).await;
    let mut quiet = Exchange::answered(&proxy, &endpoint, "/quiet", EVENTS).await;
    let mut aged = Exchange::answered(&proxy, &endpoint, "/aged", CHUNKED).await;
    let mut waiting = Exchange::begin(&proxy, &endpoint, &get("/waiting")).await;
    let mut busy = Exchange::answered(&proxy, &endpoint, "/busy", EVENTS).await;
    let mut sent = 0;
    while proxy.log().events("stream ended").len() < 3 {
        sent += 1;
        busy.passes(&format!("data: {sent}\n\n")).await;
    }
    assert_eq!(quiet.client.chunk().await, None);
    quiet.served.rest().await;
    assert_eq!(aged.client.rest().await.0, b"");
    assert_eq!(
        reason(&waiting.client.head().await),
        (503, Some("stream-ended"))
    );
    waiting.served.rest().await;
    let mut reasons: Vec<(String, String)> = proxy
        .log()
        .events("stream ended")
        .iter()
        .map(|it| {
            ["route", "reason"]
                .map(|name| it[name].as_str().unwrap().to_owned())
                .into()
        })
        .collect();
    reasons.sort_unstable();
    let of = |route: &str, reason: &str| (route.to_owned(), reason.to_owned());
    assert_eq!(reasons[0], of("aged", "max-age"));
    assert!(
        reasons[1..].iter().all(|(_, reason)| reason == "idle"),
        "{reasons:?}"
    );
}

/// An endpoint that falls silent in the middle of its response, which a client that reads slowly does not.
#[tokio::test]
async fn a_silent_endpoint_is_given_up_by_the_timeout_of_bodies() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "[upstream.main.timeouts]\nbody = \"1s\"\n";
    let proxy = Proxy::start(&config).await;
    let mut events = Exchange::answered(&proxy, &endpoint, "/events", EVENTS).await;
    events.passes("data: 1\n\n").await;
    let mut slow = Exchange::answered(&proxy, &endpoint, "/slow", CHUNKED).await;
    slow.served
        .flood(chunk(&"x".repeat(60_000)).as_bytes())
        .await;
    // Not made to look whole, although it is between two events: the endpoint is at fault.
    let (rest, _) = events.client.rest().await;
    assert_eq!(rest, b"");
    events.served.rest().await;
    assert_eq!(proxy.logged("stream ended").await["reason"], "body-timeout");
    assert_eq!(proxy.logged_by_now("stream ended").await.len(), 1);
    drop(slow);
}

/// It has nothing to respond until the client has sent more.
#[tokio::test]
async fn an_endpoint_that_waits_for_an_upload_is_not_silent() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "[upstream.main.timeouts]\nbody = \"1s\"\n";
    let (proxy, operator) = Operator::start(&config).await;
    let post = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345";
    let mut upload = Exchange::begin(&proxy, &endpoint, post).await;
    assert_eq!(upload.served.exactly(5).await, b"12345");
    upload.served.send(CHUNKED).await;
    assert_eq!(upload.client.head().await.status(), 200);
    upload.passes("half").await;
    let is_quiet = |rows: &[Value]| {
        rows.iter()
            .any(|row| row["idle_seconds"].as_u64() >= Some(3))
    };
    listed_until(&operator, "kind=stream", is_quiet).await;
    upload.client.send("67890").await;
    assert_eq!(upload.served.exactly(5).await, b"67890");
    upload.passes("all").await;
    // From now on it is.
    assert_eq!(upload.client.rest().await.0, b"");
    assert_eq!(proxy.logged("stream ended").await["reason"], "body-timeout");
}

/// A stream that its endpoint breaks off is one, too.
#[tokio::test]
async fn a_stream_that_breaks_says_why() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let mut broken = Exchange::answered(&proxy, &endpoint, "/broken", CHUNKED).await;
    broken.passes("half").await;
    streams(&operator, 1, "").await;
    drop(broken.served);
    broken.client.rest().await;
    assert_eq!(
        proxy.logged("stream ended").await["reason"],
        "upstream-reset"
    );
}

/// All of the response has come, but the client gives no credit for the end of it.
#[tokio::test]
async fn over_http2_a_client_that_leaves_before_the_last_piece_has_left() {
    let endpoint = Endpoint::bind().await;
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let config = [ADMIN, &h2_settings(&[endpoint.address], "true", "", "")].concat();
    let proxy = H2Proxy::start_in(authority, folder, &config).await;
    let operator = Operator::of(&proxy.proxy).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(10);
    let mut client = proxy.client_with(&builder).await;
    let (response, _send) = client.begin(h2_client::get("/file"), true).await.unwrap();
    let (mut served, _) = endpoint.request().await;
    served.send(format!("{SIZED}{}", "x".repeat(100))).await;
    let _unread = within("a response", response).await.unwrap();
    let all = |rows: &[Value]| rows.iter().any(|row| row["bytes_from_endpoint"] == 100);
    listed_until(&operator, "kind=stream", all).await;
    client.vanish();
    let ended = proxy.proxy.logged("stream ended").await;
    assert_eq!(ended["reason"], "client-left", "{ended}");
}

/// Of the streams of one connection each ends in its own way, and the others go on.
#[tokio::test]
async fn over_http2_a_stream_ends_without_its_connection() {
    let endpoint = Endpoint::bind().await;
    let route = "timeouts = { stream_idle = \"1s\" }";
    let config = h2_settings(&[endpoint.address], "true", "", route);
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    let (mut served, mut replies) = (Vec::new(), Vec::new());
    let events = EVENTS.to_owned() + &chunk("data: 1\n\n");
    let half = CHUNKED.to_owned() + &chunk("half");
    for response in [&*events, &*half, ""] {
        let begun = client.begin(h2_client::get("/events"), true).await;
        let (answer, _) = begun.unwrap();
        replies.push(tokio::spawn(async { H2Reply::of(answer.await?).await }));
        let (mut wire, _) = endpoint.request().await;
        wire.send(response).await;
        served.push(wire);
    }
    let mut ended = Vec::new();
    for reply in replies {
        ended.push(within("a stream to end", reply).await.unwrap());
    }
    let [events, half, waiting] = ended.try_into().unwrap();
    assert_eq!(events.unwrap().text(), "data: 1\n\n");
    assert_eq!(half.unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let waiting = waiting.unwrap();
    assert_eq!(
        (waiting.status, waiting.reason()),
        (503, Some("stream-ended"))
    );
    client.ping().await;
    assert!(!client.has_ended());
    for mut wire in served {
        wire.rest().await;
    }
}
