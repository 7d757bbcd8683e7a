//! One request to a process that serves operators, and its response, over any kind of socket.

use std::error::Error;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest response body, in bytes.
const MAX_RESPONSE: usize = 256 * 1024 * 1024;

/// Sends the request, and waits for the response.
///
/// # Errors
/// Any error of the connection or of HTTP.
pub async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let response = async {
        let head = sender.send_request(request).await?;
        let status = head.status();
        let body = Limited::new(head.into_body(), MAX_RESPONSE).collect();
        Ok::<_, Box<dyn Error + Send + Sync>>((status, body.await?.to_bytes()))
    };
    let mut response = std::pin::pin!(response);
    tokio::select! {
        result = &mut response => result,
        ended = connection => match ended {
            // The connection has ended in order, so the whole response has arrived.
            Ok(()) => response.await,
            Err(error) => Err(error.into()),
        },
    }
}
