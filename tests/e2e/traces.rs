//! Spans of handshakes and tunnels, as a collector gets them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::collector::{self, Collector};
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::h2_client::{H2Proxy, h2_settings};
use crate::harness::proxy::{Proxy, Signal, settings, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, handshake_with};
use crate::harness::{free_address, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A handshake of a caller with these flags.
fn called(flags: &str) -> String {
    handshake_with(&format!(
        "traceparent: 00-{TRACE}-{CALLER}-{flags}\r\ntracestate: a=b\r\n"
    ))
}

fn nanos(span: &Value, name: &str) -> u128 {
    span[name].as_str().unwrap().parse().unwrap()
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
}

/// The spans with this name.
fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

/// A tunnel that a caller has opened and closed, and what the collector got of it.
struct CalledTunnel {
    proxy: Proxy,
    collector: Collector,
    endpoint: String,
    /// The fields that the endpoint got.
    head: Head,
    handshake: Value,
    tunnel: Value,
    /// The bytes of the client.
    bytes: usize,
}

async fn called_tunnel() -> CalledTunnel {
    let (endpoint, collector) = (Endpoint::bind().await, Collector::start().await);
    let traces = collector.settings("parent = \"any\"\nratio = 0\nservice_name = \"edge\"");
    let proxy = Proxy::start(&(traces + &simple(&[endpoint.address]))).await;
    let mut client = proxy.connect().await;
    client.send(called("01")).await;
    let (mut served, head) = endpoint.request().await;
    served.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    let message = frame(0x81, Some([1; 4]), b"hello");
    client.send(&message).await;
    served.exactly(message.len()).await;
    let close = frame(0x88, Some([0; 4]), &4001_u16.to_be_bytes());
    client.send(&close).await;
    served
        .send(frame(0x88, None, &4001_u16.to_be_bytes()))
        .await;
    drop((client, served));
    let spans = collector.have(2).await;
    let of = |name| named(&spans, name)[0].clone();
    CalledTunnel {
        proxy,
        collector,
        endpoint: endpoint.address.to_string(),
        head,
        handshake: of("GET main"),
        tunnel: of("tunnel main"),
        bytes: message.len() + close.len(),
    }
}

#[tokio::test]
async fn a_handshake_and_its_tunnel_belong_to_the_trace_of_their_caller() {
    let began = now();
    let it = called_tunnel().await;
    // The endpoint's own span has ours as its parent, and what other tracers have said.
    let field = it.head.value("traceparent").unwrap();
    let own = field
        .strip_prefix(&format!("00-{TRACE}-"))
        .and_then(|rest| rest.strip_suffix("-01"))
        .unwrap_or_else(|| panic!("{field}"));
    assert_ne!(own, CALLER);
    assert_eq!(it.head.value("tracestate"), Some("a=b"));
    for (span, kind, flags, parent) in [
        (&it.handshake, 2, 0x301, CALLER),
        (&it.tunnel, 1, 0x101, own),
    ] {
        assert_eq!(span["traceId"], TRACE);
        let (from, to) = (
            nanos(span, "startTimeUnixNano"),
            nanos(span, "endTimeUnixNano"),
        );
        assert!(began <= from && from <= to && to <= now(), "{span}");
        assert!(span.get("status").is_none(), "{span}");
        assert_eq!(
            (&span["kind"], &span["flags"]),
            (&json!(kind), &json!(flags))
        );
        assert_eq!(span["parentSpanId"], parent);
    }
    assert_eq!(it.handshake["spanId"], own);
    let id = it.tunnel["spanId"].as_str().unwrap();
    assert!(id.len() == 16 && id != own, "{id}");
    assert_eq!(it.proxy.logged("tunnel opened").await["trace"], TRACE);
    let resource = it.collector.resource();
    assert_eq!(resource["service.name"], "edge");
    assert_eq!(resource["process.pid"], it.proxy.pid());
    let kind = it.collector.header("content-type");
    assert_eq!(kind.as_deref(), Some("application/json"));
}

#[tokio::test]
async fn spans_have_the_attributes_of_the_log() {
    let it = called_tunnel().await;
    let opened = it.proxy.logged("tunnel opened").await;
    let client = opened["client"].as_str().unwrap();
    let port: u16 = client.rsplit_once(':').unwrap().1.parse().unwrap();
    let common = json!({
        "server.address": "chat.example.com",
        "url.path": "/chat",
        "client.address": "127.0.0.1",
        "client.port": port,
        "tidegate.session": opened["session"],
        "tidegate.listener": "main",
        "tidegate.route": "main",
        "tidegate.upstream": "main",
        "tidegate.endpoint": it.endpoint,
    });
    let with = |more: Value| {
        let mut all = common.clone();
        let all_fields = all.as_object_mut().unwrap();
        all_fields.extend(more.as_object().unwrap().clone());
        all
    };
    let expected = json!({
        "http.request.method": "GET",
        "url.scheme": "http",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 101,
        "tidegate.outcome": "opened",
    });
    assert_eq!(it.handshake["attributes"], with(expected));
    let expected = json!({
        "network.protocol.name": "websocket",
        "tidegate.reason": "client-close",
        "tidegate.close_code": 4001,
        "tidegate.closed_by": "client",
        "tidegate.bytes_from_client": it.bytes,
        "tidegate.bytes_from_endpoint": 4,
        "tidegate.messages_from_client": 1,
        "tidegate.messages_from_endpoint": 0,
    });
    assert_eq!(it.tunnel["attributes"], with(expected));
}

#[tokio::test]
async fn strangers_do_not_decide_what_is_sampled_and_trusted_proxies_do() {
    let (endpoint, collector) = (Endpoint::bind().await, Collector::start().await);
    let traces = collector.settings("ratio = 0");
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    let mut expected = 0;
    for (listener, flags, forwarded, is_sampled) in [
        ("", "01", "", false),
        ("", "01", "X-Forwarded-For: 192.0.2.1\r\n", false),
        (trusted, "01", "X-Forwarded-For: 192.0.2.1\r\n", true),
        (trusted, "00", "X-Forwarded-For: 192.0.2.1\r\n", false),
    ] {
        let config = traces.clone() + &settings(&[endpoint.address], listener, "");
        let mut proxy = Proxy::start(&config).await;
        let mut client = proxy.connect().await;
        let sent = called(flags).replace("\r\n\r\n", &format!("\r\n{forwarded}\r\n"));
        client.send(sent).await;
        let (mut served, head) = endpoint.request().await;
        served.send(SWITCH).await;
        assert_eq!(client.head().await.status(), 101);
        let unchanged = format!("00-{TRACE}-{CALLER}-{flags}");
        let is_unchanged = head.value("traceparent") == Some(&*unchanged);
        assert_eq!(is_unchanged, !is_sampled, "{listener} {flags} {forwarded}");
        drop((client, served));
        proxy.logged("tunnel ended").await;
        expected += 2 * usize::from(is_sampled);
        // What is left is sent before the process has ended.
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.exit().await, 0);
        assert_eq!(
            collector.spans().len(),
            expected,
            "{listener} {flags} {forwarded}"
        );
    }
    let spans = collector.spans();
    let of_client = |span: &&Value| span["attributes"]["client.address"] == "192.0.2.1";
    assert_eq!(spans.iter().filter(of_client).count(), 2, "{spans:#?}");
}

