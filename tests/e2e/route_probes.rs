//! Probes of routes at intervals.

use serde_json::{Value, json};

use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::operator::{ADMIN_AND_METRICS, Operator};
use crate::harness::proxy::{Proxy, settings};
use crate::harness::scrape::Scrape;

/// A full upstream does not fail: clients hold all its tunnels.
#[tokio::test]
async fn a_probe_of_a_full_upstream_has_no_result() {
    let echo = Echo::start("echo").await;
    let route = "probe = { interval = \"50ms\" }";
    let (proxy, operator) = start(echo.address, route).await;
    let of_route = ["route=\"main\""];
    Scrape::until(&proxy, "tidegate_probe_up", &of_route, 1.0).await;
    let config = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
    let endpoint = format!("\"{}\"", echo.address);
    let limited = format!("{{ address = {endpoint}, max_tunnels = 1 }}");
    let _held = proxy.tunnel().await;
    proxy.reload(&config.replace(&endpoint, &limited)).await;
    let full = ["route=\"main\"", "result=\"full\""];
    crate::harness::within("a probe that finds no place", async {
        while Scrape::of(&proxy).await.sum("tidegate_probes_total", &full) == 0.0 {}
    })
    .await;
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_probe_up", &of_route), 1.0);
    assert_eq!(operator.get("/v1/status").await["probes"][0]["ok"], true);
    assert_eq!(
        proxy.logged_by_now("probe failed").await,
        Vec::<Value>::new()
    );
}

/// A proxy whose only route has these lines.
async fn start(endpoint: std::net::SocketAddr, route: &str) -> (Proxy, Operator) {
    let config = settings(&[endpoint], "", route);
    Operator::start_whole(&(ADMIN_AND_METRICS.to_owned() + &config)).await
}

#[tokio::test]
async fn a_probe_is_counted_and_shown_and_is_not_a_client() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = start(echo.address, "probe = { interval = \"50ms\" }").await;
    Scrape::until(&proxy, "tidegate_probe_up", &["route=\"main\""], 1.0).await;
    let passed = ["route=\"main\"", "result=\"passed\""];
    let scrape = loop {
        let scrape = Scrape::of(&proxy).await;
        if scrape.sum("tidegate_probes_total", &passed) >= 2.0 {
            break scrape;
        }
    };
    assert!(scrape.sum("tidegate_probe_duration_seconds", &[]) > 0.0);
    for clients in [
        "tidegate_connections_total",
        "tidegate_handshakes_total",
        "tidegate_tunnels_ended_total",
        "tidegate_connect_seconds_count",
    ] {
        assert_eq!(scrape.sum(clients, &[]), 0.0, "{clients}");
    }
    for event in ["tunnel opened", "tunnel ended", "rejected"] {
        assert_eq!(proxy.logged_by_now(event).await, Vec::<Value>::new());
    }
    let status = operator.get("/v1/status").await;
    let probe = &status["probes"][0];
    assert_eq!(
        (&probe["route"], &probe["ok"], &probe["endpoint"]),
        (&json!("main"), &json!(true), &json!(echo.address))
    );
    let printed = operator.run(&["status"]).await;
    assert!(
        printed.out.contains("\nprobes of 1 route pass\n"),
        "{}",
        printed.out
    );
    // Without the key there is no probe, and no trace of one.
    proxy
        .reload(&{
            let config = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
            config.replace("probe = { interval = \"50ms\" }", "")
        })
        .await;
    Scrape::until(&proxy, "tidegate_probe_up", &[], 0.0).await;
    let status = crate::harness::within("no probes", async {
        loop {
            let status = operator.get("/v1/status").await;
            if status["probes"] == json!([]) {
                return status;
            }
        }
    });
    status.await;
}

