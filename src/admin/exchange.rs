//! One question to a process that serves operators, and its answer: over any socket that leads there.

use std::error::Error;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of an answer.
const ANSWER_MOST: usize = 256 * 1024 * 1024;

/// Asks, and waits for the answer.
///
/// # Errors
/// Whatever went wrong on the way.
pub async fn exchange(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let answered = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MOST).collect();
        Ok::<_, Box<dyn Error + Send + Sync>>((status, body.await?.to_bytes()))
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = connection => match ended {
            // What has come by then is all there.
            Ok(()) => answered.await,
            Err(error) => Err(error.into()),
        },
    }
}
