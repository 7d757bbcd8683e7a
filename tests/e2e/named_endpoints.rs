//! Endpoints that have a name: operators use it in place of the address, and requests ask for it.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::protocol::endpoint_cookie::EndpointCookie;

use crate::harness::dns::NameServer;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{SWITCH, handshake_with};
use crate::harness::{free_address, not_run};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const BY_COOKIE: &str = "endpoint = { cookie = \"server\", secret_file = \"server.key\" }";

const BY_ROOM: &str = "endpoint = { query = \"room\", map_file = \"rooms.map\" }";

/// A route to these endpoints, which are called `game-1`, `game-2` and so on.
fn named(endpoints: &[&Echo]) -> String {
    let addresses: Vec<String> = endpoints.iter().map(|it| it.address.to_string()).collect();
    listed(&addresses, "", "")
}

/// The same with these lines for the route, and these further keys for each endpoint.
fn listed(addresses: &[String], route: &str, endpoint: &str) -> String {
    let tables = addresses.iter().enumerate().map(|(at, address)| {
        let number = at + 1;
        format!("{{ address = \"{address}\", name = \"game-{number}\"{endpoint} }}")
    });
    let tables: Vec<String> = tables.collect();
    let listed = format!("endpoints = [{}]", tables.join(", "));
    let config = simple(&[]).replace("endpoints = []", &listed);
    config.replace("name = \"main\"\n", &format!("name = \"main\"\n{route}\n"))
}

/// A folder with the secret that signs cookies, the token of operators, and a map of rooms.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let secret = folder.path().join("server.key");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    write_token(folder.path());
    write_map(
        folder.path(),
        "red game-1\nblue%20room game-2\nlost game-9\n",
    );
    folder
}

fn write_map(folder: &Path, text: &str) {
    // By a rename, so that half a file is never read.
    let aside = folder.join("rooms.map.new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, folder.join("rooms.map")).unwrap();
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The field with a cookie that leads to `endpoint` for this many more seconds.
fn signed(endpoint: &str, seconds: u64) -> String {
    let cookie = EndpointCookie::new("server", SECRET.as_bytes());
    format!(
        "Cookie: a=1; server={}\r\n",
        cookie.issue(endpoint, now() + seconds)
    )
}

/// A handshake for a room.
fn room(room: &str) -> String {
    handshake_with("").replace("/chat", &format!("/chat?room={room}"))
}

/// What a handshake comes to: the name of the endpoint, or the reason of the rejection.
async fn comes_to(proxy: &Proxy, handshake: &str) -> String {
    let mut wire = proxy.connect().await;
    wire.send(handshake).await;
    let head = wire.head().await;
    if head.status() != 101 {
        return head.value("tidegate-reason").unwrap().to_owned();
    }
    wire.send(frame(0x81, Some([0; 4]), b"name")).await;
    let length = usize::from(wire.exactly(2).await[1]);
    String::from_utf8(wire.exactly(length).await).unwrap()
}

/// Checks what a handshake with a cookie for each of these names comes to.
async fn lead_to(proxy: &Proxy, names: &[(&str, &str)]) {
    for (name, expected) in names {
        let request = handshake_with(&signed(name, 60));
        assert_eq!(comes_to(proxy, &request).await, *expected, "{name}");
    }
}

#[tokio::test]
async fn operators_use_the_name_of_an_endpoint() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let (proxy, operator) = Operator::start(&named(&[&one, &two])).await;
    let upstreams = operator.get("/v1/upstreams").await;
    let names = |upstreams: &Value| {
        let endpoints = upstreams[0]["endpoints"].as_array().unwrap().clone();
        let names = endpoints.into_iter().map(|it| it["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&upstreams), ["game-1", "game-2"]);

    let printed = operator.run(&["drain", "game-1"]).await;
    let expected = format!(
        "endpoint {} (game-1) of upstream main is drained",
        one.address
    );
    assert!(printed.out.starts_with(&expected), "{printed:?}");
    let _client = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    assert_eq!((one.open(), two.open()), (0, 1));

    let listed = operator.get("/v1/tunnels?endpoint=game-2").await;
    assert_eq!(listed["tunnels"][0]["endpoint_name"], "game-2");
    assert_eq!(listed["tunnels"][0]["endpoint"], two.address.to_string());
    let listed = operator.get("/v1/tunnels?endpoint=game-1").await;
    assert_eq!(listed["tunnels"], json!([]));
    for command in [&["status"][..], &["tunnels"]] {
        let printed = operator.run(command).await;
        assert!(printed.out.contains(" NAME "), "{}", printed.out);
        assert!(printed.out.contains(" game-2 "), "{}", printed.out);
    }
    let weighed = json!({ "endpoint": "game-2", "weight": 7 });
    let (status, weighed) = operator.post("/v1/endpoints/weight", &weighed).await;
    assert_eq!((status, &weighed["endpoint"]["weight"]), (200, &json!(7)));

    let asked = json!({ "filter": { "endpoint": "game-2" } });
    let (status, closed) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)));
    let asked = json!({ "filter": { "endpoint": "game-3" } });
    let (status, refused) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!(status, 404, "{refused}");
}

/// The same name in two upstreams is two endpoints.
#[tokio::test]
async fn a_name_that_two_upstreams_have_must_be_told_apart() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let other = format!(
        "[[route]]\npath = \"/other\"\nupstream = \"other\"\n[upstream.other]\n\
         endpoints = [{{ address = \"{}\", name = \"game-1\" }}]\n",
        two.address
    );
    let (proxy, operator) = Operator::start(&(named(&[&one]) + &other)).await;
    let _client = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let close = |filter: Value| json!({ "filter": filter });
    for (path, body) in [
        ("/v1/endpoints/drain", json!({ "endpoint": "game-1" })),
        ("/v1/tunnels/close", close(json!({ "endpoint": "game-1" }))),
    ] {
        let (status, refused) = operator.post(path, &body).await;
        assert_eq!(status, 409, "{refused}");
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains("choose one of main, other"), "{error}");
    }
    let drained = json!({ "endpoint": "game-1", "upstream": "other" });
    let (status, drained) = operator.post("/v1/endpoints/drain", &drained).await;
    let endpoint = json!(two.address.to_string());
    assert_eq!((status, &drained["endpoint"]["endpoint"]), (200, &endpoint));
    let asked = close(json!({ "endpoint": "game-1", "upstream": "main" }));
    let (status, closed) = operator.post("/v1/tunnels/close", &asked).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(1)));
}

