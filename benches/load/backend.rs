//! The endpoint behind every proxy: accepts any handshake, then echoes bytes, discards them, or sends
//! as many as the path says.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::client::frame;
use super::rig::endpoint::{self, path, read_head, switch};

/// The number of bytes that a discarding backend acknowledges at a time.
pub(crate) const ACKNOWLEDGED: usize = 4 << 20;

/// Starts the backend on a thread of its own.
pub(crate) fn start() -> SocketAddr {
    endpoint::start(serve)
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
        // Echoes bytes and not messages, so masked frames come back masked. The proxies do not care.
        None => {
            let (reader, writer) = socket.into_split();
            super::relay::copy(reader, writer).await;
        }
    }
}

/// Discards bytes, and acknowledges each [`ACKNOWLEDGED`] of them with one byte.
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
