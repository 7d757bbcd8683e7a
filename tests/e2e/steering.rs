//! Operations that change a running process.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::certificates::Authority;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::{close, close_payload, frame};
use crate::harness::operator::{ADMIN, Operator, TOKEN, write_token};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::Wire;
use crate::harness::{until, within};

#[tokio::test]
async fn a_tunnel_is_closed_with_the_given_code_and_reason() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    proxy.logged("tunnel opened").await;
    let id = operator.get("/v1/tunnels").await["tunnels"][0]["id"].clone();
    let (_other, _) = proxy.tunnel_to(&endpoint).await;
    proxy.logged_times("tunnel opened", 2).await;

    let path = "/v1/tunnels/close";
    let by_endpoint = json!({ "endpoint": endpoint.address.to_string() });
    let dry = json!({ "filter": by_endpoint, "dry_run": true });
    let (status, counted) = operator.post(path, &dry).await;
    assert_eq!(
        (status, &counted["matched"], &counted["closed"]),
        (200, &json!(2), &json!(0))
    );

    let asked = json!({ "filter": { "id": id }, "code": 4001, "reason": "maintenance" });
    let (status, closed) = operator.post(path, &asked).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)));
    // Both ends get a Close; that of the endpoint always has the code 1001.
    assert_eq!(
        close_payload(&client.exactly(15).await),
        close(4001, "maintenance")
    );
    client
        .send(frame(0x88, Some([0; 4]), &4001_u16.to_be_bytes()))
        .await;
    assert_eq!(
        close_payload(&served.rest().await.0),
        close(1001, "maintenance")
    );
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(
        (&ended["reason"], &ended["session"]),
        (&json!("killed"), &id)
    );
    let left = operator.get("/v1/tunnels").await;
    assert_eq!(left["tunnels"].as_array().unwrap().len(), 1);
    assert_ne!(left["tunnels"][0]["id"], id);
    // A second request finds no such tunnel.
    assert_eq!(operator.post(path, &asked).await.1["matched"], 0);
}

/// 1012 invites clients to come back, 1008 does not.
#[tokio::test]
async fn a_client_is_closed_for_good_and_all_others_are_to_come_back() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let endpoint = json!(echo.address);
    for (number, (filter, code)) in [
        (json!({ "client": "127.0.0.0/8" }), 1008),
        (json!({ "client": "127.0.0.1", "route": "main" }), 1008),
        (json!({ "id": null }), 1008),
        (json!({ "endpoint": endpoint }), 1012),
        (json!({ "route": "main" }), 1012),
        (
            json!({ "listener": "main", "host": "chat.example.com" }),
            1012,
        ),
        (json!({ "upstream": "main", "older_than": "0s" }), 1012),
        (json!({ "client": "0.0.0.0/0" }), 1012),
        (json!({}), 1012),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = proxy.tunnel().await;
        let opened = proxy.logged_times("tunnel opened", number + 1).await;
        let mut asked = json!({ "filter": filter, "all": true });
        if filter.get("id").is_some() {
            asked["filter"]["id"] = opened[number]["session"].clone();
        }
        let (status, closed) = operator.post("/v1/tunnels/close", &asked).await;
        assert_eq!((status, &closed["code"]), (200, &json!(code)), "{asked}");
        let reason = if code == 1012 { "drain" } else { "killed" };
        let payload = close_payload(&client.exactly(4 + reason.len()).await);
        assert_eq!(payload, close(code, reason), "{asked}");
    }
    let printed = operator.run(&["close", "--client", "127.0.0.1"]).await;
    let expected = "would close 0 tunnels with 1008; add --yes to close them\n";
    assert_eq!(printed.out, expected);
}

