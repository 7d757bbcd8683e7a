//! Tunnels that are closed gradually: when the process stops, and when their endpoint is drained, down
//! or removed.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::faulty::{FaultyEndpoint, Reaction};
use crate::harness::frames::{close, close_payload, frame};
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::scrape::{METRICS, Scrape, get};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{free_address, until, within};

/// Opens this many tunnels.
async fn tunnels(proxy: &Proxy, count: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", count).await;
    held
}

/// Answers a Close as a client does. Returns its payload.
async fn goodbye(mut client: Wire, length: usize) -> Vec<u8> {
    let bytes = client.exactly(length).await;
    let payload = close_payload(&bytes).unwrap();
    client.send(frame(0x88, Some([0; 4]), &payload[..2])).await;
    client.closed().await;
    payload
}

#[tokio::test]
async fn a_stop_closes_tunnels_one_after_the_other() {
    let echo = Echo::start("echo").await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n\
                  shutdown = { grace = \"8s\", close_code = 4012 }\n";
    let config = [server, ADMIN, &simple(&[echo.address])].concat();
    let folder = tempfile::TempDir::new().unwrap();
    crate::harness::operator::write_token(folder.path());
    let mut proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let held = tunnels(&proxy, 40).await;
    proxy.signal(Signal::TERM);
    proxy.logged("no longer listening").await;
    let goodbyes = join_all(held.into_iter().map(|client| goodbye(client, 2 + 2 + 8)));
    let watched = async {
        // A quarter of the tunnels, and of the grace, is left then: the process is certain to answer.
        let mut seen = Vec::new();
        while seen.last() < Some(&30) {
            let status = operator.get("/v1/status").await;
            assert_eq!(status["state"], "draining");
            let done = status["jobs"][0]["done"].as_u64();
            match done {
                Some(done) if seen.last() != Some(&done) => seen.push(done),
                // The job has not begun yet, or has not advanced.
                _ => tokio::task::yield_now().await,
            }
        }
        seen
    };
    let (payloads, seen) = tokio::join!(goodbyes, watched);
    for payload in payloads {
        assert_eq!(Some(payload), close(4012, "shutdown"));
    }
    // Not all at once: many steps were visible.
    assert!(seen.len() > 10, "{seen:?}");
    assert_eq!(proxy.exit().await, 0);
    let ended = proxy.logged_times("tunnel ended", 40).await;
    assert!(ended.iter().all(|event| event["reason"] == "shutdown"));
}

#[tokio::test]
async fn a_client_that_ignores_the_close_does_not_delay_the_close_to_its_endpoint() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let (_client, mut served) = proxy.tunnel_to(&endpoint).await;
    proxy.logged("tunnel opened").await;
    let (status, _) = operator
        .post("/v1/tunnels/close", &json!({ "all": true }))
        .await;
    assert_eq!(status, 200);
    assert_eq!(close_payload(&served.rest().await.0), close(1001, "drain"));
}

