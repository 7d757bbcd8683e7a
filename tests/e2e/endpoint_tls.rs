//! TLS towards endpoints: trust, the client certificate, and session resumption.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::harness::certificates::{Authority, write};
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

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
            let failure = proxy.logged("cannot connect to endpoint").await;
            let error = failure["error"].as_str().unwrap();
            assert!(
                error.contains("TLS handshake failed: the certificate is not trusted: it"),
                "{error}"
            );
        }
    }
}

/// What `openssl req -x509` creates: a certificate that is its own CA. Writes `NAME.pem`.
fn self_signed(folder: &Path, name: &str, host: &str) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    write(&folder.join(format!("{name}.pem")), &certificate.pem());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let chain = vec![certificate.der().clone()];
    Arc::new(server.with_single_cert(chain, key).unwrap())
}

/// The fingerprint of the certificate in `NAME.pem`, as OpenSSL prints it.
fn fingerprint(folder: &Path, name: &str) -> String {
    let der = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
    let digest = digest(&SHA256, &der);
    let pairs: Vec<String> = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_if_it_is_listed_or_pinned() {
    // The host in the certificate, the settings, and why it is not trusted, if it is not.
    for (host, tls, fault) in [
        ("127.0.0.1", "ca = \"endpoint.pem\"", None),
        (
            "chat.internal",
            "ca = \"endpoint.pem\", server_name = \"chat.internal\"",
            None,
        ),
        (
            "chat.internal",
            "ca = \"endpoint.pem\"",
            Some("it is valid for chat.internal only"),
        ),
        (
            "127.0.0.1",
            "ca = \"other.pem\"",
            Some("it is a CA certificate (`CA:TRUE`)"),
        ),
        ("chat.internal", "fingerprint = \"OWN\"", None),
        ("chat.internal", "fingerprint = [\"OTHER\", \"OWN\"]", None),
        (
            "127.0.0.1",
            "fingerprint = \"OTHER\"",
            Some("its fingerprint is not the configured one"),
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let server = self_signed(folder.path(), "endpoint", host);
        self_signed(folder.path(), "other", host);
        let tls = tls
            .replace("OWN", &fingerprint(folder.path(), "endpoint"))
            .replace("OTHER", &fingerprint(folder.path(), "other"));
        let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
        let config = format!("{}tls = {{ {tls} }}\n", simple(&[echo.address]));
        let proxy = Proxy::start_in(folder, &config).await;
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let status = client.head().await.status();
        let Some(fault) = fault else {
            assert_eq!(status, 101, "{tls}{}", proxy.log().text());
            continue;
        };
        assert_eq!(status, 503, "{tls}");
        let failure = proxy.logged("cannot connect to endpoint").await;
        let error = failure["error"].as_str().unwrap();
        assert!(error.contains(fault), "{tls}: {error}");
    }
}

#[tokio::test]
async fn health_checks_use_tls() {
    let health = "health = { websocket = { ping = true }, interval = \"50ms\", fall = 1, \
                  timeout = \"30s\" }\n";
    let good = format!("{health}tls = {{ ca = \"ca.pem\" }}\n");
    let (echo, proxy) = to_endpoint(&good, &["127.0.0.1"], false).await;
    until("checks", || echo.served() > 3).await;
    assert!(proxy.logged_by_now("endpoint down").await.is_empty());
    let other = format!("{health}tls = {{ ca = \"other.pem\" }}\n");
    let (_echo, proxy) = to_endpoint(&other, &["127.0.0.1"], false).await;
    let down = proxy.logged("endpoint down").await;
    let why = down["why"].as_str().unwrap();
    assert!(
        why.starts_with("TLS handshake failed: the certificate is not trusted: it"),
        "{why}"
    );
}

#[tokio::test]
async fn plain_requests_reuse_tls_connections() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let server = authority.server(folder.path(), &["127.0.0.1"], false);
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]) + "tls = { ca = \"ca.pem\" }\n";
    let proxy = Proxy::start_in(folder, &config).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let accepted = TlsAcceptor::from(server)
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

/// The next tunnel at `endpoint`: the kind of TLS handshake, and the ALPN protocol.
async fn next_tunnel(
    endpoint: &Endpoint,
    server: &Arc<ServerConfig>,
    proxy: &Proxy,
) -> (HandshakeKind, Vec<u8>) {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let acceptor = TlsAcceptor::from(Arc::clone(server));
    let stream = acceptor.accept(endpoint.accept().await).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let protocol = stream.get_ref().1.alpn_protocol().unwrap().to_owned();
    let mut wire = Wire::over(stream);
    wire.head().await;
    wire.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    (kind, protocol)
}

#[tokio::test]
async fn sessions_resume_even_after_a_reload_and_only_http_1_1_is_offered() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    let mut server = (*authority.server(folder.path(), &["127.0.0.1"], false)).clone();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Arc::new(server);
    let endpoint = Endpoint::bind().await;
    let with = |tls: &str| simple(&[endpoint.address]) + tls;
    let config = with("tls = { ca = \"ca.pem\" }\n");
    let proxy = Proxy::start_in(folder, &config).await;
    let (first, protocol) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_ne!(first, HandshakeKind::Resumed);
    assert_eq!(protocol, b"http/1.1");
    let (second, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_eq!(second, HandshakeKind::Resumed);
    proxy.reload(&format!("{config}# the same\n")).await;
    let (after, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_eq!(after, HandshakeKind::Resumed);
    // Changed settings start with new sessions, because the trust may have changed.
    proxy
        .reload(&with(
            "tls = { ca = \"ca.pem\", server_name = \"127.0.0.1\" }\n",
        ))
        .await;
    let (other, _) = next_tunnel(&endpoint, &server, &proxy).await;
    assert_ne!(other, HandshakeKind::Resumed);
}

#[tokio::test]
async fn the_authorities_of_the_operating_system_are_the_default() {
    for (bundle, good) in [("ca.pem", true), ("other.pem", false)] {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        authority.write(&folder.path().join("ca.pem"));
        Authority::new().write(&folder.path().join("other.pem"));
        let server = authority.server(folder.path(), &["127.0.0.1"], false);
        let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
        let config = simple(&[echo.address]) + "tls = {}\n";
        let bundle = folder.path().join(bundle);
        let proxy = Proxy::spawn(Arc::new(folder), &config, |command| {
            command
                .env("SSL_CERT_FILE", bundle)
                .env_remove("SSL_CERT_DIR");
        });
        proxy.logged("ready").await;
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        let status = client.head().await.status();
        assert_eq!(status, if good { 101 } else { 503 });
    }
}