#[tokio::test]
async fn a_signed_cookie_leads_to_its_endpoint_and_nothing_else_does() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let config = listed(&addresses, BY_COOKIE, "");
    let proxy = Proxy::start_in(folder(), &config).await;
    for _ in 0..3 {
        lead_to(&proxy, &[("game-1", "one"), ("game-2", "two")]).await;
    }
    let forged = signed("game-1", 60).replace("server=game-1", "server=game-2");
    let address = signed(&addresses[0], 60);
    let bare = "Cookie: server=game-1\r\n".to_owned();
    let other = signed("game-1", 60).replace("server=", "other=");
    for fields in [
        String::new(),
        forged,
        signed("game-1", 0),
        signed("game-3", 60),
        address,
        bare,
        other,
    ] {
        assert_eq!(
            comes_to(&proxy, &handshake_with(&fields)).await,
            "endpoint-unknown",
            "{fields}"
        );
    }
    // An older cookie, which was set for another path, does not hide the new one.
    let older = signed("game-1", 30);
    let both = signed("game-2", 60).replace(
        "a=1; ",
        &format!("{}; ", older.trim().trim_start_matches("Cookie: ")),
    );
    assert_eq!(comes_to(&proxy, &handshake_with(&both)).await, "two");

    let fallback = format!("{BY_COOKIE}\nendpoint_fallback = \"balance\"");
    proxy.reload(&listed(&addresses, &fallback, "")).await;
    for fields in [String::new(), signed("game-3", 60), signed("game-1", 0)] {
        let name = comes_to(&proxy, &handshake_with(&fields)).await;
        assert!(name == "one" || name == "two", "{fields}: {name}");
    }
    assert_eq!(
        comes_to(&proxy, &handshake_with(&signed("game-2", 60))).await,
        "two"
    );
}

