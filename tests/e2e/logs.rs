//! The access log: its destinations and events, and that no client waits for it.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, Signal, settings, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, SWITCH, handshake_with};
use crate::harness::{until, within};

/// A server with this access log, and JSON for all other logs.
fn to(target: &str, more: &str) -> String {
    format!("[server]\nworkers = 2\nlog.format = \"json\"\naccess_log.to = \"{target}\"\n{more}\n")
}

/// The records in a file of JSON lines.
fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits until the file has this many records.
async fn wait(path: &Path, count: usize) -> Vec<Value> {
    until(&format!("{count} records"), || records(path).len() >= count).await;
    records(path)
}

/// A proxy with a JSON access log in a file, which trusts forwarding headers from 127.0.0.1.
async fn logging_to_a_file(endpoint: &Endpoint) -> Proxy {
    let server = "access_log.format = \"json\"\nrequest_id = \"x-request-id\"";
    let route = settings(
        &[endpoint.address],
        "trusted_proxies = [\"127.0.0.0/8\"]",
        "path_prefix = \"/chat\"",
    );
    Proxy::start(&(to("./access.log", server) + &route)).await
}

#[track_caller]
fn has(record: &Value, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        assert_eq!(record[field], *value, "{field}");
    }
    let documented = include_str!("../../docs/logs.md");
    for field in record.as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{field}`")), "{field}");
    }
}

#[tokio::test]
async fn a_tunnel_has_two_events() {
    let endpoint = Endpoint::bind().await;
    let proxy = logging_to_a_file(&endpoint).await;
    let mut client = proxy.connect().await;
    let fields = "X-Forwarded-For: 192.0.2.7\r\nX-Request-Id: abc\r\n\
                  Sec-WebSocket-Protocol: chat, other\r\n";
    client.send(handshake_with(fields)).await;
    let (mut served, _) = endpoint.request().await;
    let agreed = "Upgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\n";
    served
        .send(SWITCH.replace("Upgrade: websocket\r\n", agreed))
        .await;
    client.head().await;
    client.send("bytes").await;
    assert_eq!(served.exactly(5).await, b"bytes");
    drop((client, served));
    let tunnel = wait(&proxy.folder().join("access.log"), 2).await;
    let (opened, ended) = (&tunnel[0], &tunnel[1]);
    let both = [
        ("session", opened["session"].clone()),
        ("client", "192.0.2.7".into()),
        ("listener", "main".into()),
        ("route", "main".into()),
        ("upstream", "main".into()),
        ("endpoint", endpoint.address.to_string().into()),
    ];
    has(opened, &both);
    has(ended, &both);
    let of_opening = [
        ("message", "tunnel opened".into()),
        ("request_id", "abc".into()),
        ("host", "chat.example.com".into()),
        ("path", "/chat".into()),
        ("status", 101.into()),
        ("subprotocol", "chat".into()),
    ];
    has(opened, &of_opening);
    assert!(opened["handshake_ms"].is_f64() && opened["timestamp"].is_string());
    let of_end = [
        ("message", "tunnel ended".into()),
        ("reason", "client-eof".into()),
        ("bytes_from_client", 5.into()),
        ("bytes_from_endpoint", 0.into()),
    ];
    has(ended, &of_end);
    assert!(ended["idle_ms"].is_number(), "{ended}");
    for event in ["tunnel opened", "tunnel ended"] {
        assert!(proxy.logged_by_now(event).await.is_empty(), "{event}");
    }
}

#[tokio::test]
async fn everything_else_has_one_event() {
    let endpoint = Endpoint::bind().await;
    let proxy = logging_to_a_file(&endpoint).await;
    let mut client = proxy.connect().await;
    client
        .send("GET /chat/poll?secret HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let (mut served, _) = endpoint.request().await;
    served.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 204);
    client.send("POST /else HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.reply().await.0.status(), 404);
    client.send(HANDSHAKE).await;
    let _served = endpoint.request().await;
    drop(client);
    let records = wait(&proxy.folder().join("access.log"), 3).await;
    let request = [
        ("message", "request".into()),
        ("method", "GET".into()),
        ("path", "/chat/poll".into()),
        ("status", 204.into()),
        ("endpoint", endpoint.address.to_string().into()),
    ];
    has(&records[0], &request);
    let rejected = [
        ("message", "rejected".into()),
        ("method", "POST".into()),
        ("path", "/else".into()),
        ("status", 404.into()),
        ("reason", "no-route".into()),
        ("route", Value::Null),
    ];
    has(&records[1], &rejected);
    let abandoned = [
        ("message", "handshake abandoned".into()),
        ("host", "chat.example.com".into()),
        ("path", "/chat".into()),
        ("route", "main".into()),
    ];
    has(&records[2], &abandoned);
    for event in ["request", "rejected", "handshake abandoned"] {
        assert!(proxy.logged_by_now(event).await.is_empty(), "{event}");
    }
}

#[tokio::test]
async fn a_log_file_that_is_renamed_is_opened_again() {
    let echo = Echo::start("echo").await;
    let config = to("./access.log", "access_log.format = \"json\"") + &simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    let (path, aside) = (
        proxy.folder().join("access.log"),
        proxy.folder().join("access.log.1"),
    );
    drop(proxy.tunnel().await);
    wait(&path, 2).await;
    fs::rename(&path, &aside).unwrap();
    drop(proxy.tunnel().await);
    wait(&path, 2).await;
    assert_eq!(records(&aside).len(), 2);
    // After a SIGHUP the file exists even before the first event.
    fs::rename(&path, &aside).unwrap();
    proxy.signal(Signal::HUP);
    until("the file", || path.exists()).await;
}

#[tokio::test]
async fn standard_output_has_text_and_nothing_else() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let out = folder.path().join("out");
    let file = File::create(&out).unwrap();
    let config = to("stdout", "") + &simple(&[echo.address]);
    let mut proxy = Proxy::spawn(folder, &config, |command| {
        command.stdout(file);
    });
    proxy.logged("ready").await;
    drop(proxy.tunnel().await);
    let text = || fs::read_to_string(&out).unwrap();
    until("both lines", || text().lines().count() == 2).await;
    assert!(
        text().contains("Z tunnel opened session=") && text().contains(" reason=client-eof "),
        "{}",
        text()
    );
    // The last lines before the exit are not lost.
    drop(proxy.tunnel().await);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(text().lines().count(), 4, "{}", text());
}

#[tokio::test]
async fn a_reload_changes_where_events_go_or_changes_nothing() {
    let echo = Echo::start("echo").await;
    let rest = METRICS.to_owned() + &simple(&[echo.address]);
    let proxy = Proxy::start(&(to("off", "") + &rest)).await;
    drop(proxy.tunnel().await);
    Scrape::until(&proxy, "tidegate_tunnels_ended_total", &[], 1.0).await;
    let json = "access_log.format = \"json\"";
    proxy.reload(&(to("./access.log", json) + &rest)).await;
    drop(proxy.tunnel().await);
    let path = proxy.folder().join("access.log");
    wait(&path, 2).await;
    proxy.rewrite(&(to("./nowhere/access.log", json) + &rest));
    proxy.signal(Signal::HUP);
    let failure = proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    assert!(
        failure["error"]
            .as_str()
            .unwrap()
            .contains("nowhere/access.log")
    );
    drop(proxy.tunnel().await);
    wait(&path, 4).await;
    proxy.reload(&(to("stderr", "") + &rest)).await;
    drop(proxy.tunnel().await);
    proxy.logged("tunnel ended").await;
    assert_eq!(records(&path).len(), 4);
    assert_eq!(proxy.logged_by_now("tunnel opened").await.len(), 1);
}

#[tokio::test]
async fn a_log_file_that_cannot_be_opened_is_an_error_at_start() {
    let config = to("./nowhere/access.log", "") + &simple(&[([127, 0, 0, 1], 1).into()]);
    let mut proxy = Proxy::spawn(Arc::new(TempDir::new().unwrap()), &config, |_| {});
    assert_eq!(proxy.exit().await, 3);
    until("the reason", || {
        proxy.log().text().contains("access log: cannot write to")
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_blocks_no_client_and_is_reported() {
    let echo = Echo::start("echo").await;
    let config = to("/dev/full", "") + METRICS + &simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    const TUNNELS: u32 = 20;
    for number in 1..=TUNNELS {
        // Each is counted before the next, so that its records are a batch of their own.
        drop(proxy.tunnel().await);
        within("both records to be counted", async {
            while Scrape::of(&proxy)
                .await
                .sum("tidegate_access_log_dropped_total", &[])
                < f64::from(2 * number)
            {}
        })
        .await;
    }
    let events = proxy.logged_by_now("access log lines dropped").await;
    assert!(events[0]["dropped"].as_u64() > Some(0));
    let cause = events[0]["cause"].as_str().unwrap();
    assert!(cause.contains("No space left on device"), "{cause}");
    // One at once, and then no more than one every ten seconds.
    assert!(events.len() < TUNNELS as usize / 2, "{}", events.len());
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[tokio::test]
async fn a_trace_is_continued_or_started() {
    let endpoint = Endpoint::bind().await;
    for (mode, sent, goes_on) in [
        ("pass", None, true),
        ("pass", Some(PARENT), true),
        ("pass", Some("nonsense"), true),
        ("make", Some(PARENT), true),
        ("make", Some("nonsense"), false),
        ("make", None, false),
    ] {
        let server = format!("[server]\nlog.format = \"json\"\ntraceparent = \"{mode}\"\n");
        let proxy = Proxy::start(&(server + &simple(&[endpoint.address]))).await;
        let mut client = proxy.connect().await;
        let field = sent.map(|sent| format!("traceparent: {sent}\r\ntracestate: a=b\r\n"));
        let field = field.unwrap_or_default();
        client.send(handshake_with(&field)).await;
        let (mut served, head) = endpoint.request().await;
        let received = head.value("traceparent");
        served.send(SWITCH).await;
        let opened = proxy.logged("tunnel opened").await;
        if goes_on {
            assert_eq!(received, sent, "{mode} {sent:?}");
        } else {
            assert_ne!(received, sent, "{mode} {sent:?}");
            assert_eq!(head.value("tracestate"), None);
        }
        let id = received.filter(|it| *it != "nonsense");
        let id = id.map_or(Value::Null, |it| it[3..35].into());
        assert_eq!(opened["trace"], id, "{mode} {sent:?}");
        client.head().await;
        // The same for plain requests.
        let mut client = proxy.connect().await;
        client
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
            .await;
        let (mut served, head) = endpoint.request().await;
        assert_eq!(
            head.value("traceparent") == sent,
            goes_on,
            "{mode} {sent:?}"
        );
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        client.reply().await;
    }
}