#[tokio::test]
async fn tunnels_are_closed_at_a_pace_and_status_shows_the_progress() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 30).await;
    let asked = json!({ "all": true, "per_second": 100.0 });
    let (status, begun) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!(
        (status, &begun["matched"], &begun["job"]["tunnels"]),
        (200, &json!(30), &json!(30))
    );
    for wire in &mut held {
        assert_eq!(close_payload(&wire.rest().await.0), close(1012, "drain"));
    }
    let done = proxy.logged("close job finished").await;
    assert_eq!(
        (&done["tunnels"], &done["closed"]),
        (&json!(30), &json!(30))
    );
    assert_eq!(operator.get("/v1/status").await["jobs"], json!([]));
}

#[tokio::test]
async fn a_pace_is_kept_and_can_be_stopped() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    // The oldest tunnel first: this one.
    let (mut first, _first_end) = proxy.tunnel_to(&endpoint).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(proxy.tunnel_to(&endpoint).await);
    }
    proxy.logged_times("tunnel opened", 6).await;
    let asked = json!({ "all": true, "per_second": 0.1 });
    let (_, begun) = operator.post("/v1/tunnels/close", &asked).await;
    let job = begun["job"]["job"].clone();
    assert_eq!(close_payload(&first.exactly(9).await), close(1012, "drain"));
    // The client may know before the job does.
    within("the progress of the job", async {
        let mut progress = Value::Null;
        while progress["done"] != 1 {
            progress = operator.get("/v1/status").await["jobs"][0].take();
            assert_eq!(progress["tunnels"], 6);
        }
    })
    .await;
    let (status, stopped) = operator
        .post("/v1/tunnels/close/stop", &json!({ "job": job }))
        .await;
    assert_eq!((status, &stopped["closed"]), (200, &json!(1)));
    proxy.logged("close job finished").await;
    assert_eq!(
        operator
            .post("/v1/tunnels/close/stop", &json!({ "job": job }))
            .await
            .0,
        404
    );
    // The others carry on.
    for (client, served) in &mut others {
        client.send("still").await;
        assert_eq!(served.exactly(5).await, b"still");
    }
}

#[tokio::test]
async fn an_unknown_name_is_an_error() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    for (name, value) in [
        ("route", "mian"),
        ("upstream", "mian"),
        ("listener", "mian"),
        ("endpoint", "127.0.0.1:1"),
    ] {
        let asked = json!({ "filter": { name: value } });
        let (status, answer) = operator.post("/v1/tunnels/close", &asked).await;
        assert_eq!(status, 404, "{answer}");
    }
    let asked = json!({ "filter": { "route": "main" } });
    assert_eq!(operator.post("/v1/tunnels/close", &asked).await.0, 200);
}

