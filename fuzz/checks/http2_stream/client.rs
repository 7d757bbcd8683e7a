//! The client's end of a stream, as h2 has it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;

use super::MAX_SENT;
use super::wire::bytes_of;

/// h2 ends a connection with too many of them.
const MAX_EMPTY: usize = 50;

pub(super) struct ClientEnd {
    send: SendStream<Bytes>,
    response: ResponseFuture,
    recv: Option<RecvStream>,
    sent: usize,
    empty: usize,
    has_ended: bool,
    was_reset: bool,
    read: usize,
    /// What was read without giving credit for it.
    owed: usize,
    is_at_end: bool,
    has_failed: bool,
}

impl ClientEnd {
    pub(super) fn new(send: SendStream<Bytes>, response: ResponseFuture) -> Self {
        Self {
            send,
            response,
            recv: None,
            sent: 0,
            empty: 0,
            has_ended: false,
            was_reset: false,
            read: 0,
            owed: 0,
            is_at_end: false,
            has_failed: false,
        }
    }

    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    pub(super) fn read_bytes(&self) -> usize {
        self.read
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn send(&mut self, size: usize) {
        if size == 0 {
            self.empty += 1;
        }
        if self.sent + size > MAX_SENT || self.empty > MAX_EMPTY || self.has_ended {
            return;
        }
        let bytes = Bytes::from_static(bytes_of(self.sent, size));
        if self.send.send_data(bytes, false).is_ok() {
            self.sent += size;
        }
    }

    pub(super) fn end(&mut self, with_trailers: bool) {
        let ended = match with_trailers {
            true => self.send.send_trailers(HeaderMap::new()),
            false => self.send.send_data(Bytes::new(), true),
        };
        self.has_ended |= ended.is_ok();
    }

    pub(super) fn reset(&mut self) {
        self.was_reset = true;
        self.send.send_reset(Reason::CANCEL);
    }

    /// Reads about as many bytes, and returns how many it was.
    pub(super) fn read(&mut self, most: usize, gives_credit: bool) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        if self.recv.is_none()
            && !self.has_failed
            && let Poll::Ready(response) = Pin::new(&mut self.response).poll(&mut cx)
        {
            match response {
                Ok(response) => self.recv = Some(response.into_body()),
                Err(_) => self.has_failed = true,
            }
        }
        let Some(recv) = &mut self.recv else {
            return 0;
        };
        let before = self.read;
        while self.read - before < most && !self.is_at_end && !self.has_failed {
            match recv.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    assert_eq!(piece, bytes_of(self.read, piece.len()));
                    self.read += piece.len();
                    self.owed += piece.len();
                }
                Poll::Ready(Some(Err(_))) => self.has_failed = true,
                Poll::Ready(None) => self.is_at_end = true,
                Poll::Pending => break,
            }
        }
        if gives_credit {
            // It fails if the stream is gone.
            let _ = recv.flow_control().release_capacity(self.owed);
            self.owed = 0;
        }
        self.read - before
    }
}
