//! What the admin interface shows of a running process.

use serde_json::json;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::operator::{ADMIN, Operator, TOKEN, write_token};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::handshake_with;

#[tokio::test]
async fn a_tunnel_is_listed_with_all_its_attributes() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    client.send(frame(0x81, Some([1, 2, 3, 4]), b"hello")).await;
    served.exactly(11).await;
    served.send(frame(0x81, None, b"hi")).await;
    client.exactly(4).await;
    let opened = proxy.logged("tunnel opened").await;
    let listing = operator.get("/v1/tunnels").await;
    let tunnels = listing["tunnels"].as_array().unwrap();
    assert_eq!(tunnels.len(), 1);
    let tunnel = &tunnels[0];
    for name in [
        "client", "listener", "route", "upstream", "endpoint", "host", "path",
    ] {
        assert_eq!(tunnel[name], opened[name], "{name}");
    }
    assert_eq!(tunnel["id"], opened["session"]);
    assert_eq!(
        (
            &tunnel["bytes_from_client"],
            &tunnel["messages_from_client"]
        ),
        (&json!(11), &json!(1))
    );
    assert_eq!(
        (
            &tunnel["bytes_from_endpoint"],
            &tunnel["messages_from_endpoint"]
        ),
        (&json!(4), &json!(1))
    );
    assert!(tunnel["age_seconds"].as_f64().unwrap() > 0.0);

    let port = endpoint.address;
    for (query, count) in [
        (format!("endpoint={port}"), 1),
        ("endpoint=127.0.0.1:1".to_owned(), 0),
        (
            "client=127.0.0.0/8&route=main&host=chat.example.com".to_owned(),
            1,
        ),
        ("client=10.0.0.0/8".to_owned(), 0),
        ("older_than=1h".to_owned(), 0),
        (format!("id={}", tunnel["id"].as_str().unwrap()), 1),
        ("id=0000000000000000&sort=bytes".to_owned(), 0),
        ("sort=messages&rate_window=100ms".to_owned(), 1),
    ] {
        let listing = operator.get(&format!("/v1/tunnels?{query}")).await;
        assert_eq!(
            listing["tunnels"].as_array().unwrap().len(),
            count,
            "{query}"
        );
    }
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["tunnels"], 1);
    assert_eq!(upstreams[0]["endpoints"][0]["state"], "up");
    let listeners = operator.get("/v1/listeners").await;
    assert_eq!(
        (&listeners[0]["name"], &listeners[0]["tunnels"]),
        (&json!("main"), &json!(1))
    );
    assert_eq!(operator.get("/v1/status").await["tunnels"], 1);
}

