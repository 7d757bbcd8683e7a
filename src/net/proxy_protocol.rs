//! Reads the PROXY header at the start of a connection.
//!
//! The bytes behind the header stay in the kernel: they are peeked first, and only the header is consumed,
//! so that TLS or HTTP begins with its own first byte.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::stream::Socket;
use crate::protocol::proxy_header::{self, ProxyHeader, ProxyHeaderError};

/// Bytes to peek at first: enough for version 1, and for version 2 with its addresses.
const USUAL: usize = 128;

/// Why no header was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes are not a valid PROXY header.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    /// The connection ended before any byte, as that of a TCP health check does.
    #[error("the connection was closed before any data was received")]
    Empty,
    /// The connection ended or failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Waits for the header and consumes it. The caller has a deadline.
///
/// # Errors
/// [`ReceiveError`].
pub async fn receive(socket: &Socket) -> Result<ProxyHeader, ReceiveError> {
    let mut bytes = vec![0; USUAL];
    let mut needed = 1;
    loop {
        let seen = ready(socket, &mut bytes, RecvFlags::PEEK, needed).await?;
        match proxy_header::parse(bytes.get(..seen).unwrap_or_default())? {
            Ok(header) => {
                bytes.truncate(header.length);
                // This does not wait: the same bytes have just been peeked.
                ready(socket, &mut bytes, RecvFlags::empty(), header.length).await?;
                return Ok(header);
            }
            Err(more) => {
                needed = more;
                bytes.resize(needed.max(USUAL), 0);
            }
        }
    }
}

/// Receives once at least `least` bytes have arrived.
async fn ready(
    socket: &Socket,
    bytes: &mut [u8],
    flags: RecvFlags,
    least: usize,
) -> Result<usize, ReceiveError> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let received = socket.try_io(Interest::READABLE, |fd| {
            let (received, _) = recv(fd, &mut *bytes, flags)?;
            match received {
                // Fewer than needed: `WouldBlock` makes the next segment wake this task.
                1.. if received < least => Err(io::ErrorKind::WouldBlock.into()),
                enough => Ok(enough),
            }
        });
        match received {
            // What was received before is received again, so nothing was.
            Ok(0) => return Err(ReceiveError::Empty),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(ReceiveError::Empty);
            }
            // A stream that has ended stays readable forever: waiting for more would be a busy loop.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Ok(result?),
        }
    }
}
