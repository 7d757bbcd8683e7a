//! The turns of the tasks on a thread: one turn is one poll of one task. A task that always finds more to
//! do must end its turn after a bounded amount, so that all others have theirs.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After this many bytes in one turn, a stream reads no more. What one read brings is not cut, so that
/// bulk data is read as before.
const TURN_BYTES: usize = 16 * 1024;

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The number of the current turn on this thread: it differs between two turns of the same task.
pub fn current() -> u64 {
    CURRENT.get()
}

/// Begins a turn.
fn begin() {
    CURRENT.set(CURRENT.get().wrapping_add(1));
}

pin_project! {
    /// A task each poll of which is a turn.
    #[derive(Debug)]
    pub struct TurnTask<F> {
        #[pin]
        task: F,
    }
}

impl<F> TurnTask<F> {
    /// Counts the turns of `task`.
    pub fn new(task: F) -> Self {
        Self { task }
    }
}

impl<F: Future> Future for TurnTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        begin();
        self.project().task.poll(cx)
    }
}

/// A stream that reads about `TURN_BYTES` in one turn. hyper reads and parses until there is nothing
/// more to read: a peer that sends a chunk size of many megabytes of zeros, and no chunk, could otherwise
/// hold up the thread for as long as it sends.
#[derive(Debug)]
pub struct TurnStream<S> {
    stream: S,
    turn: u64,
    /// The bytes that were read in `turn`.
    bytes: usize,
}

impl<S> TurnStream<S> {
    /// Bounds what is read from `stream`. Its task must be a [`TurnTask`].
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            turn: current(),
            bytes: 0,
        }
    }

    /// Whether nothing more is read in this turn, although the stream may have more.
    pub fn has_had_its_turn(&self) -> bool {
        self.turn == current() && self.bytes >= TURN_BYTES
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TurnStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = current();
        if self.turn != turn {
            self.turn = turn;
            self.bytes = 0;
        }
        if self.has_had_its_turn() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.bytes += buf.filled().len() - before;
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TurnStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// The bytes that one turn reads, with a buffer of `size`.
    fn read_in_a_turn(stream: &mut TurnStream<&[u8]>, size: usize) -> usize {
        begin();
        let (mut buffer, mut total) = (vec![0; size], 0);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            match Pin::new(&mut *stream).poll_read(&mut cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return total,
                Poll::Ready(read) => {
                    read.unwrap();
                    total += buf.filled().len();
                }
                Poll::Pending => return total,
            }
        }
    }

    #[test]
    fn a_turn_reads_a_bounded_number_of_bytes_and_the_next_turn_goes_on() {
        let sent = vec![b'0'; 1 << 20];
        for (size, most) in [
            (1, TURN_BYTES),
            (1000, TURN_BYTES + 1000),
            (64 * 1024, 64 * 1024),
        ] {
            let mut stream = TurnStream::new(&sent[..]);
            let mut total = 0;
            loop {
                let read = read_in_a_turn(&mut stream, size);
                assert!(read <= most, "{read} bytes in one turn, {size} at a time");
                total += read;
                if read == 0 {
                    break;
                }
            }
            assert_eq!(total, sent.len());
        }
    }
}
