//! A pipe through which the kernel passes bytes from one socket to another without copying them.
//!
//! It is for one transfer at a time: its owner fills it, and empties it before doing anything else, by
//! [`SplicePipe::poll_drain`] or [`SplicePipe::take`]. So it never holds bytes that others have to know of.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::stream::Socket;

#[cfg(target_os = "linux")]
use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

/// The size that is requested, in bytes. It is the number of pieces that counts: a pipe has a place for as
/// many as the size has pages, and a piece may be no longer than a packet. With the default, a pipe would be
/// full after 23 KB of a network whose packets are not merged.
const CAPACITY: usize = 512 << 10;

/// The least that is of use, in bytes: what is put in front must leave room, because a full pipe looks like a socket
/// with nothing to read. The system grants a page or two where the user's pipes have many already (pipe(7),
/// `pipe-user-pages-soft`).
#[cfg(target_os = "linux")]
const LEAST_CAPACITY: usize = 64 << 10;

/// A pipe, empty between two transfers.
#[derive(Debug)]
pub struct SplicePipe {
    ends: Option<PipeEnds>,
    held: usize,
    /// Whether the system does not support it, or forbids it.
    is_refused: bool,
    /// Bytes that have come from sockets so far.
    #[cfg(test)]
    pub(crate) passed: u64,
}

#[derive(Debug)]
struct PipeEnds {
    read: std::os::fd::OwnedFd,
    write: std::os::fd::OwnedFd,
}

impl SplicePipe {
    /// A pipe, opened now if the limit on open files has room.
    pub fn open() -> Self {
        let mut pipe = Self {
            ends: None,
            held: 0,
            is_refused: false,
            #[cfg(test)]
            passed: 0,
        };
        pipe.is_usable();
        pipe
    }

    /// Whether a transfer may begin. A pipe that was discarded is opened again.
    pub fn is_usable(&mut self) -> bool {
        // A transfer that has ended by a panic has left bytes that are for nothing else.
        if self.held > 0 {
            self.discard();
        }
        if self.ends.is_none() && !self.is_refused {
            self.ends = PipeEnds::open(CAPACITY);
            self.is_refused = self.ends.as_ref().is_some_and(|it| !it.is_ample());
        }
        self.ends.is_some() && !self.is_refused
    }

    /// Puts bytes in front of those that come from a socket. Returns whether the transfer may go on; if
    /// not, nothing has been taken.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        let Some(ends) = &self.ends else {
            return false;
        };
        let put = rustix::io::write(&ends.write, bytes);
        if put == Ok(bytes.len()) {
            self.held += bytes.len();
            return true;
        }
        // A part of them may be in the pipe.
        self.discard();
        false
    }

    /// Takes up to `limit` bytes from `source`. 0 means that its stream has ended. Only while the pipe holds
    /// no more than what was put in front: one that is full would look like a socket with nothing to read.
    ///
    /// # Errors
    /// The error of the connection; `Unsupported`, if the system does not do this: then no byte was lost.
    pub fn poll_fill(
        &mut self,
        source: &Socket,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        loop {
            ready!(source.poll_ready(Interest::READABLE, cx))?;
            match source.try_io(Interest::READABLE, |source| {
                pass(source, &ends.write, limit)
            }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.judge(error))),
                Ok(length) => {
                    self.held += length;
                    #[cfg(test)]
                    {
                        self.passed += length as u64;
                    }
                    return Poll::Ready(Ok(length));
                }
            }
        }
    }

    /// Passes on what the pipe holds, all of it if this is ready. Adds what `sink` accepts to `moved`.
    ///
    /// # Errors
    /// The error of the connection; `Unsupported`, if the system does not do this: then [`SplicePipe::take`]
    /// has what is left.
    pub fn poll_drain(
        &mut self,
        sink: &Socket,
        moved: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(ends) = &self.ends else {
            return Poll::Ready(Ok(()));
        };
        while self.held > 0 {
            ready!(sink.poll_ready(Interest::WRITABLE, cx))?;
            match sink.try_io(Interest::WRITABLE, |sink| pass(&ends.read, sink, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(self.judge(error))),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(length) => {
                    self.held = self.held.saturating_sub(length);
                    *moved += length;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes out what the pipe holds.
    ///
    /// # Errors
    /// The error of the system: the bytes are lost.
    pub fn take(&mut self) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; self.held];
        let mut filled = 0;
        while let (Some(ends), Some(room)) = (&self.ends, bytes.get_mut(filled..))
            && !room.is_empty()
        {
            match rustix::io::read(&ends.read, room) {
                Ok(length @ 1..) => filled += length,
                read => {
                    self.discard();
                    return Err(read
                        .err()
                        .map_or(io::ErrorKind::UnexpectedEof.into(), Into::into));
                }
            }
        }
        self.held = 0;
        Ok(bytes.into())
    }

    /// Drops what the pipe holds.
    pub fn discard(&mut self) {
        (self.ends, self.held) = (None, 0);
    }

    /// Makes the pipe unusable, as on a system that does not support it.
    #[cfg(test)]
    pub(crate) fn refuse(&mut self) {
        self.is_refused = true;
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Notes an error that means that the system does not do this; others are those of the connection.
    fn judge(&mut self, error: io::Error) -> io::Error {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(&error);
        let refusals = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM];
        if !errno.is_some_and(|errno| refusals.contains(&errno)) {
            return error;
        }
        self.is_refused = true;
        io::ErrorKind::Unsupported.into()
    }
}

#[cfg(target_os = "linux")]
impl PipeEnds {
    fn open(capacity: usize) -> Option<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Less is granted where the user's pipes have many pages already.
        let _ = fcntl_setpipe_size(&write, capacity);
        Some(Self { read, write })
    }

    fn is_ample(&self) -> bool {
        fcntl_getpipe_size(&self.write).is_ok_and(|size| size >= LEAST_CAPACITY)
    }
}

