//! TLS towards clients and towards endpoints.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, Wire};

const TLS: &str = "[listener.main.tls]\n\
    certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }, { cert = \"more.pem\", key = \"more.key\" }]\n";

struct Setup {
    authority: Authority,
    proxy: Proxy,
    echo: Echo,
}

/// Two certificates: `chat.example.com`, the default, and `*.example.org`.
async fn setup(settings: &str) -> Setup {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.issue(folder.path(), "chat", &["chat.example.com"]);
    authority.issue(
        folder.path(),
        "more",
        &["*.example.org", "more.example.com"],
    );
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start_in(folder, &(simple(&[echo.address]) + TLS + settings)).await;
    Setup {
        authority,
        proxy,
        echo,
    }
}

async fn handshake(
    proxy: &Proxy,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(proxy.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config))
        .connect(name, socket)
        .await
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let Setup {
        authority,
        proxy,
        echo: _echo,
    } = setup("").await;
    let client = authority.client();
    for name in [
        "chat.example.com",
        "a.example.org",
        "more.example.com",
        "MORE.example.com",
    ] {
        assert!(handshake(&proxy, &client, name).await.is_ok(), "{name}");
    }
    // Any other name gets the default, which does not fit it.
    for name in ["a.b.example.org", "example.org", "127.0.0.1"] {
        let error = handshake(&proxy, &client, name)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
    let mut wire = proxy.connect_tls(client, "a.example.org").await;
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
}

#[tokio::test]
async fn both_versions_are_spoken_unless_the_older_is_ruled_out() {
    let Setup {
        authority,
        proxy,
        echo: _echo,
    } = setup("").await;
    for (offered, spoken) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let stream = handshake(&proxy, &authority.client_of(&[offered]), "chat.example.com")
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
    }
    let stream = handshake(&proxy, &authority.client(), "chat.example.com")
        .await
        .unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);

    let strict = setup("min_version = \"1.3\"\n").await;
    let client = strict.authority.client_of(&[&TLS12]);
    assert!(
        handshake(&strict.proxy, &client, "chat.example.com")
            .await
            .is_err()
    );
    let client = strict.authority.client();
    assert!(
        handshake(&strict.proxy, &client, "chat.example.com")
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn sessions_resume_even_after_a_reload() {
    let Setup {
        authority,
        proxy,
        echo: _echo,
    } = setup("").await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version]);
        for (turn, expected) in [
            (0, HandshakeKind::Full),
            (1, HandshakeKind::Resumed),
            (2, HandshakeKind::Resumed),
        ] {
            if turn == 2 {
                let config = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
                proxy.reload(&config).await;
            }
            let stream = handshake(&proxy, &client, "chat.example.com")
                .await
                .unwrap();
            let mut wire = Wire::over(stream);
            // The ticket of TLS 1.3 comes behind the handshake, with the first bytes.
            wire.send(HANDSHAKE).await;
            assert_eq!(wire.head().await.status(), 101);
            drop(wire);
            let stream = handshake(&proxy, &client, "chat.example.com")
                .await
                .unwrap();
            let kind = stream.get_ref().1.handshake_kind().unwrap();
            let expected = if turn == 0 {
                HandshakeKind::Resumed
            } else {
                expected
            };
            assert_eq!(kind, expected, "turn {turn} of {version:?}");
        }
    }
}

#[tokio::test]
async fn a_changed_certificate_applies_by_itself_and_tunnels_stay() {
    let Setup {
        authority,
        proxy,
        echo: _echo,
    } = setup("").await;
    let client = authority.client();
    let mut held = proxy
        .connect_tls(Arc::clone(&client), "chat.example.com")
        .await;
    held.send(HANDSHAKE).await;
    assert_eq!(held.head().await.status(), 101);
    let before = certificate(&proxy, &client).await;
    authority.issue(proxy.folder(), "chat", &["chat.example.com"]);
    proxy.logged("certificates reloaded").await;
    assert_ne!(certificate(&proxy, &client).await, before);
    // A Ping, answered through what ran before.
    held.send(crate::harness::frames::frame(0x89, Some([0; 4]), b"x"))
        .await;
    assert_eq!(held.exactly(3).await, [0x8a, 1, b'x']);
    // Half of a change is waited for, then reported; what ran keeps running.
    let current = certificate(&proxy, &client).await;
    std::fs::write(proxy.folder().join("chat.pem"), "not a certificate").unwrap();
    let failure = proxy.logged("reload failed").await;
    assert!(
        failure["error"].as_str().unwrap().contains("chat.pem"),
        "{failure}"
    );
    assert_eq!(certificate(&proxy, &client).await, current);
}

/// The certificate that a new client sees.
async fn certificate(proxy: &Proxy, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let fresh = {
        let mut fresh = (**client).clone();
        fresh.resumption = rustls::client::Resumption::disabled();
        Arc::new(fresh)
    };
    let stream = handshake(proxy, &fresh, "chat.example.com").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_or_does_not_go_on_is_let_go() {
    let Setup {
        proxy, echo: _echo, ..
    } = setup("[listener.main.timeouts]\ntls_handshake = \"300ms\"\n").await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    client.rest().await;
    let mut client = proxy.connect().await;
    client.send([22, 3, 1]).await;
    client.rest().await;
}

async fn to_endpoint(tls: &str, hosts: &[&str], mutual: bool) -> (Echo, Proxy) {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    Authority::new().write(&folder.path().join("other.pem"));
    authority.issue(folder.path(), "own", &["tidegate"]);
    let server = authority.server(folder.path(), hosts, mutual);
    let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
    let config = simple(&[echo.address]) + tls;
    let proxy = Proxy::start_in(folder, &config).await;
    (echo, proxy)
}

#[tokio::test]
async fn endpoints_over_tls_are_verified() {
    for (tls, hosts, mutual, good) in [
        ("tls = { ca = \"ca.pem\" }\n", "127.0.0.1", false, true),
        (
            "tls = { ca = \"ca.pem\", server_name = \"chat.internal\" }\n",
            "chat.internal",
            false,
            true,
        ),
        ("tls = { ca = \"ca.pem\" }\n", "chat.internal", false, false),
        ("tls = { ca = \"other.pem\" }\n", "127.0.0.1", false, false),
        (
            "tls = { ca = \"ca.pem\", client_cert = \"own.pem\", client_key = \"own.key\" }\n",
            "127.0.0.1",
            true,
            true,
        ),
    ] {
        let (_echo, proxy) = to_endpoint(tls, &[hosts], mutual).await;
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let head = client.head().await;
        if good {
            assert_eq!(head.status(), 101, "{tls}{}", proxy.log().text());
        } else {
            assert_eq!(
                head.value("tidegate-reason"),
                Some("connect-failed"),
                "{tls}"
            );
            let failure = proxy.logged("endpoint not reached").await;
            let error = failure["error"].as_str().unwrap();
            assert!(
                error.contains("TLS handshake failed: invalid peer certificate"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn plain_requests_reuse_connections_over_tls_too() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let server = authority.server(folder.path(), &["127.0.0.1"], false);
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "tls = { ca = \"ca.pem\" }\n";
    let proxy = Proxy::start_in(folder, &config).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let accepted = tokio_rustls::TlsAcceptor::from(server)
        .accept(endpoint.accept().await)
        .await;
    let mut served = Wire::over(accepted.unwrap());
    for _ in 0..3 {
        served.head().await;
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.reply().await.1, "ok");
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    until("three requests", || {
        proxy.log().events("request").len() == 3
    })
    .await;
}
