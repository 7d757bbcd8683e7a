//! Redirects of plain requests, and of no handshakes.

use serde_json::json;

use crate::harness::endpoint::Endpoint;
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{HANDSHAKE, Wire};

const CONFIG: &str = r#"
[listener.plain]
bind = ["127.0.0.1:0"]
redirect_to_https = true
trusted_proxies = ["127.0.0.2"]
[listener.other]
bind = ["127.0.0.1:0"]
[[route]]
hosts = ["a.example.com"]
upstream = "main"
[[route]]
name = "acme"
listeners = ["plain"]
path_prefix = "/.well-known/acme-challenge"
upstream = "main"
[upstream.main]
endpoints = ["ENDPOINT"]
"#;

/// The status and the `Location` of a response.
async fn answered(proxy: &Proxy, listener: &str, request: &str) -> (u16, Option<String>) {
    let mut client = Wire::connect(proxy.address_of(listener)).await;
    client.send(request).await;
    let (head, _) = client.reply().await;
    (head.status(), head.value("location").map(str::to_owned))
}

#[tokio::test]
async fn plain_requests_go_to_https_and_handshakes_do_not() {
    let endpoint = Endpoint::bind().await;
    let config = CONFIG.replace("ENDPOINT", &endpoint.address.to_string());
    let proxy = Proxy::start(&config).await;
    for (target, location) in [
        ("/", "https://a.example.com/"),
        ("/x?y=%20", "https://a.example.com/x?y=%20"),
        ("//evil.com", "https://a.example.com//evil.com"),
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: a.example.com:8080\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = answered(&proxy, "plain", &request).await;
            assert_eq!(answer, (308, Some(location.to_owned())));
        }
    }
    let mut client = Wire::connect(proxy.address_of("plain")).await;
    client
        .send(HANDSHAKE.replace("chat.example.com", "a.example.com"))
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (403, Some("https-required"))
    );
    assert_eq!(head.value("location"), None);
    endpoint.stays_quiet().await;

    // A route bound to the listener by name wins over a more specific host.
    let mut client = Wire::connect(proxy.address_of("plain")).await;
    client
        .send("GET /.well-known/acme-challenge/t HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
        .await;
    let (_wire, head) = endpoint.request().await;
    assert!(head.start().contains("acme-challenge"));
    // Another listener does not redirect, and neither does this one if a proxy in front has ended https.
    for (listener, source, fields) in [
        ("other", "127.0.0.1", ""),
        ("plain", "127.0.0.2", "X-Forwarded-Proto: https\r\n"),
    ] {
        let mut client = proxy.connect_from(source, listener).await;
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: a.example.com\r\n{fields}\r\n"
            ))
            .await;
        endpoint.request().await;
    }
    let redirected = proxy.logged("request").await;
    assert_eq!(
        (&redirected["status"], &redirected["listener"]),
        (&308.into(), &"plain".into())
    );
}

#[tokio::test]
async fn a_route_may_redirect() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address])
        + "[[route]]\n\
           path_prefix = \"/old\"\n\
           redirect = { to = \"https://new.example.com${uri}\", status = 302 }\n\
           [[route]]\n\
           path = \"/moved\"\n\
           redirect = { to = \"/here\" }\n";
    let (proxy, operator) = Operator::start(&config).await;
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (target, status, location) in [
        ("/old/x?y", 302, "https://new.example.com/old/x?y"),
        ("/moved?x", 308, "/here"),
    ] {
        let answer = answered(&proxy, "main", &get(target)).await;
        assert_eq!(answer, (status, Some(location.to_owned())));
        let url = format!("http://a:{}{target}", proxy.address().port());
        let explained = operator.explain(json!({ "url": url })).await;
        assert_eq!(
            explained["response"],
            json!({ "status": status, "reason": "redirect", "text": location })
        );
    }
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE.replace("/chat", "/old")).await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (403, Some("redirect-only"))
    );
    endpoint.stays_quiet().await;
}
