//! Metrics, health and readiness of a running process.

use std::collections::BTreeSet;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::proxy::{Proxy, Signal, settings, simple};
use crate::harness::scrape::{METRICS, Scrape, get};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{quiet_for, until, within};

#[tokio::test]
async fn the_documented_metrics_are_the_exported_ones() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&(METRICS.to_owned() + &simple(&[echo.address]))).await;
    let _tunnel = proxy.tunnel().await;
    let scrape = Scrape::of(&proxy).await;
    let documented = include_str!("../../docs/metrics.md");
    let rows = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(scrape.families(), documented);
    // Each row also has the type and the labels.
    for line in scrape
        .0
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let (name, kind) = line.split_once(' ').unwrap();
        let row = format!("| `{name}` | {kind} |");
        assert!(
            include_str!("../../docs/metrics.md").contains(&row),
            "{row}"
        );
    }
}

#[tokio::test]
async fn live_tunnels_are_in_the_sums() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&(METRICS.to_owned() + &simple(&[endpoint.address]))).await;
    // Every worker accepts connections from the only address.
    let accepting = Scrape::of(&proxy).await.sum("tidegate_workers", &[]);
    Scrape::until(&proxy, "tidegate_tasks", &[], accepting).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let mut tunnelled = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    let message = frame(0x81, Some([1, 2, 3, 4]), b"hello");
    client.send(&message).await;
    assert_eq!(tunnelled.exactly(message.len()).await, message);
    let address = format!("endpoint=\"{}\"", endpoint.address);
    let way = ["route=\"main\"", "upstream=\"main\"", &address];
    let from_client = [&way[..], &["direction=\"from_client\""]].concat();
    let scrape = Scrape::of(&proxy).await;
    let bytes = message.len() as f64;
    assert_eq!(
        scrape.sum("tidegate_tunnel_bytes_total", &from_client),
        bytes
    );
    assert_eq!(
        scrape.sum("tidegate_tunnel_messages_total", &from_client),
        1.0
    );
    let at = ["listener=\"main\"", "route=\"main\""];
    for (name, labels) in [
        ("tidegate_tunnels_open", &at[..]),
        ("tidegate_connections_open", &at[..1]),
        ("tidegate_endpoint_tunnels", &way[1..]),
        ("tidegate_endpoint_in_flight", &way[1..]),
        ("tidegate_handshake_seconds_count", &at[1..]),
        ("tidegate_connect_seconds_count", &way[1..2]),
    ] {
        assert_eq!(scrape.sum(name, labels), 1.0, "{name}\n{}", scrape.0);
    }
    assert_eq!(scrape.sum("tidegate_tunnel_seconds_count", &[]), 0.0);
    Scrape::until(&proxy, "tidegate_tasks", &[], accepting + 1.0).await;

    client
        .send(frame(0x88, Some([0; 4]), &4001_u16.to_be_bytes()))
        .await;
    tunnelled
        .send(frame(0x88, None, &4001_u16.to_be_bytes()))
        .await;
    drop((client, tunnelled));
    let ended = [&way[..], &["reason=\"client-close\""]].concat();
    Scrape::until(&proxy, "tidegate_tunnels_ended_total", &ended, 1.0).await;
    // Live tunnels are asked for their traffic before the rest is read, so it is included.
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(
        scrape.sum("tidegate_tunnel_bytes_total", &from_client),
        bytes + 8.0
    );
    let close = [&way[..], &["code=\"4xxx\"", "from=\"client\""]].concat();
    assert_eq!(scrape.sum("tidegate_close_codes_total", &close), 1.0);
    assert_eq!(scrape.sum("tidegate_tunnel_seconds_count", &at[1..]), 1.0);
    assert_eq!(scrape.sum("tidegate_tunnels_open", &at), 0.0);
    assert_eq!(scrape.sum("tidegate_endpoint_tunnels", &way[1..]), 0.0);
    Scrape::until(&proxy, "tidegate_connections_open", &at[..1], 0.0).await;
    Scrape::until(&proxy, "tidegate_tasks", &[], accepting).await;
}

