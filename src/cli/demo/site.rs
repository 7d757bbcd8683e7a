//! The page and its controls over plain HTTP, which do not depend on any backend.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::control::{ControlResult, DemoControl};

/// The content security policy of the page: its own files and its own origin, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Binds the socket that tidegate proxies to.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(path).map_err(|error| {
        // Where paths of sockets are too long, another temporary folder helps.
        let path = path.display();
        io::Error::other(format!(
            "cannot listen on `{path}`: {error}; set TMPDIR to another folder"
        ))
    })
}

/// Serves until the task is aborted.
pub(super) async fn serve(control: Arc<DemoControl>, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let control = Arc::clone(&control);
                let service = service_fn(move |request| {
                    let control = Arc::clone(&control);
                    async move { Ok::<_, Infallible>(respond(&control, &request).await) }
                });
                connections.spawn(
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn respond<B>(control: &DemoControl, request: &Request<B>) -> Response<Full<Bytes>> {
    let (kind, text) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", include_str!("page.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("page.js")),
        _ => return controlled(control.execute(request).await),
    };
    response(StatusCode::OK, kind, text.into())
}

/// The result of a control, as JSON.
fn controlled(result: ControlResult) -> Response<Full<Bytes>> {
    let (status, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err((status, error)) => (status, serde_json::json!({ "error": error })),
    };
    response(status, "application/json", value.to_string().into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
