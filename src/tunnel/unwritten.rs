//! The bytes of one direction that its sink has not accepted yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::net::stream::Stream;

/// The bytes that one direction has read and not yet written.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    remainder: Option<Box<Remainder>>,
    /// Whether bytes were written that may still be inside TLS.
    unflushed: bool,
}

#[derive(Debug)]
struct Remainder {
    bytes: Box<[u8]>,
    written: usize,
}

impl Unwritten {
    pub(super) fn keep(&mut self, bytes: Box<[u8]>) {
        if !bytes.is_empty() {
            self.remainder = Some(Box::new(Remainder { bytes, written: 0 }));
        }
    }

    /// The number of bytes that are kept.
    pub(super) fn left(&self) -> usize {
        let remainder = self.remainder.as_ref();
        remainder.map_or(0, |remainder| remainder.bytes.len() - remainder.written)
    }

    /// Whether everything was handed to the kernel.
    pub(super) fn is_clear(&self) -> bool {
        self.remainder.is_none() && !self.unflushed
    }

    pub(super) fn forget(&mut self) {
        self.remainder = None;
    }

    /// Writes what is kept. Ready when nothing is left, not even inside TLS.
    pub(super) fn deliver(
        &mut self,
        sink: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(remainder) = &mut self.remainder {
            let left = remainder.bytes.get(remainder.written..).unwrap_or_default();
            if left.is_empty() {
                self.remainder = None;
                break;
            }
            match ready!(Pin::new(&mut *sink).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => remainder.written += written,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the sink accepts and keeps the rest.
    pub(super) fn write(
        &mut self,
        sink: &mut Stream,
        mut bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        // The next `deliver` flushes, before anything else is read.
        self.unflushed = true;
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(written) => match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => bytes = bytes.get(written..).unwrap_or_default(),
                },
                // The only allocation in relaying, and only for a peer that does not keep up.
                Poll::Pending => {
                    self.keep(bytes.into());
                    break;
                }
            }
        }
        Ok(())
    }
}
