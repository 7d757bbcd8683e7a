//! The server side of the opening handshake, for endpoints that agree to every one.

use std::net::SocketAddr;
use std::thread;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::runtime;

/// Connections that may wait to be accepted: a storm of clients must not fail at the endpoint.
const BACKLOG: i32 = 4096;

/// Listens at this address, even if it was in use a moment ago. Usable on any thread: it becomes a
/// listener of tokio's on the thread that accepts.
pub(crate) fn listen_std(address: SocketAddr) -> std::net::TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(BACKLOG).unwrap();
    socket.into()
}

/// The same within a runtime.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::from_std(listen_std(address)).unwrap()
}

/// Accepts connections on a thread of its own, each of which `serve` serves in a task of that thread.
pub(crate) fn start<S: Future + 'static>(
    serve: impl Fn(TcpStream) -> S + Send + 'static,
) -> SocketAddr {
    let listener = listen_std(([127, 0, 0, 1], 0).into());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let served = serve(socket);
                tokio::task::spawn_local(async move {
                    served.await;
                });
            }
        });
    });
    address
}

/// Reads the head of a request, with the empty line that ends it. Bytes that follow it stay in
/// `bytes`. `None` if the connection ends before.
pub(crate) async fn read_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            let head = std::mem::replace(bytes, rest);
            return String::from_utf8(head).ok();
        }
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return None;
        }
    }
}

/// The path that a request asks for.
pub(crate) fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("/")
}

/// The response that agrees to a handshake; `None` if the request is not one.
pub(crate) fn switch(head: &str) -> Option<String> {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then_some(value)
    })?;
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    ))
}
