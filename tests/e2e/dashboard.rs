//! `tidegate dashboard`: who may use its page, and that it shows what the admin interface says.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::dashboard::{Dashboard, Received, send};
use crate::harness::endpoint::Echo;
use crate::harness::free_address;
use crate::harness::operator::{Operator, command};
use crate::harness::proxy::{settings, simple};
use crate::harness::wire::Wire;
use crate::harness::{until, within};

async fn start(options: &[&str]) -> (Echo, crate::harness::proxy::Proxy, Operator, Dashboard) {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let dashboard = Dashboard::start(&operator, options).await;
    (echo, proxy, operator, dashboard)
}

#[tokio::test]
async fn the_address_works_once_and_everything_else_needs_what_it_gave() {
    let (_echo, _proxy, _operator, dashboard) = start(&[]).await;
    let everything = [
        "/",
        "/page.css",
        "/page.js",
        "/events",
        "/abilities",
        "/v1/status",
    ];
    for path in everything {
        assert_eq!(dashboard.get(path, "").await.0.status(), 401, "{path}");
    }
    let (head, _) = dashboard.get("/enter?secret=wrong", "").await;
    assert_eq!(head.status(), 403);
    let early = "Sec-Purpose: prefetch\r\n";
    assert_eq!(
        dashboard.get(&dashboard.entrance, early).await.0.status(),
        503
    );
    let browser = dashboard.open().await;
    let (head, text) = dashboard.get(&dashboard.entrance, "").await;
    assert_eq!(head.status(), 403);
    assert!(text.contains("was opened before"), "{text}");
    assert_eq!(head.value("set-cookie"), None);

    let cookie = format!("Cookie: {}\r\n", browser.cookie);
    let key = format!("Tidegate-Dashboard: {}\r\n", browser.key);
    for path in everything {
        let is_file = path == "/" || path.starts_with("/page");
        let with_cookie = dashboard.get(path, &cookie);
        let with_key = dashboard.get(path, &key).await.0.status();
        assert_eq!(with_key, 401, "{path}: the key alone");
        if is_file {
            assert_eq!(with_cookie.await.0.status(), 200, "{path}");
        } else {
            assert_eq!(
                with_cookie.await.0.status(),
                401,
                "{path}: the cookie alone"
            );
        }
    }
    assert_eq!(browser.get("/v1/status").await.0.status(), 200);
    assert_eq!(browser.get("/other").await.0.status(), 404);
}

#[tokio::test]
async fn pages_of_other_origins_and_other_names_are_refused() {
    let (_echo, _proxy, _operator, dashboard) = start(&["--steer"]).await;
    let browser = dashboard.open().await;
    let (port, own) = (dashboard.port, browser.fields());
    let status = |host: String, fields: String| async move {
        let mut wire = Wire::connect(([127, 0, 0, 1], port).into()).await;
        let request = format!("GET /v1/status HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        wire.send(request).await;
        wire.reply().await.0.status()
    };
    let at = |host: &str| format!("{host}:{port}");
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(status(at(host), own.clone()).await, 200, "{host}");
        let origin = format!("{own}Origin: http://{host}:{port}\r\n");
        assert_eq!(status(at(host), origin).await, 200, "{host}");
    }
    // A name of an attacker that resolves to this address, and other ports of this machine.
    for host in ["attacker.example", "127.0.0.2", "[::1]"] {
        assert_eq!(status(at(host), own.clone()).await, 403, "{host}");
    }
    assert_eq!(status("127.0.0.1".to_owned(), own.clone()).await, 403);
    let foreign = [
        "Origin: http://attacker.example",
        "Origin: null",
        "Origin: http://127.0.0.1:1",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ];
    for field in foreign {
        let fields = format!("{own}{field}\r\n");
        assert_eq!(status(at("127.0.0.1"), fields).await, 403, "{field}");
    }
    let body = json!({ "endpoint": "x" }).to_string();
    let path = "/v1/endpoints/drain";
    let (head, _) = send(port, "POST", path, &own, &body).await;
    assert_eq!(head.status(), 403, "without an origin");
    let (status, answer) = browser.post(path, &json!({ "endpoint": "x" })).await;
    assert_eq!(status, 404, "it reaches the admin interface: {answer}");
}

