//! Upgrades: open tunnels stay with the old process, and new connections go to the new one.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Echo;
use crate::harness::frames::{close, close_payload, frame};
use crate::harness::operator::{Operator, upgradable};
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::talking_clients::TalkingClients;
use crate::harness::wire::HANDSHAKE;
use crate::harness::{free_address, quiet_for, until, within};

/// Upgrades through the admin interface.
async fn upgrade(operator: &Operator) -> Value {
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A configuration with these settings of upgrades.
fn with(upgrade: &str, rest: &str) -> String {
    let server = format!("upgrade = {{ settle = \"200ms\", {upgrade} }}");
    upgradable(&server, rest)
}

#[tokio::test]
async fn live_tunnels_stay_and_new_ones_go_to_the_new_process() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let config = simple(&[one.address, two.address]);
    let (mut proxy, operator) = Operator::start_whole(&with("drain = \"off\"", &config)).await;
    let mut old = proxy.tunnel().await;
    let home = one.open();
    let first = proxy.pid();
    let now = upgrade(&operator).await;
    assert_eq!(now["generation"], 2);
    let second = proxy.successor(1).await;
    assert_eq!(now["pid"], second);
    // At the same address, where the old process has stopped accepting.
    let mut new = Vec::new();
    for _ in 0..3 {
        new.push(proxy.tunnel().await);
    }
    old.echoes().await;
    for wire in &mut new {
        wire.echoes().await;
    }
    // Tunnels of the old process count: two on each endpoint.
    assert_eq!((one.open(), two.open()), (2, 2), "{home} before");
    // Listed by the new process at the same admin address.
    let status = operator.get("/v1/status").await;
    assert_eq!(
        (&status["pid"], &status["tunnels"]),
        (&json!(second), &json!(3))
    );
    let generations = status["generations"].as_array().unwrap();
    assert_eq!(generations.len(), 2);
    assert_eq!(generations[1]["pid"], first);
    let listed = operator.get("/v1/tunnels?generation=1").await;
    assert_eq!(listed["tunnels"].as_array().unwrap().len(), 1);
    // The old process exits after its last tunnel.
    drop(old);
    assert_eq!(proxy.exit().await, 0);
    proxy.logged("older generation has exited").await;
    let status = operator.get("/v1/status").await;
    assert_eq!(status["generations"].as_array().unwrap().len(), 1);
    for wire in &mut new {
        wire.echoes().await;
    }
    // Its tunnels do not count any more.
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    let older: u64 = endpoints
        .iter()
        .map(|it| it["in_flight_older"].as_u64().unwrap())
        .sum();
    assert_eq!(older, 0);
    kill(second, Signal::TERM);
    proxy.logged_times("draining", 1).await;
    drop(new);
    proxy.logged_times("stopped", 2).await;
}

/// Clients talk over TLS and others arrive all the time, before, during and after an upgrade: no
/// tunnel is dropped and no client is refused.
#[tokio::test]
async fn an_upgrade_under_load_loses_and_refuses_nothing() {
    const TUNNELS: usize = 200;
    let (authority, folder) = Authority::with_certificate();
    crate::harness::operator::write_token(folder.path());
    let echo = Echo::start("echo").await;
    let tls = "[listener.main.tls]\n\
        certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = with("drain = \"off\"", &simple(&[echo.address])) + tls;
    let mut proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let mut crowd = TalkingClients::new(authority.client());
    crowd.join(proxy.address(), TUNNELS);
    crowd.all_open().await;
    let upgraded = tokio::spawn(async move { upgrade(&operator).await });
    let mut arrivals = 0;
    while !upgraded.is_finished() || arrivals < TUNNELS {
        crowd.join(proxy.address(), 5);
        arrivals += 5;
        let before = crowd.messages();
        until("traffic to go on", || crowd.messages() >= before + TUNNELS).await;
    }
    assert_eq!(upgraded.await.unwrap()["generation"], 2);
    crowd.all_open().await;
    let served = crowd.messages();
    until("traffic to go on", || {
        crowd.messages() >= served + 3 * TUNNELS
    })
    .await;
    assert!(
        proxy.log().events("tunnel ended").is_empty(),
        "{}",
        proxy.log().text()
    );
    let all = crowd.leave().await;
    assert_eq!(proxy.logged_times("tunnel ended", all).await.len(), all);
    assert!(proxy.log().events("rejected").is_empty());
    assert_eq!(echo.served(), all);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn the_old_process_closes_its_tunnels_at_its_pace() {
    let echo = Echo::start("echo").await;
    let (mut proxy, _operator) =
        Operator::start_whole(&with("drain = \"2s\"", &simple(&[echo.address]))).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(proxy.tunnel().await);
    }
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    for mut client in held {
        let bytes = client.exactly(2 + 2 + 8).await;
        assert_eq!(close_payload(&bytes), close(1012, "shutdown"));
        client
            .send(frame(0x88, Some([0; 4]), &1012_u16.to_be_bytes()))
            .await;
        client.closed().await;
    }
    assert_eq!(proxy.exit().await, 0);
    let mut back = proxy.tunnel().await;
    back.echoes().await;
}

