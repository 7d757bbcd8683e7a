//! Routing, and the host and target that the endpoint gets.

use serde_json::json;

use crate::harness::dns::NameServer;
use crate::harness::endpoint::Endpoint;
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{HANDSHAKE, handshake_with};

const CONFIG: &str = r#"
[listener.main]
bind = ["127.0.0.1:0"]
[listener.internal]
bind = ["127.0.0.1:0"]

[[route]]
name = "any"
listeners = ["main"]
upstream = "any"
[[route]]
name = "prefix"
path_prefix = "/chat"
upstream = "prefix"
[[route]]
name = "exact"
path = "/chat/lobby"
upstream = "exact"
[[route]]
name = "wildcard"
hosts = ["*.example.com"]
upstream = "wildcard"
[[route]]
name = "host"
hosts = ["chat.example.com"]
path_prefix = "/only"
upstream = "host"
"#;

const UPSTREAMS: [&str; 5] = ["any", "prefix", "exact", "wildcard", "host"];

#[tokio::test]
async fn the_most_specific_route_wins() {
    let mut config = CONFIG.to_owned();
    let mut endpoints = Vec::new();
    for name in UPSTREAMS {
        let endpoint = Endpoint::bind().await;
        config += &format!(
            "[upstream.{name}]\nendpoints = [\"{}\"]\n",
            endpoint.address
        );
        endpoints.push((name, endpoint));
    }
    let proxy = Proxy::start(&config).await;
    let cases = [
        ("main", "other.net", "/", "any"),
        ("main", "other.net", "/chatter", "any"),
        ("main", "other.net", "/chat", "prefix"),
        ("main", "other.net", "/chat/rooms?x=/chat/lobby", "prefix"),
        ("main", "other.net", "/chat/lobby", "exact"),
        ("main", "other.net", "/%63hat/lobby?x=1", "exact"),
        ("main", "a.example.com:8080", "/", "wildcard"),
        ("main", "chat.example.com", "/chat/lobby", "wildcard"),
        ("main", "CHAT.example.com.", "/only/here", "host"),
        ("main", "a.b.example.com", "/", "any"),
        ("internal", "other.net", "/chat", "prefix"),
    ];
    for (listener, host, path, expected) in cases {
        let mut client = crate::harness::wire::Wire::connect(proxy.address_of(listener)).await;
        let request = HANDSHAKE
            .replace("chat.example.com", host)
            .replace("/chat ", &format!("{path} "));
        client.send(request).await;
        let (_, endpoint) = endpoints
            .iter()
            .find(|(name, _)| *name == expected)
            .unwrap();
        let (_served, head) = endpoint.request().await;
        // As received, whatever the route has matched.
        assert_eq!(head.start(), format!("GET {path} HTTP/1.1"));
        assert_eq!(head.value("host"), Some(host));
    }
    let mut client = crate::harness::wire::Wire::connect(proxy.address_of("internal")).await;
    client
        .send(
            HANDSHAKE
                .replace("chat.example.com", "other.net")
                .replace("/chat ", "/ "),
        )
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (404, Some("no-route"))
    );
}

#[tokio::test]
async fn endpoints_may_see_their_own_host() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace(
        "upstream = \"main\"",
        "upstream = \"main\"\npreserve_host = false",
    );
    let proxy = Proxy::start(&config).await;
    let own = endpoint.address.to_string();
    for request in [
        HANDSHAKE,
        "GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (_served, head) = endpoint.request().await;
        assert_eq!(head.value("host"), Some(own.as_str()));
        assert_eq!(head.value("x-forwarded-host"), Some("chat.example.com"));
    }
}

#[tokio::test]
async fn endpoints_may_get_a_fixed_host() {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], "", "host = \"chat.internal:81\"");
    let proxy = Proxy::start(&config).await;
    for request in [
        HANDSHAKE,
        "GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n",
    ] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (_served, head) = endpoint.request().await;
        assert_eq!(head.value("host"), Some("chat.internal:81"));
        assert_eq!(head.value("x-forwarded-host"), Some("chat.example.com"));
    }
}

