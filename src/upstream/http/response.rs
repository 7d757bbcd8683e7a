//! The body of an endpoint's response on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::interim::RefusedBody;
use super::merged::MergedBody;
use super::pool::Pool;
use super::pool_key::PoolKey;
use super::reserved::ReservedConnections;
use super::sender::RequestSender;
use crate::upstream::endpoint::Lease;

/// A connection that a request has borrowed, and where it is returned.
#[derive(Debug)]
pub struct BorrowedConnection {
    /// The connection.
    pub sender: RequestSender,
    /// The lease on the endpoint: held until the response has ended.
    pub lease: Lease,
    /// Where it is returned; `None` if it must not be used again.
    pub return_to: Option<(ReturnTo, PoolKey)>,
    /// Set if the endpoint has refused the body of the request: the connection is closed with the response.
    pub refused: Option<RefusedBody>,
}

/// Where a connection is returned.
#[derive(Debug)]
pub enum ReturnTo {
    /// The pool of its worker: any client may use it.
    Pool(Rc<Pool>),
    /// The client connection that it belongs to.
    Client(Rc<ReservedConnections>),
}

impl BorrowedConnection {
    fn return_to_pool(self) {
        match self.return_to {
            None => {}
            Some((ReturnTo::Pool(pool), key)) => pool.put(key, self.sender),
            Some((ReturnTo::Client(reserved), key)) => {
                let upstream = Arc::clone(&self.lease.endpoint().upstream);
                reserved.put(upstream, key, self.sender);
            }
        }
    }
}

/// The body of an endpoint's response on its way to the client. It holds the lease, and returns the
/// connection after its last piece. If it is dropped before, the connection is closed: the rest of the
/// body is still on it.
#[derive(Debug)]
pub struct ResponseBody {
    body: Box<MergedBody<Incoming>>,
    connection: Option<BorrowedConnection>,
}

impl ResponseBody {
    /// The body of the response that came over `connection`, once its first pieces are there or known to
    /// come later.
    ///
    /// # Errors
    /// The body is broken from the start.
    pub async fn begin(body: Incoming, connection: BorrowedConnection) -> hyper::Result<Self> {
        let mut response = Self {
            body: Box::new(MergedBody::new(body)),
            connection: Some(connection),
        };
        // hyper may never poll a body that has ended already.
        if response.body.is_end_stream() {
            response.end();
        } else {
            response.body.begin().await?;
        }
        Ok(response)
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
        let piece = ready!(Pin::new(&mut *self.body).poll_frame(cx));
        let is_last = match &piece {
            // Nothing comes behind trailers, and neither hyper nor h2 asks for more.
            Some(Ok(piece)) => piece.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => self.body.is_end_stream(),
            None => true,
        };
        if is_last {
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
