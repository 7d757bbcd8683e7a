//! The buffer that all tunnels of a worker share for reading.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::framing::HEADROOM;
use crate::net::stream::Stream;

/// Maximum number of bytes read at once, and so the most that a direction ever keeps unwritten.
/// Enough for a message of 64 KiB with its header: with exactly 64 KiB, those few bytes would cost
/// two more system calls.
pub(super) const SCRATCH_BYTES: usize = 128 * 1024;

/// Bytes read at once where the other side may not take them.
pub(super) const NARROW_BYTES: usize = 16 * 1024;

/// The alignment of the buffer.
const PAGE: usize = 4096;

/// The buffer into which all tunnels of a worker read, one after the other.
#[derive(Debug, Clone)]
pub struct Scratch(pub(super) Rc<RefCell<AlignedBuffer>>);

/// Memory in which the bytes behind the headroom begin a page: the kernel copies whole pages
/// faster.
#[derive(Debug)]
pub(super) struct AlignedBuffer {
    memory: Box<[u8]>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let memory: Box<[u8]> = vec![0; 2 * PAGE + SCRATCH_BYTES].into();
        let page = memory.as_ptr().align_offset(PAGE);
        Self {
            start: page + PAGE - HEADROOM,
            memory,
        }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let end = self.start + HEADROOM + SCRATCH_BYTES;
        self.memory.get_mut(self.start..end).unwrap_or_default()
    }
}

impl Scratch {
    /// A buffer; one is enough for a worker.
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(AlignedBuffer::new())))
    }
}

impl Scratch {
    /// Has `stream` reset when it is dropped, unless bytes are still on their way to its peer, which a
    /// reset would discard: then the end follows them.
    pub(super) fn pass_reset(&self, stream: &mut Stream, cx: &mut Context<'_>) {
        if stream.is_drained() {
            stream.reset_on_close();
            return;
        }
        // Closing a socket with unread bytes resets it, too.
        self.drop_unread(stream, cx);
    }

    /// Reads what has come on `stream`, up to eight buffers of it, and drops it.
    fn drop_unread(&self, stream: &mut Stream, cx: &mut Context<'_>) {
        let mut scratch = self.0.borrow_mut();
        for _ in 0..8 {
            let mut buffer = ReadBuf::new(scratch.bytes());
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            if !matches!(read, Poll::Ready(Ok(()))) || buffer.filled().is_empty() {
                return;
            }
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