#[tokio::test]
async fn a_mistaken_close_request_closes_nothing() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let _held = proxy.tunnel().await;
    for wrong in [
        json!({}),
        json!({ "filter": {} }),
        json!({ "filter": { "upsteam": "main" } }),
        json!({ "all": true, "code": 1005 }),
        json!({ "all": true, "code": 999 }),
        json!({ "all": true, "reason": "x".repeat(124) }),
        json!({ "all": true, "per_second": 0 }),
        json!({ "filter": { "client": "0.0.0.0/0" } }),
        json!({ "filter": { "older_than": "0s" } }),
        json!({ "all": "yes" }),
        json!([]),
    ] {
        let (status, answer) = operator.post("/v1/tunnels/close", &wrong).await;
        assert_eq!(status, 400, "{wrong}: {answer}");
        assert!(answer["error"].is_string(), "{answer}");
    }
    let address = operator.address();
    for path in [
        "/v1/tunnels?upsteam=main",
        "/v1/tunnels?limit=0",
        "/v1/tunnels?limit=5&limit=6",
        "/v1/status?x=1",
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        );
        let (head, answer) = operator.raw(&request).await;
        assert_eq!(head.status(), 400, "{path}: {answer}");
    }
    assert_eq!(
        operator.get("/v1/tunnels").await["tunnels"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_drained_endpoint_keeps_its_tunnels_and_gets_no_new_ones() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let config = simple(&[one.address, other.address]);
    let (proxy, operator) = Operator::start(&config).await;
    let mut held = vec![proxy.tunnel().await, proxy.tunnel().await];
    until("a tunnel for each", || (one.open(), other.open()) == (1, 1)).await;
    let which = json!({ "endpoint": one.address.to_string() });
    let (status, drained) = operator.post("/v1/endpoints/drain", &which).await;
    assert_eq!(
        (status, &drained["endpoint"]["state"]),
        (200, &json!("drained"))
    );
    for _ in 0..6 {
        held.push(proxy.tunnel().await);
    }
    assert_eq!((one.open(), other.open()), (1, 7));
    // The drain outlives a reload.
    proxy
        .reload(&(ADMIN.to_owned() + &config + "tries = 1\n"))
        .await;
    held.push(proxy.tunnel().await);
    assert_eq!((one.open(), other.open()), (1, 8));
    let (status, back) = operator.post("/v1/endpoints/undrain", &which).await;
    assert_eq!((status, &back["endpoint"]["state"]), (200, &json!("up")));
    for _ in 0..5 {
        held.push(proxy.tunnel().await);
    }
    assert_eq!((one.open(), other.open()), (6, 8));
    let unknown = json!({ "endpoint": "127.0.0.1:1" });
    assert_eq!(operator.post("/v1/endpoints/drain", &unknown).await.0, 404);
}

#[tokio::test]
async fn an_endpoint_stays_drained_across_its_removal_and_return() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let both = simple(&[one.address, other.address]);
    let (proxy, operator) = Operator::start(&both).await;
    let which = json!({ "endpoint": one.address.to_string() });
    assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    proxy
        .reload(&(ADMIN.to_owned() + &simple(&[other.address])))
        .await;
    proxy.reload(&(ADMIN.to_owned() + &both)).await;
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["state"], "drained");
    let _held = (proxy.tunnel().await, proxy.tunnel().await);
    assert_eq!((one.open(), other.open()), (0, 2));
}

#[tokio::test]
async fn an_operator_cannot_undrain_what_the_configuration_drains() {
    let echo = Echo::start("echo").await;
    let address = echo.address;
    let list = format!("[{{ address = \"{address}\", drain = true }}]");
    let config = simple(&[]).replace("endpoints = []", &format!("endpoints = {list}"));
    let (_proxy, operator) = Operator::start(&config).await;
    let which = json!({ "endpoint": address.to_string() });
    let (status, answer) = operator.post("/v1/endpoints/undrain", &which).await;
    assert_eq!(status, 409, "{answer}");
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["state"], "drained-by-config");
}

#[tokio::test]
async fn a_weight_holds_until_the_next_reload() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let config = simple(&[one.address, other.address]);
    let (proxy, operator) = Operator::start(&config).await;
    let weigh = json!({ "endpoint": one.address.to_string(), "weight": 3 });
    let (status, weighed) = operator.post("/v1/endpoints/weight", &weigh).await;
    assert_eq!((status, &weighed["endpoint"]["weight"]), (200, &json!(3)));
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(proxy.tunnel().await);
    }
    assert_eq!((one.open(), other.open()), (6, 2));
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoint = &upstreams[0]["endpoints"][0];
    assert_eq!(
        (&endpoint["weight"], &endpoint["weight_overridden"]),
        (&json!(1), &json!(false))
    );
    let heavy = json!({ "endpoint": one.address.to_string(), "weight": 10_001 });
    assert_eq!(operator.post("/v1/endpoints/weight", &heavy).await.0, 400);
}

/// An entry of a plan: the change, and the number of tunnels.
fn planned(plan: &Value, kind: &str, name: &str) -> Option<(String, u64)> {
    let key = if kind == "endpoints" {
        "endpoint"
    } else {
        "name"
    };
    let part = plan[kind]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it[key] == name)?;
    let change = part["change"].as_str().unwrap();
    Some((change.to_owned(), part["tunnels"].as_u64().unwrap()))
}

fn is(change: &str, tunnels: u64) -> Option<(String, u64)> {
    Some((change.to_owned(), tunnels))
}

