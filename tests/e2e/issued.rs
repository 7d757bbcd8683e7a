//! A whole program that obtains its certificates: from the configuration to what clients and operators see.

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use crate::harness::acme_ca::AcmeCa;
use crate::harness::acme_settings::CaSettings;
use crate::harness::acme_validation::accepting_any;
use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::within;

/// A program whose authority validates by the ports that it listens on.
struct Managed {
    proxy: Proxy,
    operator: Operator,
    ca: AcmeCa,
    _echo: Echo,
}

impl Managed {
    async fn start(acme: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), acme).await
    }

    async fn start_in(folder: TempDir, acme: &str) -> Self {
        let ca = AcmeCa::start(CaSettings {
            holds_validations: true,
            window: Some((86_400, 90_000)),
            ..CaSettings::default()
        })
        .await;
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

    /// Waits until the problems in the status are as wanted.
    async fn until_problems(&self, is_wanted: impl Fn(&str) -> bool) {
        within("the problems of certificates", async {
            loop {
                let status = self.operator.get("/v1/status").await;
                if is_wanted(&status["certificate_problems"].to_string()) {
                    return;
                }
            }
        })
        .await;
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
        // A scanner may ask for one at any time.
        let failed = "TLS handshake failed; each reason is logged at most once a minute";
        assert!(managed.proxy.logged_by_now(failed).await.is_empty());
        let status = managed.operator.get("/v1/status").await;
        let service = &status["services"][0];
        assert_eq!(service["service"], "acme/ca", "{status}");
        assert!(service["succeeded"].as_u64() > Some(0) && service["last_error"].is_null());

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

const UNUSABLE: &str = "folder of certificates cannot be used; those in memory are served, and none is ordered until it can";

#[tokio::test]
async fn a_folder_that_is_away_prevents_neither_a_start_nor_a_reload() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("acme");
    std::fs::write(&state, "not a folder").unwrap();
    let managed = Managed::start_in(folder, "challenges = [\"tls-alpn-01\"]").await;
    let logged = managed.proxy.logged(UNUSABLE).await;
    let text = logged["error"].to_string();
    assert!(text.contains("is not a folder"), "{text}");
    let problem = |problems: &str| problems.contains("its folder cannot be used: cannot write to");
    managed.until_problems(problem).await;
    let path = managed.proxy.folder().join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    managed.proxy.reload(&config).await;
    // Only a check insists on the folder.
    let check = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("check")
        .arg(&path)
        .output();
    let checked = check.await.unwrap();
    let report = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{report}");
    assert!(report.contains("error[file]: cannot write to"), "{report}");
    // When the folder comes back, things go on at once.
    std::fs::remove_file(&state).unwrap();
    managed.proxy.logged("certificate issued").await;
    managed
        .proxy
        .logged("folder of certificates can be used again")
        .await;
    assert_eq!(managed.proxy.logged_by_now(UNUSABLE).await.len(), 1);
    managed.until_problems(|problems| problems == "[]").await;
}

#[tokio::test]
async fn a_process_whose_successor_cannot_read_its_certificates_stays() {
    let managed = Managed::start("challenges = [\"tls-alpn-01\"]").await;
    managed.proxy.logged("certificate issued").await;
    let (first, _) = managed.presented(b"http/1.1").await.unwrap();
    let state = managed.proxy.folder().join("acme");
    let away = managed.proxy.folder().join("away");
    std::fs::rename(&state, &away).unwrap();
    std::fs::write(&state, "not a folder").unwrap();
    managed.proxy.logged(UNUSABLE).await;
    let (status, answer) = managed.operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 409, "{answer}");
    let details = answer["details"].to_string();
    let expected = "the certificates that the previous process serves cannot be read";
    assert!(details.contains(expected), "{answer}");
    // What is in memory is served.
    assert_eq!(managed.presented(b"http/1.1").await.unwrap().0, first);
    std::fs::remove_file(&state).unwrap();
    std::fs::rename(&away, &state).unwrap();
    let (status, answer) = managed.operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    managed.proxy.successor(1).await;
    assert_eq!(managed.presented(b"http/1.1").await.unwrap().0, first);
}

#[tokio::test]
async fn a_reload_serves_what_is_stored_to_the_first_client() {
    let managed = Managed::start("challenges = [\"tls-alpn-01\"]").await;
    managed.proxy.logged("certificate issued").await;
    let (first, _) = managed.presented(b"http/1.1").await.unwrap();
    let path = managed.proxy.folder().join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let other = config.replace("chat.example.com", "other.example.com");
    managed.proxy.reload(&other).await;
    managed.proxy.logged_times("certificate issued", 2).await;
    // The first one is in the folder only.
    managed.proxy.reload(&config).await;
    assert_eq!(managed.presented(b"http/1.1").await.unwrap().0, first);
    assert_eq!(managed.ca.history().orders, 2);
}