#[tokio::test]
async fn it_only_shows_unless_it_may_steer() {
    let (echo, proxy, operator, dashboard) = start(&[]).await;
    let browser = dashboard.open().await;
    let (_, abilities) = browser.get("/abilities").await;
    assert_eq!(abilities, r#"{"steer":false}"#);
    let endpoint = json!({ "endpoint": echo.address.to_string() });
    let (status, answer) = browser.post("/v1/endpoints/drain", &endpoint).await;
    assert_eq!(status, 403);
    assert!(
        answer["error"].as_str().unwrap().contains("--steer"),
        "{answer}"
    );
    let all = json!({ "all": true });
    assert_eq!(browser.post("/v1/tunnels/close", &all).await.0, 403);
    assert_eq!(
        browser
            .post("/v1/revoke", &json!({ "subject": "a" }))
            .await
            .0,
        403
    );
    // What only reads.
    let explained = json!({ "url": format!("ws://x.example:{}/a", proxy.address().port()) });
    let (status, answer) = browser.post("/v1/explain", &explained).await;
    assert_eq!((status, &answer["route"]), (200, &json!("main")));
    assert_eq!(browser.get("/v1/reload/plan").await.0.status(), 200);
    let (head, error) = browser.get("/v1/tunnels?sort=x").await;
    assert_eq!(head.status(), 400, "its refusals are passed on: {error}");
    let state = &operator.get("/v1/upstreams").await[0]["endpoints"][0]["state"];
    assert_eq!(state, "up");
    drop(dashboard);

    let dashboard = Dashboard::start(&operator, &["--steer"]).await;
    let browser = dashboard.open().await;
    let (status, answer) = browser.post("/v1/endpoints/drain", &endpoint).await;
    assert_eq!(
        (status, &answer["endpoint"]["state"]),
        (200, &json!("drained"))
    );
    let mut tunnels = Vec::new();
    browser.post("/v1/endpoints/undrain", &endpoint).await;
    for _ in 0..3 {
        tunnels.push(proxy.tunnel().await);
    }
    let (status, closed) = browser.post("/v1/tunnels/close", &all).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(3)));
    for (path, body) in [
        ("/v1/upgrade", json!({})),
        ("/v1/revoke", json!({ "subject": "a" })),
    ] {
        assert_eq!(browser.post(path, &body).await.0, 403, "{path}");
    }
}

