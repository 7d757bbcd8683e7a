//! Takes the PROXY header off the front of a connection.
//!
//! What is behind the header stays with the kernel: it is looked at first, and only the header is
//! taken, so that TLS or HTTP begins with its own first byte.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::stream::Socket;
use crate::protocol::proxy_header::{self, ProxyHeader, ProxyHeaderError};

/// What is looked at first: version 1 as a whole, version 2 with its addresses.
const USUAL: usize = 128;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What came is none.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    /// The connection ended or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Waits for the header and takes it. The caller has a deadline.
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
                // As much has just been seen.
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

/// Receives once there are `least` bytes.
async fn ready(
    socket: &Socket,
    bytes: &mut [u8],
    flags: RecvFlags,
    least: usize,
) -> io::Result<usize> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let received = socket.try_io(Interest::READABLE, |fd| {
            let (received, _) = recv(fd, &mut *bytes, flags)?;
            match received {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                // Not readable enough: the next segment wakes us.
                few if few < least => Err(io::ErrorKind::WouldBlock.into()),
                enough => Ok(enough),
            }
        });
        match received {
            // A stream that has ended stays readable for ever, and no more will come.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}