/// Without a secret of its own, the cookie is signed with that of the sticky cookie.
#[tokio::test]
async fn the_secret_of_the_sticky_cookie_signs_names_too() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let sticky = "sticky = { cookie = \"node\", secret_file = \"server.key\" }\n";
    let config = listed(&addresses, "endpoint = { cookie = \"server\" }", "") + sticky;
    let proxy = Proxy::start_in(folder(), &config).await;
    assert_eq!(
        comes_to(&proxy, &handshake_with(&signed("game-2", 60))).await,
        "two"
    );
    // What is signed for one purpose is no good for the other.
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(&signed("game-1", 60))).await;
    let head = wire.head().await;
    let set = head
        .value("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let sticky = format!("Cookie: {}\r\n", set.replace("node=", "server="));
    assert_eq!(
        comes_to(&proxy, &handshake_with(&sticky)).await,
        "endpoint-unknown"
    );
    // And the sticky cookie does not lead away from the endpoint that is named.
    let both = signed("game-2", 60).replace("a=1", &set);
    assert_eq!(comes_to(&proxy, &handshake_with(&both)).await, "two");
}

#[tokio::test]
async fn a_map_leads_to_endpoints_and_is_applied_when_it_changes() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let proxy = Proxy::start_in(folder(), &listed(&addresses, BY_ROOM, "")).await;
    assert_eq!(comes_to(&proxy, &room("red")).await, "one");
    assert_eq!(comes_to(&proxy, &room("blue+room")).await, "two");
    for unknown in ["", "green", "lost", "game-1", &addresses[0]] {
        assert_eq!(
            comes_to(&proxy, &room(unknown)).await,
            "endpoint-unknown",
            "{unknown}"
        );
    }
    // The changed configuration file is not applied until a reload.
    proxy.rewrite("nonsense");
    write_map(proxy.folder(), "red game-2\n");
    let loaded = proxy.logged("endpoint map loaded").await;
    assert_eq!(
        (&loaded["route"], &loaded["keys"]),
        (&json!("main"), &json!(1))
    );
    assert_eq!(comes_to(&proxy, &room("red")).await, "two");
    assert_eq!(
        comes_to(&proxy, &room("blue+room")).await,
        "endpoint-unknown"
    );

    write_map(proxy.folder(), "red game-1\nnonsense\n");
    let rejected = proxy
        .logged("endpoint map rejected; the last map stays in use")
        .await;
    let error = "line 2: a line has a key and the name of an endpoint";
    assert_eq!(
        (&rejected["error"], &rejected["kept"]),
        (&json!(error), &json!(1))
    );
    assert_eq!(comes_to(&proxy, &room("red")).await, "two");

    write_map(proxy.folder(), "# no room is open\n");
    proxy.logged_times("endpoint map loaded", 2).await;
    assert_eq!(comes_to(&proxy, &room("red")).await, "endpoint-unknown");
    assert!(proxy.log().events("configuration reloaded").is_empty());
}

/// Every kind of key, and plain requests as well as handshakes.
#[tokio::test]
async fn a_map_has_keys_of_every_kind() {
    let (one, endpoint) = (Echo::start("one").await, Endpoint::bind().await);
    let addresses = [one.address.to_string(), endpoint.address.to_string()];
    let folder = folder();
    write_map(folder.path(), "/chat game-2\n");
    let by = |key: &str| format!("endpoint = {{ {key}, map_file = \"rooms.map\" }}");
    let proxy = Proxy::start_in(folder, &listed(&addresses, &by("key = \"path\""), "")).await;
    for (key, written, fields) in [
        ("key = \"path\"", "/chat", ""),
        ("header = \"x-room\"", "red", "X-Room: red\r\n"),
        ("cookie = \"room\"", "red", "Cookie: room=red\r\n"),
    ] {
        write_map(proxy.folder(), &format!("{written} game-2\n"));
        proxy.reload(&listed(&addresses, &by(key), "")).await;
        let mut client = proxy.connect().await;
        client
            .send(format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
            .await;
        let (mut served, _) = endpoint.request().await;
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.reply().await.1, "ok", "{key}");
        let mut client = proxy.connect().await;
        client
            .send("GET /other HTTP/1.1\r\nHost: a\r\nX-Room: game-2\r\n\r\n")
            .await;
        let (head, _) = client.reply().await;
        let reason = head.value("tidegate-reason");
        assert_eq!(
            (head.status(), reason),
            (404, Some("endpoint-unknown")),
            "{key}"
        );
    }
    write_map(proxy.folder(), "127.0.0.1 game-1\n");
    proxy
        .reload(&listed(&addresses, &by("key = \"client_ip\""), ""))
        .await;
    assert_eq!(comes_to(&proxy, &handshake_with("")).await, "one");
}