/// A handshake that is declined, rejected, that finds no endpoint, that is abandoned; and a plain request. Returns
/// the `traceparent` of the first.
async fn open_no_tunnel(proxy: &Proxy, endpoint: &Endpoint) -> String {
    let ask = async |request: String| {
        let mut client = proxy.connect().await;
        client.send(request).await;
        client
    };
    let mut client = ask(HANDSHAKE.to_owned()).await;
    let (mut served, head) = endpoint.request().await;
    let field = head.value("traceparent").unwrap().to_owned();
    served
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.0.status(), 401);
    for (path, status) in [("/nowhere", 404), ("/gone", 503)] {
        let mut client = ask(HANDSHAKE.replace("/chat", path)).await;
        assert_eq!(client.reply().await.0.status(), status);
    }
    let client = ask(HANDSHAKE.to_owned()).await;
    let waiting = endpoint.request().await;
    drop(client);
    proxy.logged("handshake abandoned").await;
    drop(waiting);
    let mut client = ask("GET /chat HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("traceparent"), None);
    served
        .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.0.status(), 200);
    field
}

#[tokio::test]
async fn handshakes_that_open_no_tunnel_have_spans_too_and_plain_requests_have_none() {
    let (endpoint, collector) = (Endpoint::bind().await, Collector::start().await);
    let gone = Endpoint::bind().await.address;
    let config = collector.settings("ratio = 1")
        + &settings(&[endpoint.address], "", "path = \"/chat\"")
        + &format!(
            "[[route]]\nname = \"gone\"\npath = \"/gone\"\nupstream = \"gone\"\n\
             [upstream.gone]\nendpoints = [\"{gone}\"]\n"
        );
    let proxy = Proxy::start(&config).await;
    let field = open_no_tunnel(&proxy, &endpoint).await;
    let spans = collector.have(4).await;
    let [served, refusing] = [endpoint.address, gone].map(|it| it.to_string());
    let (main, gone) = (Some(("main", &*served)), Some(("gone", &*refusing)));
    for (outcome, name, status, reason, error, leads_to) in [
        ("declined", "GET main", json!(401), None, None, main),
        ("rejected", "GET", json!(404), Some("no-route"), None, None),
        (
            "rejected",
            "GET gone",
            json!(503),
            Some("connect-failed"),
            Some("connect-failed"),
            gone,
        ),
        (
            "abandoned",
            "GET main",
            Value::Null,
            None,
            Some("abandoned"),
            main,
        ),
    ] {
        let mut found = spans.iter().filter(|span| {
            span["name"] == name && span["attributes"]["tidegate.outcome"] == outcome
        });
        let span = found
            .next()
            .unwrap_or_else(|| panic!("{name} in {spans:#?}"));
        let attributes = &span["attributes"];
        assert_eq!(attributes["http.response.status_code"], status, "{span}");
        assert_eq!(attributes["tidegate.reason"], json!(reason), "{span}");
        assert_eq!(attributes["error.type"], json!(error), "{span}");
        let (upstream, endpoint) = leads_to.unzip();
        assert_eq!(attributes["tidegate.upstream"], json!(upstream), "{span}");
        assert_eq!(attributes["tidegate.endpoint"], json!(endpoint), "{span}");
        let detail = attributes["tidegate.detail"].as_str();
        assert_eq!(detail.is_some(), name == "GET gone", "{span}");
        assert!(detail.is_none_or(|it| it.contains("refused")), "{span}");
        let failed = status.as_u64().is_some_and(|status| status >= 500);
        assert_eq!(span["status"]["code"] == 2, failed, "{span}");
        assert!(span.get("parentSpanId").is_none(), "{span}");
        if outcome == "declined" {
            let [trace, id] = ["traceId", "spanId"].map(|it| span[it].as_str().unwrap());
            assert_eq!(field, format!("00-{trace}-{id}-01"));
        }
    }
}

