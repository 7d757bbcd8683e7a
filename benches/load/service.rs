//! A service that tidegate asks about requests: admits all of them, under the name in their cookie.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::rig::endpoint::{self, read_head};

/// Starts the service on a thread of its own.
pub(crate) fn start() -> SocketAddr {
    endpoint::start(serve)
}

async fn serve(mut socket: TcpStream) {
    socket.set_nodelay(true).unwrap();
    let mut bytes = Vec::with_capacity(1024);
    while let Some(head) = read_head(&mut socket, &mut bytes).await {
        let cookie = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("cookie").then_some(value)
        });
        // A client without a cookie would count as the same one as others, and spoil the measurement.
        let response = match cookie {
            Some(name) => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nRemote-User: {name}\r\n\r\n")
            }
            None => "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        if socket.write_all(response.as_bytes()).await.is_err() {
            return;
        }
    }
}
