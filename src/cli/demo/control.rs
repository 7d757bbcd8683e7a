//! The control server of the demo: stops and starts backends on request of the page.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::fleet::DemoFleet;

/// A header that only pages of this origin can send: for any other page, the browser would ask the
/// server first (a CORS preflight request).
const OWN_HEADER: &str = "x-tidegate-demo";

/// Starts the control server and returns its address.
pub(super) fn start(fleet: &Arc<DemoFleet>) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = {
        let _entered = fleet.runtime.enter();
        TcpListener::from_std(listener)?
    };
    fleet.runtime.spawn(serve(Arc::clone(fleet), listener));
    Ok(address)
}

async fn serve(fleet: Arc<DemoFleet>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let fleet = Arc::clone(&fleet);
                let service = service_fn(move |request| {
                    let status = execute(&fleet, &request);
                    async move { Ok::<_, Infallible>(respond(status)) }
                });
                connections.spawn(
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn respond(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// `POST /control/backends/2/stop` or `/start`.
fn execute<B>(fleet: &DemoFleet, request: &Request<B>) -> StatusCode {
    let words: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let ["control", "backends", number, action @ ("start" | "stop")] = words.as_slice() else {
        return StatusCode::NOT_FOUND;
    };
    if request.method() != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    if !request.headers().contains_key(OWN_HEADER) {
        return StatusCode::FORBIDDEN;
    }
    let Some(backend) = number.parse().ok().and_then(|number| fleet.backend(number)) else {
        return StatusCode::NOT_FOUND;
    };
    if *action == "stop" {
        backend.stop();
        return StatusCode::NO_CONTENT;
    }
    match backend.start(&fleet.runtime) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    #[test]
    fn backends_stop_and_start_for_those_who_may() {
        let fleet = DemoFleet::start().unwrap();
        let address = fleet.addresses()[1];
        let ask = |method: &str, path: &str, own: bool| {
            let mut request = Request::builder().method(method).uri(path);
            if own {
                request = request.header(OWN_HEADER, "1");
            }
            execute(&fleet, &request.body(()).unwrap())
        };
        assert_eq!(
            ask("POST", "/control/backends/2/stop", false),
            StatusCode::FORBIDDEN
        );
        assert_eq!(
            ask("GET", "/control/backends/2/stop", true),
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(
            ask("POST", "/control/backends/4/stop", true),
            StatusCode::NOT_FOUND
        );
        assert_eq!(
            ask("POST", "/control/backends/2/fly", true),
            StatusCode::NOT_FOUND
        );
        assert!(TcpStream::connect(address).is_ok());
        assert_eq!(
            ask("POST", "/control/backends/2/stop", true),
            StatusCode::NO_CONTENT
        );
        // The socket closes on the thread of the backends, some time after this request.
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < deadline, "it still listens");
            std::thread::yield_now();
        }
        assert_eq!(
            ask("POST", "/control/backends/2/start", true),
            StatusCode::NO_CONTENT
        );
        assert!(TcpStream::connect(address).is_ok());
    }
}