#[tokio::test]
async fn a_drain_of_an_endpoint_can_be_undone_until_a_tunnel_is_closed() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    // The first tunnel is closed at once, the next a minute later.
    let config = simple(&[one.address, other.address])
        + "on_drain = { action = \"drain\", rate = \"1/m\" }\n";
    let (proxy, operator) = Operator::start(&config).await;
    let held = tunnels(&proxy, 6).await;
    assert_eq!((one.open(), other.open()), (3, 3));
    let which = json!({ "endpoint": one.address.to_string() });
    assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    let begun = proxy.logged("closing the tunnels of an endpoint").await;
    assert_eq!(
        (&begun["reason"], &begun["tunnels"]),
        (&json!("drain"), &json!(3))
    );
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["endpoint"], one.address.to_string());
    // It was the oldest tunnel on that endpoint.
    let opened = proxy.log().events("tunnel opened");
    let first = opened.iter().find(|it| it["endpoint"] == ended["endpoint"]);
    assert_eq!(first.unwrap()["session"], ended["session"]);
    assert_eq!(operator.post("/v1/endpoints/undrain", &which).await.0, 200);
    let stopped = proxy.logged("close job finished").await;
    assert_eq!(
        (&stopped["tunnels"], &stopped["closed"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(operator.get("/v1/status").await["tunnels"], 5);
    drop(held);
}

#[tokio::test]
async fn a_listener_is_drained_and_undrained_next_to_another_one() {
    let echo = Echo::start("echo").await;
    let main = free_address();
    let config = "[listener.other]\nbind = [\"127.0.0.1:0\"]\n".to_owned()
        + &simple(&[echo.address]).replace("127.0.0.1:0", &main.to_string());
    let (proxy, operator) = Operator::start(&config).await;
    let mut held = tunnels(&proxy, 1).await.remove(0);
    let mut kept_alive = Wire::connect(main).await;
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    kept_alive.send(request).await;
    kept_alive.reply().await;
    let which = json!({ "listener": "main" });
    let (status, drained) = operator.post("/v1/listeners/drain", &which).await;
    assert_eq!((status, &drained["drained"]), (200, &json!(true)));
    assert_eq!(drained["addresses"], json!([]));
    // It accepts no connections and closes idle ones. Its tunnel stays, and so does the other listener.
    assert!(tokio::net::TcpStream::connect(main).await.is_err());
    kept_alive.closed().await;
    held.send(frame(0x81, Some([1, 2, 3, 4]), b"still")).await;
    assert_eq!(held.exactly(7).await, b"\x81\x05still");
    let is_served = async |address| {
        let mut client = Wire::connect(address).await;
        client.send(HANDSHAKE).await;
        assert_eq!(client.head().await.status(), 101);
    };
    is_served(proxy.address_of("other")).await;
    // The drain outlives a reload.
    proxy
        .reload(&(ADMIN.to_owned() + &config + "tries = 1\n"))
        .await;
    assert!(tokio::net::TcpStream::connect(main).await.is_err());
    let (status, back) = operator.post("/v1/listeners/undrain", &which).await;
    assert_eq!((status, &back["drained"]), (200, &json!(false)));
    assert_eq!(back["addresses"], json!([main.to_string()]));
    is_served(main).await;
    let unknown = json!({ "listener": "mian" });
    let (status, answer) = operator.post("/v1/listeners/drain", &unknown).await;
    assert_eq!(status, 404);
    assert!(answer["error"].as_str().unwrap().contains("other, main"));
}

#[tokio::test]
async fn a_listener_whose_address_is_in_use_meanwhile_stays_drained() {
    let echo = Echo::start("echo").await;
    let main = free_address();
    let config = simple(&[echo.address]).replace("127.0.0.1:0", &main.to_string());
    let (_proxy, operator) = Operator::start(&config).await;
    let which = json!({ "listener": "main" });
    assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
    let taken = std::net::TcpListener::bind(main).unwrap();
    let (status, answer) = operator.post("/v1/listeners/undrain", &which).await;
    let error = answer["error"].as_str().unwrap();
    assert_eq!(status, 409);
    assert!(
        error.starts_with("it stays drained: listener `main`"),
        "{error}"
    );
    assert_eq!(operator.get("/v1/listeners").await[0]["drained"], true);
    drop(taken);
    assert_eq!(operator.post("/v1/listeners/undrain", &which).await.0, 200);
}

/// Open connections count towards the limits, and the file of a Unix socket is removed and created again.
#[tokio::test]
async fn an_undrained_listener_has_its_limits_and_its_files() {
    let echo = Echo::start("echo").await;
    let folder = tempfile::TempDir::new().unwrap();
    crate::harness::operator::write_token(folder.path());
    let socket = folder.path().join("in.sock");
    let config = simple(&[echo.address])
        .replace("127.0.0.1:0", &format!("unix:{}", socket.display()))
        .replace("[[route]]", "limits.connections = 1\n[[route]]");
    let proxy = Proxy::start_in(folder, &[ADMIN, &config].concat()).await;
    let operator = Operator::of(&proxy).await;
    let mut held = proxy.connect_unix("in.sock").await;
    held.send(HANDSHAKE).await;
    assert_eq!(held.head().await.status(), 101);
    let which = json!({ "listener": "main" });
    assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
    assert!(!socket.exists());
    assert_eq!(operator.post("/v1/listeners/undrain", &which).await.0, 200);
    let mut refused = proxy.connect_unix("in.sock").await;
    assert!(!refused.can_send(HANDSHAKE.as_bytes()) || refused.head_or_end().await.is_none());
    drop(held);
    proxy.logged("tunnel ended").await;
    // Its slot is free a moment later.
    let served = async {
        loop {
            let mut client = proxy.connect_unix("in.sock").await;
            if client.can_send(HANDSHAKE.as_bytes())
                && client
                    .head_or_end()
                    .await
                    .is_some_and(|it| it.status() == 101)
            {
                break;
            }
        }
    };
    within("a place", served).await;
}

#[tokio::test]
async fn the_drain_of_a_listener_that_a_reload_removes_is_forgotten() {
    let echo = Echo::start("echo").await;
    let config = METRICS.replace("[admin]\n", ADMIN) + &simple(&[echo.address]);
    let folder = tempfile::TempDir::new().unwrap();
    crate::harness::operator::write_token(folder.path());
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    assert_eq!(get(&proxy, "/readyz", "").await.0.status(), 200);
    let which = json!({ "listener": "main" });
    assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
    let (head, body) = get(&proxy, "/readyz", "").await;
    assert_eq!(
        (head.status(), &*body),
        (503, "every listener is drained\n")
    );
    let asked = json!({ "url": "ws://a.example/", "listener": "main" });
    let (status, answer) = operator.post("/v1/explain", &asked).await;
    assert_eq!(status, 409, "{answer}");
    let drained = Scrape::of(&proxy).await;
    assert_eq!(
        drained.sum("tidegate_listener_drained", &["listener=\"main\""]),
        1.0
    );
    let other = config.replace("listener.main", "listener.other");
    proxy.reload(&other).await;
    proxy.reload(&config).await;
    assert_eq!(operator.get("/v1/listeners").await[0]["drained"], false);
    proxy.tunnel().await;
}

#[tokio::test]
async fn tunnels_of_a_removed_endpoint_are_closed_over_the_configured_time() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let rest = "on_removed = { action = \"drain\", over = \"2s\", order = \"random\" }\n";
    let (proxy, _operator) = Operator::start(&(simple(&[one.address]) + rest)).await;
    let held = tunnels(&proxy, 10).await;
    proxy
        .reload(&(ADMIN.to_owned() + &simple(&[other.address]) + rest))
        .await;
    let payloads = join_all(held.into_iter().map(|client| goodbye(client, 2 + 2 + 16))).await;
    for payload in payloads {
        assert_eq!(Some(payload), close(1012, "endpoint-removed"));
    }
    until("all to be gone", || one.open() == 0).await;
    // New tunnels go to the remaining endpoint.
    let _back = proxy.tunnel().await;
    assert_eq!(other.open(), 1);
}

/// The tunnels of an endpoint that has failed its checks are closed at a pace, and those that are left
/// stay if it comes back in time.
#[tokio::test]
async fn tunnels_of_a_down_endpoint_are_closed_at_a_pace_until_it_is_back() {
    let endpoints = [
        FaultyEndpoint::start(Reaction::Answer(200), Reaction::Echo).await,
        FaultyEndpoint::start(Reaction::Answer(200), Reaction::Echo).await,
    ];
    let addresses = endpoints.each_ref().map(|each| each.address);
    // The first tunnel is closed at once, the next a minute later.
    let rest = "on_down = { action = \"drain\", rate = \"1/m\" }\n\
        health = { http = { path = \"/health\" }, interval = \"100ms\", fall = 2, rise = 1 }\n";
    let (proxy, operator) = Operator::start(&(simple(&addresses) + rest)).await;
    let held = tunnels(&proxy, 6).await;
    endpoints[0].checks(Reaction::Answer(500));
    let begun = proxy.logged("closing the tunnels of an endpoint").await;
    assert_eq!(
        (&begun["reason"], &begun["tunnels"]),
        (&json!("endpoint-down"), &json!(3))
    );
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "endpoint-down");
    assert_eq!(ended["endpoint"], addresses[0].to_string());
    endpoints[0].checks(Reaction::Answer(200));
    let finished = proxy.logged("close job finished").await;
    assert_eq!(
        (&finished["tunnels"], &finished["closed"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(operator.get("/v1/status").await["tunnels"], 5);
    drop(held);
}

#[tokio::test]
async fn tunnels_stay_unless_the_configuration_closes_them() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let rest = "on_drain = { action = \"close\" }\n";
    let (proxy, operator) = Operator::start(&(simple(&[one.address]) + rest)).await;
    let mut held = tunnels(&proxy, 3).await;
    // There is no `on_removed`, and an upstream that is removed as a whole has none any more.
    let elsewhere = ADMIN.to_owned()
        + &simple(&[other.address])
            .replace("main]", "next]")
            .replace("upstream = \"main\"", "upstream = \"next\"")
            .replace("[listener.next]", "[listener.main]");
    proxy.reload(&elsewhere).await;
    // Longer than two evaluations of what to evict.
    crate::harness::quiet_for(2500, proxy.logged("tunnel ended")).await;
    assert_eq!(operator.get("/v1/status").await["tunnels"], 3);
    for wire in &mut held {
        wire.send(frame(0x81, Some([0; 4]), b"still")).await;
        wire.at_least(7).await;
    }
}
