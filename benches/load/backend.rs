//! The endpoint behind every proxy: agrees to any handshake, then echoes bytes, swallows them, or
//! sends as many as it is asked for.

use std::net::SocketAddr;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::client::frame;
use super::rig::endpoint::{listen_std, path, read_head, switch};
use super::rig::runtime;

/// Bytes after which a backend that swallows them acknowledges them.
pub(crate) const ACKNOWLEDGED: usize = 4 << 20;

/// Starts the backend on a thread of its own.
pub(crate) fn start() -> SocketAddr {
    let listener = listen_std(([127, 0, 0, 1], 0).into());
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        runtime().block_on(async move {
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
    let Some(head) = read_head(&mut socket, &mut Vec::with_capacity(1024)).await else {
        return;
    };
    let Some(response) = switch(&head) else {
        return;
    };
    if socket.write_all(response.as_bytes()).await.is_err() {
        return;
    }
    let path = path(&head);
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
        let before = total / ACKNOWLEDGED;
        total += length;
        for _ in before..total / ACKNOWLEDGED {
            if socket.write_all(b"+").await.is_err() {
                return;
            }
        }
    }
}

async fn send(socket: &mut TcpStream, length: usize, count: usize) {
    let frame = frame(length, false);
    for _ in 0..count {
        if socket.write_all(&frame).await.is_err() {
            return;
        }
    }
    let _ = socket.read_u8().await;
}
