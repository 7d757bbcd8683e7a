//! The bytes of one direction that its sink has not accepted yet, and how many a worker keeps of
//! them.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use slab::Slab;
use tokio::io::AsyncWrite;

use super::scratch::{NARROW_BYTES, SCRATCH_BYTES};
use crate::net::stream::{MAX_UNSENT, Stream};

/// Bytes that a side has to accept without being slow before more than [`NARROW_BYTES`] are read for
/// it: about as many as the kernel's buffers hold. So a side that never reads is found out while
/// little is kept for it.
const TRUSTED_AFTER: u32 = 4 << 20;

/// What the remainders of a worker may take before every direction reads [`NARROW_BYTES`] at a time.
const AMPLE_BYTES: usize = 8 << 20;

/// The remainders of all tunnels of a worker.
///
/// Only directions that are waiting are in here, so that finding the largest costs nothing per idle
/// tunnel.
#[derive(Debug, Default)]
pub(super) struct Remainders {
    total: Cell<usize>,
    sizes: RefCell<Slab<RemainderSize>>,
}

/// The memory that one direction of a tunnel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RemainderSize {
    pub(super) bytes: usize,
    /// The slot of the tunnel.
    pub(super) slot: usize,
}

/// Where a direction accounts for what it keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemainderAccount<'a> {
    pub(super) remainders: &'a Rc<Remainders>,
    pub(super) slot: usize,
}

/// Counts a remainder for as long as it exists.
#[derive(Debug)]
struct CountedRemainder {
    remainders: Rc<Remainders>,
    key: usize,
}

impl Remainders {
    /// The memory that the worker's remainders take, in bytes.
    pub(super) fn total(&self) -> usize {
        self.total.get()
    }

    /// The `count` largest remainders, the largest first.
    pub(super) fn largest(&self, count: usize) -> Vec<RemainderSize> {
        let mut largest = BinaryHeap::with_capacity(count.saturating_add(1));
        for (_, size) in self.sizes.borrow().iter() {
            largest.push(Reverse(*size));
            if largest.len() > count {
                largest.pop();
            }
        }
        let largest = largest.into_sorted_vec();
        largest.into_iter().map(|Reverse(size)| size).collect()
    }

    fn count(account: RemainderAccount<'_>, bytes: usize) -> CountedRemainder {
        let RemainderAccount { remainders, slot } = account;
        remainders.total.set(remainders.total.get() + bytes);
        let key = remainders
            .sizes
            .borrow_mut()
            .insert(RemainderSize { bytes, slot });
        CountedRemainder {
            remainders: Rc::clone(remainders),
            key,
        }
    }
}

impl Drop for CountedRemainder {
    fn drop(&mut self) {
        let mut sizes = self.remainders.sizes.borrow_mut();
        let size = sizes.try_remove(self.key);
        let bytes = size.map_or(0, |size| size.bytes);
        self.remainders
            .total
            .set(self.remainders.total.get().saturating_sub(bytes));
        if sizes.is_empty() {
            // After a peak, its memory goes back.
            sizes.shrink_to_fit();
        }
    }
}

/// The bytes that one direction has read and not yet written.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    remainder: Option<Box<Remainder>>,
    /// Bytes that the sink has accepted since it was slow, or since the beginning.
    trust: u32,
    /// KiB written since the sink was clear, rounded up: what may still be inside TLS.
    handed_kib: u16,
    /// Whether bytes were written that may still be inside TLS.
    unflushed: bool,
    /// Whether what is unwritten is a frame of our own.
    is_own: bool,
}

#[derive(Debug)]
struct Remainder {
    bytes: Box<[u8]>,
    written: usize,
    /// Whether it was there at a sweep.
    is_old: bool,
    _counted: CountedRemainder,
}

impl Unwritten {
    pub(super) fn keep(&mut self, bytes: Box<[u8]>, account: RemainderAccount<'_>) {
        if !bytes.is_empty() {
            self.is_own = false;
            self.remainder = Some(Box::new(Remainder {
                _counted: Remainders::count(account, bytes.len()),
                bytes,
                written: 0,
                is_old: false,
            }));
        }
    }

    /// Keeps a frame of our own. Only where everything else has been written.
    pub(super) fn keep_own(&mut self, frame: Box<[u8]>, account: RemainderAccount<'_>) {
        self.keep(frame, account);
        self.is_own = true;
    }

    /// Whether what is unwritten is a frame of our own, and so not the traffic of the tunnel.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// The number of bytes that are kept.
    pub(super) fn left(&self) -> usize {
        let remainder = self.remainder.as_ref();
        remainder.map_or(0, |remainder| remainder.bytes.len() - remainder.written)
    }

    /// How many bytes to read at once for the sink, where the worker keeps `total` bytes.
    pub(super) fn read_size(&self, total: usize) -> usize {
        match self.trust >= TRUSTED_AFTER && total <= AMPLE_BYTES {
            true => SCRATCH_BYTES,
            false => NARROW_BYTES,
        }
    }

