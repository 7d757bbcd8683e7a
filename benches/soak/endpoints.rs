//! The fleet behind the proxy: endpoints that echo messages and answer requests, and can be killed
//! and brought back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Which endpoint somebody is connected to, and which of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    endpoint: usize,
    life: u32,
}

/// As an endpoint says it first thing in each tunnel.
impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.endpoint, self.life)
    }
}

impl Life {
    pub(crate) fn of(text: &str) -> Option<Self> {
        let (endpoint, life) = text.split_once(' ')?;
        Some(Self {
            endpoint: endpoint.parse().ok()?,
            life: life.parse().ok()?,
        })
    }
}

/// All of them. They stop when this is dropped.
pub(crate) struct Fleet {
    members: Vec<Member>,
    /// When one was killed, each time.
    kills: RefCell<Vec<Instant>>,
}

struct Member {
    address: SocketAddr,
    life: Cell<u32>,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Fleet {
    pub(crate) fn start(size: usize) -> Self {
        let members = (0..size).map(|endpoint| {
            let listener = listen(([127, 0, 0, 1], 0).into());
            let address = listener.local_addr().unwrap();
            let life = Life { endpoint, life: 0 };
            Member {
                address,
                life: Cell::new(0),
                task: RefCell::new(Some(tokio::task::spawn_local(serve_all(listener, life)))),
            }
        });
        Self {
            members: members.collect(),
            kills: RefCell::default(),
        }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.address).collect()
    }

    /// As if its process were killed: nobody listens, and what was open breaks off.
    pub(crate) async fn kill(&self, endpoint: usize) {
        let member = &self.members[endpoint % self.members.len()];
        let Some(task) = member.task.take() else {
            return;
        };
        member.life.set(member.life.get() + 1);
        self.kills.borrow_mut().push(Instant::now());
        task.abort();
        // Its end is what closes the sockets. Aborted: that is the error.
        let _ = task.await;
        self.kills.borrow_mut().push(Instant::now());
    }

    /// At the same address as before.
    pub(crate) fn bring_back(&self, endpoint: usize) {
        let endpoint = endpoint % self.members.len();
        let member = &self.members[endpoint];
        let life = Life {
            endpoint,
            life: member.life.get(),
        };
        let mut task = member.task.borrow_mut();
        task.get_or_insert_with(|| {
            tokio::task::spawn_local(serve_all(listen(member.address), life))
        });
    }

    /// Whether that endpoint has been killed since.
    pub(crate) fn is_over(&self, life: Life) -> bool {
        self.members[life.endpoint].life.get() != life.life
    }

    /// Whether an endpoint was killed since then.
    pub(crate) fn lost_one_since(&self, then: Instant) -> bool {
        self.kills.borrow().last().is_some_and(|last| *last >= then)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in &self.members {
            if let Some(task) = member.task.take() {
                task.abort();
            }
        }
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

async fn serve_all(listener: TcpListener, life: Life) {
    let name: Rc<str> = life.to_string().into();
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                stream.set_nodelay(true).unwrap();
                connections.spawn_local(serve(stream, Rc::clone(&name)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Requests are answered with their path, one after the other; a handshake becomes a tunnel.
async fn serve(mut stream: TcpStream, name: Rc<str>) {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        };
        let early = bytes.split_off(end);
        let head = String::from_utf8_lossy(&bytes);
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then_some(value)
        });
        let Some(key) = key else {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let length = path.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            bytes = early;
            continue;
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        // The first message comes with the head, as servers do that greet.
        let greeting = [&[0x81, name.len() as u8], name.as_bytes()].concat();
        let answer = [answer.as_bytes(), &greeting].concat();
        if stream.write_all(&answer).await.is_ok() {
            echo(WebSocketStream::from_partially_read(stream, early, Role::Server, None).await)
                .await;
        }
        return;
    }
}

async fn echo(mut tunnel: WebSocketStream<TcpStream>) {
    while let Some(Ok(message)) = tunnel.next().await {
        if (message.is_text() || message.is_binary()) && tunnel.send(message).await.is_err() {
            return;
        }
    }
}