#[tokio::test]
async fn an_endpoint_that_cannot_serve_is_not_replaced_by_another() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let route = format!("{BY_COOKIE}\nendpoint_fallback = \"balance\"");
    let queue = "queue = { timeout = \"1h\" }\n";
    let config = ADMIN.to_owned() + &listed(&addresses, &route, ", max_tunnels = 1") + queue;
    let proxy = Proxy::start_in(folder(), &config).await;
    let operator = Operator::of(&proxy).await;
    let to_one = handshake_with(&signed("game-1", 60));
    // Full: it does not wait in the queue, where it would hold up others.
    let mut held = proxy.connect().await;
    held.send(&to_one).await;
    assert_eq!(held.head().await.status(), 101);
    assert_eq!(comes_to(&proxy, &to_one).await, "endpoints-full");
    drop(held);
    proxy.logged("tunnel ended").await;
    // Drained.
    operator
        .post("/v1/endpoints/drain", &json!({ "endpoint": "game-1" }))
        .await;
    assert_eq!(comes_to(&proxy, &to_one).await, "no-endpoint");
    operator
        .post("/v1/endpoints/undrain", &json!({ "endpoint": "game-1" }))
        .await;
    // Weight 0 keeps others away, not those that name it.
    let weighed = json!({ "endpoint": "game-1", "weight": 0 });
    operator.post("/v1/endpoints/weight", &weighed).await;
    assert_eq!(comes_to(&proxy, &to_one).await, "one");
    assert_eq!(two.served(), 0);
    // Gone.
    proxy.logged_times("tunnel ended", 2).await;
    drop(one);
    assert_eq!(comes_to(&proxy, &to_one).await, "connect-failed");
    assert_eq!(two.served(), 0);
    // Down.
    let health = "health = { tcp = {}, fall = 1, interval = \"100ms\" }\n";
    proxy.reload(&(config + health)).await;
    proxy.logged("endpoint down").await;
    assert_eq!(comes_to(&proxy, &to_one).await, "no-endpoint");
    assert_eq!(
        comes_to(&proxy, &handshake_with(&signed("game-2", 60))).await,
        "two"
    );
}

/// `tries` and `retry_on` apply to the endpoint that is named.
#[tokio::test]
async fn the_same_endpoint_is_tried_again() {
    let (endpoint, other) = (Endpoint::bind().await, Endpoint::bind().await);
    let addresses = [endpoint.address.to_string(), other.address.to_string()];
    let proxy = Proxy::start_in(folder(), &listed(&addresses, BY_ROOM, "")).await;
    let mut client = proxy.connect().await;
    client.send(room("red")).await;
    drop(endpoint.request().await);
    let (mut served, _) = endpoint.request().await;
    served.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    let retried = "retrying on the same endpoint, which the request names";
    assert_eq!(proxy.logged(retried).await["endpoint"], addresses[0]);
    // Not for ever.
    let mut client = proxy.connect().await;
    client.send(room("red")).await;
    for _ in 0..2 {
        drop(endpoint.request().await);
    }
    assert_eq!(client.reply().await.0.status(), 502);
    other.stays_quiet().await;
}

#[tokio::test]
async fn a_split_finds_the_name_in_all_of_its_upstreams() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let gone = free_address();
    let upstream = |name: &str, address: &dyn std::fmt::Display, game: &str| {
        format!(
            "[upstream.{name}]\nendpoints = [{{ address = \"{address}\", name = \"{game}\" }}, \"{gone}\"]\n"
        )
    };
    let config = format!(
        "[listener.main]\nbind = [\"127.0.0.1:0\"]\n[[route]]\n{BY_COOKIE}\n\
         split = [{{ upstream = \"blue\", weight = 1 }}, {{ upstream = \"green\", weight = 0 }}]\n{}{}",
        upstream("blue", &one.address, "game-1"),
        upstream("green", &two.address, "game-2"),
    );
    let proxy = Proxy::start_in(folder(), &config).await;
    for _ in 0..3 {
        lead_to(&proxy, &[("game-1", "one"), ("game-2", "two")]).await;
    }
    assert_eq!(
        comes_to(&proxy, &handshake_with(&signed("game-3", 60))).await,
        "endpoint-unknown"
    );
}

