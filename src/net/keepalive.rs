//! TCP keepalive: the kernel notices that a peer's machine or network is gone.

use std::io;
use std::os::fd::AsFd;

use socket2::{SockRef, TcpKeepalive};

use crate::config::model::Keepalive;

/// Sets or, with `None`, clears keepalive on a TCP socket. What a listening socket has, the sockets that
/// it accepts from then on inherit.
///
/// # Errors
/// The error of the system.
pub fn set(socket: &impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let Some(keepalive) = keepalive else {
        socket.set_keepalive(false)?;
        return socket.set_tcp_user_timeout(None);
    };
    let probes = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.count);
    socket.set_tcp_keepalive(&probes)?;
    // The kernel sends no probes while data is unacknowledged, but retransmits it, for a quarter of an
    // hour by default: without this, a push to a client whose network is gone keeps it alive.
    socket.set_tcp_user_timeout(Some(keepalive.user_timeout))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listening_socket_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let accepted = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        let settings = Keepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            count: 4,
            user_timeout: Duration::from_millis(120_500),
        };
        set(&listener, Some(settings)).unwrap();
        let (socket, _client) = accepted();
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), settings.idle);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), settings.interval);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), settings.count);
        let limit = socket.tcp_user_timeout().unwrap();
        assert_eq!(limit, Some(settings.user_timeout));
        set(&listener, None).unwrap();
        let (socket, _client) = accepted();
        let socket = SockRef::from(&socket);
        assert!(!socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