/// A connection that the old process has accepted still has the usual time for its request.
#[tokio::test]
async fn a_connection_accepted_before_an_upgrade_is_served_after_it() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) =
        Operator::start_whole(&with("drain = \"off\"", &simple(&[echo.address]))).await;
    let mut slow = proxy.connect().await;
    within("the connection to be accepted", async {
        while operator.get("/v1/status").await["connections"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    upgrade(&operator).await;
    proxy.successor(1).await;
    // Longer than a stopping process would wait.
    quiet_for(1500, slow.has_more()).await;
    slow.send(HANDSHAKE).await;
    assert_eq!(slow.head().await.status(), 101);
    slow.echoes().await;
    drop(slow);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn a_failed_upgrade_leaves_the_old_process_as_it_was() {
    let echo = Echo::start("echo").await;
    let config = with("drain = \"off\"", &simple(&[echo.address]));
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    let mut tunnel = proxy.tunnel().await;
    // An invalid configuration.
    proxy.rewrite(&config.replace("[[route]]", "[[rout]]"));
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 409);
    let details = answer["details"].to_string();
    assert!(details.contains("unknown key `rout`"), "{answer}");
    // A program that cannot be run.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let other = format!("[listener.other]\nbind = [\"{address}\"]\n[[route]]");
    proxy.rewrite(&config.replacen("[[route]]", &other, 1));
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 409);
    let details = answer["details"].to_string();
    assert!(
        details.contains("listener `other`: cannot listen on"),
        "{answer}"
    );
    proxy.rewrite(&config);
    // The program cannot be chosen over TCP.
    let (status, _) = operator
        .post("/v1/upgrade", &json!({ "binary": "/bin/true" }))
        .await;
    assert_eq!(status, 400);
    tunnel.echoes().await;
    proxy.tunnel().await.echoes().await;
    assert_eq!(operator.get("/v1/status").await["generation"], 1);
    // A valid upgrade after these succeeds.
    upgrade(&operator).await;
    proxy.successor(1).await;
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn a_program_that_is_not_tidegate_takes_nothing_over() {
    let echo = Echo::start("echo").await;
    let folder = TempDir::new().unwrap();
    let admin = folder.path().join("admin.sock");
    let address = format!("unix:{}", admin.display());
    let config = format!("[admin]\nbind = \"{address}\"\n{}", simple(&[echo.address]));
    let mut proxy = Proxy::start_in(folder, &config).await;
    let upgrade = async |binary: &str| {
        crate::harness::operator::command(&["upgrade", binary], &address, None).await
    };
    for (binary, expected) in [
        (
            "/nonexistent/tidegate",
            "cannot run `/nonexistent/tidegate`",
        ),
        ("/bin/true", "no response from the new process"),
    ] {
        let printed = upgrade(binary).await;
        assert_eq!(printed.code, 7, "{printed:?}");
        assert!(printed.err.contains(expected), "{printed:?}");
    }
    // A tidegate that cannot start does not delete the socket of the process that serves there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!(
        "[listener.other]\nbind = [\"{}\"]\n[[route]]",
        taken.local_addr().unwrap()
    );
    proxy.rewrite(&config.replacen("[[route]]", &other, 1));
    let printed = upgrade(env!("CARGO_BIN_EXE_tidegate")).await;
    assert_eq!(printed.code, 7, "{printed:?}");
    assert!(printed.err.contains("cannot listen on"), "{printed:?}");
    assert!(admin.exists());
    proxy.rewrite(&config);
    proxy.tunnel().await.echoes().await;
    // The socket file outlives the process that created it.
    let printed = upgrade(env!("CARGO_BIN_EXE_tidegate")).await;
    assert!(
        printed.out.starts_with("generation 2 (tidegate "),
        "{printed:?}"
    );
    proxy.successor(1).await;
    assert_eq!(proxy.exit().await, 0);
    let printed = crate::harness::operator::command(&["status"], &address, None).await;
    assert_eq!(printed.code, 0, "{printed:?}");
}

/// What commands print as JSON has the older generations, too: here two of them with a tunnel each.
async fn in_json(operator: &Operator, endpoint: SocketAddr) {
    let endpoint = endpoint.to_string();
    let drain = ["drain", &endpoint, "--json"];
    let undrain = ["undrain", &endpoint, "--json"];
    let cases: [(&[&str], &str, Value); 4] = [
        (&["close", "--all", "--json"], "/matched", json!(1)),
        (
            &["tunnels", "--json"],
            "/tunnels/0/endpoint",
            json!(endpoint),
        ),
        (&drain, "/endpoint/state", json!("drained")),
        (&undrain, "/endpoint/state", json!("up")),
    ];
    for (words, pointer, expected) in cases {
        let printed = operator.run(words).await;
        let printed: Value = serde_json::from_str(&printed.out).unwrap();
        assert_eq!(printed.pointer(pointer), Some(&expected), "{printed:#}");
        let older = printed["older_generations"].as_array().unwrap();
        let numbers: Vec<&Value> = older.iter().map(|it| &it["generation"]).collect();
        assert_eq!(numbers, [2, 1], "{printed:#}");
        for older in older {
            assert_eq!(older.pointer(pointer), Some(&expected), "{printed:#}");
        }
        let one = operator
            .run(&[words, &["--generation", "1"]].concat())
            .await;
        let one: Value = serde_json::from_str(&one.out).unwrap();
        assert_eq!(one.pointer(pointer), Some(&expected), "{one:#}");
        assert_eq!(one.get("older_generations"), None);
    }
}

/// The process that the operator has reached writes the line, not the one that closes the tunnel.
#[tokio::test]
async fn a_change_in_an_older_generation_has_one_audit_line() {
    let echo = Echo::start("echo").await;
    let config = with("drain = \"off\"", &simple(&[echo.address]));
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    let _held = proxy.tunnel().await;
    upgrade(&operator).await;
    proxy.successor(1).await;
    let (status, _) = operator.post("/v1/reload?generation=1", &json!({})).await;
    assert_eq!(status, 409);
    let path = "/v1/tunnels/close?generation=1";
    let (status, closed) = operator.post(path, &json!({ "all": true })).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)), "{closed}");
    let failed = proxy.logged("audit: not carried out").await;
    let done = proxy.logged_times("audit: carried out", 2).await;
    for (line, operation, generation, status, affected) in [
        (&done[0], "POST /v1/upgrade", None, 200, None),
        (&failed, "POST /v1/reload", Some(1), 409, None),
        (&done[1], "POST /v1/tunnels/close", Some(1), 200, Some(1)),
    ] {
        assert_eq!(
            (&line["operator"], &line["operation"]),
            (&json!("token_file"), &json!(operation))
        );
        let numbers = (
            line["generation"].as_u64(),
            line["status"].as_u64(),
            line["affected"].as_u64(),
        );
        assert_eq!(numbers, (generation, Some(status), affected), "{line}");
    }
    assert_eq!(proxy.log().text().matches("audit: ").count(), 3);
    proxy.died().await;
}

