//! One backend: it accepts WebSockets.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::sockets::{self, SocketKind};
use super::state::BackendState;

/// The socket of a request, once its 101 has been sent.
type UpgradeSlot = Mutex<Option<(SocketKind, OnUpgrade)>>;

/// Serves a backend until the task is aborted; its connections end with it.
pub(super) async fn serve(backend: Arc<BackendState>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(Arc::clone(&backend), stream));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(backend: Arc<BackendState>, stream: TcpStream) {
    let slot = Arc::<UpgradeSlot>::default();
    let service = {
        let slot = Arc::clone(&slot);
        service_fn(move |request| {
            let response = respond(request, &slot);
            async move { Ok::<_, Infallible>(response) }
        })
    };
    let http = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // hyper gives the socket away only after it has written the 101, so the WebSocket waits in a slot.
    if http.with_upgrades().await.is_err() {
        return;
    }
    let requested = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((kind, upgrade)) = requested else {
        return;
    };
    let Ok(upgraded) = upgrade.await else { return };
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    // Connections that break are what this demo shows: they are not errors.
    let _ = sockets::run(kind, socket, &backend).await;
}

fn respond(mut request: Request<Incoming>, slot: &UpgradeSlot) -> Response<Full<Bytes>> {
    // A client may put its name behind the kind: /echo/client-7.
    let kind = match request.uri().path().split('/').nth(1) {
        Some("chat") => SocketKind::Chat,
        Some("echo") => SocketKind::Echo,
        _ => return status(StatusCode::NOT_FOUND),
    };
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return status(StatusCode::UPGRADE_REQUIRED);
    };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, upgrade));
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
