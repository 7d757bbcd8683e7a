//! Requests to a process that serves operators, and their responses, over any kind of socket.

use std::error::Error;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest response body, in bytes.
const MAX_RESPONSE: usize = 256 * 1024 * 1024;

/// A response: its status and its body.
pub type WholeResponse = (StatusCode, Bytes);

/// Sends the request, and waits for the response.
///
/// # Errors
/// Any error of the connection or of HTTP.
pub async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<WholeResponse, Box<dyn Error + Send + Sync>> {
    let responses = exchange_all(socket, vec![request]).await?;
    let response = responses.into_iter().next();
    response.ok_or_else(|| "no response".into())
}

/// Sends the requests one after the other, and waits for the response to each.
///
/// # Errors
/// Any error of the connection or of HTTP.
pub async fn exchange_all(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: Vec<Request<Full<Bytes>>>,
) -> Result<Vec<WholeResponse>, Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let responses = async {
        let mut responses = Vec::new();
        for request in requests {
            sender.ready().await?;
            let head = sender.send_request(request).await?;
            let status = head.status();
            let body = Limited::new(head.into_body(), MAX_RESPONSE).collect();
            responses.push((status, body.await?.to_bytes()));
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(responses)
    };
    let mut responses = std::pin::pin!(responses);
    tokio::select! {
        result = &mut responses => result,
        ended = connection => match ended {
            // The connection has ended in order, so all that will arrive has arrived.
            Ok(()) => responses.await,
            Err(error) => Err(error.into()),
        },
    }
}
