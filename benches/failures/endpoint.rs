//! An endpoint that fails on request.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What it does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Serve,
    /// Nobody listens.
    Refuse,
    /// Connections are taken, and nothing is said.
    Hang,
    /// The kernel answers no SYN.
    Blackhole,
    /// What was open breaks off, and nobody listens.
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

/// It stops when it is dropped.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
                SockRef::from(&*known).listen(1024).unwrap();
            }
            Mode::Blackhole => {
                // A queue that is full: the kernel drops what would be one more.
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

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
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
    while mode == Mode::Hang || !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let key = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    });
    let answer = match key {
        Some(key) => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        ),
        None => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned(),
    };
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            bytes.clear();
        }
    }
}
