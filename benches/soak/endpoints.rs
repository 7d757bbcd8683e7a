//! The endpoints behind the proxy: they echo messages and answer requests, and they can be killed and
//! brought back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::rig::endpoint::{listen, path, read_head, switch};

/// An endpoint, and how often it has been brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    endpoint: usize,
    life: u32,
}

/// The greeting of an endpoint, the first message in each tunnel.
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

/// All endpoints. They stop when this is dropped.
pub(crate) struct Fleet {
    members: Vec<Member>,
    /// The times at which an endpoint was killed.
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

    /// Ends an endpoint as if its process were killed: it stops listening, and its connections break.
    pub(crate) async fn kill(&self, endpoint: usize) {
        let member = &self.members[endpoint % self.members.len()];
        let Some(task) = member.task.take() else {
            return;
        };
        member.life.set(member.life.get() + 1);
        self.kills.borrow_mut().push(Instant::now());
        task.abort();
        // The sockets are closed when the task has ended. It returns an error because it was aborted.
        let _ = task.await;
        self.kills.borrow_mut().push(Instant::now());
    }

    /// Starts an endpoint again at the same address.
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

    /// Whether the endpoint has been killed in the meantime.
    pub(crate) fn is_over(&self, life: Life) -> bool {
        self.members[life.endpoint].life.get() != life.life
    }

    /// Whether an endpoint was killed since then.
    pub(crate) fn killed_one_since(&self, then: Instant) -> bool {
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

async fn serve_all(listener: TcpListener, life: Life) {
    let name: Rc<str> = life.to_string().into();
    // Connections end with this task.
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
    while let Some(head) = read_head(&mut stream, &mut bytes).await {
        let Some(response) = switch(&head) else {
            let path = path(&head);
            let length = path.len();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}");
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
            continue;
        };
        // The first message is sent together with the head, as servers with a greeting do.
        let greeting = [&[0x81, name.len() as u8], name.as_bytes()].concat();
        let response = [response.as_bytes(), &greeting].concat();
        if stream.write_all(&response).await.is_ok() {
            echo(WebSocketStream::from_partially_read(stream, bytes, Role::Server, None).await)
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
