//! Failed TLS handshakes: logged by cause, counted, and shown to operators.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::certificates::Authority;
use crate::harness::operator::{ADMIN_AND_METRICS, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::Scrape;
use crate::harness::wire::HANDSHAKE;
use crate::harness::within;

const FAILED: &str = "TLS handshake failed; each reason is logged at most once a minute";
const REFUSED: &str = "tidegate_connections_refused_total";

/// A proxy with TLS, metrics and an admin interface; `settings` begin in the `tls` table of its listener.
async fn start(settings: &str) -> (Authority, Proxy) {
    let (authority, folder) = Authority::with_certificate();
    authority.write(&folder.path().join("ca.pem"));
    write_token(folder.path());
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    // No test gets as far as an endpoint.
    let endpoint = "127.0.0.1:9".parse().unwrap();
    let config = [ADMIN_AND_METRICS, &simple(&[endpoint]), tls, settings].concat();
    (authority, Proxy::start_in(folder, &config).await)
}

/// Begins a handshake and waits until the connection has ended.
async fn fails(proxy: &Proxy, client: Arc<ClientConfig>) {
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let name = ServerName::try_from("chat.example.com").unwrap();
    let connecting = TlsConnector::from(client).connect(name, socket);
    match within("a TLS handshake", connecting.into_fallible()).await {
        // In TLS 1.3 a client has finished before the server judges its certificate.
        Ok(mut stream) => {
            let mut bytes = Vec::new();
            assert!(stream.read_to_end(&mut bytes).await.is_err() && bytes.is_empty());
        }
        // Closing the socket with unread bytes would reset the connection, and its alert with it.
        Err((_, mut socket)) => {
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    }
}

#[tokio::test]
async fn each_cause_is_counted_and_logged_once_a_minute() {
    let limits = "min_version = \"1.3\"\n[listener.main.timeouts]\ntls_handshake = \"1s\"\n";
    let (authority, proxy) = start(limits).await;
    let operator = Operator::of(&proxy).await;
    for _ in 0..2 {
        fails(&proxy, Authority::new().client()).await;
        fails(&proxy, authority.client_of(&[&TLS12])).await;
        let mut plain = proxy.connect().await;
        plain.send(HANDSHAKE).await;
        plain.rest().await;
        let mut leaving = proxy.connect().await;
        leaving.send([22, 3, 1]).await;
        leaving.finish().await;
        leaving.rest().await;
        let mut slow = proxy.connect().await;
        slow.send([22, 3, 1]).await;
        slow.rest().await;
    }
    let causes = [
        "certificate-rejected",
        "version",
        "not-tls",
        "closed",
        "timeout",
    ];
    for cause in causes {
        let labels = ["listener=\"main\"", &format!("reason=\"{cause}\"")];
        Scrape::until(&proxy, "tidegate_tls_failures_total", &labels, 2.0).await;
    }
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum(REFUSED, &["reason=\"tls\""]), 10.0);
    let logged = proxy.logged_by_now(FAILED).await;
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let reasons: BTreeSet<String> = logged.iter().map(|event| text(event, "reason")).collect();
    assert_eq!(reasons, causes.map(str::to_owned).into());
    assert_eq!(logged.len(), causes.len(), "{logged:#?}");
    for event in &logged {
        assert_eq!(
            (text(event, "level"), text(event, "listener")),
            ("WARN".into(), "main".into())
        );
        assert!(
            !text(event, "hint").is_empty() && !text(event, "error").is_empty(),
            "{event}"
        );
    }
    let listeners = operator.get("/v1/listeners").await;
    assert_eq!(listeners[0]["connections_refused"], json!({ "tls": 10 }));
    assert_eq!(listeners[0]["tls_failures"]["certificate-rejected"], 2);
    let status = operator.run(&["status"]).await;
    let line =
        "listener main closed connections before a request: tls 10 (certificate-rejected 2, ";
    assert!(status.out.contains(line), "{}", status.out);
}

#[tokio::test]
async fn a_missing_client_certificate_is_a_cause_of_its_own() {
    let auth = "client_auth = { ca = \"ca.pem\", mode = \"required\" }\n";
    let (authority, proxy) = start(auth).await;
    fails(&proxy, authority.client()).await;
    fails(
        &proxy,
        authority.client_showing(&Authority::new(), "stranger"),
    )
    .await;
    let event = proxy.logged(FAILED).await;
    assert_eq!(event["reason"], "client-certificate", "{event}");
    let labels = ["reason=\"client-certificate\""];
    Scrape::until(&proxy, "tidegate_tls_failures_total", &labels, 2.0).await;
}

/// A load balancer looks whether the port is open.
#[tokio::test]
async fn a_connection_without_a_byte_is_not_a_failed_handshake() {
    let (_, proxy) = start("[listener.main.timeouts]\ntls_handshake = \"1s\"\n").await;
    let operator = Operator::of(&proxy).await;
    for _ in 0..3 {
        let mut closing = proxy.connect().await;
        closing.finish().await;
        closing.rest().await;
        proxy.connect().await.reset();
    }
    proxy.connect().await.rest().await;
    let scrape = Scrape::until(&proxy, REFUSED, &["reason=\"empty\""], 7.0).await;
    assert_eq!(scrape.sum(REFUSED, &["reason=\"tls\""]), 0.0);
    assert_eq!(proxy.logged_by_now(FAILED).await, Vec::<Value>::new());
    let status = operator.run(&["status"]).await;
    assert!(!status.out.contains("closed connections"), "{}", status.out);
}

#[tokio::test]
async fn rejected_requests_are_shown_by_reason() {
    let endpoint = "127.0.0.1:9".parse().unwrap();
    let config = simple(&[endpoint]).replace(
        "upstream = \"main\"",
        "path = \"/chat\"\nupstream = \"main\"",
    );
    let (proxy, operator) = Operator::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE.replace("/chat", "/other")).await;
    assert_eq!(client.reply().await.0.status(), 404);
    let status = operator.run(&["status"]).await;
    let line = "listener main rejected requests: no-route 1\n";
    assert!(status.out.contains(line), "{}", status.out);
}
