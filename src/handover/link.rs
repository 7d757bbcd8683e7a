//! The way on which a process reaches the one that it has succeeded, for as long as that lives: each
//! connection is a socket pair, one end of which is sent across.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::net::UnixStream;

use super::descriptors;

/// One end. Which of the two connects is for them to know: the successor does.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// On what was a channel, within a runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Self)
    }

    /// Connects to the other side.
    ///
    /// # Errors
    /// What the system said.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let (own, theirs) = UnixStream::pair()?;
        let send = || descriptors::send(self.0.as_fd(), &[theirs.as_fd()]);
        self.0.async_io(Interest::WRITABLE, send).await?;
        Ok(own)
    }

    /// Waits for the other side to connect; `None` when it is gone.
    ///
    /// # Errors
    /// What the system said.
    pub async fn accept(&self) -> io::Result<Option<UnixStream>> {
        let receive = || descriptors::receive(self.0.as_fd());
        let received = self.0.async_io(Interest::READABLE, receive).await?;
        let Some(socket) = received.into_iter().next() else {
            return Ok(None);
        };
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket).map(Some)
    }

    /// Waits until the other side is gone. It sends nothing by itself.
    pub async fn gone(&self) {
        // What cannot be read from is gone, too.
        let _ = self.accept().await;
    }

    /// The socket itself, for one more process.
    pub fn socket(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
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
    async fn both_sides_notice_that_the_other_is_gone() {
        let [new, old] = pair();
        drop(old);
        new.gone().await;
        assert!(new.connect().await.is_err());
        let [new, old] = pair();
        drop(new);
        assert!(old.accept().await.unwrap().is_none());
    }
}
