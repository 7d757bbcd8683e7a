//! The body of a client's request, whatever it came by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http2::Upload;

/// The body of a client's request.
#[derive(Debug)]
pub enum ClientBody {
    /// No body.
    Empty,
    /// A body in HTTP/1.
    Http1(Incoming),
    /// A body on an HTTP/2 stream.
    Http2(Upload),
}

/// A body that is not valid, or whose client has left.
#[derive(Debug, thiserror::Error)]
pub enum ClientBodyError {
    /// In HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// On an HTTP/2 stream.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Http1(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Http2(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
