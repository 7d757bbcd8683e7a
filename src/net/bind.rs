//! Listening sockets: bound here, passed by the service manager, or handed over by another process.
//!
//! `server` decides when to accept from them.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
#[cfg(target_os = "linux")]
use socket2::SockFilter;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::keepalive;
use super::socket_file::{SocketFile, remove_stale};
use super::stream::Peer;
use crate::config::model::{Bind, Keepalive};
use crate::systemd::passed_sockets::PassedSocket;

/// The length of a backlog: connections that the kernel has accepted and a worker has not.
const BACKLOG: i32 = 4096;

/// The most connections that a worker may find in the backlog of a socket that is to be closed: the whole
/// backlog, and as many whose handshake was not complete.
pub const MAX_WAITING: usize = 2 * BACKLOG as usize;

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub enum ListeningSocket {
    /// TCP over IPv4 or IPv6, and the address with its actual port.
    Tcp(TcpListener, SocketAddr),
    /// A unix socket and its file.
    Unix(UnixListener, SocketFile),
}

/// An accepted, non-blocking socket that is not registered with a runtime yet.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// TCP, with Nagle's algorithm off; the client's address, and the address that it connected to.
    Tcp(TcpStream, SocketAddr, SocketAddr),
    /// A unix socket.
    Unix(UnixStream),
}

impl AcceptedSocket {
    /// The client.
    pub fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, address, _) => Peer::Ip(*address),
            Self::Unix(_) => Peer::Unix,
        }
    }

    /// The address that the client connected to.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, _, local) => Some(*local),
            Self::Unix(_) => None,
        }
    }
}

impl ListeningSocket {
    /// Binds and listens.
    ///
    /// # Errors
    /// The error of the system. For a unix socket also: another process listens there, or the path is not
    /// a socket.
    pub fn bind(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => bind_tcp(*address, PortReuse::First),
            Bind::Unix { path, mode } => bind_unix(path, *mode),
            Bind::Systemd(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Binds and listens although a socket of this process has an overlapping address, so that no connection
    /// is refused between the two.
    ///
    /// # Errors
    /// The error of the system. Unix sockets cannot overlap.
    pub fn bind_alongside(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => bind_tcp(*address, PortReuse::Additional),
            Bind::Unix { .. } | Bind::Systemd(_) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// A socket that the service manager has bound. The manager may keep it open: connections then wait in
    /// its backlog while no process accepts.
    ///
    /// # Errors
    /// The error of the system.
    pub fn passed(socket: &PassedSocket) -> io::Result<Self> {
        match socket {
            PassedSocket::Tcp(socket) => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                // Accepted sockets inherit it: one call less per connection.
                SockRef::from(&socket).set_tcp_nodelay(true)?;
                let local = socket.local_addr()?;
                Ok(Self::Tcp(socket, local))
            }
            PassedSocket::Unix(socket) => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
                Ok(Self::Unix(socket, SocketFile::theirs(path)))
            }
        }
    }

    /// A listening socket that another process has bound to this address. A unix socket's file belongs to
    /// that process until this one [claims](Self::claim) it.
    ///
    /// # Errors
    /// The error of the system, or it is not a listening socket.
    pub fn adopted(socket: OwnedFd, bind: &Bind) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(io::Error::other("this is not a listening socket"));
        }
        socket.set_nonblocking(true)?;
        match bind {
            Bind::Tcp(_) => {
                let socket = TcpListener::from(socket);
                let local = socket.local_addr()?;
                Ok(Self::Tcp(socket, local))
            }
            Bind::Unix { path, .. } => {
                let file = SocketFile::heir(path.clone());
                Ok(Self::Unix(OwnedFd::from(socket).into(), file))
            }
            Bind::Systemd(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// This process accepts connections on the socket: from now on its file is removed with it, unless the
    /// service manager owns the file.
    pub fn claim(&self) {
        if let Self::Unix(_, file) = self {
            file.claim();
        }
    }

    /// A successor has the socket as well: the file stays when this process closes the socket.
    pub fn leave(&self) {
        if let Self::Unix(_, file) = self {
            file.leave();
        }
    }

    /// From now on, packets that ask for a new connection are dropped; connections whose handshake has begun
    /// still arrive. A client whose packet is dropped tries again a second later. No other process may have the
    /// socket. Returns whether it works: it does for TCP, where the system allows it.
    pub fn drop_new_connections(&self) -> bool {
        match self {
            Self::Tcp(socket, _) => drop_syns(socket).is_ok(),
            Self::Unix(..) => false,
        }
    }

    /// Another socket on the same address, with a backlog of its own: the kernel spreads connections over
    /// them. `None` for a unix socket, which cannot share its address.
    ///
    /// # Errors
    /// The error of the system.
    pub fn bind_another(&self) -> io::Result<Option<Self>> {
        match self {
            Self::Tcp(_, local) => bind_tcp(*local, PortReuse::Additional).map(Some),
            Self::Unix(..) => Ok(None),
        }
    }

    /// Sets TCP keepalive for the connections that are accepted from now on: they inherit it, which costs
    /// nothing per connection. A unix socket needs none, because its peer is on this machine.
    ///
    /// # Errors
    /// The error of the system.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        match self {
            Self::Tcp(socket, _) => keepalive::set(socket, keepalive),
            Self::Unix(..) => Ok(()),
        }
    }