#[tokio::test]
async fn pages_of_a_listing_are_complete_and_do_not_overlap() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut held = vec![proxy.tunnel().await];
    // Alone, because its worker may write its event after that of a later tunnel on another one.
    let first = proxy.logged("tunnel opened").await["session"].clone();
    for _ in 1..600 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 600).await;
    let mut ids = Vec::new();
    let mut path = "/v1/tunnels?limit=50".to_owned();
    loop {
        let page = operator.get(&path).await;
        let tunnels = page["tunnels"].as_array().unwrap();
        assert!(tunnels.len() <= 50);
        ids.extend(
            tunnels
                .iter()
                .map(|it| it["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/tunnels?limit=50&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 600);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 600, "no tunnel twice");
    let oldest = operator.get("/v1/tunnels?sort=age&limit=3").await;
    assert_eq!(oldest["matched"], 600);
    assert_eq!(oldest["tunnels"][0]["id"], first);
}

#[tokio::test]
async fn the_effective_configuration_is_shown_without_secrets() {
    let echo = Echo::start("echo").await;
    let route = "request_headers.set = { authorization = \"Basic c2VjcmV0\" }";
    let config = settings(&[echo.address], "", route);
    let (_proxy, operator) = Operator::start(&config).await;
    let shown = operator.get("/v1/config").await;
    assert!(shown["files"][0].as_str().unwrap().ends_with("config.toml"));
    let route = &shown["config"]["route"][0];
    assert_eq!(
        (&route["name"], &route["timeouts"]["idle"]),
        (&json!("main"), &json!("10m"))
    );
    let text = shown.to_string();
    assert!(text.contains("authorization") && text.contains("admin.token"));
    assert!(
        !text.contains("c2VjcmV0") && !text.contains(TOKEN),
        "{text}"
    );
}

#[tokio::test]
async fn an_endpoint_out_of_rotation_shows_the_reason() {
    let down = Endpoint::bind().await.address;
    let config = simple(&[down]) + "health = { tcp = {}, interval = \"50ms\", fall = 1 }\n";
    let (proxy, operator) = Operator::start(&config).await;
    proxy.logged("endpoint down").await;
    let upstreams = operator.get("/v1/upstreams").await;
    let endpoint = &upstreams[0]["endpoints"][0];
    assert_eq!(endpoint["state"], "down");
    assert!(
        endpoint["why"]
            .as_str()
            .unwrap()
            .starts_with("health checks fail: "),
        "{endpoint}"
    );
    assert!(endpoint["checks_failed"].as_u64().unwrap() > 0);
    let status = operator.get("/v1/status").await;
    assert_eq!(
        (&status["endpoints"], &status["endpoints_up"]),
        (&json!(1), &json!(0))
    );
}

#[tokio::test]
async fn explain_shows_what_would_happen_to_a_request() {
    let echo = Echo::start("echo").await;
    let config = format!(
        "[listener.main]\nbind = [\"127.0.0.1:0\"]\n\
         [[route]]\nname = \"acme\"\npath_prefix = \"/chat\"\nheaders = {{ x-tenant = \"acme\" }}\nupstream = \"main\"\n\
         [[route]]\nname = \"chat\"\npath_prefix = \"/chat\"\nrewrite = {{ strip_prefix = \"/chat\" }}\n\
         host = \"chat.internal\"\nallow = [\"192.0.2.0/24\", \"unix:\"]\ndeny = [\"192.0.2.66\"]\n\
         origins = [\"https://chat.example.com\"]\nupstream = \"main\"\n\
         [upstream.main]\nendpoints = [\"{}\"]\n",
        echo.address
    );
    let (proxy, operator) = Operator::start(&config).await;
    let port = proxy.address().port();
    let url = format!("ws://a.example:{port}/chat/room?x=1");
    let explained = operator.explain(json!({ "url": url })).await;
    assert_eq!(
        (&explained["route"], &explained["endpoint_path"]),
        (&json!("chat"), &json!("/room?x=1"))
    );
    assert_eq!(explained["endpoint"], echo.address.to_string());
    assert_eq!(
        (&explained["endpoint_host"], &explained["restored_prefix"]),
        (&json!("chat.internal"), &json!("/chat"))
    );
    assert_eq!(explained["other_routes"][0]["route"], "acme");
    assert!(
        explained["other_routes"][0]["why"]
            .as_str()
            .unwrap()
            .contains("x-tenant")
    );
    let explained = operator
        .explain(json!({ "url": url, "headers": { "x-tenant": "acme" } }))
        .await;
    assert_eq!(
        (&explained["route"], &explained["endpoint_path"]),
        (&json!("acme"), &json!("/chat/room?x=1"))
    );
    let explained = operator
        .explain(json!({ "url": url, "headers": { "origin": "https://evil.example" } }))
        .await;
    assert_eq!(
        (
            &explained["response"]["reason"],
            &explained["response"]["status"]
        ),
        (&json!("origin-denied"), &json!(403))
    );
    assert_eq!(explained["origins"], json!(["https://chat.example.com"]));
    assert_eq!(
        (&explained["allow"], &explained["deny"]),
        (&json!(["192.0.2.0/24", "unix:"]), &json!(["192.0.2.66"]))
    );
    let printed = operator
        .run(&["explain", &url, "--client", "192.0.2.66"])
        .await;
    let lines = "allow     192.0.2.0/24, unix:\n\
                 deny      192.0.2.66\n\
                 origins   https://chat.example.com\n\
                 response  403 address-denied: ";
    assert!(printed.out.contains(lines), "{}", printed.out);
    let other = format!("ws://a.example:{port}/other");
    let explained = operator.explain(json!({ "url": other })).await;
    assert_eq!(explained["response"]["reason"], "no-route");
    // None of these requests has reached the endpoint or a counter.
    assert_eq!(echo.served(), 0);
    assert_eq!(operator.get("/v1/status").await["rejections"], 0);
}

#[tokio::test]
async fn explain_says_of_each_route_why_it_does_not_match() {
    let echo = Echo::start("echo").await;
    let route = |name: &str, match_: &str| {
        format!("[[route]]\nname = \"{name}\"\n{match_}\nupstream = \"main\"\n")
    };
    let config = [
        "[listener.main]\nbind = [\"127.0.0.1:0\"]\n",
        &route("far", "hosts = [\"b.example\"]\npath = \"/b\""),
        &route("host", "hosts = [\"*.a.example\"]\npath_prefix = \"/chat\""),
        &route("path", "hosts = [\"a.example\"]\npath_prefix = \"/cha\""),
        &route(
            "header",
            "path = \"/chat\"\nheaders = { x-tenant = \"acme\" }",
        ),
        &format!("[upstream.main]\nendpoints = [\"{}\"]\n", echo.address),
    ]
    .concat();
    let (proxy, operator) = Operator::start(&config).await;
    let url = format!("ws://a.example:{}/chat", proxy.address().port());
    let words = ["explain", &url];
    let printed = operator.run(&words).await;
    let expected = "listener  main\n\
         request   a.example /chat (handshake)\n\
         route     none\n\
         \x20         not header: header `x-tenant` is missing or has another value\n\
         \x20         not path: its path prefix `/cha` matches whole segments only\n\
         \x20         not host: its host is `*.a.example`\n\
         \x20         not far: its host is `b.example`; its path is `/b`\n\
         response  404 no-route: Nothing is served at this host and path.\n";
    assert_eq!(printed.out, expected);
    let deeper = url.replace("a.example", "x.y.a.example");
    let printed = operator.run(&["explain", &deeper]).await;
    let host = "not host: its host `*.a.example` stands for exactly one label more";
    assert!(printed.out.contains(host), "{}", printed.out);
}

#[tokio::test]
async fn explain_tells_certificates_on_different_listeners_apart() {
    let (_authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let echo = Echo::start("echo").await;
    let tls = "[listener.secure]\nbind = [\"127.0.0.1:0\"]\n\
               tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = settings(&[echo.address], "redirect_to_https = true", "");
    let config = [ADMIN, tls, &config].concat();
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let explained = |scheme: &str, listener: &str, path: &str| {
        let (operator, port) = (&operator, proxy.address_of(listener).port());
        let url = format!("{scheme}://chat.example.com:{port}/{path}");
        async move { operator.explain(json!({ "url": url })).await }
    };
    let secure = explained("wss", "secure", "").await;
    assert_eq!(
        (&secure["listener"], &secure["route"]),
        (&json!("secure"), &json!("main"))
    );
    let plain = explained("ws", "main", "").await;
    assert_eq!(
        (&plain["listener"], &plain["response"]["reason"]),
        (&json!("main"), &json!("https-required"))
    );
    let plain = explained("http", "main", "x").await;
    assert_eq!(plain["response"]["text"], "https://chat.example.com/x");
    // A scheme that no listener of this port has is not one of another listener.
    let port = proxy.address().port();
    let request = json!({ "url": format!("wss://chat.example.com:{port}/") });
    let (status, wrong) = operator.post("/v1/explain", &request).await;
    assert_eq!(status, 409);
    let lacks = format!("the listener of port {port} does not use TLS");
    let error = wrong["error"].as_str().unwrap();
    assert!(error.starts_with(&lacks), "{wrong}");
    let certificates = operator.get("/v1/status").await["certificates"].clone();
    assert_eq!(certificates[0]["listener"], "secure");
}

#[tokio::test]
async fn rejections_are_counted_by_reason_where_they_happen() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut wire = proxy.connect().await;
    wire.send(handshake_with("Origin: https://a.example\r\n").replace("Version: 13", "Version: 8"))
        .await;
    assert_eq!(wire.head().await.status(), 426);
    proxy.logged("rejected").await;
    let listeners = operator.get("/v1/listeners").await;
    assert_eq!(
        listeners[0]["rejections"],
        json!({ "websocket-version": 1 })
    );
    let traffic = operator.get("/v1/traffic").await;
    assert_eq!(traffic["rejections"], listeners[0]["rejections"]);
}