/// A proxy with three tunnels to each of two endpoints.
async fn with_six(one: &Echo, other: &Echo) -> (Proxy, Operator, Vec<Wire>) {
    let (proxy, operator) = Operator::start(&simple(&[one.address, other.address])).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 6).await;
    (proxy, operator, held)
}

#[tokio::test]
async fn a_plan_shows_the_changes_and_how_many_tunnels_they_affect() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let third = Echo::start("third").await;
    let (proxy, operator, _held) = with_six(&one, &other).await;
    let plan = operator.plan().await;
    assert_eq!(
        (&plan["tunnels"], &plan["displaced"]),
        (&json!(6), &json!(0))
    );
    let new = simple(&[other.address, third.address]).replace("name = \"main\"", "name = \"chat\"");
    proxy.rewrite(&(ADMIN.to_owned() + &new));
    let plan = operator.plan().await;
    let endpoint = |echo: &Echo| planned(&plan, "endpoints", &echo.address.to_string());
    assert_eq!(endpoint(&one), is("removed", 3));
    assert_eq!(endpoint(&other), is("kept", 3));
    assert_eq!(endpoint(&third), is("added", 0));
    assert_eq!(planned(&plan, "routes", "main"), is("removed", 6));
    assert_eq!(planned(&plan, "routes", "chat"), is("added", 0));
    assert_eq!(planned(&plan, "upstreams", "main"), is("changed", 6));
    assert_eq!(plan["displaced"], 6);
    assert!(proxy.log().events("configuration reloaded").is_empty());
}

/// What endpoints receive and what their responses become is part of a route and an upstream like any other key.
#[tokio::test]
async fn a_plan_shows_changes_of_host_prefix_and_cookie() {
    let echo = Echo::start("echo").await;
    let route = |lines: &str| {
        let lines = format!("path_prefix = \"/a\"\nrewrite.strip_prefix = \"/a\"\n{lines}");
        settings(&[echo.address], "", &lines)
    };
    let (proxy, operator) = Operator::start(&route("")).await;
    for (lines, upstream, changed) in [
        ("host = \"chat.internal\"", "", "routes"),
        ("rewrite.restore_prefix = false", "", "routes"),
        ("", "sticky.domain = \"example.com\"", "upstreams"),
        ("", "limits.header_count = 200", "upstreams"),
    ] {
        let new = ADMIN.to_owned() + &route(lines) + upstream;
        proxy.rewrite(&new);
        let plan = operator.plan().await;
        for part in ["routes", "upstreams"] {
            let expected = (part == changed).then(|| ("changed".to_owned(), 0));
            assert_eq!(planned(&plan, part, "main"), expected, "{new}");
        }
    }
}

#[tokio::test]
async fn a_reload_that_would_displace_most_tunnels_needs_confirmation() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let third = Echo::start("third").await;
    let (proxy, operator, mut held) = with_six(&one, &other).await;
    proxy.rewrite(&(ADMIN.to_owned() + &simple(&[third.address])));
    for refused in [json!({}), json!({ "max_displaced": 5 })] {
        let (status, answer) = operator.post("/v1/reload", &refused).await;
        assert_eq!(status, 409, "{answer}");
    }
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"].as_array().unwrap().len(), 2);
    let (status, done) = operator
        .post("/v1/reload", &json!({ "max_displaced": 6 }))
        .await;
    assert_eq!((status, &done["certificates_only"]), (200, &json!(false)));
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoints = upstreams[0]["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0]["endpoint"], third.address.to_string());
    // All six are still open, and the next reload affects none of them.
    assert_eq!(operator.get("/v1/status").await["tunnels"], 6);
    let plan = operator.plan().await;
    assert_eq!(
        (&plan["tunnels"], &plan["displaced"]),
        (&json!(6), &json!(0))
    );
    assert_eq!(
        planned(&plan, "endpoints", &one.address.to_string()),
        is("gone", 3)
    );
    for wire in &mut held {
        wire.send(frame(0x81, Some([0; 4]), b"still")).await;
        wire.at_least(7).await;
    }
}

