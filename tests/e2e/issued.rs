//! A whole program that obtains its certificates: from the configuration to what clients and operators see.

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::acme_ca::AcmeCa;
use crate::harness::acme_settings::CaSettings;
use crate::harness::acme_validation::accepting_any;
use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{HANDSHAKE, Wire};

/// A program whose authority validates by the ports that it listens on.
struct Managed {
    proxy: Proxy,
    operator: Operator,
    ca: AcmeCa,
    _echo: Echo,
}

impl Managed {
    async fn start(acme: &str) -> Self {
        let ca = AcmeCa::start(CaSettings {
            holds_validations: true,
            window: Some((86_400, 90_000)),
            ..CaSettings::default()
        })
        .await;
        let folder = TempDir::new().unwrap();
        write_token(folder.path());
        std::fs::write(folder.path().join("ca.pem"), &*ca.root_pem).unwrap();
        let echo = Echo::start("echo").await;
        // Neither the redirect nor the list of addresses is in the way of the authority.
        let config = format!(
            "{ADMIN}[acme.ca]\ndirectory = \"{}\"\nca = \"ca.pem\"\nterms_agreed = true\nstate = \"acme\"\n{acme}\n\
             [listener.http]\nbind = [\"127.0.0.1:0\"]\nredirect_to_https = true\n\
             [[route]]\nname = \"denied\"\nlisteners = [\"http\"]\ndeny = [\"127.0.0.0/8\"]\nupstream = \"main\"\n\
             {}[listener.main.tls]\ncertificates = [{{ names = [\"chat.example.com\"], acme = \"ca\" }}]\n",
            ca.directory(),
            simple(&[echo.address]),
        );
        let proxy = Proxy::start_in(folder, &config).await;
        let operator = Operator::of(&proxy).await;
        let (http, tls) = (proxy.address_of("http"), proxy.address_of("main"));
        ca.change(|settings| {
            settings.http_port = http.port();
            settings.tls_port = tls.port();
            settings.holds_validations = false;
        });
        Self {
            proxy,
            operator,
            ca,
            _echo: echo,
        }
    }

    /// The certificate as operators see it.
    async fn shown(&self) -> Value {
        let listed = self.operator.get("/v1/certificates").await;
        listed["certificates"][0].clone()
    }

    /// What is presented to a client that trusts anything; `None` if the handshake fails.
    async fn presented(&self, alpn: &[u8]) -> Option<(Vec<u8>, Wire)> {
        let socket = TcpStream::connect(self.proxy.address()).await.unwrap();
        let name = ServerName::try_from("chat.example.com").unwrap();
        let connected = TlsConnector::from(accepting_any(alpn)).connect(name, socket);
        let stream = connected.await.ok()?;
        let presented = stream.get_ref().1.peer_certificates()?.first()?.to_vec();
        Some((presented, Wire::over(stream)))
    }
}

#[tokio::test]
async fn certificates_are_obtained_renewed_and_tried_while_tunnels_stay() {
    for challenge in ["http-01", "tls-alpn-01"] {
        let managed = Managed::start(&format!("challenges = [\"{challenge}\"]")).await;
        managed.proxy.logged("certificate issued").await;
        let validated = managed.ca.history().validated;
        assert!(
            validated[0].ends_with(&format!("by {challenge}: Ok(())")),
            "{validated:?}"
        );
        let shown = managed.shown().await;
        assert_eq!(shown["authority"], "ca", "{shown}");
        assert!(
            shown["last_error"].is_null() && shown["expires"].is_string(),
            "{shown}"
        );
        let (first, mut tunnel) = managed.presented(b"http/1.1").await.unwrap();
        tunnel.send(HANDSHAKE).await;
        assert_eq!(tunnel.head().await.status(), 101);
        // No challenge is open any more.
        assert!(managed.presented(b"acme-tls/1").await.is_none());

        let order = json!({ "name": "chat.example.com" });
        let (status, tried) = managed.operator.post("/v1/certificates/try", &order).await;
        assert_eq!(status, 200, "{tried}");
        assert_eq!(managed.presented(b"http/1.1").await.unwrap().0, first);
        let (status, renewed) = managed
            .operator
            .post("/v1/certificates/renew", &order)
            .await;
        assert_eq!(
            (status, &renewed["certificates"]),
            (200, &json!(1)),
            "{renewed}"
        );
        managed.proxy.logged_times("certificate issued", 2).await;
        assert_ne!(managed.presented(b"http/1.1").await.unwrap().0, first);
        assert!(managed.proxy.logged_by_now("tunnel ended").await.is_empty());
        drop(tunnel);
        let (status, error) = managed
            .operator
            .post(
                "/v1/certificates/renew",
                &json!({ "name": "other.example.com" }),
            )
            .await;
        assert_eq!(status, 404, "{error}");
    }
}

#[tokio::test]
async fn an_upgrade_serves_what_was_stored_and_orders_nothing() {
    let managed = Managed::start("challenges = [\"tls-alpn-01\"]").await;
    managed.proxy.logged("certificate issued").await;
    let (first, _) = managed.presented(b"http/1.1").await.unwrap();
    let (status, answer) = managed.operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    managed.proxy.successor(1).await;
    let (second, _) = managed.presented(b"http/1.1").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(managed.ca.history().orders, 1);
}
