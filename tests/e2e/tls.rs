//! TLS towards clients and towards endpoints.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::fs::Mode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::certificates::{Authority, write};
use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::wire::{HANDSHAKE, Wire};

const TLS: &str = "[listener.main.tls]\n\
    certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }, { cert = \"more.pem\", key = \"more.key\" }]\n";

/// A proxy with TLS and two certificates: `chat.example.com`, the default, and `*.example.org`.
struct TlsProxy {
    authority: Authority,
    proxy: Proxy,
    _echo: Echo,
}

impl TlsProxy {
    /// Starts it with these further lines, which begin in the `tls` table of the listener.
    async fn start(settings: &str) -> Self {
        let (authority, folder) = Authority::with_certificate();
        let more = ["*.example.org", "more.example.com"];
        authority.issue(folder.path(), "more", &more);
        let echo = Echo::start("echo").await;
        let config = simple(&[echo.address]) + TLS + settings;
        Self {
            authority,
            proxy: Proxy::start_in(folder, &config).await,
            _echo: echo,
        }
    }

    /// A TLS handshake for `chat.example.com`.
    async fn handshake(&self, client: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        handshake(&self.proxy, client, "chat.example.com").await
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
    let tls = TlsProxy::start("").await;
    let client = tls.authority.client();
    for name in [
        "chat.example.com",
        "a.example.org",
        "more.example.com",
        "MORE.example.com",
    ] {
        assert!(handshake(&tls.proxy, &client, name).await.is_ok(), "{name}");
    }
    // For any other name the default certificate is used, which does not match.
    for name in ["a.b.example.org", "example.org", "127.0.0.1"] {
        let error = handshake(&tls.proxy, &client, name)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
    let mut wire = tls.proxy.connect_tls(client, "a.example.org").await;
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
}

#[tokio::test]
async fn both_versions_are_spoken_unless_the_older_is_ruled_out() {
    let tls = TlsProxy::start("").await;
    for (offered, spoken) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let stream = tls
            .handshake(&tls.authority.client_of(&[offered]))
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
    }
    let stream = tls.handshake(&tls.authority.client()).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);

    let strict = TlsProxy::start("min_version = \"1.3\"\n").await;
    let client = strict.authority.client_of(&[&TLS12]);
    assert!(strict.handshake(&client).await.is_err());
    let client = strict.authority.client();
    assert!(strict.handshake(&client).await.is_ok());
}

#[tokio::test]
async fn sessions_resume_even_after_a_reload_and_an_upgrade() {
    let tls = TlsProxy::start("").await;
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let client = tls.authority.client_of(&[version]);
        for (turn, expected) in [
            (0, HandshakeKind::Full),
            (1, HandshakeKind::Resumed),
            (2, HandshakeKind::Resumed),
            (3, HandshakeKind::Resumed),
        ] {
            if turn == 2 && number == 0 {
                let config =
                    std::fs::read_to_string(tls.proxy.folder().join("config.toml")).unwrap();
                tls.proxy.reload(&config).await;
            }
            if turn == 3 {
                kill(tls.proxy.serving(), Signal::USR2);
                tls.proxy.successor(number + 1).await;
            }
            let stream = tls.handshake(&client).await.unwrap();
            let mut wire = Wire::over(stream);
            // In TLS 1.3 the ticket arrives after the handshake, with the first bytes.
            wire.send(HANDSHAKE).await;
            assert_eq!(wire.head().await.status(), 101);
            drop(wire);
            let stream = tls.handshake(&client).await.unwrap();
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
async fn sessions_resume_after_a_listener_was_drained() {
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let echo = Echo::start("echo").await;
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = [ADMIN, &simple(&[echo.address]), tls].concat();
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let client = authority.client_of(&[&TLS12]);
    let which = json!({ "listener": "main" });
    for (times, expected) in [HandshakeKind::Full, HandshakeKind::Resumed]
        .into_iter()
        .enumerate()
    {
        let stream = handshake(&proxy, &client, "chat.example.com").await;
        let kind = stream.unwrap().get_ref().1.handshake_kind();
        assert_eq!(kind, Some(expected));
        assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
        // The ticket keys are handed over to the new process.
        kill(proxy.serving(), Signal::USR2);
        proxy.successor(times + 1).await;
        proxy
            .logged_times("older generation has exited", times + 1)
            .await;
        assert_eq!(operator.post("/v1/listeners/undrain", &which).await.0, 200);
        proxy.logged_times("listening", times + 2).await;
    }
    let stream = handshake(&proxy, &client, "chat.example.com").await;
    let kind = stream.unwrap().get_ref().1.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
}

/// A line of a ticket key file.
fn ticket_key(fill: u8) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode([fill; 80]) + "\n"
}

/// A node of a fleet with these ticket keys and the listeners `main` and `other`.
async fn node(authority: &Authority, echo: &Echo, keys: &str) -> Proxy {
    let folder = TempDir::new().unwrap();
    authority.issue(folder.path(), "chat", &["chat.example.com"]);
    write(&folder.path().join("tickets.key"), keys);
    let tls = |name| {
        format!(
            "[listener.{name}.tls]\nticket_keys_file = \"tickets.key\"\n\
             certificates = [{{ cert = \"chat.pem\", key = \"chat.key\" }}]\n"
        )
    };
    let other = format!(
        "[listener.other]\nbind = [\"127.0.0.1:0\"]\n{}",
        tls("other")
    );
    let config = simple(&[echo.address]) + &tls("main") + &other;
    Proxy::start_in(folder, &config).await
}

/// Connects to a listener and receives a new ticket: the kind of the handshake.
async fn next_handshake(
    proxy: &Proxy,
    listener: &str,
    client: &Arc<ClientConfig>,
) -> HandshakeKind {
    let socket = TcpStream::connect(proxy.address_of(listener))
        .await
        .unwrap();
    let name = ServerName::try_from("chat.example.com").unwrap();
    let connector = TlsConnector::from(Arc::clone(client));
    let stream = connector.connect(name, socket).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut wire = Wire::over(stream);
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 101);
    kind
}

