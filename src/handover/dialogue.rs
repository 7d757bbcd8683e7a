//! The channel once both processes run: short messages, awaited beside everything else that happens.

use std::io;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::channel::Channel;
use super::link::{Link, is_over};

/// The length of a message's head: its length and the number of descriptors, 0 here, 4 bytes each.
const HEAD: usize = 8;

/// Maximum length of a message, in bytes.
const MAX_BYTES: usize = 1024;

/// How long sending may take: the socket is empty.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// One end of the channel, within a runtime.
#[derive(Debug)]
pub(super) struct Dialogue {
    socket: UnixStream,
    /// Received bytes that are not a whole message yet.
    received: Vec<u8>,
}

impl Dialogue {
    /// Goes on with this channel. Must be called within a runtime.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixStream::from(channel.into_socket()?);
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            received: Vec::new(),
        })
    }

    /// Waits for a message. Cancel safe.
    ///
    /// # Errors
    /// The other process is gone, or does not follow the protocol.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            if let Some(body) = self.body()? {
                let message = serde_json::from_slice(&body)?;
                return Ok(message);
            }
            self.socket.readable().await?;
            let mut bytes = [0; HEAD + MAX_BYTES];
            match self.socket.try_read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend(bytes.iter().take(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the body of the first message, if it has arrived whole.
    fn body(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((length, rest)) = self.received.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_BYTES || rest.iter().take(HEAD - 4).any(|byte| *byte != 0) {
            return Err(io::Error::other(
                "the other process does not follow the handover protocol",
            ));
        }
        if self.received.len() < HEAD + length {
            return Ok(None);
        }
        let message: Vec<u8> = self.received.drain(..HEAD + length).collect();
        Ok(message.get(HEAD..).map(<[u8]>::to_vec))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other process is gone.
    pub(super) async fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes(), &[0; HEAD - 4][..], &body].concat();
        let mut rest = &*bytes;
        let sending = async {
            while !rest.is_empty() {
                self.socket.writable().await?;
                match self.socket.try_write(rest) {
                    Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        tokio::time::timeout(SEND_TIMEOUT, sending).await?
    }

    /// Whether the other process has closed its end, even if messages have not been received yet.
    pub(super) fn is_over(&self) -> bool {
        is_over(&self.socket)
    }

    /// The link that the channel becomes.
    pub(super) fn into_link(self) -> Link {
        Link::over(self.socket)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn dialogue() -> (UnixStream, Dialogue) {
        let (theirs, socket) = UnixStream::pair().unwrap();
        let received = Vec::new();
        (theirs, Dialogue { socket, received })
    }

    #[tokio::test]
    async fn messages_arrive_whole_however_they_are_cut_and_whatever_is_cancelled() {
        let (mut theirs, mut own) = dialogue();
        let bytes = b"\0\0\0\x06\0\0\0\0\"left\"\0\0\0\x04\0\0\0\0\"go\"";
        let mut heard: Vec<String> = Vec::new();
        for byte in bytes {
            theirs.write_all(&[*byte]).await.unwrap();
            own.socket.readable().await.unwrap();
            // Polled once and dropped.
            let mut receiving = pin!(own.receive());
            let polled = poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx))).await;
            if let Poll::Ready(message) = polled {
                heard.push(message.unwrap());
            }
        }
        assert_eq!(heard, ["left", "go"]);
        drop(theirs);
        assert!(own.receive::<String>().await.is_err());
    }

    #[tokio::test]
    async fn the_end_is_known_before_all_messages_are_received() {
        let (mut theirs, mut own) = dialogue();
        assert!(!own.is_over());
        theirs
            .write_all(b"\0\0\0\x07\0\0\0\0\"leave\"")
            .await
            .unwrap();
        assert!(!own.is_over());
        drop(theirs);
        assert!(own.is_over());
        assert_eq!(own.receive::<String>().await.unwrap(), "leave");
    }

    #[tokio::test]
    async fn both_sides_agree() {
        let (theirs, own) = dialogue();
        own.send(&"leave").await.unwrap();
        let received = Vec::new();
        let mut theirs = Dialogue {
            socket: theirs,
            received,
        };
        assert_eq!(theirs.receive::<String>().await.unwrap(), "leave");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_an_error() {
        let (mut theirs, mut own) = dialogue();
        theirs.write_all(&[0xff; 8]).await.unwrap();
        assert!(own.receive::<String>().await.is_err());
    }
}
