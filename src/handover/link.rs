//! The link from a process to its predecessor while that drains: operators' requests to the older
//! generation travel on it. Each connection is a socket pair, one end of which is sent across.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::descriptors;

/// One end of the link. The successor connects, the predecessor accepts.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// Makes a link of the socket of a handover channel. Must be called within a runtime.
    ///
    /// # Errors
    /// The error of the system.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Self)
    }

    /// Makes a link of this socket.
    pub(super) fn over(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// Opens a connection to the other process.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let (own, theirs) = UnixStream::pair()?;
        let send = || descriptors::send(self.0.as_fd(), &[theirs.as_fd()]);
        self.0.async_io(Interest::WRITABLE, send).await?;
        Ok(own)
    }

    /// Waits for a connection from the other process; `None` when that is gone.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn accept(&self) -> io::Result<Option<UnixStream>> {
        // A request to leave may have crossed the message that this process has left: it is skipped.
        let receive = || loop {
            match descriptors::receive(self.0.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                received => return received,
            }
        };
        let received = self.0.async_io(Interest::READABLE, receive).await?;
        let Some(socket) = received.into_iter().next() else {
            return Ok(None);
        };
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Some)
    }

    /// Waits until the other process is gone. It sends nothing by itself.
    pub async fn gone(&self) {
        // An error also means that the link is of no use any more.
        let _ = self.accept().await;
    }

    /// What shows that the other process is gone, while the link itself is used elsewhere.
    ///
    /// # Errors
    /// The error of the system.
    pub fn end(&self) -> io::Result<LinkEnd> {
        self.socket().try_clone_to_owned().map(LinkEnd)
    }

    /// The socket itself, to hand it over to the next successor.
    pub fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Shows whether the process at the other end of a link is gone.
#[derive(Debug)]
pub struct LinkEnd(OwnedFd);

impl LinkEnd {
    /// Whether it is gone: true before anybody can have received its exit status.
    pub fn has_come(&self) -> bool {
        is_over(&self.0)
    }
}

/// Whether the other process has closed its end of this socket.
pub(super) fn is_over(socket: impl AsFd) -> bool {
    let mut ends = [PollFd::new(&socket, PollFlags::empty())];
    let [end] = match poll(&mut ends, Some(&Timespec::default())) {
        Ok(_) => ends,
        Err(_) => return false,
    };
    end.revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> [Link; 2] {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        [one, other].map(|end| Link::new(end.into()).unwrap())
    }

    #[tokio::test]
    async fn each_connection_is_one_of_its_own() {
        let [new, old] = pair();
        for text in ["one", "another"] {
            let mut asking = new.connect().await.unwrap();
            let mut asked = old.accept().await.unwrap().unwrap();
            asking.write_all(text.as_bytes()).await.unwrap();
            drop(asking);
            let mut heard = String::new();
            asked.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, text);
        }
    }

    #[tokio::test]
    async fn a_message_that_comes_late_is_skipped() {
        let (new, old) = std::os::unix::net::UnixStream::pair().unwrap();
        (&new)
            .write_all(b"\0\0\0\x10\0\0\0\0{\"says\":\"leave\"}")
            .unwrap();
        let [new, old] = [new, old].map(|end| Link::new(end.into()).unwrap());
        let mut asking = new.connect().await.unwrap();
        let mut asked = old.accept().await.unwrap().unwrap();
        asking.write_all(b"one").await.unwrap();
        drop(asking);
        let mut heard = String::new();
        asked.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "one");
    }

    #[tokio::test]
    async fn both_sides_notice_that_the_other_is_gone() {
        let [new, old] = pair();
        drop(old);
        new.gone().await;
        assert!(new.connect().await.is_err());
        let [new, old] = pair();
        let end = old.end().unwrap();
        assert!(!end.has_come());
        drop(new);
        assert!(end.has_come());
        assert!(old.accept().await.unwrap().is_none());
    }
}