/// The endpoints of SRV records have the names of their targets.
#[tokio::test]
async fn the_target_of_an_srv_record_is_a_name() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let server = NameServer::start(300).await;
    let services = [
        (1, 1, one.address.port(), "Game-1.game.test"),
        (1, 1, two.address.port(), "game-2.game.test"),
    ];
    server.services("_ws._tcp.game.test", &services);
    for target in ["game-1.game.test", "game-2.game.test"] {
        server.addresses(target, &["127.0.0.1"]);
    }
    let srv = format!(
        "srv = {{ name = \"_ws._tcp.game.test\", server = \"{}\" }}",
        server.address
    );
    let config = listed(&[], BY_COOKIE, "").replace("endpoints = []", &srv);
    let proxy = Proxy::start_in(folder(), &config).await;
    lead_to(
        &proxy,
        &[
            ("game-1.game.test", "one"),
            ("game-2.game.test", "two"),
            ("game-1", "endpoint-unknown"),
        ],
    )
    .await;
}

/// A name in an endpoints file moves to another address without a reload.
#[tokio::test]
async fn a_name_may_move_to_another_address() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let folder = folder();
    let endpoints =
        |echo: &Echo| format!("{} name=game-1\n{} backup\n", echo.address, free_address());
    std::fs::write(folder.path().join("game.endpoints"), endpoints(&one)).unwrap();
    let config = listed(&[], BY_ROOM, "");
    let config = config.replace("endpoints = []", "endpoints_file = \"game.endpoints\"");
    let proxy = Proxy::start_in(folder, &config).await;
    assert_eq!(comes_to(&proxy, &room("red")).await, "one");
    let aside = proxy.folder().join("game.endpoints.new");
    std::fs::write(&aside, endpoints(&two)).unwrap();
    std::fs::rename(aside, proxy.folder().join("game.endpoints")).unwrap();
    proxy.logged("endpoints file loaded").await;
    assert_eq!(comes_to(&proxy, &room("red")).await, "two");
}

#[tokio::test]
async fn explain_says_what_names_the_endpoint() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let config = ADMIN.to_owned() + &listed(&addresses, BY_COOKIE, "");
    let proxy = Proxy::start_in(folder(), &config).await;
    let operator = Operator::of(&proxy).await;
    let url = "ws://chat.example.com/chat";
    let cookie = signed("game-2", 60);
    let cookie = cookie.trim().trim_start_matches("Cookie: ");
    let asked = json!({ "url": url, "listener": "main", "headers": { "cookie": cookie } });
    let explained = operator.explain(asked).await;
    assert_eq!(explained["endpoint"], addresses[1]);
    assert_eq!(explained["why"], "named by its signed cookie `server`");
    let explained = operator
        .explain(json!({ "url": url, "listener": "main" }))
        .await;
    assert_eq!(explained["response"]["reason"], "endpoint-unknown");
    proxy
        .reload(&(ADMIN.to_owned() + &listed(&addresses, BY_ROOM, "")))
        .await;
    let explained = operator
        .explain(json!({ "url": format!("{url}?room=red"), "listener": "main" }))
        .await;
    assert_eq!(explained["endpoint"], addresses[0]);
    let why = explained["why"].as_str().unwrap();
    assert!(
        why.starts_with("named by its key in `") && why.ends_with("rooms.map`"),
        "{why}"
    );
}

/// The lines of the documentation, run as they stand there, make cookies that lead to their endpoint.
#[tokio::test]
async fn the_documented_lines_make_valid_cookies() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/named-endpoints.md");
    let page = std::fs::read_to_string(page).unwrap();
    let block = |language: &str| {
        let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let addresses = [one.address.to_string(), two.address.to_string()];
    let proxy = Proxy::start_in(folder(), &listed(&addresses, BY_COOKIE, "")).await;
    for (program, flag, lines) in [
        (
            "node",
            "-e",
            block("js") + "console.log(serverCookie(\"game-2\", 60));\n",
        ),
        (
            "python3",
            "-c",
            block("python") + "print(server_cookie(\"game-2\", 60))\n",
        ),
    ] {
        let run = Command::new(program)
            .args([flag, &lines])
            .current_dir(proxy.folder())
            .output();
        let output = match run {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = format!("{program} is not installed");
                not_run("the_documented_lines_make_valid_cookies", &why);
                continue;
            }
            output => output.unwrap(),
        };
        let cookie = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let handshake = handshake_with(&format!("Cookie: {}\r\n", cookie.trim()));
        assert_eq!(
            comes_to(&proxy, &handshake).await,
            "two",
            "{program}: {cookie} {stderr}"
        );
    }
}
