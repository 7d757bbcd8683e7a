//! The socket between a process and its successor. It carries messages, and file descriptors with them
//! (`unix(7)`, `SCM_RIGHTS`).

use std::env;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::descriptors;

/// The environment variable with the process ID of the parent, which the predecessor (in version 0.1.0) or a
/// launcher has set: standard input is a channel to the predecessor.
const FROM: &str = "TIDEGATE_UPGRADE_FROM";

/// Maximum length of a message, in bytes.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// Maximum number of descriptors with a message.
const MAX_DESCRIPTORS: usize = 64 * 1024;

/// One end of the channel. After the handover it becomes a [`Link`](super::link::Link).
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Creates a channel and gives `command` the other end as its standard input.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn to(command: &mut Command) -> io::Result<Self> {
        let (own, theirs) = UnixStream::pair()?;
        // Standard input needs no agreement about a descriptor number, and no `unsafe` to inherit one.
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        Ok(Self(own))
    }

    /// The channel that is this process's standard input, which stays so.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn on_stdin() -> io::Result<Self> {
        let inherited = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
        Ok(Self(inherited.into()))
    }

    /// Marks the standard input of `command`, which is to run in this process, as a channel.
    pub(super) fn comes_from_parent(command: &mut Command) {
        if let Some(parent) = rustix::process::getppid() {
            command.env(FROM, parent.as_raw_pid().to_string());
        }
    }

    /// Takes the channel to the predecessor from standard input; `None` if this process was started by
    /// itself. Works only once: standard input is `/dev/null` from then on.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn inherited() -> io::Result<Option<Self>> {
        let Ok(from) = env::var(FROM) else {
            return Ok(None);
        };
        // The variable may have been inherited by a grandchild, whose standard input is something else.
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_pid().to_string());
        if parent.as_deref() != Some(&*from) {
            return Ok(None);
        }
        let inherited = Self::on_stdin()?;
        let nothing = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        Ok(Some(inherited))
    }

    /// A copy of this end, to [end](Interrupt::end) the exchange from outside.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn interrupt(&self) -> io::Result<Interrupt> {
        self.0.try_clone().map(Interrupt)
    }

    /// Sets how long sending or receiving may block from now on.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))?;
        self.0.set_write_timeout(Some(timeout))
    }

    /// Sends a message and descriptors.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        // The message may contain ticket keys: erased from memory after use.
        let body = Zeroizing::new(serde_json::to_vec(message)?);
        let too_many = |_| io::Error::other("the handover message is too large");
        let length = u32::try_from(body.len()).map_err(too_many)?;
        let count = u32::try_from(descriptors.len()).map_err(too_many)?;
        let mut socket = &self.0;
        socket.write_all(&[length.to_be_bytes(), count.to_be_bytes()].concat())?;
        socket.write_all(&body)?;
        for chunk in descriptors.chunks(descriptors::MAX_PER_SEND) {
            descriptors::send(self.0.as_fd(), chunk)?;
        }
        Ok(())
    }

    /// Waits for a message and its descriptors.
    ///
    /// # Errors
    /// The system's error; the other process is gone, too slow, or does not follow the protocol.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut socket = &self.0;
        let mut head = [[0; 4]; 2];
        socket.read_exact(head.as_flattened_mut())?;
        let [length, count] = head.map(|bytes| u32::from_be_bytes(bytes) as usize);
        if length > MAX_MESSAGE_BYTES || count > MAX_DESCRIPTORS {
            return Err(io::Error::other(
                "the other process does not follow the handover protocol",
            ));
        }
        let mut body = Zeroizing::new(vec![0; length]);
        socket.read_exact(&mut body)?;
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            let some = descriptors::receive(self.0.as_fd())?;
            if some.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            descriptors.extend(some);
        }
        Ok((serde_json::from_slice(&body)?, descriptors))
    }

    /// The socket, to make a link of it.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        self.0.set_read_timeout(None)?;
        self.0.set_write_timeout(None)?;
        self.0.set_nonblocking(true)?;
        Ok(self.0.into())
    }
}

/// Ends an exchange that a thread is blocked in.
#[derive(Debug)]
pub struct Interrupt(UnixStream);

impl Interrupt {
    /// Ends it: sending and receiving fail at once, here and in the other process.
    pub fn end(&self) {
        // An error means that the other process is gone already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> [Channel; 2] {
        let (one, other) = UnixStream::pair().unwrap();
        [one, other].map(Channel)
    }

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let [one, other] = pair();
        let sockets: Vec<UnixStream> = (0..600).map(|_| UnixStream::pair().unwrap().0).collect();
        let long = "x".repeat(300_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
                one.send(&long, &descriptors).unwrap();
                one.send(&"and another", &[]).unwrap();
            });
            let (message, descriptors) = other.receive::<String>().unwrap();
            assert_eq!((message.len(), descriptors.len()), (300_000, 600));
            let (message, descriptors) = other.receive::<String>().unwrap();
            assert_eq!((&*message, descriptors.len()), ("and another", 0));
        });
        drop(one);
        let gone = other.receive::<String>().unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_silent_process_is_not_waited_for() {
        let [_one, other] = pair();
        other.set_timeout(Duration::from_millis(10)).unwrap();
        assert!(other.receive::<String>().is_err());
    }

    #[test]
    fn a_malformed_message_is_an_error() {
        let [one, other] = pair();
        (&one.0).write_all(&[0xff; 8]).unwrap();
        assert!(other.receive::<String>().is_err());
    }
}
