//! The bytes of DATA frames on their way to a client.

use std::cell::RefCell;

use bytes::{Buf, Bytes};

/// The most that one buffer takes: what a frame carries, unless the client allows longer ones.
pub(super) const MAX_PIECE: usize = 16 * 1024;

/// Buffers that a worker keeps for reuse: as many as tunnels write between two polls of their connections, usually.
const MAX_KEPT: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The bytes of one DATA frame.
#[derive(Debug)]
pub enum SendBuffer {
    /// Bytes of a response's body.
    Shared(Bytes),
    /// Bytes of a tunnel, which come from a buffer that many tunnels share and are therefore copied.
    Copied(CopiedBytes),
}

/// Bytes in a buffer that is used again afterwards, so that a message allocates nothing.
#[derive(Debug)]
pub struct CopiedBytes {
    bytes: Vec<u8>,
    sent: usize,
}

impl SendBuffer {
    /// The end of a stream, which has no bytes.
    pub fn empty() -> Self {
        Self::Shared(Bytes::new())
    }

    /// A copy of the first of these bytes, up to `MAX_PIECE`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let piece = bytes.get(..MAX_PIECE).unwrap_or(bytes);
        let mut buffer = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        buffer.extend_from_slice(piece);
        Self::Copied(CopiedBytes {
            bytes: buffer,
            sent: 0,
        })
    }
}

impl Buf for SendBuffer {
    fn remaining(&self) -> usize {
        match self {
            Self::Shared(bytes) => bytes.remaining(),
            Self::Copied(copied) => copied.bytes.len() - copied.sent,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes.chunk(),
            Self::Copied(copied) => copied.bytes.get(copied.sent..).unwrap_or_default(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Shared(bytes) => bytes.advance(count),
            Self::Copied(copied) => copied.sent = (copied.sent + count).min(copied.bytes.len()),
        }
    }
}

impl Drop for CopiedBytes {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.bytes);
        // A thread that ends has dropped its buffers already.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < MAX_KEPT {
                buffer.clear();
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_has_only_its_own_bytes() {
        let mut first = SendBuffer::copy_of(b"first message");
        first.advance(6);
        assert_eq!(first.chunk(), b"message");
        let place = first.chunk().as_ptr();
        drop(first);
        let second = SendBuffer::copy_of(b"second");
        assert_eq!((second.chunk(), second.remaining()), (&b"second"[..], 6));
        let distance = (place as usize).abs_diff(second.chunk().as_ptr() as usize);
        assert_eq!(distance, 6, "the same memory");
    }

    #[test]
    fn a_piece_is_no_longer_than_a_frame() {
        let long = vec![7; MAX_PIECE + 1];
        assert_eq!(SendBuffer::copy_of(&long).remaining(), MAX_PIECE);
    }
}
