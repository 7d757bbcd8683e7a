//! Client certificates: who needs one, what endpoints get to know, and that a resumed session does not
//! bypass them.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, SanType};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::certificates::{Authority, subject_of, write};
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::{close, frame};
use crate::harness::proxy::{Proxy, Signal, settings};
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, Wire, handshake_with};

struct Setup {
    /// The authority of the server certificate.
    authority: Authority,
    /// The authority of the client certificates.
    clients: Authority,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let setup = Self {
            authority: Authority::new(),
            clients: Authority::new(),
            folder: TempDir::new().unwrap(),
        };
        let folder = setup.folder.path();
        setup.authority.issue(folder, "chat", &["chat.example.com"]);
        setup.clients.write(&folder.join("clients.pem"));
        setup
    }

    /// A client with a certificate of `issuer` for `subject`.
    fn client(&self, issuer: &Authority, subject: &str) -> Arc<ClientConfig> {
        self.authority.client_showing(issuer, subject)
    }
}

/// The TLS settings after the certificate of the listener.
fn config(address: std::net::SocketAddr, client_auth: &str, route: &str) -> String {
    let tls = format!(
        "[listener.main.tls]\n\
         certificates = [{{ cert = \"chat.pem\", key = \"chat.key\" }}]\n{client_auth}\n"
    );
    settings(&[address], &tls, route)
}

fn auth(mode: &str) -> String {
    format!(
        "client_auth = {{ ca = \"clients.pem\", mode = \"{mode}\", header = \"x-client-cert\" }}"
    )
}

async fn connect(proxy: &Proxy, client: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(proxy.address()).await?;
    let name = rustls::pki_types::ServerName::try_from("chat.example.com").unwrap();
    TlsConnector::from(Arc::clone(client))
        .connect(name, socket)
        .await
}

/// The status of a handshake, or the TLS error; with TLS 1.3 a client gets that only when it reads.
async fn status(proxy: &Proxy, client: &Arc<ClientConfig>) -> io::Result<(u16, HandshakeKind)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = connect(proxy, client).await?;
    stream.write_all(HANDSHAKE.as_bytes()).await?;
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await?;
    let head = Head(String::from_utf8(answer).unwrap() + "\r\n");
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    Ok((head.status(), kind))
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_right_authority_is_refused() {
    let setup = Setup::new();
    let echo = Echo::start("echo").await;
    let anonymous = setup.authority.client();
    let stranger = setup.client(&Authority::new(), "stranger");
    let alice = setup.client(&setup.clients, "alice");
    let config = config(echo.address, &auth("required"), "");
    let proxy = Proxy::start_in(setup.folder, &config).await;
    assert!(status(&proxy, &anonymous).await.is_err());
    assert!(status(&proxy, &stranger).await.is_err());
    assert_eq!(status(&proxy, &alice).await.unwrap().0, 101);
    assert_eq!(echo.served(), 1);
}

#[tokio::test]
async fn a_route_may_require_a_certificate_that_the_listener_only_requests() {
    let setup = Setup::new();
    let echo = Echo::start("echo").await;
    let anonymous = setup.authority.client();
    let stranger = setup.client(&Authority::new(), "stranger");
    let alice = setup.client(&setup.clients, "alice");
    let open = "[[route]]\npath = \"/open\"\nupstream = \"main\"\n[upstream.main]";
    let config = config(
        echo.address,
        &auth("optional"),
        "client_certificate = \"required\"\n",
    )
    .replace("[upstream.main]", open);
    let proxy = Proxy::start_in(setup.folder, &config).await;
    assert_eq!(status(&proxy, &alice).await.unwrap().0, 101);
    assert!(
        status(&proxy, &stranger).await.is_err(),
        "a wrong one is worse than none"
    );
    let mut wire = Wire::over(connect(&proxy, &anonymous).await.unwrap());
    wire.send(HANDSHAKE).await;
    let (head, _) = wire.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (403, Some("client-certificate"))
    );
    wire.send(HANDSHAKE.replace("/chat", "/open")).await;
    assert_eq!(wire.head().await.status(), 101);
}