#[tokio::test]
async fn frames_of_live_tunnels_are_counted_by_opcode() {
    let endpoint = Endpoint::bind().await;
    let limited = settings(&[endpoint.address], "", "limits.message_bytes = \"9B\"");
    let proxy = Proxy::start(&(METRICS.to_owned() + &limited)).await;
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    let mask = Some([1, 2, 3, 4]);
    let passing = [
        frame(0x01, mask, b"one"),
        frame(0x89, mask, b"ping"),
        frame(0x00, mask, b"two"),
        frame(0x80, mask, b"3"),
        frame(0x82, mask, b""),
    ]
    .concat();
    // Too large: it does not go on, and does not count.
    let whole = [&passing[..], &frame(0x81, mask, b"0123456789")].concat();
    client.send(&whole).await;
    assert_eq!(served.exactly(passing.len()).await, passing);
    let close = frame(0x88, None, &1009_u16.to_be_bytes());
    assert_eq!(client.exactly(2).await[0], close[0], "our own Close");
    let scrape = Scrape::of(&proxy).await;
    let count = |direction: &str, opcode: &str| {
        let labels = [direction, opcode].map(|it| it.to_owned() + "\"");
        let labels = [&labels[0], &labels[1], "route=\"main\""];
        scrape.sum("tidegate_tunnel_frames_total", &labels)
    };
    for (opcode, expected) in [
        ("text", 1.0),
        ("binary", 1.0),
        ("continuation", 2.0),
        ("close", 0.0),
        ("ping", 1.0),
        ("pong", 0.0),
    ] {
        let opcode = format!("opcode=\"{opcode}");
        assert_eq!(
            count("direction=\"from_client", &opcode),
            expected,
            "{opcode}"
        );
        assert_eq!(count("direction=\"from_endpoint", &opcode), 0.0, "{opcode}");
    }
    drop((client, served));
}

#[tokio::test]
async fn each_worker_shows_its_tunnels_its_cpu_time_and_how_late_it_is() {
    let echo = Echo::start("echo").await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n";
    let proxy = Proxy::start(&[server, METRICS, &simple(&[echo.address])].concat()).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(proxy.tunnel().await);
    }
    let scrape = Scrape::of(&proxy).await;
    let workers = ["worker=\"0\"", "worker=\"1\""];
    let tunnels = workers.map(|it| scrape.sum("tidegate_worker_tunnels", &[it]));
    assert_eq!(tunnels.iter().sum::<f64>(), 20.0, "{tunnels:?}");
    assert!(tunnels.iter().all(|tunnels| *tunnels > 0.0), "{tunnels:?}");
    within("both to have used CPU time", async {
        loop {
            let scrape = Scrape::of(&proxy).await;
            let cpu = workers.map(|it| scrape.sum("tidegate_worker_cpu_seconds_total", &[it]));
            let whole = scrape.sum("process_cpu_seconds_total", &[]);
            // The kernel counts the process by the tick.
            assert!(cpu.iter().sum::<f64>() <= whole + 0.1, "{cpu:?} of {whole}");
            if cpu.iter().all(|cpu| *cpu > 0.0) {
                return;
            }
        }
    })
    .await;
    // A process that is stopped is late by as much.
    let late = |scrape: &Scrape, worker| {
        let name = "tidegate_worker_loop_delay_seconds";
        let within_a_second = scrape.sum(&format!("{name}_bucket"), &[worker, "le=\"1\""]);
        scrape.sum(&format!("{name}_count"), &[worker]) - within_a_second
    };
    proxy.signal(Signal::STOP);
    quiet_for(2_500, std::future::pending::<()>()).await;
    proxy.signal(Signal::CONT);
    within("both workers to have been late", async {
        loop {
            let scrape = Scrape::of(&proxy).await;
            if workers.iter().all(|worker| late(&scrape, worker) >= 1.0) {
                return;
            }
        }
    })
    .await;
    drop(held);
}

