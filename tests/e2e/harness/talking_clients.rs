//! Many WebSocket clients over TLS that talk all the time and tolerate no loss.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::{until, within};

/// The clients of a test under load.
pub(crate) struct TalkingClients {
    tls: Arc<ClientConfig>,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    opened: AtomicUsize,
    messages: AtomicUsize,
}

impl TalkingClients {
    /// No client yet. They will trust the authorities in `tls`.
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        Self {
            tls,
            shared: Arc::default(),
            clients: Vec::new(),
        }
    }

    /// This many more clients come to `address`.
    pub(crate) fn join(&mut self, address: SocketAddr, count: usize) {
        for _ in 0..count {
            let talk = talk(address, Arc::clone(&self.tls), Arc::clone(&self.shared));
            self.clients.push(tokio::spawn(talk));
        }
    }

    /// Waits until every client has its tunnel.
    pub(crate) async fn all_open(&self) {
        until("all tunnels to open", || {
            self.shared.opened.load(Ordering::Relaxed) == self.clients.len()
        })
        .await;
    }

    /// The number of messages that have come back.
    pub(crate) fn messages(&self) -> usize {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// Has every client close its tunnel. Fails if anything went wrong with one of them; returns how
    /// many there were.
    pub(crate) async fn leave(self) -> usize {
        self.shared.stop.store(true, Ordering::Relaxed);
        let count = self.clients.len();
        for client in self.clients {
            within("a client to close", client).await.unwrap();
        }
        count
    }
}

/// A client that sends messages and checks their echoes until it has to stop, and then closes.
async fn talk(address: SocketAddr, tls: Arc<ClientConfig>, shared: Arc<Shared>) {
    let socket = TcpStream::connect(address)
        .await
        .expect("no connection is refused");
    let name = ServerName::try_from("chat.example.com").unwrap();
    let stream = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .expect("no TLS is refused");
    let (mut socket, _) = client_async("wss://chat.example.com/chat", stream)
        .await
        .expect("no handshake is refused");
    shared.opened.fetch_add(1, Ordering::Relaxed);
    let mut number = 0u32;
    while !shared.stop.load(Ordering::Relaxed) {
        number += 1;
        let message = Message::text(format!("message {number}"));
        socket
            .send(message.clone())
            .await
            .expect("no tunnel is lost");
        let echo = socket
            .next()
            .await
            .expect("no tunnel ends")
            .expect("no tunnel breaks");
        assert_eq!(echo, message);
        shared.messages.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    socket
        .close(None)
        .await
        .expect("a tunnel that lives can be closed");
    while let Some(Ok(_)) = socket.next().await {}
}
