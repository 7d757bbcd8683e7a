//! The body of an endpoint's response on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::{Pool, PoolKey};
use super::sender::RequestSender;
use crate::upstream::endpoint::Lease;

/// A connection that a request has borrowed, and where it is returned.
#[derive(Debug)]
pub struct BorrowedConnection {
    /// The connection.
    pub sender: RequestSender,
    /// The lease on the endpoint: held until the response has ended.
    pub lease: Lease,
    /// The pool that it is returned to; `None` if it must not be used again.
    pub return_to: Option<(Rc<Pool>, PoolKey)>,
}

impl BorrowedConnection {
    fn return_to_pool(self) {
        if let Some((pool, key)) = self.return_to {
            pool.put(key, self.sender);
        }
    }
}

/// The body of an endpoint's response on its way to the client. It holds the lease, and returns the
/// connection after its last piece. If it is dropped before, the connection is closed: the rest of the
/// body is still on it.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    connection: Option<BorrowedConnection>,
}

impl ResponseBody {
    /// The body of the response that came over `connection`.
    pub fn new(body: Incoming, connection: BorrowedConnection) -> Self {
        let mut response = Self {
            body,
            connection: Some(connection),
        };
        // hyper may never poll a body that has ended already.
        if response.body.is_end_stream() {
            response.end();
        }
        response
    }

    fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.return_to_pool();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if piece.is_none() || self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