/// Clients see these as 1006.
#[tokio::test]
async fn tunnels_that_end_without_a_close_are_counted_by_side() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&(METRICS.to_owned() + &simple(&[endpoint.address]))).await;
    for breaks_at_client in [true, false, false] {
        let (client, served) = proxy.tunnel_to(&endpoint).await;
        let (first, mut second) = match breaks_at_client {
            true => (client, served),
            false => (served, client),
        };
        drop(first);
        second.rest().await;
    }
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    client.send(frame(0x88, Some([0; 4]), b"")).await;
    served.send(frame(0x88, None, b"")).await;
    drop((client, served));
    let name = "tidegate_tunnels_abnormal_total";
    let scrape = Scrape::until(&proxy, "tidegate_tunnels_ended_total", &[], 4.0).await;
    let address = format!("endpoint=\"{}\"", endpoint.address);
    for (side, count) in [("side=\"client\"", 1.0), ("side=\"endpoint\"", 2.0)] {
        assert_eq!(scrape.sum(name, &["route=\"main\"", &address, side]), count);
    }
}

/// The kernel chooses the worker by a hash, which alone would leave them uneven.
#[tokio::test]
async fn connections_are_spread_evenly_over_the_workers() {
    const TUNNELS: u32 = 200;
    let echo = Echo::start("echo").await;
    let server = "[server]\nworkers = 4\nlog.format = \"json\"\n";
    let proxy = Proxy::start(&[server, METRICS, &simple(&[echo.address])].concat()).await;
    let mut held = Vec::new();
    for _ in 0..TUNNELS {
        held.push(proxy.tunnel().await);
    }
    let scrape = Scrape::of(&proxy).await;
    let of = |worker: u32| {
        let label = format!("worker=\"{worker}\"");
        scrape.sum("tidegate_worker_connections", &[&label])
    };
    let workers = [0, 1, 2, 3].map(of);
    assert_eq!(workers.iter().sum::<f64>(), f64::from(TUNNELS));
    for connections in workers {
        // A tenth more or less than a quarter of them, and a few.
        assert!((40.0..=60.0).contains(&connections), "{workers:?}");
    }
    drop(held);
}

#[tokio::test]
async fn every_response_is_counted_by_its_kind() {
    let endpoint = Endpoint::bind().await;
    let config = settings(
        &[endpoint.address],
        "",
        "path_prefix = \"/chat\"\ntimeouts.half_closed = \"off\"",
    );
    let proxy = Proxy::start(&(METRICS.to_owned() + &config)).await;
    // Declined by the endpoint, rejected without a route, abandoned by the client.
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut declining, _) = endpoint.request().await;
    declining
        .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.0.status(), 403);
    client.send(HANDSHAKE.replace("/chat", "/other")).await;
    assert_eq!(client.reply().await.0.status(), 404);
    client
        .send(HANDSHAKE.replace("Version: 13", "Version: 8"))
        .await;
    assert_eq!(client.reply().await.0.status(), 426);
    client.send(HANDSHAKE).await;
    let _waiting = endpoint.request().await;
    drop(client);
    let main = "route=\"main\"";
    let outcome = |outcome| [main, outcome];
    let scrape = Scrape::until(
        &proxy,
        "tidegate_handshakes_total",
        &outcome("outcome=\"abandoned\""),
        1.0,
    )
    .await;
    let handshakes = "tidegate_handshakes_total";
    let declined = outcome("outcome=\"declined\"");
    assert_eq!(scrape.sum(handshakes, &declined), 1.0);
    let rejected = ["route=\"\"", "outcome=\"rejected\""];
    assert_eq!(scrape.sum(handshakes, &rejected), 2.0);
    for reason in ["no-route", "websocket-version"] {
        let reason = format!("reason=\"{reason}\"");
        assert_eq!(scrape.sum("tidegate_rejections_total", &[&reason]), 1.0);
    }
    for status in ["403", "404", "426"] {
        let status = format!("status=\"{status}\"");
        assert_eq!(scrape.sum("tidegate_http_requests_total", &[&status]), 1.0);
    }
}