#[tokio::test]
async fn files_have_a_policy_and_a_tag() {
    let (_echo, _proxy, _operator, dashboard) = start(&[]).await;
    let browser = dashboard.open().await;
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
    ] {
        let (head, text) = browser.get(path).await;
        assert_eq!(
            (head.status(), head.value("content-type")),
            (200, Some(content_type))
        );
        let policy = head.value("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; "),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(head.value("x-content-type-options"), Some("nosniff"));
        assert_eq!(head.value("referrer-policy"), Some("no-referrer"));
        assert_eq!(head.value("cache-control"), Some("private, no-cache"));
        assert!(!text.is_empty());
        let tag = head.value("etag").unwrap();
        let known = format!("{}If-None-Match: {tag}\r\n", browser.fields());
        let mut wire = Wire::connect(([127, 0, 0, 1], dashboard.port).into()).await;
        let host = format!("Host: 127.0.0.1:{}\r\n", dashboard.port);
        wire.send(format!("GET {path} HTTP/1.1\r\n{host}{known}\r\n"))
            .await;
        assert_eq!(wire.head().await.status(), 304);
        let other = format!("{}If-None-Match: \"other\"\r\n", browser.fields());
        assert_eq!(dashboard.get(path, &other).await.0.status(), 200);
    }
    let (head, _) = browser.get("/v1/status").await;
    assert_eq!(head.value("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn the_stream_shows_what_the_interface_says() {
    let (_echo, proxy, operator, dashboard) = start(&[]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let mut tunnels = Vec::new();
    for _ in 0..5 {
        let mut tunnel = proxy.tunnel().await;
        tunnel.echoes().await;
        tunnels.push(tunnel);
    }
    let carries = |it: &Value| {
        let link = &it["traffic"]["links"][0];
        ["tunnels", "messages_from_client", "messages_from_endpoint"]
            .iter()
            .all(|name| link[*name] == 5)
    };
    let state = events.until("five tunnels", carries).await;
    assert_eq!(state["status"]["tunnels"], 5);
    assert_eq!(
        (&state["health"], &state["reachable"]),
        (&json!("good"), &json!(true))
    );
    for part in ["upstreams", "traffic", "certificates"] {
        let now = operator.get(&format!("/v1/{part}")).await;
        assert_eq!(state[part], now, "{part}");
    }
    let link = &state["traffic"]["links"][0];
    assert_eq!(
        (&link["opened"], &link["messages_from_endpoint"]),
        (&json!(5), &json!(5))
    );
    assert!(link["handshake_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(state["traffic"]["handshakes"]["opened"], 5);
    // Rates are those of the second in which something happened.
    let mut history = browser.events(None).await;
    let points = history.next().await.data["points"].take();
    let points = points.as_array().unwrap();
    let sum = |name: &str| {
        points
            .iter()
            .filter_map(|it| it[name].as_f64())
            .sum::<f64>()
    };
    assert!(
        sum("handshakes") > 0.0 && sum("messages") > 0.0 && sum("bytes") > 0.0,
        "{points:?}"
    );
    assert_eq!(points.last().unwrap()["tunnels"], 5);
}

#[tokio::test]
async fn a_stream_resumes_where_it_broke_off() {
    let (_echo, _proxy, _operator, dashboard) = start(&[]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let first = events.next().await;
    let second = events.next().await;
    let times = |event: &Received| -> Vec<u64> {
        let points = event.data["points"].as_array().unwrap().iter();
        points.map(|it| it["at"].as_u64().unwrap()).collect()
    };
    assert_eq!(times(&second).len(), 1);
    drop(events);
    // After the first one: the second comes again, with what has happened meanwhile.
    let resumed = browser.events(Some(&first.id)).await.next().await;
    assert_eq!(times(&resumed)[0], times(&second)[0]);
    // A page that is loaded again gets everything.
    let whole = browser.events(None).await.next().await;
    assert_eq!(times(&whole)[..times(&first).len()], times(&first));
    assert!(times(&whole).len() > times(&first).len());
    // An id of another run of the command means nothing.
    let other = browser.events(Some("1-1-1")).await.next().await;
    assert_eq!(times(&other)[0], times(&whole)[0]);
}

#[tokio::test]
async fn problems_have_a_beginning_and_an_end() {
    let dead = free_address();
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address, dead]).replace(
        "endpoints =",
        "health = { tcp = {}, interval = \"100ms\", fall = 1 }\nendpoints =",
    );
    let (mut proxy, operator) = Operator::start(&config).await;
    proxy.logged("endpoint down").await;
    let dashboard = Dashboard::start(&operator, &["--steer"]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let warned = |it: &Value| it["health"] == "warning";
    let state = events.until("a warning", warned).await;
    let problem = &state["problems"][0];
    let what = problem["what"].as_str().unwrap();
    assert!(
        what.starts_with("1 of 2 endpoints of upstream main is out of rotation: "),
        "{what}"
    );
    assert!(what.contains(&dead.to_string()), "{what}");
    assert!(problem["since"].as_u64().unwrap() <= state["at"].as_u64().unwrap());
    assert!(!problem["cure"].as_str().unwrap().is_empty());

    let _tunnel = proxy.tunnel().await;
    let endpoint = json!({ "endpoint": echo.address.to_string() });
    assert_eq!(browser.post("/v1/endpoints/drain", &endpoint).await.0, 200);
    let state = events
        .until("nothing left", |it| it["health"] == "critical")
        .await;
    let progress = &state["progress"][0];
    assert_eq!(
        (&progress["from"], &progress["left"]),
        (&json!(1), &json!(1))
    );
    browser.post("/v1/endpoints/undrain", &endpoint).await;
    events.until("a warning again", warned).await;

    proxy.signal(Signal::KILL);
    proxy.died().await;
    let state = events
        .until("no response", |it| it["reachable"] == false)
        .await;
    assert_eq!(state["health"], "critical");
    assert_eq!(state["status"]["endpoints"], 2, "the last figures stay");
    let history = browser.events(None).await.next().await;
    let texts: Vec<&str> = history.data["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["text"].as_str().unwrap())
        .collect();
    assert!(
        !texts.iter().any(|text| text.starts_with("over: ")),
        "the endpoint is still down: {texts:?}"
    );
    let drained = format!("endpoint {} of main is drained", echo.address);
    assert!(
        texts.iter().any(|text| text.starts_with(&drained)),
        "{texts:?}"
    );
}

#[tokio::test]
async fn it_ends_with_a_signal_and_says_why_it_does_not_begin() {
    let (_echo, proxy, operator, mut dashboard) = start(&[]).await;
    let port = dashboard.port.to_string();
    let taken = operator.run(&["dashboard", "--port", &port]).await;
    assert_eq!(taken.code, 3);
    assert!(
        taken.err.contains("cannot serve the page on 127.0.0.1:"),
        "{}",
        taken.err
    );
    kill_process(Pid::from_child(&dashboard.child), Signal::TERM).unwrap();
    let mut status = None;
    until("the end", || {
        status = dashboard.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success());
    let unreached = command(&["dashboard"], "127.0.0.1:1", None).await;
    assert_eq!(unreached.code, 6, "{}", unreached.err);
    let denied = command(&["dashboard"], operator.address(), None).await;
    assert_eq!(denied.code, 7, "{}", denied.err);
    drop(proxy);
}

#[tokio::test]
async fn an_endpoint_shows_its_slow_start() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "", "")
        .replace("endpoints =", "slow_start = \"1h\"\nendpoints =");
    let (proxy, operator) = Operator::start(&config).await;
    let endpoint = json!({ "endpoint": echo.address.to_string() });
    let shown = || async { operator.get("/v1/upstreams").await[0]["endpoints"][0].clone() };
    assert_eq!(shown().await["slow_start"], Value::Null);
    operator.post("/v1/endpoints/drain", &endpoint).await;
    assert_eq!(
        shown().await["slow_start"],
        Value::Null,
        "not while it is drained"
    );
    operator.post("/v1/endpoints/undrain", &endpoint).await;
    assert_eq!(shown().await["slow_start"], 0.1);
    drop(proxy);
}

/// Any process of this machine can connect to the port.
#[tokio::test]
async fn those_who_say_nothing_make_room_for_the_page() {
    let (_echo, _proxy, _operator, dashboard) = start(&[]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Wire::connect(([127, 0, 0, 1], dashboard.port).into()).await);
        silent.push(Wire::connect(([127, 0, 0, 1], dashboard.port).into()).await);
        assert_eq!(browser.get("/v1/status").await.0.status(), 200);
    }
    events.next().await;
    // Also those for which there is room: soon, although they ask for something now and then.
    for wire in &mut silent {
        within("the end of a silent connection", wire.closed()).await;
    }
    let mut busy = Wire::connect(([127, 0, 0, 1], dashboard.port).into()).await;
    let host = format!("Host: 127.0.0.1:{}", dashboard.port);
    busy.send(format!("GET / HTTP/1.1\r\n{host}\r\n\r\n")).await;
    assert_eq!(busy.reply().await.0.status(), 401);
    within("the end of a stranger's connection", busy.closed()).await;
    events.next().await;
}

/// Whatever was at this port before has the same origin: its service worker would see the key, and its cached files
/// would stand in for those of the page.
#[tokio::test]
async fn what_another_site_has_left_in_the_browser_is_not_in_the_way() {
    let (_echo, _proxy, _operator, dashboard) = start(&[]).await;
    let (head, script) = dashboard
        .get("/worker.js", "Service-Worker: script\r\n")
        .await;
    assert_eq!(head.status(), 200);
    assert!(script.contains("registration.unregister()"), "{script}");
    let by_worker = "Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: navigate\r\n";
    let (head, text) = dashboard.get(&dashboard.entrance, by_worker).await;
    assert_eq!((head.status(), head.value("set-cookie")), (503, None));
    assert!(text.contains("open this address again"), "{text}");
    // The secret still works.
    let browser = dashboard.open().await;
    let (_, page) = browser.get("/").await;
    let (_, run) = page.split_once("src=\"/page.js?").unwrap();
    let path = format!("/page.js?{}", run.split('"').next().unwrap());
    assert!(path.len() > 40, "{path}");
    assert_eq!(browser.get(&path).await.0.status(), 200);
}
