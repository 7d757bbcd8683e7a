//! Listening sockets: bound here, passed by the service manager, or handed over by another process.
//!
//! A [`ListeningSocket`] is one of them. Accepting is `server`'s work.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket_file::{SocketFile, remove_stale};
use super::stream::Peer;
use crate::config::model::Bind;
use crate::systemd::passed::PassedSocket;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// One bound, listening, non-blocking socket.
#[derive(Debug)]
pub enum ListeningSocket {
    /// TCP over IPv4 or IPv6, and its address: a port of 0 has become a real one.
    Tcp(TcpListener, SocketAddr),
    /// A unix socket, and its file.
    Unix(UnixListener, SocketFile),
}

/// An accepted, non-blocking socket that belongs to no runtime yet.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// TCP, with Nagle's algorithm off: who connected, and to which of our addresses.
    Tcp(TcpStream, SocketAddr, SocketAddr),
    /// A unix socket.
    Unix(UnixStream),
}

impl AcceptedSocket {
    /// Who connected.
    pub fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, address, _) => Peer::Ip(*address),
            Self::Unix(_) => Peer::Unix,
        }
    }

    /// The address that was connected to.
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
    /// What the system said; for a unix socket also that somebody else listens there, or that the
    /// path is something other than a socket.
    pub fn bind(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => bind_tcp(*address, PortReuse::First),
            Bind::Unix { path, mode } => bind_unix(path, *mode),
            Bind::Systemd(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Binds and listens although a socket of this process has an address that overlaps: nobody is
    /// refused between the two.
    ///
    /// # Errors
    /// What the system said; unix sockets do not overlap.
    pub fn bind_alongside(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => bind_tcp(*address, PortReuse::Additional),
            Bind::Unix { .. } | Bind::Systemd(_) => Err(io::ErrorKind::AddrInUse.into()),
        }
    }

    /// A socket that the service manager has bound. Whoever passed it may keep it: connections that
    /// come while nobody accepts wait in its queue.
    ///
    /// # Errors
    /// What the system said.
    pub fn passed(socket: &PassedSocket) -> io::Result<Self> {
        match socket {
            PassedSocket::Tcp(socket) => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                // What is accepted inherits it.
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

    /// A socket that listens already, for which another process has bound this address. Its file, if it
    /// has one, stays with that process until this one [claims](Self::claim) it.
    ///
    /// # Errors
    /// What the system said; that it is no such socket.
    pub fn adopted(socket: OwnedFd, bind: &Bind) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            return Err(io::Error::other("this is no socket that listens"));
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

    /// This process serves there: its file goes with it, unless it is of whoever passed the socket.
    pub fn claim(&self) {
        if let Self::Unix(_, file) = self {
            file.claim();
        }
    }

    /// Another process has the socket, too: its file stays when this end of it is closed.
    pub fn leave(&self) {
        if let Self::Unix(_, file) = self {
            file.leave();
        }
    }

    /// One more socket on the same address, with a queue of its own: the kernel spreads connections
    /// over them. A unix socket stays alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn bind_another(&self) -> io::Result<Option<Self>> {
        match self {
            Self::Tcp(_, local) => bind_tcp(*local, PortReuse::Additional).map(Some),
            Self::Unix(..) => Ok(None),
        }
    }

    /// The address as bound: a port of 0 has become a real one.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(_, local) => local.to_string(),
            Self::Unix(_, file) => file.to_string(),
        }
    }

    /// Takes one connection out of the kernel's queue.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the system said.
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

/// Over a socket for both families, which only others bind, IPv4 comes in IPv6 clothes.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whose an address is that several sockets are bound to (SO_REUSEPORT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortReuse {
    /// Ours, from now on: an error if anybody else has it, who might be another tidegate.
    First,
    /// Ours already.
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
    // Only now: a bind that allows sharing would share with anybody.
    socket.set_reuse_port(true)?;
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let local = listener.local_addr()?;
    Ok(ListeningSocket::Tcp(listener, local))
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<ListeningSocket> {
    remove_stale(path)?;
    // Bound under another name first, so that nobody can connect before the mode is set.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let socket = UnixListener::bind(&aside)?;
    let file = SocketFile::ours(aside.clone());
    socket.set_nonblocking(true)?;
    SockRef::from(&socket).listen(BACKLOG)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(mode))?;
    fs::rename(&aside, path)?;
    std::mem::forget(file);
    Ok(ListeningSocket::Unix(
        socket,
        SocketFile::ours(path.to_owned()),
    ))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        assert!(ListeningSocket::bind(&unix(&path)).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
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
