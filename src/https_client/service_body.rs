//! A response whose head has come: its body, and the connection that brings it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::Request;
use http::response::Parts;
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::HttpsClientError;
use crate::causes::with_causes;

/// The largest head of a response, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// hyper's side of a connection, which moves nothing unless it is polled.
type ConnectionDriver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

/// The body of a response.
pub(super) struct ServiceBody {
    host: Box<str>,
    incoming: Incoming,
    /// `None` when the connection has ended. What it has read before is in `incoming`.
    driver: Option<ConnectionDriver>,
    /// hyper may close a connection on which no request can follow.
    _sender: SendRequest<Full<Bytes>>,
}

/// Writes the request, and reads the head of the response.
pub(super) async fn exchange(
    host: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(Parts, ServiceBody), HttpsClientError> {
    let failed = |error: &hyper::Error| failure(host, error);
    let handshake = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let mut driver: Option<ConnectionDriver> = Some(Box::pin(connection));
    let mut responding = Box::pin(sender.send_request(request));
    let response = poll_fn(|context| {
        drive(&mut driver, context);
        responding.as_mut().poll(context)
    });
    let response = response.await.map_err(|error| failed(&error))?;
    drop(responding);
    let (parts, incoming) = response.into_parts();
    let body = ServiceBody {
        host: host.into(),
        incoming,
        driver,
        _sender: sender,
    };
    Ok((parts, body))
}

impl ServiceBody {
    /// The host that responds.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The next part of the body; `None` at its end. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`HttpsClientError::Exchange`].
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpsClientError> {
        loop {
            let Some(frame) = poll_fn(|context| self.poll_frame(context)).await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| failure(&self.host, &error))?;
            // Trailers say nothing that anyone asks for.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, which has at most `limit` bytes.
    ///
    /// # Errors
    /// [`HttpsClientError::TooLarge`], [`HttpsClientError::Exchange`].
    pub(super) async fn collect(mut self, limit: usize) -> Result<Bytes, HttpsClientError> {
        let announced = usize::try_from(self.incoming.size_hint().lower());
        let mut whole = BytesMut::new();
        let mut is_larger = announced.map_or(true, |announced| announced > limit);
        while !is_larger && let Some(part) = self.next().await? {
            is_larger = part.len() > limit - whole.len();
            if !is_larger {
                whole.extend_from_slice(&part);
            }
        }
        if is_larger {
            let host = self.host;
            return Err(HttpsClientError::TooLarge { host, limit });
        }
        Ok(whole.freeze())
    }

    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        drive(&mut self.driver, context);
        Pin::new(&mut self.incoming).poll_frame(context)
    }
}

/// Lets the connection move what it can. Its errors are those of the response, too.
fn drive(driver: &mut Option<ConnectionDriver>, context: &mut Context<'_>) {
    if let Some(connection) = driver
        && connection.as_mut().poll(context).is_ready()
    {
        *driver = None;
    }
}

fn failure(host: &str, error: &hyper::Error) -> HttpsClientError {
    HttpsClientError::Exchange {
        host: host.into(),
        error: with_causes(error).into(),
    }
}