#[tokio::test]
async fn endpoints_get_the_verified_subject_and_no_forged_one() {
    let setup = Setup::new();
    let endpoint = Endpoint::bind().await;
    let anonymous = setup.authority.client();
    let alice = setup.client(&setup.clients, "alice, \"the admin\"");
    // A second listener, without TLS, leads to the same endpoint.
    let config = config(
        endpoint.address,
        &auth("optional"),
        "request_headers.set.x-subject = \"${client_certificate_subject}\"\n\
         request_headers.set.x-version = \"${tls_version} ${tls_server_name}\"\n",
    ) + "[listener.plain]\nbind = [\"127.0.0.1:0\"]\n";
    let proxy = Proxy::start_in(setup.folder, &config).await;
    let lies = "X-Client-Cert: Hash=0;Subject=\"CN=admin\"\r\nX_Client_Cert: CN=admin\r\n\
        X-Subject: CN=admin\r\n";
    let request = handshake_with(lies);
    let mut plain = Wire::connect(proxy.address_of("plain")).await;
    plain.send(&request).await;
    let (_wire, head) = endpoint.request().await;
    for name in ["x-client-cert", "x_client_cert", "x-subject"] {
        assert_eq!(head.value(name), None, "{name}");
    }
    for (client, subject) in [
        (&anonymous, None),
        (&alice, Some(r#"CN=alice\, \"the admin\""#)),
    ] {
        let mut wire = Wire::over(connect(&proxy, client).await.unwrap());
        wire.send(&request).await;
        let (_wire, head) = endpoint.request().await;
        assert_eq!(head.value("x-subject"), subject);
        assert_eq!(head.value("x-version"), Some("TLSv1.3 chat.example.com"));
        assert_eq!(head.value("x_client_cert"), None);
        let forwarded = head.value("x-client-cert");
        assert_eq!(forwarded.is_some(), subject.is_some(), "{forwarded:?}");
        if let Some(forwarded) = forwarded {
            let (hash, subject) = forwarded.split_once(';').unwrap();
            assert_eq!(hash.len(), "Hash=".len() + 64);
            assert_eq!(subject, r#"Subject="CN=alice\\, \\\"the admin\\\"""#);
        }
    }
}

#[tokio::test]
async fn a_resumed_session_never_skips_the_certificate_check() {
    let setup = Setup::new();
    let echo = Echo::start("echo").await;
    let anonymous = setup.authority.client();
    let alice = setup.client(&setup.clients, "alice");
    let folder = setup.folder.path().to_owned();
    let with = |client_auth: &str| config(echo.address, client_auth, "");
    let proxy = Proxy::start_in(setup.folder, &with("")).await;
    // A session from the time when no certificate was requested.
    status(&proxy, &anonymous).await.unwrap();
    let (_, kind) = status(&proxy, &anonymous).await.unwrap();
    assert_eq!(kind, HandshakeKind::Resumed);
    proxy.reload(&with(&auth("required"))).await;
    assert!(status(&proxy, &anonymous).await.is_err());
    // A resumed session keeps the certificate of the client.
    for _ in 0..2 {
        let (status, kind) = status(&proxy, &alice).await.unwrap();
        assert_eq!((status, kind), (101, HandshakeKind::Full));
    }
    // After a change of the authority, certificates of the old one are not valid.
    Authority::new().write(&folder.join("clients.pem"));
    proxy
        .reload(&(with(&auth("required")) + "# another one\n"))
        .await;
    assert!(status(&proxy, &alice).await.is_err());
}

#[tokio::test]
async fn a_route_admits_certificates_by_their_names() {
    let setup = Setup::new();
    let echo = Echo::start("echo").await;
    let with_name = |name: &str| {
        let mut params = subject_of("chat");
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        setup.authority.client_with(&setup.clients, &params)
    };
    let prod = with_name("spiffe://prod/chat");
    let test = with_name("spiffe://test/chat");
    let nameless = setup.client(&setup.clients, "chat");
    let anonymous = setup.authority.client();
    let rule = "client_certificate = { san = [\"spiffe://prod/*\"], subject = \"CN=chat\" }\n";
    let config = config(echo.address, &auth("optional"), rule);
    let proxy = Proxy::start_in(setup.folder, &config).await;
    assert_eq!(status(&proxy, &prod).await.unwrap().0, 101);
    for (client, reason) in [
        (&test, "certificate-denied"),
        (&nameless, "certificate-denied"),
        (&anonymous, "client-certificate"),
    ] {
        let mut wire = Wire::over(connect(&proxy, client).await.unwrap());
        wire.send(HANDSHAKE).await;
        let head = wire.head().await;
        let seen = (head.status(), head.value("tidegate-reason"));
        assert_eq!(seen, (403, Some(reason)));
    }
    for rejected in proxy.logged_times("rejected", 3).await {
        let reason = rejected["reason"].as_str().unwrap();
        assert!(reason.contains("certificate"), "{rejected}");
    }
}

/// A certificate for `subject` with this serial number.
fn numbered(subject: &str, serial: u64) -> CertificateParams {
    let mut params = subject_of(subject);
    params.serial_number = Some(serial.into());
    params
}

#[tokio::test]
async fn revoked_certificates_are_refused_from_the_next_reload_on() {
    let setup = Setup::new();
    let echo = Echo::start("echo").await;
    let client = |serial| {
        let params = numbered("alice", serial);
        setup.authority.client_with(&setup.clients, &params)
    };
    let (old, new) = (client(7), client(8));
    let list = setup.folder.path().join("revoked.pem");
    write(&list, &setup.clients.revocation_list(&[], 2100));
    let auth = "client_auth = { ca = \"clients.pem\", crl = \"revoked.pem\" }";
    let revoked = setup.clients.revocation_list(&[7], 2100);
    let expired = setup.clients.revocation_list(&[7], 2021);
    let elsewhere = "[[route]]\npath = \"/elsewhere\"\nredirect = { to = \"https://example.com/\", status = 307 }\n";
    let config = config(echo.address, auth, "") + elsewhere;
    let proxy = Proxy::start_in(setup.folder, &config).await;
    assert_eq!(status(&proxy, &old).await.unwrap().0, 101);
    let mut kept = Wire::over(connect(&proxy, &old).await.unwrap());
    kept.send("GET /elsewhere HTTP/1.1\r\nHost: chat.example.com\r\n\r\n")
        .await;
    let (head, _) = kept.reply().await;
    assert_eq!(head.status(), 307);
    write(&list, &revoked);
    proxy.signal(Signal::HUP);
    proxy.logged_times("certificates reloaded", 1).await;
    // Nor does a connection help that was there before.
    kept.send(HANDSHAKE).await;
    let (head, _) = kept.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (403, Some("certificate-denied"))
    );
    assert!(status(&proxy, &old).await.is_err());
    assert_eq!(status(&proxy, &new).await.unwrap().0, 101);
    // An expired list says nothing about certificates that were revoked since.
    write(&list, &expired);
    proxy.signal(Signal::HUP);
    proxy.logged_times("certificates reloaded", 2).await;
    assert!(status(&proxy, &new).await.is_err());
    proxy
        .reload(&config.replace("crl =", "expired_crl = \"warn\", crl ="))
        .await;
    assert_eq!(status(&proxy, &new).await.unwrap().0, 101);
    assert!(status(&proxy, &old).await.is_err());
}

#[tokio::test]
async fn a_revocation_list_ends_the_tunnels_of_the_certificates_that_it_adds() {
    let setup = Setup::new();
    let endpoint = Endpoint::bind().await;
    let client = |serial| {
        let params = numbered("alice", serial);
        setup.authority.client_with(&setup.clients, &params)
    };
    let (lost, kept) = (client(7), client(8));
    let anonymous = setup.authority.client();
    let list = setup.folder.path().join("revoked.pem");
    write(&list, &setup.clients.revocation_list(&[], 2100));
    let once = setup.clients.revocation_list(&[7], 2100);
    let twice = setup.clients.revocation_list(&[7, 8], 2100);
    let auth = "client_auth = { ca = \"clients.pem\", mode = \"optional\", crl = \"revoked.pem\" }";
    let config = config(endpoint.address, auth, "");
    let proxy = Proxy::start_in(setup.folder, &config).await;
    let open = async |client| {
        let mut wire = Wire::over(connect(&proxy, client).await.unwrap());
        wire.send(HANDSHAKE).await;
        let served = endpoint.tunnel().await;
        assert_eq!(wire.head().await.status(), 101);
        (wire, served)
    };
    let (first, _first) = open(&lost).await;
    let (second, _second) = open(&lost).await;
    let (mut other, mut others) = open(&kept).await;
    let (mut nameless, mut unnamed) = open(&anonymous).await;
    // The endpoint answers this one only after the certificate was revoked.
    let mut late = Wire::over(connect(&proxy, &lost).await.unwrap());
    late.send(HANDSHAKE).await;
    let (mut asked, _) = endpoint.request().await;
    write(&list, &once);
    proxy.signal(Signal::HUP);
    let revoked = frame(0x88, None, &close(1008, "revoked").unwrap());
    for mut ended in [first, second] {
        assert_eq!(ended.exactly(revoked.len()).await, revoked);
    }
    asked.send(SWITCH).await;
    assert_eq!(late.head().await.status(), 101);
    assert_eq!(late.exactly(revoked.len()).await, revoked);
    drop(late);
    let logged = proxy.logged_times("tunnel ended", 3).await;
    let is_revoked = |it: &serde_json::Value| it["reason"] == "revoked";
    assert!(logged.iter().all(is_revoked), "{logged:?}");
    for (client, served) in [(&mut other, &mut others), (&mut nameless, &mut unnamed)] {
        client.send(frame(0x82, Some([1, 2, 3, 4]), b"hello")).await;
        assert_eq!(served.exactly(11).await.len(), 11, "others go on");
    }
    write(&list, &twice);
    proxy.signal(Signal::HUP);
    assert_eq!(other.exactly(revoked.len()).await, revoked);
    nameless
        .send(frame(0x82, Some([1, 2, 3, 4]), b"hello"))
        .await;
    assert_eq!(unnamed.exactly(11).await.len(), 11, "it has none");
}
