//! An endpoint that fails on request.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::rig::endpoint::{listen, read_head, switch};

/// The behaviour of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Serve,
    /// Connections are refused.
    Refuse,
    /// Connections are accepted, and nothing is sent.
    Hang,
    /// The kernel drops every SYN.
    Blackhole,
    /// Open connections break, and new ones are refused.
    Die,
}

impl Mode {
    pub(crate) const FAILURES: [Self; 4] = [Self::Refuse, Self::Hang, Self::Blackhole, Self::Die];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serve => "serves",
            Self::Refuse => "refuses",
            Self::Hang => "hangs",
            Self::Blackhole => "is a black hole",
            Self::Die => "dies and comes back",
        }
    }
}

/// An endpoint. It stops when it is dropped.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) fn start() -> Self {
        let listener = listen(([127, 0, 0, 1], 0).into());
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Serve);
        let task = tokio::spawn(run(listener, address, modes));
        Self {
            address,
            mode,
            task,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(first: TcpListener, address: SocketAddr, mut modes: watch::Receiver<Mode>) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let mode = *modes.borrow_and_update();
        let mut plugs = Vec::new();
        match mode {
            Mode::Serve | Mode::Hang => {
                let known = listener.get_or_insert_with(|| listen(address));
                SockRef::from(&*known).listen(4096).unwrap();
            }
            Mode::Blackhole => {
                // A full backlog: the kernel drops further SYNs.
                let known = listener.get_or_insert_with(|| listen(address));
                SockRef::from(&*known).listen(0).unwrap();
                plugs.extend((0..4).map(|_| tokio::spawn(TcpStream::connect(address))));
            }
            Mode::Refuse | Mode::Die => {
                listener = None;
                if mode == Mode::Die {
                    connections.abort_all();
                }
            }
        }
        loop {
            tokio::select! {
                changed = modes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                accepted = accept(listener.as_ref()), if !matches!(mode, Mode::Blackhole) => {
                    connections.spawn(serve(accepted, mode));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        plugs.iter().for_each(JoinHandle::abort);
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

/// A handshake, and then silence until the other side ends.
async fn serve(mut stream: TcpStream, mode: Mode) {
    let mut bytes = Vec::with_capacity(1024);
    if mode != Mode::Hang {
        let Some(head) = read_head(&mut stream, &mut bytes).await else {
            return;
        };
        let bad_request = || "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned();
        let response = switch(&head).unwrap_or_else(bad_request);
        if stream.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
    while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
        bytes.clear();
    }
}
