//! Endpoints that report their load: in answers to health checks and in the 101 of handshakes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::harness::frames::close_payload;
use crate::harness::operator::{ADMIN, Operator, upgradable, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{ACCEPT, HANDSHAKE, SWITCH, Wire, handshake_with};
use crate::harness::{until, within};

/// An endpoint that reports its load in every response, and keeps its tunnels open.
struct Reporting {
    address: SocketAddr,
    state: Arc<ReportingState>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct ReportingState {
    /// The report; `{}` stands for the number of its tunnels.
    report: Mutex<String>,
    /// Tunnels that are open.
    open: AtomicUsize,
}

impl Reporting {
    async fn start(report: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<ReportingState>::default();
        *state.report.lock().unwrap() = report.to_owned();
        let served = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(Wire::tcp(socket), Arc::clone(&served)));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    fn report(&self, report: &str) {
        *self.state.report.lock().unwrap() = report.to_owned();
    }

    fn open(&self) -> usize {
        self.state.open.load(Ordering::Relaxed)
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut wire: Wire, state: Arc<ReportingState>) {
    let Some(head) = wire.head_or_end().await else {
        return;
    };
    let key = head.value("sec-websocket-key");
    // Checks by handshake are no load.
    let is_tunnel = key.is_some() && !head.start().contains("/health");
    state
        .open
        .fetch_add(usize::from(is_tunnel), Ordering::Relaxed);
    let open = state.open.load(Ordering::Relaxed);
    let report = state
        .report
        .lock()
        .unwrap()
        .replace("{}", &open.to_string());
    let field = format!("Tidegate-Load: {report}\r\n\r\n");
    let response = match key {
        Some(key) => SWITCH.replace(ACCEPT, &derive_accept_key(key.as_bytes())),
        None => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    wire.send(response.replace("\r\n\r\n", &format!("\r\n{field}")))
        .await;
    wire.until_gone().await;
    state
        .open
        .fetch_sub(usize::from(is_tunnel), Ordering::Relaxed);
}

/// An upstream with `reports`, and with these lines.
fn config(endpoints: &[SocketAddr], lines: &str) -> String {
    let lines = format!("reports = {{}}\n{lines}\nendpoints");
    simple(endpoints).replace("endpoints", &lines)
}

/// Health checks as often as a test needs them.
fn checks(probe: &str) -> String {
    format!("health = {{ {probe}, interval = \"50ms\", timeout = \"20s\", rise = 1, fall = 100 }}")
}

const BY_HTTP: &str = "http = { path = \"/health\" }";
const BY_WEBSOCKET: &str = "websocket = { path = \"/health\" }";

async fn status(proxy: &Proxy) -> u16 {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    client.head().await.status()
}

/// What the admin interface says about an endpoint.
async fn shown(operator: &Operator, at: usize) -> Value {
    operator.get("/v1/upstreams").await[0]["endpoints"][at].clone()
}

/// Waits until a request is in the queue.
async fn until_one_waits(operator: &Operator) {
    within("a waiting request", async {
        while operator.get("/v1/upstreams").await[0]["waiting"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn until_shown(operator: &Operator, at: usize, what: &str, is_so: impl Fn(&Value) -> bool) {
    within(what, async {
        while !is_so(&shown(operator, at).await) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_report_in_a_101_counts_and_does_not_reach_the_client() {
    let endpoint = Reporting::start("tunnels=41, max=100, weight=0.5").await;
    let config = config(&[endpoint.address], "");
    let (proxy, operator) = Operator::start(&config).await;
    let mut client = proxy.connect().await;
    // What a client says is no report.
    client
        .send(handshake_with("tidegate-load: tunnels=7, drain\r\n"))
        .await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(head.value("tidegate-load"), None);
    let mut report = shown(&operator, 0).await["report"].clone();
    report.as_object_mut().unwrap().remove("age_seconds");
    let expected = json!({ "tunnels": 41, "max": 100, "weight": 0.5, "drain": false });
    assert_eq!(report, expected);
    // Nor does it reach the client of a plain request.
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.value("tidegate-load")), (200, None));
    let printed = operator.run(&["status"]).await;
    let text = "reports tunnels=41 max=100 weight=0.5";
    assert!(printed.out.contains(text), "{printed:?}");
}

#[tokio::test]
async fn without_the_setting_the_header_is_like_any_other() {
    let endpoint = Reporting::start("drain").await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.head().await.value("tidegate-load"), Some("drain"));
    let shown = shown(&operator, 0).await;
    assert_eq!(
        (&shown["state"], &shown["report"]),
        (&json!("up"), &Value::Null)
    );
}

/// By a plain request and by a handshake.
#[tokio::test]
async fn answers_to_health_checks_bound_new_tunnels() {
    for probe in [BY_HTTP, BY_WEBSOCKET] {
        let endpoint = Reporting::start("tunnels=1000, max=1000").await;
        let config = config(&[endpoint.address], &checks(probe));
        let (proxy, operator) = Operator::start(&config).await;
        until_shown(&operator, 0, "full", |it| it["state"] == "full").await;
        let shown = shown(&operator, 0).await;
        assert_eq!(shown["why"], "the maximum that it reports is reached");
        assert_eq!(status(&proxy).await, 503, "{probe}");
        endpoint.report("tunnels=999, max=1000");
        until_shown(&operator, 0, "room", |it| it["state"] == "up").await;
        assert_eq!(status(&proxy).await, 101, "{probe}");
    }
}

/// A request that waits in the queue is served as soon as a report says that there is room.
#[tokio::test]
async fn a_report_of_room_serves_the_queue() {
    let endpoint = Reporting::start("max=0").await;
    let lines = checks(BY_HTTP) + "\nqueue = { timeout = \"1m\" }";
    let (proxy, operator) = Operator::start(&config(&[endpoint.address], &lines)).await;
    until_shown(&operator, 0, "full", |it| it["state"] == "full").await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    until_one_waits(&operator).await;
    endpoint.report("max=10");
    assert_eq!(client.head().await.status(), 101);
}

#[tokio::test]
async fn a_reported_drain_is_a_drain_until_it_is_taken_back() {
    let endpoint = Reporting::start("").await;
    let lines = checks(BY_HTTP) + "\non_drain = { action = \"close\" }";
    let (proxy, operator) = Operator::start(&config(&[endpoint.address], &lines)).await;
    let mut client = proxy.tunnel().await;
    endpoint.report("drain");
    let close = client.exactly(2 + 2 + "drain".len()).await;
    assert_eq!(close_payload(&close).unwrap()[..2], 1012_u16.to_be_bytes());
    let shown = shown(&operator, 0).await;
    assert_eq!(shown["state"], "drained-by-report");
    assert_eq!(status(&proxy).await, 503);
    let logged = proxy.logged("endpoint drained by its report").await;
    assert_eq!(logged["endpoint"], endpoint.address.to_string());
    endpoint.report("drain=?0");
    proxy
        .logged("endpoint no longer drained by its report")
        .await;
    assert_eq!(status(&proxy).await, 101);
}

#[tokio::test]
async fn a_malformed_report_is_ignored_counted_and_logged_once_a_minute() {
    let endpoint = Reporting::start("tunnels=5").await;
    let config = METRICS.to_owned() + &config(&[endpoint.address], "");
    let proxy = Proxy::start(&config).await;
    assert_eq!(status(&proxy).await, 101);
    for malformed in ["tunnels=-1", "{\"tunnels\": 9}", "drain=yes"] {
        endpoint.report(malformed);
        assert_eq!(status(&proxy).await, 101);
    }
    let name = "tidegate_endpoint_reports_total";
    let scrape = Scrape::until(&proxy, name, &["malformed"], 3.0).await;
    assert_eq!(scrape.sum(name, &["accepted"]), 1.0);
    // The one before is valid still.
    let tunnels = "tidegate_endpoint_reported_tunnels";
    assert_eq!(scrape.sum(tunnels, &[]), 5.0);
    let logged = proxy.logged_by_now("load report ignored").await;
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert_eq!(logged[0]["level"], "WARN");
    let why = "`tunnels` is not an integer from 0 to 1000000000";
    assert_eq!(logged[0]["why"], why);
}

/// Two proxies before the same endpoints. One has all its tunnels on the first endpoint, and the other knows of
/// them by reports alone.
#[tokio::test]
async fn the_true_total_decides_rather_than_own_tunnels() {
    let endpoints = [
        Reporting::start("tunnels={}").await,
        Reporting::start("tunnels={}").await,
    ];
    let addresses = endpoints.each_ref().map(|it| it.address);
    let other = Proxy::start(&simple(&addresses[..1])).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(other.tunnel().await);
    }
    until("six tunnels", || endpoints[0].open() == 6).await;
    let (proxy, operator) = Operator::start(&config(&addresses, &checks(BY_HTTP))).await;
    for (at, tunnels) in [6, 0].into_iter().enumerate() {
        let is_known = |it: &Value| it["report"]["tunnels"] == tunnels;
        until_shown(&operator, at, "a report", is_known).await;
    }
    for _ in 0..4 {
        held.push(proxy.tunnel().await);
        let open = endpoints[1].open();
        let is_known = |it: &Value| it["report"]["tunnels"] == open;
        until_shown(&operator, 1, "a report", is_known).await;
    }
    assert_eq!(endpoints.each_ref().map(Reporting::open), [6, 4]);
}

#[tokio::test]
async fn a_report_outlives_a_reload_and_an_upgrade() {
    let endpoint = Reporting::start("drain, max=3").await;
    let config = upgradable(
        "upgrade.settle = \"200ms\"",
        &config(&[endpoint.address], ""),
    );
    let (proxy, operator) = Operator::start_whole(&config).await;
    // There are no health checks: nothing is known until a handshake has been answered.
    assert_eq!(status(&proxy).await, 101);
    assert_eq!(status(&proxy).await, 503);
    let text = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
    proxy.reload(&(text + "# the same\n")).await;
    assert_eq!(status(&proxy).await, 503);
    let (answer, _) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(answer, 200);
    proxy.successor(1).await;
    let shown = shown(&operator, 0).await;
    assert_eq!(shown["state"], "drained-by-report");
    assert_eq!(shown["report"]["max"], 3);
    assert_eq!(status(&proxy).await, 503);
}

/// Without health checks, only handshakes bring reports. A drain must not keep them away for ever.
#[tokio::test]
async fn a_report_that_is_too_old_does_not_count() {
    let endpoint = Reporting::start("drain").await;
    let lines = config(&[endpoint.address], "").replace("{}", "{ max_age = \"1s\" }");
    let folder = tempfile::TempDir::new().unwrap();
    write_token(folder.path());
    let proxy = Proxy::start_in(folder, &(ADMIN.to_owned() + &lines)).await;
    let operator = Operator::of(&proxy).await;
    assert_eq!(status(&proxy).await, 101);
    assert_eq!(status(&proxy).await, 503);
    endpoint.report("");
    until_shown(&operator, 0, "the end of the report", |it| {
        it["state"] == "up"
    })
    .await;
    assert_eq!(shown(&operator, 0).await["report"], Value::Null);
    let logged = proxy
        .logged("endpoint no longer drained by its report")
        .await;
    assert_eq!(logged["by"], "time", "{logged}");
    assert_eq!(status(&proxy).await, 101);
}

/// What waits for room gets it when the report ends that said there was none.
#[tokio::test]
async fn a_maximum_that_is_too_old_serves_the_queue() {
    let endpoint = Reporting::start("max=0").await;
    let lines = config(&[endpoint.address], "queue = { timeout = \"10m\" }");
    let lines = lines.replace("{}", "{ max_age = \"2s\" }");
    let (proxy, operator) = Operator::start(&lines).await;
    assert_eq!(status(&proxy).await, 101);
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    until_one_waits(&operator).await;
    assert_eq!(client.head().await.status(), 101);
}
