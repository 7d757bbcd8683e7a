//! An endpoint that fails in a way that the test chooses, and changes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::frames::frame;
use super::wire::{ACCEPT, Head, SWITCH, Wire};

/// What an endpoint does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// Answers with this status.
    Answer(u16),
    /// Answers with a 101, and sends back what comes.
    Echo,
    /// The same, but its 101 fits no key.
    WrongAccept,
    /// Answers with a 101, and goes without a word once it is told something.
    Cut,
    /// Answers with a 101, and closes as it should.
    Close,
    /// Does nothing.
    Hang,
}

/// An endpoint that does one thing to checks, which ask for `/health`, and another one to all others;
/// both can change at any time.
pub(crate) struct Fickle {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    checks: Mutex<Does>,
    others: Mutex<Does>,
    /// Checks that come before: what is done to them, in turn.
    script: Mutex<Vec<Does>>,
    checked: AtomicUsize,
    asked: AtomicUsize,
}

impl Fickle {
    pub(crate) async fn start(checks: Does, others: Does) -> Self {
        Self::scripted(&[], checks, others).await
    }

    pub(crate) async fn scripted(script: &[Does], checks: Does, others: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, script, checks, others)
    }

    /// One that comes back to where it was.
    pub(crate) async fn at(address: SocketAddr, does: Does) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::on(listener, &[], does, does)
    }

    fn on(listener: TcpListener, script: &[Does], checks: Does, others: Does) -> Self {
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

    pub(crate) fn checks(&self, does: Does) {
        *self.shared.checks.lock().unwrap() = does;
    }

    pub(crate) fn others(&self, does: Does) {
        *self.shared.others.lock().unwrap() = does;
    }

    /// Requests of clients that have come so far.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn checked(&self) -> usize {
        self.shared.checked.load(Ordering::SeqCst)
    }
}

impl Drop for Fickle {
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
    // A check of the connection alone asks for nothing.
    let Some(head) = wire.head_if_any().await else {
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
        Does::Answer(status) => {
            let answer =
                format!("HTTP/1.1 {status} So\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            wire.send(answer).await;
        }
        Does::Hang => std::future::pending().await,
        Does::WrongAccept => wire.send(SWITCH).await,
        Does::Cut => {
            wire.send(switch(&head)).await;
            wire.at_least(1).await;
        }
        Does::Close => {
            wire.send(switch(&head)).await;
            wire.send(frame(0x88, None, &1008u16.to_be_bytes())).await;
            wire.until_gone().await;
        }
        Does::Echo => {
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
