//! An HTTP/2 stream that carries a tunnel (RFC 8441 section 5): a byte stream like a socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::send_buffer::SendBuffer;
use crate::net::hangup::Hangup;

/// Pieces of at least this many bytes are kept as they came. Smaller ones are copied together: each of them would
/// keep the whole buffer that it was read into.
const LARGE_PIECE: usize = 4 * 1024;

/// The client's side of a tunnel, when it is a stream of an HTTP/2 connection. FIN is END_STREAM, and RST is
/// RST_STREAM with CANCEL, in both directions.
#[derive(Debug)]
pub struct TunnelStream {
    send: SendStream<SendBuffer>,
    receiver: TunnelReceiver,
}

/// The client's direction of a stream that becomes a tunnel.
#[derive(Debug)]
pub struct TunnelReceiver {
    recv: RecvStream,
    unread: UnreadBytes,
    /// How the direction has ended, once everything before its end has been taken in.
    ended: Option<Hangup>,
}

/// What was taken in and not read yet. Its bound is the stream's window: credit is given back only for what has
/// been read.
#[derive(Debug, Default)]
struct UnreadBytes {
    first: Bytes,
    rest: BytesMut,
}

impl UnreadBytes {
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }

    fn push(&mut self, piece: Bytes) {
        if self.is_empty() && piece.len() >= LARGE_PIECE {
            self.first = piece;
        } else {
            self.rest.extend_from_slice(&piece);
        }
    }

    /// Moves what fits into `buffer`, and returns how many bytes that was.
    fn take_into(&mut self, buffer: &mut ReadBuf<'_>) -> usize {
        let before = buffer.filled().len();
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(length));
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(self.rest.get(..length).unwrap_or_default());
        self.rest.advance(length);
        buffer.filled().len() - before
    }
}

impl TunnelReceiver {
    /// The direction that `recv` is.
    pub fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            unread: UnreadBytes::default(),
            ended: None,
        }
    }

    /// Takes in what has come, although it is not read yet, and has the task woken by what comes next. What stays
    /// with the connection frame by frame costs far more memory than its bytes, which h2 answers by ending the
    /// connection, and all tunnels on it.
    pub fn take_in(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(true) = self.poll_piece(cx, |unread, piece| unread.push(piece)) {}
    }

    /// Hands the next piece to `keep`; ready with `false` if there is none any more.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        keep: impl FnOnce(&mut UnreadBytes, Bytes),
    ) -> Poll<bool> {
        if self.ended.is_some() {
            return Poll::Ready(false);
        }
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(piece)) => {
                keep(&mut self.unread, piece);
                return Poll::Ready(true);
            }
            Some(Err(_)) => self.ended = Some(Hangup::Reset),
            None => self.ended = Some(Hangup::Ended),
        }
        Poll::Ready(false)
    }

    /// Fills `buffer` with what was taken in and what comes, as far as it is there.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut length = self.unread.take_into(buffer);
        // Nothing is copied twice but the piece that does not fit.
        while self.unread.is_empty() && buffer.remaining() > 0 {
            let mut put = |unread: &mut UnreadBytes, mut piece: Bytes| {
                let fits = piece.split_to(piece.len().min(buffer.remaining()));
                buffer.put_slice(&fits);
                length += fits.len();
                unread.push(piece);
            };
            if self.poll_piece(cx, &mut put) != Poll::Ready(true) {
                break;
            }
        }
        if length > 0 {
            if self.unread.is_empty() {
                // A tunnel that is idle holds no buffer.
                self.unread = UnreadBytes::default();
            }
            // It fails if the stream is gone, and then nothing waits for the credit.
            let _ = self.recv.flow_control().release_capacity(length);
            return Poll::Ready(Ok(()));
        }
        match self.ended {
            None => Poll::Pending,
            Some(Hangup::Ended) => Poll::Ready(Ok(())),
            Some(Hangup::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl TunnelStream {
    /// The tunnel on a stream whose response, a 200, has been sent.
    pub fn new(mut send: SendStream<SendBuffer>, receiver: TunnelReceiver) -> Self {
        // The task of the handshake waited for a reset. h2 would keep its waker, and thereby the memory of that task,
        // for as long as the client gives credit in time: many times what a tunnel takes.
        let _ = send.poll_reset(&mut Context::from_waker(Waker::noop()));
        Self { send, receiver }
    }

    /// Takes in what has come, although it is not read yet: see [`TunnelReceiver::take_in`].
    pub fn take_in(&mut self, cx: &mut Context<'_>) {
        self.receiver.take_in(cx);
    }

    /// How the client has ended its direction, as far as is known without reading.
    pub fn hangup(&self) -> Option<Hangup> {
        self.receiver.ended
    }

    /// Ends the stream now: what the client has not received of it is discarded.
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.receiver.poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(buf.len());
        let mut left = buf;
        while !left.is_empty() {
            let room = self.send.capacity();
            if room == 0 {
                if left.len() < buf.len() {
                    break;
                }
                match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(Err(gone())),
                }
            }
            let piece = SendBuffer::copy_of(left.get(..room).unwrap_or(left));
            let length = piece.remaining();
            self.send.send_data(piece, false).map_err(|_| gone())?;
            left = left.get(length..).unwrap_or_default();
        }
        Poll::Ready(Ok(buf.len() - left.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The task of the connection sends what it has; a stream's own bound on that is its buffer.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.reserve_capacity(0);
        let ended = self.send.send_data(SendBuffer::empty(), true);
        Poll::Ready(ended.map_err(|_| gone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    use http::{Request, Response};

    /// A task that opens a tunnel.
    struct OpeningTask;

    impl Wake for OpeningTask {
        fn wake(self: Arc<Self>) {}
    }

    #[tokio::test]
    async fn a_tunnel_does_not_keep_the_task_that_opened_it() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let client = async move {
            let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
            let request = Request::get("https://localhost/").body(()).unwrap();
            let _stream = requests.send_request(request, false).unwrap();
            let _ = connection.await;
        };
        let server = async {
            let builder = h2::server::Builder::new();
            let mut served = builder.handshake::<_, SendBuffer>(far).await.unwrap();
            let (request, mut respond) = served.accept().await.unwrap().unwrap();
            let task = Arc::new(OpeningTask);
            let mut receiver = TunnelReceiver::new(request.into_body());
            {
                let waker = Waker::from(Arc::clone(&task));
                let mut cx = Context::from_waker(&waker);
                assert!(respond.poll_reset(&mut cx).is_pending());
                receiver.take_in(&mut cx);
            }
            assert_eq!(Arc::strong_count(&task), 3, "for a reset, and for bytes");
            let send = respond.send_response(Response::new(()), false).unwrap();
            let mut tunnel = TunnelStream::new(send, receiver);
            // The tunnel's own task reads at once.
            tunnel.take_in(&mut Context::from_waker(Waker::noop()));
            assert_eq!(Arc::strong_count(&task), 1);
        };
        tokio::select! {
            () = server => {}
            () = client => unreachable!("the server ends first"),
        }
    }
}
