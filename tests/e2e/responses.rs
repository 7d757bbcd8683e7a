//! Routes that tidegate answers itself.

use serde_json::json;

use crate::harness::endpoint::Endpoint;
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::wire::{HANDSHAKE, Head, Wire};

fn responding(path: &str, lines: &str) -> String {
    format!("[[route]]\nname = \"{path}\"\npath = \"{path}\"\n[route.respond]\n{lines}\n")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

async fn answered(wire: &mut Wire, request: &str) -> (Head, String) {
    wire.send(request).await;
    wire.reply().await
}

#[tokio::test]
async fn a_route_may_respond_itself() {
    let endpoint = Endpoint::bind().await;
    let config = [
        simple(&[endpoint.address]),
        responding("/ok", ""),
        responding(
            "/later",
            "status = 503\nbody = \"Back soon.\\n\"\nretry_after = \"90500ms\"",
        ),
        responding(
            "/json",
            "body = '{\"ok\":true}'\ncontent_type = \"application/json\"",
        ),
        responding("/upgrade", "status = 426"),
    ]
    .concat();
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    let (head, body) = answered(&mut client, &get("/ok")).await;
    assert_eq!((head.status(), body.as_str()), (200, ""));
    assert_eq!(head.value("content-type"), None);
    assert_eq!(head.value("content-length"), Some("0"));
    assert_eq!(head.value("tidegate-reason"), None, "nothing is rejected");
    let (head, body) = answered(&mut client, &get("/json")).await;
    assert_eq!((head.status(), body.as_str()), (200, "{\"ok\":true}"));
    assert_eq!(head.value("content-type"), Some("application/json"));
    // The same for every method, for a body that nothing reads, and for a handshake, whose connection
    // stays usable.
    let (get, handshake) = (get("/later"), HANDSHAKE.replace("/chat", "/later"));
    let post = get
        .replace("GET", "POST")
        .replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi");
    let mut posting = proxy.connect().await;
    for request in [&get, &handshake, &post] {
        let wire = match request == &post {
            true => &mut posting,
            false => &mut client,
        };
        let (head, body) = answered(wire, request).await;
        assert_eq!((head.status(), body.as_str()), (503, "Back soon.\n"));
        assert_eq!(head.value("retry-after"), Some("91"));
        let content_type = head.value("content-type");
        assert_eq!(content_type, Some("text/plain; charset=utf-8"));
    }
    client.send(get.replace("GET", "HEAD")).await;
    let head = client.head().await;
    assert_eq!(head.value("content-length"), Some("11"));
    let (head, _) = answered(&mut client, &get.replace("/later", "/upgrade")).await;
    assert_eq!(
        (head.status(), head.value("upgrade")),
        (426, Some("websocket"))
    );
    endpoint.stays_quiet().await;
    let logged = proxy.logged_times("request", 7).await;
    assert_eq!(
        (&logged[3]["route"], &logged[3]["status"]),
        (&json!("/later"), &json!(503))
    );
}

#[tokio::test]
async fn a_route_that_responds_has_its_access_rules() {
    let config = "[listener.main]\nbind = [\"127.0.0.1:0\"]\n\
                  [[route]]\ndeny = [\"127.0.0.1\"]\n[route.respond]\nbody = \"secret\"\n";
    let proxy = Proxy::start(config).await;
    let (head, _) = answered(&mut proxy.connect().await, &get("/")).await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (403, Some("address-denied"))
    );
}

#[tokio::test]
async fn a_response_is_explained_and_a_reload_changes_it() {
    let config = |status: &str| {
        let listener = "[listener.main]\nbind = [\"127.0.0.1:0\"]\n";
        let lines = format!("status = {status}\nbody = \"closed\"");
        [
            listener,
            &responding("/ws", &lines),
            &responding("/ready", "status = \"ready\""),
        ]
        .concat()
    };
    let (proxy, operator) = Operator::start(&config("403")).await;
    let asked = |url: &str| json!({ "url": url, "listener": "main" });
    let explained = operator.explain(asked("ws://a/ws")).await;
    assert_eq!(
        (&explained["route"], &explained["response"]),
        (
            &json!("/ws"),
            &json!({ "status": 403, "reason": "respond", "text": "closed" })
        )
    );
    let explained = operator.explain(asked("http://a/ready")).await;
    assert_eq!(
        explained["response"],
        json!({ "status": 200, "reason": "respond", "text": "ready" })
    );
    let changed = ADMIN.to_owned() + &config("410");
    proxy.rewrite(&changed);
    let plan = operator.plan().await;
    assert_eq!(
        plan["routes"],
        json!([{ "name": "/ws", "change": "changed", "tunnels": 0 }])
    );
    proxy.reload(&changed).await;
    let (head, body) = answered(&mut proxy.connect().await, &get("/ws")).await;
    assert_eq!((head.status(), body.as_str()), (410, "closed"));
}

/// A load balancer's check of the traffic port sees a stop before connections are refused.
#[tokio::test]
async fn readiness_on_the_traffic_port_follows_a_stop() {
    let endpoint = Endpoint::bind().await;
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.delay = \"1h\"\n";
    let ready = responding("/ready", "status = \"ready\"");
    let config = [server, &simple(&[endpoint.address]), &ready].concat();
    let mut proxy = Proxy::start(&config).await;
    let handshake = HANDSHAKE.replace("/chat", "/ready");
    for request in [&get("/ready"), &handshake] {
        let (head, body) = answered(&mut proxy.connect().await, request).await;
        assert_eq!((head.status(), body.as_str()), (200, "ready\n"));
    }
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    for request in [&get("/ready"), &handshake] {
        let (head, body) = answered(&mut proxy.connect().await, request).await;
        assert_eq!((head.status(), body.as_str()), (503, "draining\n"));
    }
    // Clients are still served.
    drop(proxy.tunnel_to(&endpoint).await);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 4);
}

#[tokio::test]
async fn readiness_follows_drained_listeners() {
    let config = "[listener.main]\nbind = [\"127.0.0.1:0\"]\n[listener.other]\nbind = [\"127.0.0.1:0\"]\n\
                  [[route]]\nrespond.status = \"ready\"\n";
    let (proxy, operator) = Operator::start(config).await;
    // A request whose first half is here is served before its listener's connections end.
    let mut begun = proxy.connect().await;
    begun.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let (head, _) = answered(&mut proxy.connect().await, &get("/")).await;
    assert_eq!(head.status(), 200);
    for listener in ["other", "main"] {
        let path = "/v1/listeners/drain";
        let (status, answer) = operator.post(path, &json!({ "listener": listener })).await;
        assert_eq!(status, 200, "{answer}");
    }
    begun.send("\r\n").await;
    let (head, body) = begun.reply().await;
    assert_eq!(
        (head.status(), body.as_str()),
        (503, "every listener is drained\n")
    );
}