/// A name that discovery has looked up is the endpoint's own, for requests and health checks.
#[tokio::test]
async fn endpoints_see_the_name_by_which_they_were_discovered() {
    let endpoint = Endpoint::bind().await;
    let port = endpoint.address.port();
    let server = NameServer::start(60).await;
    server.addresses("chat.test", &["127.0.0.1"]);
    server.services("_ws._tcp.chat.test", &[(0, 1, port, "chat.test")]);
    let lookups = [
        format!(
            "dns = {{ name = \"chat.test\", port = {port}, server = \"{}\" }}",
            server.address
        ),
        format!(
            "srv = {{ name = \"_ws._tcp.chat.test\", server = \"{}\" }}",
            server.address
        ),
    ];
    for lookup in lookups {
        let config = settings(&[], "", "preserve_host = false").replace(
            "endpoints = []",
            &format!("{lookup}\nhealth = {{ http = {{}}, interval = \"100ms\" }}"),
        );
        let proxy = Proxy::start(&config).await;
        let named = format!("chat.test:{port}");
        let mut client = None;
        loop {
            let (mut served, head) = endpoint.request().await;
            assert_eq!(head.value("host"), Some(named.as_str()), "{head:?}");
            if head.value("upgrade").is_some() {
                assert_eq!(head.value("x-forwarded-host"), Some("chat.example.com"));
                break;
            }
            // A health check. The client comes after the first one.
            served
                .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            if client.is_none() {
                let mut wire = proxy.connect().await;
                wire.send(HANDSHAKE).await;
                client = Some(wire);
            }
        }
    }
}

#[tokio::test]
async fn an_absolute_target_becomes_an_origin_form() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    for (target, forwarded) in [
        ("http://a.example.com/x?y", "/x?y"),
        ("http://a.example.com", "/"),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(format!(
                "GET {target} HTTP/1.1\r\nHost: a.example.com\r\n\r\n"
            ))
            .await;
        let (_served, head) = endpoint.request().await;
        assert_eq!(head.start(), format!("GET {forwarded} HTTP/1.1"));
    }
}

/// Handshakes go to one endpoint, and plain requests to the other.
fn by_kind(chat: &Endpoint, site: &Endpoint) -> String {
    let route = |only: &str, upstream: &str, endpoint: &Endpoint| {
        format!(
            "[[route]]\nname = \"{only}\"\nonly = \"{only}\"\nupstream = \"{upstream}\"\n\
             [upstream.{upstream}]\nendpoints = [\"{}\"]\n",
            endpoint.address
        )
    };
    let (plain, handshakes) = (
        route("plain", "site", site),
        route("handshakes", "chat", chat),
    );
    format!("[listener.main]\nbind = [\"127.0.0.1:0\"]\n{plain}{handshakes}")
}

#[tokio::test]
async fn handshakes_and_plain_requests_of_one_path_go_to_different_upstreams() {
    let (chat, site) = (Endpoint::bind().await, Endpoint::bind().await);
    let proxy = Proxy::start(&by_kind(&chat, &site)).await;
    let (_client, _served) = proxy.tunnel_to(&chat).await;
    let plain = [
        "GET /chat HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        // Not a handshake without the token in `Connection`.
        HANDSHAKE.replace("Connection: Upgrade\r\n", ""),
    ];
    for request in &plain {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (_served, _) = site.request().await;
    }
}