#[cfg(target_os = "linux")]
fn pass(
    from: impl std::os::fd::AsFd,
    to: impl std::os::fd::AsFd,
    limit: usize,
) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(splice(from, None, to, None, limit, flags)?)
}

#[cfg(not(target_os = "linux"))]
impl PipeEnds {
    fn open(_: usize) -> Option<Self> {
        None
    }

    fn is_ample(&self) -> bool {
        false
    }
}

#[cfg(not(target_os = "linux"))]
fn pass(_: impl std::os::fd::AsFd, _: impl std::os::fd::AsFd, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_pipe_is_empty_again_after_bytes_were_taken_or_discarded() {
        let mut pipe = SplicePipe::open();
        assert!(pipe.put(b"one ") && pipe.put(b"two"));
        assert_eq!(*pipe.take().unwrap(), *b"one two");
        assert!(pipe.take().unwrap().is_empty());
        assert!(pipe.put(b"lost"));
        pipe.discard();
        assert!(!pipe.put(b"closed"));
        assert!(pipe.is_usable() && pipe.put(b"three"));
        assert_eq!(*pipe.take().unwrap(), *b"three");
    }

    #[test]
    fn what_a_transfer_has_left_behind_reaches_no_other() {
        let mut pipe = SplicePipe::open();
        assert!(pipe.put(b"of one tunnel"));
        assert!(pipe.is_usable() && pipe.put(b"of another"));
        assert_eq!(*pipe.take().unwrap(), *b"of another");
    }

    #[test]
    fn a_pipe_that_is_too_small_is_not_used() {
        for (capacity, is_ample) in [(4096, false), (8192, false), (LEAST_CAPACITY, true)] {
            let ends = PipeEnds::open(capacity).unwrap();
            assert_eq!(ends.is_ample(), is_ample, "{capacity}");
        }
    }

    #[test]
    fn a_system_that_refuses_is_not_asked_again() {
        for (errno, is_refusal) in [
            (Errno::PERM, true),
            (Errno::NOSYS, true),
            (Errno::INVAL, true),
            (Errno::CONNRESET, false),
            (Errno::PIPE, false),
        ] {
            let mut pipe = SplicePipe::open();
            assert!(pipe.put(b"header"));
            let kind = pipe.judge(errno.into()).kind();
            assert_eq!(kind == io::ErrorKind::Unsupported, is_refusal, "{errno}");
            assert_eq!(*pipe.take().unwrap(), *b"header");
            assert_eq!(pipe.is_usable(), !is_refusal);
        }
    }
}