    /// The address as bound, with the actual port.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(_, local) => local.to_string(),
            Self::Unix(_, file) => file.to_string(),
        }
    }

    /// Accepts one connection from the backlog.
    ///
    /// # Errors
    /// `WouldBlock` if the backlog is empty; else the error of the system.
    pub fn accept(&self) -> io::Result<AcceptedSocket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match self {
            Self::Tcp(socket, local) => {
                let (stream, peer) = acceptfrom_with(socket, flags)?;
                let peer = peer
                    .and_then(|peer| SocketAddr::try_from(peer).ok())
                    .ok_or(io::ErrorKind::NotConnected)?;
                let stream = TcpStream::from(stream);
                let local = if local.ip().is_unspecified() {
                    stream.local_addr()?
                } else {
                    *local
                };
                Ok(AcceptedSocket::Tcp(
                    stream,
                    canonical(peer),
                    canonical(local),
                ))
            }
            Self::Unix(socket, _) => {
                let stream = accept_with(socket, flags)?;
                Ok(AcceptedSocket::Unix(stream.into()))
            }
        }
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket, _) => socket.as_fd(),
            Self::Unix(socket, _) => socket.as_fd(),
        }
    }
}

/// A dual-stack socket, which only the service manager binds, reports IPv4 addresses as mapped IPv6 ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Which socket of an address this is, as several may be bound to it (SO_REUSEPORT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortReuse {
    /// The first one: an error if another process has the address, which may be another tidegate.
    First,
    /// A further one: this process has the address already.
    Additional,
}

fn bind_tcp(address: SocketAddr, reuse: PortReuse) -> io::Result<ListeningSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if reuse == PortReuse::Additional {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    // Only after the bind: a socket bound with SO_REUSEPORT would share the address with another process.
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit it: one call less per connection.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let local = listener.local_addr()?;
    Ok(ListeningSocket::Tcp(listener, local))
}

/// Has the kernel drop what has the flag SYN (classic BPF, `socket(7)`).
#[cfg(target_os = "linux")]
fn drop_syns(socket: &TcpListener) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_IF_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// Where the flags are in a TCP header, with which the packet begins here.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn drop_syns(_: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<ListeningSocket> {
    remove_stale(path)?;
    // Bound under another name first, so that no client can connect before the mode is set.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let socket = UnixListener::bind(&aside)?;
    let file = SocketFile::ours(aside.clone());
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).listen(BACKLOG)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(mode))?;
    fs::rename(&aside, path)?;
    // The name that this would remove has just been renamed away.
    std::mem::forget(file);
    Ok(ListeningSocket::Unix(
        socket,
        SocketFile::ours(path.to_owned()),
    ))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn unix(path: &Path) -> Bind {
        Bind::Unix {
            path: path.to_owned(),
            mode: 0o600,
        }
    }

    #[test]
    fn a_unix_socket_has_its_mode_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        let bound = ListeningSocket::bind(&unix(&path)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        let _bound = ListeningSocket::bind(&unix(&path)).unwrap();
        let error = ListeningSocket::bind(&unix(&path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok());
    }

    /// A blocking connection would wait until something accepts, which here is never.
    #[test]
    fn a_socket_with_a_full_backlog_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.sock");
        let silent = UnixListener::bind(&path).unwrap();
        SockRef::from(&silent).listen(0).unwrap();
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let connected = socket.connect(&socket2::SockAddr::unix(&path).unwrap());
            connected.map(|()| socket)
        };
        let mut waiting = Vec::new();
        while let Ok(socket) = connect() {
            waiting.push(socket);
        }
        assert!(!waiting.is_empty());
        let error = ListeningSocket::bind(&unix(&path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        assert!(ListeningSocket::bind(&unix(&path)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    /// The packets of the others are dropped before they can be reset by the end of the socket.
    #[test]
    fn connections_that_have_begun_arrive_and_new_ones_do_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(bound) = ListeningSocket::bind(&Bind::Tcp(address.parse().unwrap())) else {
                continue;
            };
            let address: SocketAddr = bound.address().parse().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            if !bound.drop_new_connections() {
                return;
            }
            let limit = std::time::Duration::from_millis(100);
            let error = TcpStream::connect_timeout(&address, limit).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let AcceptedSocket::Tcp(mut accepted, ..) = bound.accept().unwrap() else {
                unreachable!("it is TCP");
            };
            assert!(bound.accept().is_err());
            drop(bound);
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            accepted.write_all(b"hello").unwrap();
            accepted.shutdown(std::net::Shutdown::Write).unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "hello");
        }
    }

    #[test]
    fn port_0_becomes_a_real_one() {
        let bound = ListeningSocket::bind(&Bind::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        assert!(!bound.address().ends_with(":0"));
        assert_eq!(
            bound.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