#[tokio::test]
async fn nodes_with_the_same_ticket_keys_resume_each_others_sessions() {
    let (authority, echo) = (Authority::new(), Echo::start("echo").await);
    let [one, two] = [
        node(&authority, &echo, &ticket_key(1)).await,
        node(&authority, &echo, &ticket_key(1)).await,
    ];
    let stranger = node(&authority, &echo, &ticket_key(9)).await;
    for version in [&TLS12, &TLS13] {
        let client = authority.client_of(&[version]);
        let mut seen = Vec::new();
        for proxy in [&one, &two, &one, &stranger] {
            seen.push(next_handshake(proxy, "main", &client).await);
        }
        use HandshakeKind::{Full, Resumed};
        assert_eq!(seen, [Full, Resumed, Resumed, Full], "{version:?}");
    }
}

#[tokio::test]
async fn a_ticket_is_not_valid_at_another_listener() {
    let (authority, echo) = (Authority::new(), Echo::start("echo").await);
    let proxy = node(&authority, &echo, &ticket_key(1)).await;
    let client = authority.client_of(&[&TLS13]);
    let mut seen = Vec::new();
    for listener in ["main", "main", "other", "other"] {
        seen.push(next_handshake(&proxy, listener, &client).await);
    }
    use HandshakeKind::{Full, Resumed};
    assert_eq!(seen, [Full, Resumed, Full, Resumed]);
}

#[tokio::test]
async fn changed_ticket_keys_are_applied_and_invalid_ones_are_not() {
    let (authority, echo) = (Authority::new(), Echo::start("echo").await);
    let proxy = node(&authority, &echo, &ticket_key(1)).await;
    let client = authority.client_of(&[&TLS13]);
    let file = proxy.folder().join("tickets.key");
    let keys = |fills: &[u8]| fills.iter().copied().map(ticket_key).collect::<String>();
    use HandshakeKind::{Full, Resumed};
    assert_eq!(next_handshake(&proxy, "main", &client).await, Full);
    // A ticket of key 1 can be opened as long as key 1 is in the file.
    for (turn, (fills, expected)) in [
        (&[1, 2][..], Resumed),
        (&[1, 2, 3], Resumed),
        (&[2, 3], Resumed),
        (&[8, 9], Full),
    ]
    .into_iter()
    .enumerate()
    {
        write(&file, &keys(fills));
        proxy.logged_times("certificates reloaded", turn + 1).await;
        let kind = next_handshake(&proxy, "main", &client).await;
        assert_eq!(kind, expected, "{fills:?}");
    }
    write(&file, "not a key\n");
    let failure = proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains("line 1 of"), "{error}");
    assert_eq!(next_handshake(&proxy, "main", &client).await, Resumed);
}

#[tokio::test]
async fn a_changed_certificate_is_applied_and_tunnels_stay() {
    let tls = TlsProxy::start("").await;
    let client = tls.authority.client();
    let mut held = tls
        .proxy
        .connect_tls(Arc::clone(&client), "chat.example.com")
        .await;
    held.send(HANDSHAKE).await;
    assert_eq!(held.head().await.status(), 101);
    let before = certificate(&tls.proxy, &client).await;
    tls.authority
        .issue(tls.proxy.folder(), "chat", &["chat.example.com"]);
    tls.proxy.logged("certificates reloaded").await;
    assert_ne!(certificate(&tls.proxy, &client).await, before);
    // A Ping over the tunnel that was opened before.
    held.send(crate::harness::frames::frame(0x89, Some([0; 4]), b"x"))
        .await;
    assert_eq!(held.exactly(3).await, [0x8a, 1, b'x']);
    // An incomplete change is reported after a while, and the old certificate stays in use.
    let current = certificate(&tls.proxy, &client).await;
    std::fs::write(tls.proxy.folder().join("chat.pem"), "not a certificate").unwrap();
    let failure = tls
        .proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    assert!(
        failure["error"].as_str().unwrap().contains("chat.pem"),
        "{failure}"
    );
    assert_eq!(certificate(&tls.proxy, &client).await, current);
}

