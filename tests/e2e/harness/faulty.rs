//! An endpoint that fails in a way that the test sets and can change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::frames::frame;
use super::wire::{ACCEPT, Head, SWITCH, Wire};

/// How an endpoint reacts to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Responds with this status.
    Answer(u16),
    /// Responds with a 101 and echoes every byte.
    Echo,
    /// Responds with a 101 whose `Sec-WebSocket-Accept` is wrong.
    WrongAccept,
    /// Responds with a 101, and drops the connection after the first byte from the client.
    Cut,
    /// Responds with a 101, and closes the tunnel with a closing handshake.
    Close,
    /// Never responds.
    Hang,
}

/// An endpoint with one reaction to health checks, which request `/health`, and another one to all
/// other requests. Both can change at any time.
pub(crate) struct FaultyEndpoint {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    checks: Mutex<Reaction>,
    others: Mutex<Reaction>,
    /// The reactions to the first health checks, in reverse order.
    script: Mutex<Vec<Reaction>>,
    checked: AtomicUsize,
    asked: AtomicUsize,
}

impl FaultyEndpoint {
    pub(crate) async fn start(checks: Reaction, others: Reaction) -> Self {
        Self::scripted(&[], checks, others).await
    }

    pub(crate) async fn scripted(script: &[Reaction], checks: Reaction, others: Reaction) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script, checks, others)
    }

    /// An endpoint at a given address: one that comes back.
    pub(crate) async fn at(address: SocketAddr, does: Reaction) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::on(listener, &[], does, does)
    }

    fn on(listener: TcpListener, script: &[Reaction], checks: Reaction, others: Reaction) -> Self {
        let shared = Arc::new(Shared {
            checks: Mutex::new(checks),
            others: Mutex::new(others),
            script: Mutex::new(script.iter().rev().copied().collect()),
            checked: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
        });
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            task,
        }
    }

    pub(crate) fn checks(&self, does: Reaction) {
        *self.shared.checks.lock().unwrap() = does;
    }

    pub(crate) fn others(&self, does: Reaction) {
        *self.shared.others.lock().unwrap() = does;
    }

    /// The number of requests from clients so far.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn checked(&self) -> usize {
        self.shared.checked.load(Ordering::SeqCst)
    }
}

impl Drop for FaultyEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        connections.spawn(answer(Wire::tcp(socket), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(mut wire: Wire, shared: Arc<Shared>) {
    // A TCP health check sends nothing.
    let Some(head) = wire.head_or_end().await else {
        return;
    };
    let does = if head.start().contains(" /health ") {
        shared.checked.fetch_add(1, Ordering::SeqCst);
        let scripted = shared.script.lock().unwrap().pop();
        scripted.unwrap_or_else(|| *shared.checks.lock().unwrap())
    } else {
        shared.asked.fetch_add(1, Ordering::SeqCst);
        *shared.others.lock().unwrap()
    };
    match does {
        Reaction::Answer(status) => {
            let answer =
                format!("HTTP/1.1 {status} So\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            wire.send(answer).await;
        }
        Reaction::Hang => std::future::pending().await,
        Reaction::WrongAccept => wire.send(SWITCH).await,
        Reaction::Cut => {
            wire.send(switch(&head)).await;
            wire.at_least(1).await;
        }
        Reaction::Close => {
            wire.send(switch(&head)).await;
            wire.send(frame(0x88, None, &1008u16.to_be_bytes())).await;
            wire.until_gone().await;
        }
        Reaction::Echo => {
            wire.send(switch(&head)).await;
            let (mut reader, mut writer) = tokio::io::split(wire);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    }
}

fn switch(head: &Head) -> String {
    let key = head.value("sec-websocket-key").unwrap();
    SWITCH.replace(ACCEPT, &derive_accept_key(key.as_bytes()))
}