#[tokio::test]
async fn older_generations_are_listed_and_managed_through_the_serving_one() {
    let echo = Echo::start("echo").await;
    let config = with(
        "drain = \"off\", max_generations = 3",
        &simple(&[echo.address]),
    );
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    let mut tunnels = Vec::new();
    for generation in 1..=3 {
        tunnels.push(proxy.tunnel().await);
        if generation < 3 {
            upgrade(&operator).await;
            proxy.successor(generation).await;
        }
    }
    // No more than that.
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 409);
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("generation 1 is still draining"), "{error}");
    let printed = operator.run(&["status"]).await;
    for line in [
        "this is generation 3; older generations still drain:",
        "  generation 2: process",
        "  generation 1: process",
    ] {
        assert!(printed.out.contains(line), "{}", printed.out);
    }
    // Older generations refuse operations of the serving one.
    let (status, _) = operator.post("/v1/reload?generation=1", &json!({})).await;
    assert_eq!(status, 409);
    let (status, _) = operator.post("/v1/reload?generation=4", &json!({})).await;
    assert_eq!(status, 404);
    // Listing and closing apply to tunnels of all generations, unless one is named.
    let printed = operator.run(&["close", "--all"]).await;
    let would = "would close 1 tunnel with 1012; add --yes to close it\n";
    let expected = format!(
        "generation 3:\n{would}generation 2 (draining):\n{would}generation 1 (draining):\n{would}"
    );
    assert_eq!(printed.out, expected);
    let printed = operator.run(&["tunnels"]).await;
    assert_eq!(
        printed.out.matches("127.0.0.1").count(),
        6,
        "{}",
        printed.out
    );
    in_json(&operator, echo.address).await;
    let close = ["close", "--generation", "1", "--all", "--yes"];
    let printed = operator.run(&close).await;
    assert_eq!(printed.out, "closed 1 of 1 tunnel with 1012\n");
    let mut first = tunnels.remove(0);
    let payload = close_payload(&first.exactly(2 + 2 + 5).await).unwrap();
    first.send(frame(0x88, Some([0; 4]), &payload[..2])).await;
    assert_eq!(proxy.exit().await, 0);
    for wire in &mut tunnels {
        wire.echoes().await;
    }
    // Its slot is free again.
    until("generation 1 to be gone", || {
        !proxy.log().events("older generation has exited").is_empty()
    })
    .await;
    upgrade(&operator).await;
    proxy.successor(3).await;
    for wire in &mut tunnels {
        wire.echoes().await;
    }
    let status = operator.get("/v1/status").await;
    assert_eq!(status["generations"].as_array().unwrap().len(), 3);
}