#[tokio::test]
async fn endpoints_that_are_not_reached_are_counted() {
    let gone = Endpoint::bind().await.address;
    let proxy = Proxy::start(&(METRICS.to_owned() + &simple(&[gone]))).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.reply().await.0.status(), 503);
    let scrape = Scrape::of(&proxy).await;
    let endpoint = format!("endpoint=\"{gone}\"");
    let labels = ["upstream=\"main\"", &endpoint, "reason=\"refused\""];
    assert_eq!(scrape.sum("tidegate_connect_failures_total", &labels), 1.0);
    assert_eq!(scrape.sum("tidegate_connect_seconds_count", &[]), 0.0);
}

#[tokio::test]
async fn open_metrics_is_served_on_request() {
    let proxy = Proxy::start(&(METRICS.to_owned() + &simple(&[([127, 0, 0, 1], 1).into()]))).await;
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (head, body) = get(&proxy, "/metrics", accept).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(head.value("content-type"), Some(kind));
    assert!(body.ends_with("\n# EOF\n"));
    let (head, body) = get(&proxy, "/metrics", "").await;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(head.value("content-type"), Some(kind));
    assert!(!body.contains("# EOF"));
}

#[tokio::test]
async fn reloads_are_counted() {
    let config = METRICS.to_owned() + &simple(&[([127, 0, 0, 1], 1).into()]);
    let proxy = Proxy::start(&config).await;
    proxy.reload(&config).await;
    proxy.rewrite("nonsense");
    proxy.signal(Signal::HUP);
    proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    let scrape = Scrape::until(&proxy, "tidegate_last_reload_successful", &[], 0.0).await;
    for result in ["applied", "failed"] {
        let result = format!("result=\"{result}\"");
        assert_eq!(scrape.sum("tidegate_reloads_total", &[&result]), 1.0);
    }
    proxy.reload(&config).await;
    Scrape::until(&proxy, "tidegate_last_reload_successful", &[], 1.0).await;
}