/// The first lookup of a name takes its time, after the certificate was read.
#[tokio::test]
async fn a_certificate_that_is_replaced_during_the_start_is_applied() {
    let (authority, folder) = Authority::with_certificate();
    let name_server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let looked_up = format!(
        "dns = {{ name = \"chat.test\", port = 1, server = \"{}\" }}",
        name_server.local_addr().unwrap()
    );
    let config = simple(&[]).replace("endpoints = []", &looked_up)
        + "[listener.main.tls]\n\
           certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let proxy = Proxy::spawn(Arc::new(folder), &config, |_| {});
    let mut query = [0; 512];
    let (length, from) = name_server.recv_from(&mut query).await.unwrap();
    let old = std::fs::read(proxy.folder().join("chat.pem")).unwrap();
    authority.issue(proxy.folder(), "chat", &["chat.example.com"]);
    let answering = tokio::spawn(refuse(name_server, query, (length, from)));
    proxy.logged("ready").await;
    let client = authority.client();
    let old = CertificateDer::from_pem_slice(&old).unwrap();
    assert_eq!(certificate(&proxy, &client).await, old);
    // No change, but an event: the files are compared with what is in effect.
    let key = proxy.folder().join("chat.key");
    std::fs::write(&key, std::fs::read(&key).unwrap()).unwrap();
    proxy.logged("certificates reloaded").await;
    assert_ne!(certificate(&proxy, &client).await, old);
    answering.abort();
}

/// Answers this query and all others: there is no such name.
async fn refuse(socket: UdpSocket, mut query: [u8; 512], first: (usize, SocketAddr)) {
    let (mut length, mut from) = first;
    loop {
        query[2] |= 0x80;
        query[3] = query[3] & 0xf0 | 3;
        socket.send_to(&query[..length], from).await.unwrap();
        (length, from) = socket.recv_from(&mut query).await.unwrap();
    }
}

/// A pipe lies where the certificate was: reading it would wait for a writer for ever.
#[tokio::test]
async fn a_certificate_that_cannot_be_read_blocks_nothing() {
    let mut tls = TlsProxy::start("").await;
    let pipe = tls.proxy.folder().join("chat.pem");
    std::fs::remove_file(&pipe).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let failure = tls
        .proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains("not a regular file"), "{error}");
    tls.handshake(&tls.authority.client()).await.unwrap();
    tls.proxy.signal(Signal::TERM);
    assert_eq!(tls.proxy.exit().await, 0);
}

/// The certificate that a new client gets.
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

/// The client prefers the most expensive cipher, and does not get it.
#[tokio::test]
async fn the_server_chooses_the_cipher() {
    let tls = TlsProxy::start("").await;
    for version in [&TLS12, &TLS13] {
        let client = tls.authority.client_of(&[version]);
        let stream = tls.handshake(&client).await;
        let suite = stream.unwrap().get_ref().1.negotiated_cipher_suite();
        let suite = suite.unwrap().suite().as_str().unwrap();
        assert!(suite.ends_with("AES_128_GCM_SHA256"), "{suite}");
    }
}

#[tokio::test]
async fn a_client_without_tls_or_with_half_a_handshake_is_disconnected() {
    let tls = TlsProxy::start("[listener.main.timeouts]\ntls_handshake = \"1s\"\n").await;
    let mut client = tls.proxy.connect().await;
    client.send(HANDSHAKE).await;
    client.rest().await;
    let mut client = tls.proxy.connect().await;
    client.send([22, 3, 1]).await;
    client.rest().await;
}

/// Silent and stalled handshakes do not keep other clients out, even if only one may run at a time.
#[tokio::test]
async fn stalled_handshakes_do_not_block_others() {
    let tls = TlsProxy::start("handshakes_at_once = 1\n").await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], b"", b"\x16", b"\x16\x03\x01"] {
        let mut wire = tls.proxy.connect().await;
        wire.send(bytes).await;
        silent.push(wire);
    }
    let client = tls.authority.client();
    let storm = (0..2).map(|_| tls.handshake(&client));
    let results = futures_util::future::join_all(storm).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    // Each of two workers runs one handshake and queues four: of many at once, some are closed.
    let storm = (0..60).map(|_| tls.handshake(&client));
    let results = futures_util::future::join_all(storm).await;
    assert!(results.iter().any(Result::is_ok));
}