/// Its tunnels keep the names of the configuration that they were opened with.
#[tokio::test]
async fn a_name_that_only_an_older_generation_knows_selects_its_tunnels() {
    let echo = Echo::start("echo").await;
    let config = with("drain = \"off\"", &simple(&[echo.address]));
    let (proxy, operator) = Operator::start_whole(&config).await;
    let mut old = proxy.tunnel().await;
    proxy.rewrite(&config.replace("name = \"main\"", "name = \"renamed\""));
    upgrade(&operator).await;
    proxy.successor(1).await;
    let printed = operator
        .run(&["close", "--route", "neither", "--yes"])
        .await;
    assert_eq!((&*printed.out, printed.code), ("", 7));
    let printed = operator.run(&["close", "--route", "main", "--yes"]).await;
    let expected = "generation 2:\n\
                    error: there is no route `main`; known: renamed\n\
                    generation 1 (draining):\n\
                    closed 1 of 1 tunnel with 1012\n";
    assert_eq!((&*printed.out, printed.code), (expected, 0));
    let bytes = old.exactly(2 + 2 + 5).await;
    assert_eq!(close_payload(&bytes), close(1012, "drain"));
}

#[tokio::test]
async fn a_stop_of_the_old_process_is_its_own() {
    let echo = Echo::start("echo").await;
    let config = with("drain = \"off\"", &simple(&[echo.address]));
    let config = config.replace("[server]", "[server]\nshutdown = { grace = \"1s\" }");
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    let mut old = proxy.tunnel().await;
    upgrade(&operator).await;
    proxy.successor(1).await;
    let mut new = proxy.tunnel().await;
    proxy.signal(Signal::TERM);
    assert_eq!(
        close_payload(&old.exactly(2 + 2 + 8).await),
        close(1012, "shutdown")
    );
    assert_eq!(proxy.exit().await, 0);
    new.echoes().await;
    proxy.tunnel().await.echoes().await;
}

/// A Unix socket is shared by all workers, and its file must not be deleted with the old process.
#[tokio::test]
async fn clients_of_a_unix_socket_are_served_during_an_upgrade() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("in.sock");
    let bind = format!("unix:{}", path.display());
    let config = simple(&[echo.address]).replace("127.0.0.1:0", &bind);
    let mut proxy = Proxy::spawn(Arc::clone(&folder), &config, |_| {});
    proxy.logged("ready").await;
    let served = async {
        for _ in 0..2 {
            let before = proxy.successors().len();
            kill(proxy.serving(), Signal::USR2);
            while proxy.log().events("handover complete").len() == before {
                let mut client = proxy.connect_unix("in.sock").await;
                client.send(HANDSHAKE).await;
                assert_eq!(client.head().await.status(), 101);
                client.echoes().await;
            }
            proxy.successor(before + 1).await;
            let left = "older generation has exited";
            proxy.logged_times(left, before + 1).await;
        }
    };
    within("two upgrades", served).await;
    assert_eq!(proxy.exit().await, 0);
    assert!(path.exists());
}