#[tokio::test]
async fn a_condition_on_the_kind_of_a_request_is_explained_and_planned() {
    let (chat, site) = (Endpoint::bind().await, Endpoint::bind().await);
    let config = by_kind(&chat, &site);
    let (proxy, operator) = Operator::start(&config).await;
    // A plan lists the routes with the most tunnels first.
    let (_client, _served) = proxy.tunnel_to(&chat).await;
    let port = proxy.address().port();
    let explain = |scheme: &'static str| {
        let operator = &operator;
        let url = format!("{scheme}://a:{port}/chat");
        async move {
            let request = json!({ "url": url, "listener": "main" });
            operator.explain(request).await
        }
    };
    for (scheme, route, other, why) in [
        (
            "ws",
            "handshakes",
            "plain",
            "it matches only plain HTTP requests",
        ),
        (
            "http",
            "plain",
            "handshakes",
            "it matches only WebSocket handshakes",
        ),
    ] {
        let explained = explain(scheme).await;
        assert_eq!(explained["route"], route);
        assert_eq!(
            explained["other_routes"],
            json!([{ "route": other, "why": why }])
        );
    }
    // A reload sees the change, and without the route for them, plain requests get 404.
    let changed = config.replace("only = \"plain\"", "only = \"handshakes\"\npath = \"/x\"");
    proxy.rewrite(&(ADMIN.to_owned() + &changed));
    let plan = operator.plan().await;
    assert_eq!(
        (&plan["routes"][0]["name"], &plan["routes"][0]["change"]),
        (&json!("handshakes"), &json!("kept"))
    );
    assert_eq!(
        (&plan["routes"][1]["name"], &plan["routes"][1]["change"]),
        (&json!("plain"), &json!("changed"))
    );
    proxy.reload(&(ADMIN.to_owned() + &changed)).await;
    let mut client = proxy.connect().await;
    client.send("GET /chat HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (404, Some("no-route"))
    );
}

/// Routes for the same path with further conditions.
#[tokio::test]
async fn conditions_choose_among_routes_of_one_path() {
    let mut config = String::from(
        r#"
        [listener.main]
        bind = ["127.0.0.1:0"]
        [[route]]
        upstream = "any"
        [[route]]
        headers = { x-tenant = "acme" }
        upstream = "tenant"
        [[route]]
        headers = { x-tenant = "acme" }
        query = { v = "2 b" }
        upstream = "version"
        [[route]]
        subprotocols = ["graphql-ws"]
        upstream = "graphql"
        [[route]]
        methods = ["POST", "PUT"]
        upstream = "upload"
        "#,
    );
    let mut endpoints = Vec::new();
    for name in ["any", "tenant", "version", "graphql", "upload"] {
        let endpoint = Endpoint::bind().await;
        config += &format!(
            "[upstream.{name}]\nendpoints = [\"{}\"]\n",
            endpoint.address
        );
        endpoints.push((name, endpoint));
    }
    let proxy = Proxy::start(&config).await;
    let plain = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n")
    };
    for (request, expected) in [
        (plain("GET /", ""), "any"),
        (plain("GET /", "X-Tenant: acme\r\n"), "tenant"),
        (plain("GET /", "X-Tenant: Acme\r\n"), "any"),
        (plain("GET /?v=2+b", "X-Tenant: acme\r\n"), "version"),
        (plain("GET /?a&v=2%20b", "X-Tenant: acme\r\n"), "version"),
        (plain("GET /?v=2", "X-Tenant: acme\r\n"), "tenant"),
        (plain("POST /", ""), "upload"),
        (
            plain("GET /", "Sec-WebSocket-Protocol: graphql-ws\r\n"),
            "any",
        ),
        (
            handshake_with("Sec-WebSocket-Protocol: chat, graphql-ws\r\n"),
            "graphql",
        ),
        (handshake_with("X-Tenant: acme\r\n"), "tenant"),
        // A handshake is a GET.
        (handshake_with("Sec-WebSocket-Protocol: chat\r\n"), "any"),
    ] {
        let mut client = proxy.connect().await;
        client.send(&request).await;
        let (_, endpoint) = endpoints
            .iter()
            .find(|(name, _)| *name == expected)
            .unwrap();
        endpoint.request().await;
    }
}