#[tokio::test]
async fn handshakes_that_are_not_valid_or_get_no_answer_have_spans_too() {
    let (endpoint, collector) = (Endpoint::bind().await, Collector::start().await);
    let config = collector.settings("ratio = 1")
        + &simple(&[endpoint.address])
        + "timeouts.handshake = \"200ms\"\n";
    let proxy = Proxy::start(&config).await;
    let named = HANDSHAKE.replace("Host: chat.example.com", "Host: chat.example.com:8443");
    let mut waiting = Vec::new();
    for (request, status) in [
        (named.replace("Version: 13", "Version: 12"), 426),
        (named, 504),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        if status == 504 {
            waiting.push(endpoint.request().await);
        }
        assert_eq!(client.reply().await.0.status(), status);
    }
    let spans = collector.have(2).await;
    let address = endpoint.address.to_string();
    for (reason, error, endpoint) in [
        ("websocket-version", None, None),
        (
            "handshake-timeout",
            Some("handshake-timeout"),
            Some(&*address),
        ),
    ] {
        let mut attributes = spans.iter().map(|it| &it["attributes"]);
        let found = attributes
            .find(|it| it["tidegate.reason"] == reason)
            .unwrap();
        assert_eq!(found["error.type"], json!(error), "{found}");
        assert_eq!(found["tidegate.endpoint"], json!(endpoint), "{found}");
        assert_eq!(found["server.address"], "chat.example.com");
        assert_eq!(found["server.port"], 8443);
    }
}