    /// Notes that bytes have been waiting for the sink for a while.
    pub(super) fn distrust(&mut self) {
        self.trust = 0;
    }

    /// Whether everything was handed to the kernel.
    pub(super) fn is_clear(&self) -> bool {
        self.remainder.is_none() && !self.unflushed
    }

    pub(super) fn forget(&mut self) {
        self.remainder = None;
    }

    /// Sends what the kernel accepts, although the event loop has not found the sink writable. Returns
    /// how many bytes that were.
    pub(super) fn push(&mut self, sink: &mut Stream, account: RemainderAccount<'_>) -> usize {
        if self.remainder.is_none() {
            self.count_inside_tls(account);
        }
        let left = match &self.remainder {
            Some(remainder) => remainder.bytes.get(remainder.written..).unwrap_or_default(),
            None => &[],
        };
        let (written, moved) = sink.send_now(left);
        self.unflushed |= written > 0;
        if let Some(remainder) = &mut self.remainder {
            remainder.written += written;
            // Once may be chance: a side at full speed has bytes waiting most of the time.
            if std::mem::replace(&mut remainder.is_old, true) {
                self.trust = 0;
            }
        }
        moved
    }

    /// Writes what is kept. Ready when nothing is left, not even inside TLS. Adds what the kernel, or
    /// TLS, has accepted to `moved`.
    pub(super) fn deliver(
        &mut self,
        sink: &mut Stream,
        moved: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        // First what TLS holds: where the kernel accepts only a part of that, TLS accepts nothing.
        ready!(self.flush(sink, moved, cx))?;
        while let Some(remainder) = &mut self.remainder {
            let left = remainder.bytes.get(remainder.written..).unwrap_or_default();
            if left.is_empty() {
                self.remainder = None;
                break;
            }
            match ready!(Pin::new(&mut *sink).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    remainder.written += written;
                    *moved += written;
                    self.note_handed(written);
                }
            }
            self.unflushed = true;
        }
        self.flush(sink, moved, cx)
    }

    fn note_handed(&mut self, bytes: usize) {
        let kib = u16::try_from(bytes.div_ceil(1024)).unwrap_or(u16::MAX);
        self.handed_kib = self.handed_kib.saturating_add(kib);
    }

    /// Counts what a side that accepts nothing leaves inside TLS: an empty remainder with the size of
    /// that.
    fn count_inside_tls(&mut self, account: RemainderAccount<'_>) {
        let bytes = usize::from(self.handed_kib).saturating_mul(1024);
        self.remainder = Some(Box::new(Remainder {
            _counted: Remainders::count(account, bytes.min(MAX_UNSENT)),
            bytes: Box::default(),
            written: 0,
            is_old: false,
        }));
    }

    fn flush(
        &mut self,
        sink: &mut Stream,
        moved: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(sink.poll_flush_counted(cx, moved))?;
            self.unflushed = false;
            self.handed_kib = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the sink accepts and keeps the rest.
    pub(super) fn write(
        &mut self,
        sink: &mut Stream,
        mut bytes: &[u8],
        account: RemainderAccount<'_>,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        // The next `deliver` flushes, before anything else is read.
        (self.unflushed, self.is_own) = (true, false);
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(written) => match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => {
                        self.trust = self.trust.saturating_add(written as u32);
                        self.note_handed(written);
                        bytes = bytes.get(written..).unwrap_or_default();
                    }
                },
                // The only allocation in relaying, and only for a peer that does not keep up.
                Poll::Pending => {
                    self.keep(bytes.into(), account);
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_counted_until_they_are_gone_and_the_largest_are_found() {
        let remainders = Rc::<Remainders>::default();
        let keep = |slot, bytes: usize| {
            let mut unwritten = Unwritten::default();
            let account = RemainderAccount {
                remainders: &remainders,
                slot,
            };
            unwritten.keep(vec![0; bytes].into(), account);
            unwritten
        };
        let largest = |count| {
            let largest = remainders.largest(count).into_iter();
            largest
                .map(|size| (size.slot, size.bytes))
                .collect::<Vec<_>>()
        };
        let kept: Vec<Unwritten> = (0..10).map(|slot| keep(slot, 100 * (slot % 7))).collect();
        assert_eq!(remainders.total(), 2400);
        assert_eq!(largest(3), [(6, 600), (5, 500), (4, 400)]);
        assert_eq!(largest(100).len(), 8, "two are empty");
        let mut kept = kept.into_iter();
        assert!(kept.by_ref().take(7).count() == 7);
        assert_eq!(largest(3), [(9, 200), (8, 100)]);
        assert_eq!(remainders.total(), 300);
        drop(kept);
        assert_eq!((remainders.total(), largest(3)), (0, Vec::new()));
    }
}
