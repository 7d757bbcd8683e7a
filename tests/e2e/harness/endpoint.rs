//! Endpoints: one that a test controls step by step, and one that echoes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::wire::{Head, SWITCH, Wire};
use super::within;

/// An endpoint that a test controls step by step.
pub(crate) struct Endpoint {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Endpoint {
    pub(crate) async fn bind() -> Self {
        Self::of(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// An endpoint with this listener, which may be in another network namespace.
    pub(crate) fn on(listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        Self::of(TcpListener::from_std(listener).unwrap())
    }

    fn of(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) async fn accept(&self) -> Wire {
        let (socket, _) = within("an endpoint's connection", self.listener.accept())
            .await
            .unwrap();
        Wire::tcp(socket)
    }

    /// Accepts a connection and reads the head of a request from it.
    pub(crate) async fn request(&self) -> (Wire, Head) {
        let mut wire = self.accept().await;
        let head = wire.head().await;
        (wire, head)
    }

    /// Accepts a handshake: the connection is a tunnel.
    pub(crate) async fn tunnel(&self) -> Wire {
        loop {
            let mut wire = self.accept().await;
            // A health check by TCP ends without a request.
            if wire.head_or_end().await.is_some() {
                wire.send(SWITCH).await;
                return wire;
            }
        }
    }

    /// Asserts that no connection arrives.
    pub(crate) async fn stays_quiet(&self) {
        super::quiet_for(150, async { self.listener.accept().await.map(|_| ()) }).await;
    }
}

/// What an echo endpoint sends back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Whole messages, by tungstenite; its own name in response to the text `name`.
    Messages,
    /// Bytes, without looking at frames.
    Bytes,
}

/// An endpoint that echoes until it is dropped. Its connections end with it.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    served: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::with(name, Unit::Messages, None).await
    }

    pub(crate) async fn with(
        name: &'static str,
        unit: Unit,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), name, unit, tls).await
    }

    /// An echo of bytes at a given address.
    pub(crate) async fn bytes_at(address: SocketAddr) -> Self {
        Self::at(address, "", Unit::Bytes, None).await
    }

    /// An echo at a given address.
    pub(crate) async fn at(
        address: SocketAddr,
        name: &'static str,
        unit: Unit,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (served, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, live) = (Arc::clone(&served), Arc::clone(&open));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (tls, counted) = (tls.clone(), Arc::clone(&counted));
                let live = Live::new(&live);
                connections.spawn(async move {
                    let _live = live;
                    match tls {
                        None => serve(socket, name, unit, &counted).await,
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(socket).await {
                                serve(stream, name, unit, &counted).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            served,
            open,
            task,
        }
    }

    /// The number of tunnels accepted so far.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Live(Arc<AtomicUsize>);

impl Live {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: &str,
    unit: Unit,
    served: &AtomicUsize,
) {
    match unit {
        Unit::Messages => {
            let limits = WebSocketConfig::default()
                .max_frame_size(None)
                .max_message_size(None);
            let Ok(mut socket) = accept_async_with_config(stream, Some(limits)).await else {
                return;
            };
            served.fetch_add(1, Ordering::Relaxed);
            while let Some(Ok(message)) = socket.next().await {
                let answer = match message {
                    Message::Text(text) if text == "name" => Message::text(name),
                    Message::Text(_) | Message::Binary(_) => message,
                    _ => continue,
                };
                if socket.send(answer).await.is_err() {
                    break;
                }
            }
        }
        Unit::Bytes => {
            let mut wire = Wire::over(stream);
            let head = wire.head().await;
            let accept = derive_accept_key(head.value("sec-websocket-key").unwrap().as_bytes());
            wire.send(SWITCH.replace(super::wire::ACCEPT, &accept))
                .await;
            served.fetch_add(1, Ordering::Relaxed);
            let (mut reader, mut writer) = tokio::io::split(wire);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
        }
    }
}