#[tokio::test]
async fn readiness_ends_when_a_stop_begins_and_health_does_not() {
    let echo = Echo::start("echo").await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"30s\"\n";
    let config = [server, METRICS, &simple(&[echo.address])].concat();
    let mut proxy = Proxy::start(&config).await;
    let tunnel = proxy.tunnel().await;
    for path in ["/readyz", "/healthz"] {
        assert_eq!(get(&proxy, path, "").await.0.status(), 200, "{path}");
    }
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    let (head, body) = get(&proxy, "/readyz", "").await;
    assert_eq!((head.status(), &*body), (503, "draining\n"));
    assert_eq!(get(&proxy, "/healthz", "").await.0.status(), 200);
    assert_eq!(Scrape::of(&proxy).await.sum("tidegate_draining", &[]), 1.0);
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn the_metrics_port_serves_nothing_else_and_limits_its_connections() {
    let config = METRICS.to_owned() + &simple(&[([127, 0, 0, 1], 1).into()]);
    let proxy = Proxy::start(&config).await;
    assert_eq!(get(&proxy, "/", "").await.0.status(), 404);
    let address = proxy.logged("serving metrics").await["address"].clone();
    let address = address.as_str().unwrap().parse().unwrap();
    let mut wire = Wire::connect(address).await;
    wire.send("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(wire.reply().await.0.status(), 405);
    let mut held = vec![wire];
    for _ in 1..32 {
        let mut wire = Wire::connect(address).await;
        wire.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(wire.reply().await.0.status(), 200);
        held.push(wire);
    }
    // One more takes the place of the oldest that is idle.
    let mut late = Wire::connect(address).await;
    late.send("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(late.reply().await.0.status(), 200);
    held.remove(0).closed().await;
}

#[tokio::test]
async fn metrics_may_be_on_a_unix_socket() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("metrics.sock");
    let config = format!(
        "[admin]\nmetrics_bind = \"unix:{}\"\n{}",
        path.display(),
        simple(&[([127, 0, 0, 1], 1).into()])
    );
    let mut proxy = Proxy::start(&config).await;
    let mut wire = Wire::unix(tokio::net::UnixStream::connect(&path).await.unwrap());
    wire.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(wire.reply().await.0.status(), 200);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    until("the socket to be gone", || !path.exists()).await;
}

#[tokio::test]
async fn queued_and_retried_handshakes_are_counted() {
    let (failing, echo) = (Endpoint::bind().await, Echo::start("echo").await);
    let failing_address = failing.address;
    let unwilling = tokio::spawn(async move {
        loop {
            let (mut wire, _) = failing.request().await;
            wire.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    });
    let config = [METRICS, &simple(&[failing_address, echo.address])].concat();
    let retries = "balance = \"round_robin\"\nretry_on = [\"503\"]\n";
    let proxy = Proxy::start(&(config + retries)).await;
    // Every other handshake goes first to the endpoint that refuses.
    let _tunnels = [proxy.tunnel().await, proxy.tunnel().await];
    let endpoint = format!("endpoint=\"{failing_address}\"");
    let labels = ["upstream=\"main\"", &endpoint];
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_retries_total", &labels), 1.0);
    unwilling.abort();

    let full = simple(&[echo.address]).replace(
        &format!("\"{}\"", echo.address),
        &format!("{{ address = \"{}\", max_tunnels = 1 }}", echo.address),
    );
    let queue = "queue = { size = 9, timeout = \"1m\" }\n";
    proxy.reload(&[METRICS, &full, queue].concat()).await;
    let mut waiting = proxy.connect().await;
    waiting.send(HANDSHAKE).await;
    Scrape::until(&proxy, "tidegate_upstream_waiting", &labels[..1], 1.0).await;
    drop(waiting);
    Scrape::until(&proxy, "tidegate_upstream_waiting", &labels[..1], 0.0).await;
}

#[tokio::test]
async fn checks_and_ejections_are_counted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    drop(listener);
    let echo = Echo::start("up").await;
    let upstream = "ejection = { failures = 1 }\ntries = 2\nbalance = \"round_robin\"\n";
    let ejecting = simple(&[refusing, echo.address]) + upstream;
    let checked = format!(
        "[upstream.checked]\nendpoints = [\"{}\", \"{refusing}\"]\n\
         health = {{ websocket = {{}}, interval = \"50ms\", timeout = \"30s\", fall = 1 }}\n",
        echo.address
    );
    let proxy = Proxy::start(&(METRICS.to_owned() + &ejecting + &checked)).await;
    for _ in 0..2 {
        proxy.tunnel().await;
    }
    proxy.logged("endpoint ejected").await;
    proxy.logged("endpoint down").await;
    until("a check to pass", || echo.served() > 2).await;
    let of = |upstream: &str, at: std::net::SocketAddr| {
        [
            format!("upstream=\"{upstream}\""),
            format!("endpoint=\"{at}\""),
        ]
    };
    let passed = "result=\"passed\"";
    let [upstream, endpoint] = of("checked", echo.address);
    let good = [&*upstream, &*endpoint, passed];
    // Counted a moment after the endpoint has responded.
    let scrape = within("the check to be counted", async {
        loop {
            let scrape = Scrape::of(&proxy).await;
            if scrape.sum("tidegate_checks_total", &good) > 0.0 {
                return scrape;
            }
        }
    })
    .await;
    for (upstream, at, up, ejected) in [
        ("main", echo.address, 1.0, 0.0),
        ("main", refusing, 0.0, 1.0),
        ("checked", echo.address, 1.0, 0.0),
        ("checked", refusing, 0.0, 0.0),
    ] {
        let labels = of(upstream, at);
        let labels = labels.each_ref().map(|label| &**label);
        for (name, expected) in [
            ("tidegate_endpoint_up", up),
            ("tidegate_endpoint_ejected", ejected),
            ("tidegate_endpoint_ejections_total", ejected),
        ] {
            let seen = scrape.sum(name, &labels);
            assert_eq!(seen, expected, "{name} of {at} in {upstream}\n{}", scrape.0);
        }
    }
    let [upstream, endpoint] = of("checked", refusing);
    let failed = |result| scrape.sum("tidegate_checks_total", &[&upstream, &endpoint, result]);
    assert!(failed("result=\"connect\"") > 0.0, "{}", scrape.0);
    assert_eq!(failed(passed), 0.0);
}
