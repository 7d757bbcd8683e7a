//! Clients that are slow on purpose: they are disconnected at their deadlines and cost little memory,
//! while other clients work as usual.

use tokio::net::UnixStream;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{End, HANDSHAKE, Wire};

/// Short deadlines, which the tests wait for.
const DEADLINES: &str = "[listener.main.timeouts]\n\
    tls_handshake = \"2s\"\nrequest_header = \"2s\"\nkeep_alive = \"2s\"\n\
    request_body = \"2s\"\nresponse_body = \"2s\"\n";

/// The number of slow clients of each kind.
const ATTACKERS: usize = 40;

/// The memory that a slow client may cost: buffers of hyper, and a session with a part of a body.
const EACH_KIB: usize = 64;

/// Memory that a process needs once, whatever arrives.
const SLACK_KIB: usize = 4 * 1024;

/// Routes `/chat` to `echo`, and everything else to `endpoint`.
fn config(echo: &Echo, endpoint: &Endpoint) -> String {
    let route = "[[route]]\nname = \"chat\"\npath = \"/chat\"\nupstream = \"chat\"\n[[route]]\n";
    let config = simple(&[endpoint.address]).replace("[[route]]\n", route);
    let upstream = format!("[upstream.chat]\nendpoints = [\"{}\"]\n", echo.address);
    config + &upstream + DEADLINES
}

/// Echoes a message over an open tunnel and over a new one.
async fn works(proxy: &Proxy, tunnel: &mut Wire) {
    for tunnel in [tunnel, &mut proxy.tunnel().await] {
        tunnel.send(frame(0x81, Some([1, 2, 3, 4]), b"hello")).await;
        assert_eq!(tunnel.exactly(7).await, b"\x81\x05hello");
    }
}

/// Waits until the connection of a slow client has ended.
async fn cut_off(mut attacker: Wire) {
    attacker.rest().await;
}

#[tokio::test]
async fn silent_and_incomplete_requests_time_out_and_others_are_served() {
    let (echo, endpoint) = (Echo::start("echo").await, Endpoint::bind().await);
    let proxy = Proxy::start(&config(&echo, &endpoint)).await;
    let mut good = proxy.tunnel().await;
    let before = proxy.resident_kib();
    let mut attackers = Vec::new();
    let upload = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome";
    let mut served = Vec::new();
    for _ in 0..ATTACKERS {
        for sent in ["", &HANDSHAKE[..60], upload] {
            let mut attacker = proxy.connect().await;
            attacker.send(sent).await;
            attackers.push(attacker);
        }
        served.push(endpoint.request().await);
    }
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 3 * ATTACKERS * EACH_KIB + SLACK_KIB, "{grown} KiB");
    works(&proxy, &mut good).await;
    futures_util::future::join_all(attackers.into_iter().map(cut_off)).await;
    // Their connections to the endpoint are closed.
    for (wire, _) in &mut served {
        wire.rest().await;
    }
    works(&proxy, &mut good).await;
}

/// A byte now and then does not extend the deadline of a head.
#[tokio::test]
async fn a_request_head_sent_byte_by_byte_has_one_deadline() {
    let (echo, endpoint) = (Echo::start("echo").await, Endpoint::bind().await);
    let proxy = Proxy::start(&config(&echo, &endpoint)).await;
    let mut good = proxy.tunnel().await;
    let mut attackers = Vec::new();
    for _ in 0..ATTACKERS {
        attackers.push(proxy.connect().await);
    }
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().copied();
    while !attackers.is_empty() {
        let byte = [head.next().unwrap_or(b'x')];
        attackers.retain_mut(|attacker| attacker.can_send(&byte));
        // One byte for each slow client per round of the other clients.
        works(&proxy, &mut good).await;
    }
    assert_eq!(proxy.logged_by_now("rejected").await.len(), 0);
}

/// A client that does not read its response is disconnected, with and without TLS.
#[tokio::test]
async fn an_unread_response_times_out_and_others_are_served() {
    let (authority, folder) = Authority::with_certificate();
    let (echo, endpoint) = (Echo::start("echo").await, Endpoint::bind().await);
    let tls = "[listener.tls]\nbind = [\"127.0.0.1:0\"]\ntimeouts.response_body = \"2s\"\n\
        tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = config(&echo, &endpoint) + tls;
    let proxy = Proxy::start_in(folder, &config).await;
    let mut good = proxy.tunnel().await;
    let mut attackers = Vec::new();
    for number in 0..8 {
        let mut attacker = if number % 2 == 0 {
            proxy.connect().await
        } else {
            let client = authority.client();
            proxy
                .connect_tls_at("tls", client, "chat.example.com")
                .await
        };
        attacker.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (mut served, _) = endpoint.request().await;
        served
            .send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .await;
        attackers.push((attacker, served));
    }
    let chunk = vec![b'x'; 1 << 20];
    // The connection to the endpoint is closed together with that of the client.
    let floods = attackers
        .iter_mut()
        .map(|(_, served)| served.flood_out(&chunk));
    tokio::join!(
        futures_util::future::join_all(floods),
        works(&proxy, &mut good)
    );
    for (mut attacker, _) in attackers {
        // By a reset, so that the kernel frees its buffers, too.
        let (rest, end) = attacker.rest().await;
        assert!(rest.len() < 1_000_000_000);
        assert_eq!(end, End::Reset);
    }
    works(&proxy, &mut good).await;
}

/// More connections than the admin servers have at once.
const MANY: usize = 40;

#[tokio::test]
async fn slow_clients_of_the_admin_servers_keep_no_other_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = format!(
        "[admin]\nmetrics_bind = \"unix:{}\"\nbind = \"unix:{}\"\n{}",
        path("metrics.sock").display(),
        path("admin.sock").display(),
        simple(&[([127, 0, 0, 1], 1).into()])
    );
    let _proxy = Proxy::start(&config).await;
    for (socket, slow, good) in [
        ("metrics.sock", "/metrics", "/healthz"),
        ("admin.sock", "/v1/status", "/v1/listeners"),
    ] {
        let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let connect = async || Wire::unix(UnixStream::connect(path(socket)).await.unwrap());
        let post = "POST /v1/close HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_owned();
        // Nothing, half a head, a head without its body, a request, and many whose responses are not read.
        let sent = [
            String::new(),
            request(slow)[..12].to_owned(),
            post,
            request(slow),
            request(slow).repeat(200),
        ];
        for sent in sent {
            let mut others = Vec::new();
            for _ in 0..MANY {
                let mut other = connect().await;
                other.flood_once(sent.as_bytes()).await;
                others.push(other);
            }
            let mut client = connect().await;
            client.send(request(good)).await;
            assert_eq!(client.reply().await.0.status(), 200, "{sent:.30}");
        }
    }
}
