//! The endpoints: they agree to every handshake, and answer plain requests as an attacker needs it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::attacks::CHUNK;
use super::rig::client::frame;
use super::rig::endpoint::{self, path, read_head, switch};

/// Bytes of one read or write.
const PIECE: usize = 64 << 10;

/// Starts an endpoint on a thread of its own.
pub(crate) fn start() -> SocketAddr {
    endpoint::start(serve)
}

/// Serves a connection until an end or an error.
async fn serve(mut socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let head = read_head(&mut socket, &mut bytes).await?;
        let path = path(&head);
        if let Some(response) = switch(&head) {
            socket.write_all(response.as_bytes()).await.ok()?;
            return match path {
                "/down" => send(&mut socket, &frame(PIECE, false)).await,
                "/up" => swallow(&mut socket).await,
                _ => echo(&mut socket).await,
            };
        }
        match path {
            "/chunks" => {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                socket.write_all(head).await.ok()?;
                return send(&mut socket, &CHUNK.repeat(PIECE / CHUNK.len())).await;
            }
            "/upload" => return swallow(&mut socket).await,
            _ => {
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                socket.write_all(response).await.ok()?;
            }
        }
    }
}

async fn echo(socket: &mut TcpStream) -> Option<()> {
    let mut buffer = vec![0; PIECE];
    while let length @ 1.. = socket.read(&mut buffer).await.ok()? {
        socket.write_all(&buffer[..length]).await.ok()?;
    }
    None
}

async fn swallow(socket: &mut TcpStream) -> Option<()> {
    let mut buffer = vec![0; PIECE];
    while socket.read(&mut buffer).await.ok()? > 0 {}
    None
}

async fn send(socket: &mut TcpStream, piece: &[u8]) -> Option<()> {
    loop {
        socket.write_all(piece).await.ok()?;
    }
}