#[tokio::test]
async fn a_plan_shows_secrets_files_and_changes_that_need_a_restart() {
    let echo = Echo::start("echo").await;
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    std::fs::write(folder.path().join("sticky.key"), "1".repeat(64)).unwrap();
    let config = |key: &str, server: &str| {
        let route = format!("headers = {{ x-key = \"{key}\" }}");
        let sticky = "sticky = { secret_file = \"sticky.key\" }\n";
        let server = format!("[server]\nlog.format = \"json\"\n{server}\n");
        [
            &server,
            ADMIN,
            &settings(&[echo.address], "", &route),
            sticky,
        ]
        .concat()
    };
    let proxy = Proxy::start_in(folder, &config("one", "workers = 2")).await;
    let operator = Operator::of(&proxy).await;
    let before = operator.plan().await;
    assert_eq!(
        (&before["routes"], &before["files"], &before["settings"]),
        (&json!([]), &json!([]), &json!([]))
    );
    proxy.rewrite(&config("other", "workers = 1"));
    std::fs::write(proxy.folder().join("sticky.key"), "2".repeat(64)).unwrap();
    let after = operator.plan().await;
    assert_eq!(planned(&after, "routes", "main"), is("changed", 0));
    assert!(
        after["files"][0].as_str().unwrap().ends_with("sticky.key"),
        "{after}"
    );
    let workers = json!([{ "name": "server.workers", "needs_restart": true }]);
    assert_eq!(after["settings"], workers);
    let (_, done) = operator.post("/v1/reload", &json!({})).await;
    let warnings = done["warnings"].to_string();
    assert!(warnings.contains("server.workers"), "{warnings}");
    assert_eq!(
        operator.get("/v1/status").await["needs_restart"],
        json!(["server.workers"])
    );
}

#[tokio::test]
async fn a_certificate_reload_does_not_apply_other_changed_files() {
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let echo = Echo::start("echo").await;
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = [ADMIN, &simple(&[echo.address]), tls].concat();
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    for edited in [
        config.replace("name = \"main\"", "name = \"other\""),
        config.replace("[[route]]", "[[route]"),
    ] {
        let before = proxy.log().events("certificates reloaded").len();
        proxy.rewrite(&edited);
        authority.issue(proxy.folder(), "chat", &["chat.example.com"]);
        proxy
            .logged_times("certificates reloaded", before + 1)
            .await;
        let shown = operator.get("/v1/config").await;
        assert_eq!(shown["config"]["route"][0]["name"], "main");
    }
    assert!(proxy.log().events("configuration reloaded").is_empty());
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 409);
    proxy.rewrite(&config.replace("name = \"main\"", "name = \"other\""));
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
    let shown = operator.get("/v1/config").await;
    assert_eq!(shown["config"]["route"][0]["name"], "other");
}

#[tokio::test]
async fn an_invalid_configuration_is_reported_line_by_line_and_in_status() {
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address]);
    let (proxy, operator) = Operator::start(&config).await;
    proxy.rewrite(&(ADMIN.to_owned() + &config + "colour = 3\n"));
    for (status, answer) in [
        operator.post("/v1/reload", &json!({})).await,
        operator.post("/v1/reload", &json!({ "force": true })).await,
    ] {
        assert_eq!(status, 409);
        let line = answer["details"][0].as_str().unwrap();
        assert!(line.contains("unknown key `colour`"), "{line}");
    }
    let status = operator.get("/v1/status").await;
    assert_eq!(
        (&status["failed_reloads"], &status["reloads"]),
        (&json!(2), &json!(0))
    );
    assert!(
        status["reload_errors"][0]
            .as_str()
            .unwrap()
            .contains("colour")
    );
    proxy.rewrite(&(ADMIN.to_owned() + &config));
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
    assert_eq!(operator.get("/v1/status").await["reload_errors"], json!([]));
}
