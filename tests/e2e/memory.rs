//! The limit on memory: near it no further tunnel is opened, and tunnels that nobody reads are closed.

use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{close_payload, frame};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::within;

/// Far more than the kernel's buffers hold, in messages of a MiB.
const MESSAGES: usize = 256;

fn with_memory(memory: &str, endpoint: &Endpoint) -> String {
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n";
    let memory = format!("memory = \"{memory}\"\n");
    [server, &memory, METRICS, &simple(&[endpoint.address])].concat()
}

/// The response to a handshake: its status and reason.
async fn handshake(proxy: &Proxy) -> (u16, Option<String>, Wire) {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let head = client.head().await;
    let reason = head.value("tidegate-reason").map(str::to_owned);
    (head.status(), reason, client)
}

#[tokio::test]
async fn near_the_limit_stalled_tunnels_are_closed_and_the_others_stay() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&with_memory("off", &endpoint)).await;
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_memory_limit_bytes", &[]), 0.0);
    let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
    let (mut sender, _reader) = proxy.tunnel_to(&endpoint).await;
    let message = frame(0x82, Some([1; 4]), &[7; 1 << 20]);
    let sent = sender.flood_up_to(&message, MESSAGES).await;
    assert!(
        sent < MESSAGES * message.len(),
        "the endpoint reads nothing"
    );

    // Whatever the process uses is more than nine tenths of this.
    proxy.reload(&with_memory("1MiB", &endpoint)).await;
    let (rest, _) = sender.rest().await;
    let close = [&1008_u16.to_be_bytes()[..], b"memory-full"].concat();
    assert_eq!(close_payload(&rest), Some(close));
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "memory-full");
    let (status, reason, _) = handshake(&proxy).await;
    assert_eq!((status, reason.as_deref()), (503, Some("memory-full")));
    let hello = frame(0x81, Some([1; 4]), b"hello");
    client.send(&hello).await;
    assert_eq!(served.exactly(hello.len()).await, hello);
    let scrape = Scrape::of(&proxy).await;
    let limit = scrape.sum("tidegate_memory_limit_bytes", &[]);
    assert_eq!(limit, f64::from(1 << 20));
    assert!(scrape.sum("tidegate_memory_used_bytes", &[]) > limit);

    // With enough memory again, tunnels open again.
    proxy.reload(&with_memory("64GiB", &endpoint)).await;
    within("a handshake to be accepted", async {
        while Scrape::of(&proxy)
            .await
            .sum("tidegate_memory_limit_bytes", &[])
            <= limit
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    proxy.tunnel_to(&endpoint).await;
}

/// What they leave unread is inside TLS.
#[tokio::test]
async fn clients_with_tls_that_read_nothing_are_found_as_well() {
    let (authority, folder) = Authority::with_certificate();
    let endpoint = Endpoint::bind().await;
    let tls = "[listener.main.tls]\n\
        certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let config = |memory| with_memory(memory, &endpoint) + tls;
    let proxy = Proxy::start_in(folder, &config("off")).await;
    let socket = TcpSocket::new_v4().unwrap();
    // So that the kernel holds little: then less is read for this client at a time than TLS takes.
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let socket = socket.connect(proxy.address()).await.unwrap();
    let name = ServerName::try_from("chat.example.com").unwrap();
    let connector = TlsConnector::from(authority.client());
    let mut client = Wire::over(connector.connect(name, socket).await.unwrap());
    client.send(HANDSHAKE).await;
    let mut served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    let message = frame(0x82, None, &[7; 1 << 20]);
    let sent = served.flood_up_to(&message, MESSAGES).await;
    assert!(sent < MESSAGES * message.len(), "the client reads nothing");
    proxy.reload(&config("1MiB")).await;
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "memory-full");
}
