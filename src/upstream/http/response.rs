//! The body of an endpoint's reply on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pool::{Pool, PoolKey};
use super::request::RequestSender;
use crate::upstream::endpoint::Lease;

/// A connection that a request has, and where it goes afterwards.
#[derive(Debug)]
pub struct BorrowedConnection {
    /// The connection.
    pub sender: RequestSender,
    /// The right to use its endpoint.
    pub lease: Lease,
    /// Where it is given back; `None` for one that must not be used again.
    pub home: Option<(Rc<Pool>, PoolKey)>,
}

impl BorrowedConnection {
    fn give_back(self) {
        if let Some((pool, key)) = self.home {
            pool.put(key, self.sender);
        }
    }
}

/// The body of an endpoint's reply on its way to the client. Holds the lease, and gives the
/// connection back when it has ended well.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    loan: Option<BorrowedConnection>,
}

impl ResponseBody {
    /// The reply that came over `loan`.
    pub fn new(body: Incoming, loan: BorrowedConnection) -> Self {
        let mut reply = Self {
            body,
            loan: Some(loan),
        };
        if reply.body.is_end_stream() {
            reply.end();
        }
        reply
    }

    fn end(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.give_back();
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
