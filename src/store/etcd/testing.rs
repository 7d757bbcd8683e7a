//! What unit tests of this layer share: members that are sockets.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::config::model::EtcdConfig;

/// An empty range at revision 7, a transaction whose conditions do not hold, or a lease that is renewed.
const EMPTY: &str = r#"{"header":{"revision":"7"},"result":{"TTL":"30"}}"#;

/// Settings with these members.
pub(crate) fn settings(members: &[&TcpListener]) -> Arc<EtcdConfig> {
    let url = |it: &&TcpListener| format!("http://{}", it.local_addr().unwrap());
    Arc::new(EtcdConfig {
        members: members.iter().map(|it| url(it).parse().unwrap()).collect(),
        prefix: "/t/".into(),
        login: None,
        tls: None,
    })
}

/// Whether this request is one of the copy, which asks on its own.
pub(crate) fn is_of_copy(request: &str) -> bool {
    request.contains("/v3/watch") || request.contains("range_end")
}

/// Responds to the next request: that there is nothing, or that the member is not available.
pub(crate) async fn respond(listener: &TcpListener, is_available: impl Fn(&str) -> bool) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"}") {
        socket.read_buf(&mut request).await.unwrap();
    }
    let status = match is_available(&String::from_utf8_lossy(&request)) {
        true => "200 OK",
        false => "503 Service Unavailable",
    };
    let length = EMPTY.len();
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{EMPTY}");
    socket.write_all(response.as_bytes()).await.unwrap();
}