/// The tunnels of the old process at an endpoint that returns later have ended by then.
#[tokio::test]
async fn an_endpoint_that_returns_after_an_upgrade_has_no_load_left_over() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let config = |endpoints: &[SocketAddr]| with("drain = \"off\"", &simple(endpoints));
    let (mut proxy, operator) = Operator::start_whole(&config(&[one.address])).await;
    let tunnel = proxy.tunnel().await;
    proxy.rewrite(&config(&[two.address]));
    upgrade(&operator).await;
    let now = proxy.successor(1).await;
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
    proxy.logged("older generation has exited").await;
    proxy.rewrite(&config(&[one.address, two.address]));
    kill(now, Signal::HUP);
    proxy.logged("configuration reloaded").await;
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    assert!(
        endpoints.iter().all(|it| it["in_flight"] == 0),
        "{upstreams}"
    );
}

#[tokio::test]
async fn a_drained_listener_stays_drained_after_an_upgrade() {
    let echo = Echo::start("echo").await;
    let main = free_address();
    let rest = simple(&[echo.address]).replace("127.0.0.1:0", &main.to_string());
    let (proxy, operator) = Operator::start_whole(&with("drain = \"off\"", &rest)).await;
    let which = json!({ "listener": "main" });
    assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
    upgrade(&operator).await;
    proxy.successor(1).await;
    assert_eq!(operator.get("/v1/listeners").await[0]["drained"], true);
    assert!(tokio::net::TcpStream::connect(main).await.is_err());
    assert_eq!(operator.post("/v1/listeners/undrain", &which).await.0, 200);
    proxy.tunnel().await;
}

/// Such a change would be lost, because the state of endpoints is already on its way.
#[tokio::test]
async fn endpoints_cannot_be_changed_while_they_are_handed_over() {
    let echo = Echo::start("echo").await;
    let config = with("drain = \"off\"", &simple(&[echo.address]));
    let (proxy, operator) = Operator::start_whole(&config).await;
    // The new process waits for this lookup for a while.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap();
    proxy.rewrite(&format!(
        "{config}[upstream.named]\ndns = {{ name = \"chat.test\", port = 1, server = \"{server}\" }}\n"
    ));
    proxy.signal(Signal::USR2);
    within("a query", silent.recv_from(&mut [0; 512]))
        .await
        .unwrap();
    let which = json!({ "endpoint": echo.address.to_string() });
    let (status, answer) = operator.post("/v1/endpoints/drain", &which).await;
    assert_eq!(status, 503, "{answer}");
    proxy.successor(1).await;
    assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    let upstreams = operator.get("/v1/upstreams").await;
    let main = upstreams.as_array().unwrap().iter();
    let main = main.clone().find(|it| it["name"] == "main").unwrap();
    assert_eq!(main["endpoints"][0]["state"], "drained");
}

/// Endpoints out of rotation stay out, so that no client has to find out again.
#[tokio::test]
async fn the_state_of_endpoints_survives_an_upgrade() {
    let good = Echo::start("good").await;
    let drained = Echo::start("drained").await;
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = refusing.local_addr().unwrap();
    drop(refusing);
    let ejection =
        "ejection = { failures = 2, window = \"10m\", base = \"10m\", ceiling = \"10m\" }\n";
    let rest = simple(&[good.address, drained.address, refused])
        .replace("endpoints", "balance = \"round_robin\"\nendpoints")
        + ejection;
    let (proxy, operator) = Operator::start_whole(&with("drain = \"off\"", &rest)).await;
    let which = json!({ "endpoint": drained.address.to_string() });
    assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    let mut held = Vec::new();
    while proxy.log().events("endpoint ejected").is_empty() {
        held.push(proxy.tunnel().await);
    }
    let weigh = json!({ "endpoint": good.address.to_string(), "weight": 7 });
    assert_eq!(operator.post("/v1/endpoints/weight", &weigh).await.0, 200);
    upgrade(&operator).await;
    proxy.successor(1).await;
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    let states: Vec<_> = endpoints
        .iter()
        .map(|it| it["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["up", "drained", "ejected"]);
    let back = endpoints[2]["back_in_seconds"].as_u64().unwrap();
    assert!((400..=600).contains(&back), "{back}");
    assert_eq!(endpoints[2]["why"], "connections fail");
    assert_eq!(endpoints[0]["weight"], 7);
    assert_eq!(endpoints[0]["in_flight_older"], held.len());
    // Undrained through the new process, it serves again.
    assert_eq!(operator.post("/v1/endpoints/undrain", &which).await.0, 200);
    let weigh = json!({ "endpoint": good.address.to_string() });
    assert_eq!(operator.post("/v1/endpoints/weight", &weigh).await.0, 200);
    held.push(proxy.tunnel().await);
    held.push(proxy.tunnel().await);
    assert_eq!(drained.open(), 1);
}