#[tokio::test]
async fn what_a_rate_limit_rejects_has_a_span_only_if_a_trusted_proxy_samples_it() {
    let (echo, collector) = (Echo::start("echo").await, Collector::start().await);
    let listener = "trusted_proxies = [\"127.0.0.1\"]\n\
        limits.handshakes_per_ip = { rate = \"1/h\", burst = 1 }";
    let config = collector.settings("ratio = 1") + &settings(&[echo.address], listener, "");
    let mut proxy = Proxy::start(&config).await;
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\n";
    let sampled = called("01").replace("\r\n\r\n", &format!("\r\n{forwarded}\r\n"));
    for (request, status) in [
        (handshake_with(forwarded), 101),
        (handshake_with(forwarded), 429),
        (sampled, 429),
        (handshake_with(forwarded), 429),
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        assert_eq!(client.head().await.status(), status);
    }
    proxy.logged("tunnel ended").await;
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    let spans = collector.spans();
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let rejected = |it: &&Value| it["attributes"]["tidegate.reason"] == "address-rate";
    let rejected: Vec<_> = spans.iter().filter(rejected).collect();
    assert_eq!(rejected.len(), 1, "{spans:#?}");
    assert_eq!(rejected[0]["traceId"], TRACE);
}

#[tokio::test]
async fn clients_do_not_wait_for_a_collector_that_is_away_which_gets_the_spans_later() {
    let (echo, address) = (Echo::start("echo").await, free_address());
    let traces = collector::settings(address, "ratio = 1");
    let proxy = Proxy::start(&[METRICS, &traces, &simple(&[echo.address])].concat()).await;
    for _ in 0..3 {
        let mut tunnel = proxy.tunnel().await;
        tunnel.echoes().await;
    }
    let failure = ["service=\"traces\"", "result=\"failure\""];
    let failed = "tidegate_service_requests_total";
    // Again and again, with a pause that grows, and one line in the log.
    Scrape::until(&proxy, failed, &failure, 2.0).await;
    let collector = Collector::at(address).await;
    collector.answer(503);
    until("a refusal", || collector.requests() > 0).await;
    collector.answer(200);
    let spans = collector.have(6).await;
    assert_eq!(named(&spans, "tunnel main").len(), 3);
    let exported = ["result=\"exported\""];
    Scrape::until(&proxy, "tidegate_spans_total", &exported, 6.0).await;
    // What will never be accepted is not sent again.
    collector.answer(400);
    let before = collector.requests();
    drop(proxy.tunnel().await);
    let rejected = ["result=\"rejected\""];
    Scrape::until(&proxy, "tidegate_spans_total", &rejected, 2.0).await;
    proxy.logged("spans not accepted").await;
    assert!(collector.requests() - before <= 2);
    assert_eq!(collector.spans().len(), 6);
    assert_eq!(
        proxy
            .logged_by_now(
                "request to a service failed; each cause is logged at most once a minute"
            )
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn a_reload_begins_and_ends_the_export() {
    let (echo, collector) = (Echo::start("echo").await, Collector::start().await);
    let plain = simple(&[echo.address]);
    let proxy = Proxy::start(&plain).await;
    let before = proxy.tunnel().await;
    proxy
        .reload(&(collector.settings("ratio = 1") + &plain))
        .await;
    let during = proxy.tunnel().await;
    collector.have(1).await;
    proxy.reload(&plain).await;
    let after = proxy.tunnel().await;
    drop((before, during, after));
    proxy.logged_times("tunnel ended", 3).await;
    proxy
        .reload(&(collector.settings("ratio = 1") + &plain))
        .await;
    drop(proxy.tunnel().await);
    let spans = collector.have(3).await;
    assert_eq!(named(&spans, "GET main").len(), 2);
}

#[tokio::test]
async fn a_tunnel_over_http2_has_its_spans() {
    let (echo, collector) = (Echo::start("echo").await, Collector::start().await);
    let config = collector.settings("ratio = 1") + &h2_settings(&[echo.address], "true", "", "");
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    drop(client.tunnel().await);
    let spans = collector.have(2).await;
    let handshake = named(&spans, "CONNECT main")[0];
    for (name, value) in [
        ("http.request.method", "CONNECT"),
        ("network.protocol.version", "2"),
        ("url.scheme", "https"),
        ("tidegate.outcome", "opened"),
    ] {
        assert_eq!(handshake["attributes"][name], value);
    }
    let tunnel = named(&spans, "tunnel main")[0];
    assert_eq!(tunnel["parentSpanId"], handshake["spanId"]);
}
