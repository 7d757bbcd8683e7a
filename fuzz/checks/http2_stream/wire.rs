//! Both ends of the connection, and the pipe between them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{Method, Request};
use tidegate::net::http2::SendBuffer;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::MAX_SENT;
use super::client::ClientEnd;
use super::server::ServerEnd;

/// The same as `front/http2` has.
const MAX_SEND_BUFFER: usize = 64 * 1024;
const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// Turns after which both ends wait for each other, or never will.
const MAX_TURNS: usize = 200_000;

type Accepted = (Request<RecvStream>, SendResponse<SendBuffer>);

/// Remembers that it was woken.
#[derive(Debug, Default)]
pub(super) struct WakeFlag(AtomicBool);

impl WakeFlag {
    pub(super) fn waker(self: &Arc<Self>) -> Waker {
        Arc::clone(self).into()
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The bytes from `from` on of what a side sends.
pub(super) fn bytes_of(from: usize, length: usize) -> &'static [u8] {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let byte = |at: usize| (at ^ (at >> 8).wrapping_mul(31)) as u8;
        (0..MAX_SENT).map(byte).collect()
    });
    &ALL[from..from + length]
}

/// A connection of h2 with both its ends.
pub(super) struct Wire {
    client: Option<h2::client::Connection<MeteredPipe, Bytes>>,
    server: Option<h2::server::Connection<DuplexStream, SendBuffer>>,
    requests: SendRequest<Bytes>,
    accepted: VecDeque<Accepted>,
    sent: Rc<Cell<usize>>,
    woken: Arc<WakeFlag>,
}

impl Wire {
    /// A connection whose settings both ends know. Its pipe takes a few bytes at a time if it is `narrow`.
    pub(super) fn new(window: u32, client_window: u32, narrow: bool) -> Self {
        let capacity = if narrow { 300 } else { 1 << 20 };
        let (near, far) = tokio::io::duplex(capacity);
        let sent = Rc::new(Cell::new(0));
        let near = MeteredPipe::new(near, Rc::clone(&sent));
        let mut ours = h2::server::Builder::new();
        ours.initial_window_size(window)
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .data_frame_budget(SMALL_FRAME_BUDGET)
            .enable_connect_protocol();
        let mut theirs = h2::client::Builder::new();
        // By default, h2 gives up a server that sends what a tunnel carries in many small frames.
        theirs
            .initial_window_size(client_window)
            .data_frame_budget(SMALL_FRAME_BUDGET);
        let mut connecting = pin!(theirs.handshake::<_, Bytes>(near));
        let mut accepting = pin!(ours.handshake::<_, SendBuffer>(far));
        let mut cx = Context::from_waker(Waker::noop());
        let (mut client, mut server) = (None, None);
        while client.is_none() || server.is_none() {
            if client.is_none()
                && let Poll::Ready(connected) = connecting.as_mut().poll(&mut cx)
            {
                client = Some(connected.expect("nothing fails"));
            }
            if server.is_none()
                && let Poll::Ready(accepted) = accepting.as_mut().poll(&mut cx)
            {
                server = Some(accepted.expect("nothing fails"));
            }
            // The client's handshake ends with its preface in its buffer.
            if let Some((_, connection)) = &mut client {
                drop(Pin::new(connection).poll(&mut cx));
            }
        }
        let (requests, client) = client.expect("it is connected");
        let mut wire = Self {
            client: Some(client),
            server,
            requests,
            accepted: VecDeque::new(),
            sent,
            woken: Arc::default(),
        };
        wire.settle();
        wire
    }

    /// Opens a stream: a tunnel, or a request with a body.
    pub(super) fn open(&mut self, is_tunnel: bool) -> (ClientEnd, ServerEnd) {
        let mut request = Request::builder().uri("https://a.example/");
        request = match is_tunnel {
            false => request.method(Method::POST),
            true => request
                .method(Method::CONNECT)
                .extension(h2::ext::Protocol::from_static("websocket")),
        };
        let request = request.body(()).expect("it is valid");
        let opened = self.requests.send_request(request, false);
        let (response, send) = opened.expect("the connection is open");
        self.settle();
        let (request, respond) = self.accepted.pop_front().expect("it was opened");
        let server = ServerEnd::new(request.into_body(), respond, is_tunnel);
        (ClientEnd::new(send, response), server)
    }

    /// Bytes of DATA that the client has put on the wire.
    pub(super) fn sent(&self) -> usize {
        self.sent.get()
    }

    /// Whether the client has closed its connection.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_none()
    }

    /// The client closes its connection, whatever it still had to send.
    pub(super) fn close(&mut self) {
        self.client = None;
    }

    /// Polls both ends once.
    pub(super) fn turn(&mut self) {
        let waker = self.woken.waker();
        let mut cx = Context::from_waker(&waker);
        if let Some(client) = &mut self.client {
            let ended = Pin::new(client).poll(&mut cx);
            assert!(ended.is_pending(), "the connection has ended: {ended:?}");
        }
        let Some(server) = &mut self.server else {
            return;
        };
        while let Poll::Ready(accepted) = server.poll_accept(&mut cx) {
            match accepted {
                Some(Ok(accepted)) => self.accepted.push_back(accepted),
                ended => {
                    assert!(self.client.is_none(), "the connection has ended: {ended:?}");
                    self.server = None;
                    return;
                }
            }
        }
    }

    /// Polls both ends until nothing wakes them any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..MAX_TURNS {
            self.woken.take();
            self.turn();
            if !self.woken.take() {
                return;
            }
        }
        panic!("the ends wake each other for ever");
    }

    /// A further stream gets through more than the connection's window.
    pub(super) fn carries_another_stream(&mut self) {
        self.settle();
        let (mut client, mut server) = self.open(true);
        let total = 2 * 65_535;
        client.send(total);
        while server.read() < total {
            self.settle();
            assert!(server.poll_read(total), "credit is missing");
        }
    }
}

/// The client's end of the pipe, which counts the bytes of DATA on the first stream.
struct MeteredPipe {
    pipe: DuplexStream,
    sent: Rc<Cell<usize>>,
    /// Bytes that are not the head of a frame: of the preface, then of each frame.
    skipped: usize,
    head: Vec<u8>,
}

const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

impl MeteredPipe {
    fn new(pipe: DuplexStream, sent: Rc<Cell<usize>>) -> Self {
        Self {
            pipe,
            sent,
            skipped: PREFACE,
            head: Vec::new(),
        }
    }

    fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            self.skipped -= skipped;
            bytes = &bytes[skipped..];
            let taken = (FRAME_HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, kind, _, ref stream @ ..] = self.head[..]
                && self.head.len() == FRAME_HEAD
            {
                self.skipped = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind == 0 && *stream == [0, 0, 0, 1] {
                    self.sent.set(self.sent.get() + self.skipped);
                }
                self.head.clear();
            }
        }
    }
}

impl AsyncRead for MeteredPipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buffer)
    }
}

impl AsyncWrite for MeteredPipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.pipe).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = written {
            self.count(&bytes[..length]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
