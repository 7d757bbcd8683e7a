//! Our end of a stream: a tunnel, or the body of a request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http_body::Body as _;
use tidegate::net::hangup::Hangup;
use tidegate::net::http2::{SendBuffer, TunnelReceiver, TunnelStream, Upload, UploadReader};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::MAX_SENT;
use super::wire::{WakeFlag, bytes_of};

enum Side {
    Tunnel(TunnelStream),
    Body(Upload, UploadReader, SendStream<SendBuffer>),
}

/// A task that does one thing, and waits for it.
#[derive(Default)]
struct Task {
    woken: Arc<WakeFlag>,
    waits: bool,
}

impl Task {
    /// Polls, and checks that a task that waited was woken for what has become ready.
    fn poll<T>(&mut self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let was_woken = self.woken.take();
        let waker = self.woken.waker();
        let polled = poll(&mut Context::from_waker(&waker));
        assert!(
            polled.is_pending() || !self.waits || was_woken,
            "it was not woken"
        );
        self.waits = polled.is_pending();
        polled
    }
}

pub(super) struct ServerEnd {
    side: Side,
    reading: Task,
    forwarding: Task,
    writing: Task,
    read: usize,
    is_at_end: bool,
    has_failed: bool,
    written: usize,
    has_shut_down: bool,
    was_reset: bool,
}

impl ServerEnd {
    pub(super) fn new(
        recv: RecvStream,
        mut respond: SendResponse<SendBuffer>,
        is_tunnel: bool,
    ) -> Self {
        let sent = respond.send_response(Response::new(()), false);
        let send = sent.expect("the stream is open");
        let side = match is_tunnel {
            true => Side::Tunnel(TunnelStream::new(send, TunnelReceiver::new(recv))),
            false => {
                let (upload, reader) = Upload::new(recv, None);
                Side::Body(upload, reader, send)
            }
        };
        Self {
            side,
            reading: Task::default(),
            forwarding: Task::default(),
            writing: Task::default(),
            read: 0,
            is_at_end: false,
            has_failed: false,
            written: 0,
            has_shut_down: false,
            was_reset: false,
        }
    }

    /// Bytes that were read, in order.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn written(&self) -> usize {
        self.written
    }

    pub(super) fn has_shut_down(&self) -> bool {
        self.has_shut_down
    }

    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    pub(super) fn take_in(&mut self) {
        let waker = self.reading.woken.waker();
        let mut cx = Context::from_waker(&waker);
        match &mut self.side {
            Side::Tunnel(tunnel) => tunnel.take_in(&mut cx),
            Side::Body(_, reader, _) => reader.take_in(&mut cx),
        }
    }

    /// Reads once, up to `size` bytes of a tunnel. Returns whether there was anything.
    pub(super) fn poll_read(&mut self, size: usize) -> bool {
        let (was_at_end, had_failed) = (self.is_at_end, self.has_failed);
        let before = self.read;
        match &mut self.side {
            Side::Tunnel(_) if size == 0 => return false,
            Side::Tunnel(_) => self.read_tunnel(size),
            Side::Body(..) => self.read_body(),
        }
        let has_read = self.read > before;
        assert!(
            !has_read || !(was_at_end || had_failed),
            "an end is the end"
        );
        has_read
    }

    fn read_tunnel(&mut self, size: usize) {
        let Side::Tunnel(tunnel) = &mut self.side else {
            return;
        };
        let mut storage = vec![0; size];
        let mut buffer = ReadBuf::new(&mut storage);
        let read = |cx: &mut Context<'_>| Pin::new(&mut *tunnel).poll_read(cx, &mut buffer);
        match self.reading.poll(read) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                assert_eq!(tunnel.hangup(), Some(Hangup::Ended));
                self.is_at_end = true;
            }
            Poll::Ready(Ok(())) => {
                let filled = buffer.filled();
                assert_eq!(filled, bytes_of(self.read, filled.len()));
                self.read += filled.len();
            }
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!(tunnel.hangup(), Some(Hangup::Reset));
                self.has_failed = true;
            }
            Poll::Pending => assert_eq!(tunnel.hangup(), None),
        }
    }

    fn read_body(&mut self) {
        let Side::Body(upload, ..) = &mut self.side else {
            return;
        };
        let ends = upload.is_end_stream();
        let frame = self
            .forwarding
            .poll(|cx| Pin::new(&mut *upload).poll_frame(cx));
        assert!(!ends || matches!(frame, Poll::Ready(None)));
        match frame {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => {
                    assert_eq!(bytes, bytes_of(self.read, bytes.len()));
                    self.read += bytes.len();
                }
                Err(_) => self.is_at_end = true,
            },
            // What comes after an error is nothing.
            Poll::Ready(None) => self.is_at_end |= !self.has_failed,
            Poll::Ready(Some(Err(_))) => self.has_failed = true,
            Poll::Pending => {}
        }
    }

    /// Writes once to a tunnel. Returns whether it has taken anything.
    pub(super) fn poll_write(&mut self, size: usize) -> bool {
        let Side::Tunnel(tunnel) = &mut self.side else {
            return false;
        };
        if self.has_shut_down || self.written + size.max(1) > MAX_SENT {
            return false;
        }
        let bytes = bytes_of(self.written, size.max(1));
        let write = |cx: &mut Context<'_>| Pin::new(&mut *tunnel).poll_write(cx, bytes);
        match self.writing.poll(write) {
            Poll::Ready(Ok(length)) => {
                assert!((1..=bytes.len()).contains(&length));
                self.written += length;
                true
            }
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
                false
            }
            Poll::Pending => false,
        }
    }

    pub(super) fn shut_down(&mut self) {
        let waker = self.writing.woken.waker();
        let mut cx = Context::from_waker(&waker);
        self.has_shut_down |= match &mut self.side {
            Side::Tunnel(tunnel) => {
                let ended = Pin::new(tunnel).poll_shutdown(&mut cx);
                matches!(ended, Poll::Ready(Ok(())))
            }
            Side::Body(_, _, send) => send.send_data(SendBuffer::empty(), true).is_ok(),
        };
    }

    pub(super) fn reset(&mut self) {
        self.was_reset = true;
        // We know it ourselves.
        let tasks = [&mut self.reading, &mut self.forwarding, &mut self.writing];
        tasks.into_iter().for_each(|task| task.waits = false);
        match &mut self.side {
            Side::Tunnel(tunnel) => tunnel.reset(),
            Side::Body(_, _, send) => send.send_reset(Reason::CANCEL),
        }
    }
}
