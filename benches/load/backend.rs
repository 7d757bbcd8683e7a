//! The endpoint behind every proxy: agrees to any handshake, then echoes bytes, swallows them, or
//! sends as many as it is asked for.

use std::net::SocketAddr;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Starts the backend on a thread of its own.
pub(crate) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    rustix::net::listen(&listener, 4096).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(serve(socket));
            }
        });
    });
    address
}

async fn serve(mut socket: TcpStream) {
    socket.set_nodelay(true).unwrap();
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_buf(&mut head).await {
            Ok(1..) => {}
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let value = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    let Some(key) = value("sec-websocket-key") else {
        return;
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    if socket.write_all(answer.as_bytes()).await.is_err() {
        return;
    }
    let path = head.split(' ').nth(1).unwrap_or("/");
    match path
        .strip_prefix("/down/")
        .map(|rest| rest.split('/').collect::<Vec<_>>())
    {
        Some(numbers) => {
            let number = |at: usize| numbers[at].parse::<usize>().unwrap();
            send(&mut socket, number(0), number(1)).await;
        }
        None if path == "/up" => swallow(&mut socket).await,
        // Bytes, not messages: the same work for every proxy. What clients mask comes back masked.
        None => {
            let (reader, writer) = socket.into_split();
            super::relay::copy(reader, writer).await;
        }
    }
}

/// Answers each 4 MiB with one byte, so that the sender knows how far it got.
async fn swallow(socket: &mut TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0usize;
    loop {
        let Ok(length @ 1..) = socket.read(&mut buffer).await else {
            return;
        };
        let before = total / super::client::ACKNOWLEDGED;
        total += length;
        for _ in before..total / super::client::ACKNOWLEDGED {
            if socket.write_all(b"+").await.is_err() {
                return;
            }
        }
    }
}

async fn send(socket: &mut TcpStream, length: usize, count: usize) {
    let frame = super::client::frame(length, false);
    for _ in 0..count {
        if socket.write_all(&frame).await.is_err() {
            return;
        }
    }
    let _ = socket.read_u8().await;
}