#[tokio::test]
async fn a_probe_has_the_request_of_a_client_and_failures_are_logged_once() {
    let endpoint = Endpoint::bind().await;
    let address = endpoint.address;
    let route = "hosts = [\"chat.example.com\"]\n\
        path_prefix = \"/api\"\n\
        origins = [\"https://chat.example.com\"]\n\
        rewrite = { strip_prefix = \"/api\", add_prefix = \"/v1\" }\n\
        request_headers = { set = { x-route = \"${route}\" }, remove = [\"x-secret\"] }\n\
        upstream = \"main\"\n\
        [route.probe]\n\
        interval = \"50ms\"\n\
        path = \"/api/chat?probe=1\"\n\
        origin = \"https://chat.example.com\"\n\
        headers = { x-secret = \"1\", cookie = \"a=b\" }\n\
        [[route]]\n\
        name = \"rest\"\n";
    let (proxy, operator) = start(address, route).await;
    for _ in 0..2 {
        let (mut served, head) = endpoint.request().await;
        assert_eq!(head.start(), "GET /v1/chat?probe=1 HTTP/1.1");
        for (name, value) in [
            ("host", Some("chat.example.com")),
            ("origin", Some("https://chat.example.com")),
            ("cookie", Some("a=b")),
            ("x-route", Some("main")),
            ("x-secret", None),
            ("x-forwarded-proto", Some("https")),
            ("x-forwarded-for", None),
        ] {
            assert_eq!(head.value(name), value, "{head:?}");
        }
        assert!(head.value("user-agent").unwrap().ends_with("(probe)"));
        served
            .send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            .await;
    }
    let labels = ["route=\"main\"", "result=\"answer\""];
    Scrape::until(&proxy, "tidegate_probes_total", &labels, 2.0).await;
    let failed = proxy.logged_by_now("probe failed").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(
        (&failed[0]["level"], &failed[0]["error"]),
        (&json!("WARN"), &json!("answered 503"))
    );
    let printed = operator.run(&["status"]).await;
    let line = format!("probes of route main fail at endpoint {address}: answered 503 (");
    assert!(printed.out.contains(&line), "{}", printed.out);
    drop(endpoint);
    let _echo = Echo::at(address, "echo", Unit::Messages, None).await;
    proxy.logged("probe passes again").await;
}

#[tokio::test]
async fn a_probe_fails_where_a_client_would() {
    for (route, reason, error) in [
        (
            "probe = { interval = \"50ms\", origin = \"https://other.example.com\" }\n\
             origins = [\"https://chat.example.com\"]",
            "rejected",
            "tidegate rejects the request: origin-denied",
        ),
        (
            "path_prefix = \"/chat\"\n\
             probe = { interval = \"50ms\", path = \"/other\" }",
            "rejected",
            "tidegate rejects the request: no-route",
        ),
        (
            "path_prefix = \"/chat\"\n\
             probe = { interval = \"50ms\", path = \"/chat/room\" }\n\
             upstream = \"main\"\n\
             [[route]]\n\
             name = \"room\"\n\
             path = \"/chat/room\"",
            "rejected",
            "the request belongs to route `room`",
        ),
        (
            "probe = { interval = \"50ms\", subprotocols = [\"chat\"] }",
            "answer",
            "the 101 selects none of the subprotocols",
        ),
    ] {
        let echo = Echo::start("echo").await;
        let (proxy, _) = start(echo.address, route).await;
        let failed = proxy.logged("probe failed").await;
        assert_eq!(failed["error"], error, "{failed}");
        let scrape = Scrape::until(&proxy, "tidegate_probe_up", &[], 0.0).await;
        let reason = format!("result=\"{reason}\"");
        assert!(scrape.sum("tidegate_probes_total", &[&reason]) >= 1.0);
    }
    // This endpoint echoes bytes: a Ping comes back masked, and is not a Pong.
    let echo = Echo::with("", Unit::Bytes, None).await;
    let (proxy, _) = start(echo.address, "probe = { interval = \"50ms\" }").await;
    proxy.logged("probe failed").await;
    let scrape = Scrape::of(&proxy).await;
    assert!(scrape.sum("tidegate_probes_total", &["result=\"pong\""]) >= 1.0);
    let gone = Endpoint::bind().await.address;
    let (proxy, operator) = start(gone, "probe = { interval = \"50ms\" }").await;
    proxy.logged("probe failed").await;
    let scrape = Scrape::of(&proxy).await;
    assert!(scrape.sum("tidegate_probes_total", &["result=\"connect\""]) >= 1.0);
    // The endpoint stays in rotation: a probe is not a health check.
    let up = ["upstream=\"main\""];
    assert_eq!(scrape.sum("tidegate_endpoint_up", &up), 1.0);
    assert_eq!(scrape.sum("tidegate_endpoint_unreachable", &up), 0.0);
    let drained = operator.run(&["drain", &gone.to_string()]).await;
    assert_eq!(drained.code, 0);
    Scrape::until(&proxy, "tidegate_endpoint_drained", &up, 1.0).await;
    crate::harness::within("a rejected probe", async {
        while Scrape::of(&proxy)
            .await
            .sum("tidegate_probes_total", &["result=\"rejected\""])
            == 0.0
        {}
    })
    .await;
}
