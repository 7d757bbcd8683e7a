//! One backend: the page over plain HTTP, and three WebSockets.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, UPGRADE,
};
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

/// The content security policy of the page: its own files and its own origin, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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
    let file = |kind: &'static str, text: &'static str| {
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    };
    let kind = match request.uri().path() {
        "/" => return file("text/html; charset=utf-8", include_str!("page.html")),
        "/page.css" => return file("text/css; charset=utf-8", include_str!("page.css")),
        "/page.js" => return file("text/javascript; charset=utf-8", include_str!("page.js")),
        "/chat" => SocketKind::Chat,
        "/dashboard" => SocketKind::Dashboard,
        "/echo" => SocketKind::Echo,
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
