//! The first byte of a client: many connections are closed without one, such as those of TCP health checks and those
//! that browsers open in advance.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::stream::Socket;

/// Waits until the client has sent something: `false` if it has ended or reset the connection before. The bytes
/// stay in the kernel. The caller has a deadline.
///
/// # Errors
/// The error of the system.
pub async fn first_byte(socket: &Socket) -> io::Result<bool> {
    let ready = socket.ready(Interest::READABLE).await?;
    if !ready.is_read_closed() {
        return Ok(true);
    }
    // The end may be behind bytes.
    let mut byte = [0];
    let peeked = socket.try_io(Interest::READABLE, |fd| {
        Ok(recv(fd, &mut byte, RecvFlags::PEEK)?.0)
    });
    Ok(matches!(peeked, Ok(1..)))
}
