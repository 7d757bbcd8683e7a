//! Sockets that the service manager has bound and passes to the process (`sd_listen_fds(3)`).

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket};

use super::fd_store;

/// The name of a socket that was passed without one.
const NAMELESS: &str = "unknown";

/// A listening socket that was passed.
#[derive(Debug)]
pub enum PassedSocket {
    /// TCP over IPv4, IPv6 or both.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// All passed sockets, by name. They stay open as long as this value lives.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<(String, io::Result<PassedSocket>)>);

/// Why no usable socket has a name.
#[derive(Debug, thiserror::Error)]
pub enum PassedSocketError {
    /// The service manager passed no sockets.
    #[error("the service manager passed no sockets; is there a socket unit?")]
    Nothing,
    /// Only sockets with other names were passed.
    #[error("no socket with that name was passed; available: {0}")]
    Unknown(String),
    /// The socket is not a listening stream socket.
    #[error("the socket that was passed cannot be used: {0}")]
    Unusable(String),
}

impl PassedSockets {
    /// Takes the sockets, and removes the variables that describe them from the environment, so that no child
    /// process claims them. Must be called before there is a second thread.
    pub fn take() -> Self {
        // The sockets may be meant for the parent process. Without a process ID they are against the protocol.
        let is_ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if !is_ours {
            return Self::default();
        }
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).map(|number| {
            let name = names.next().filter(|name| !name.is_empty());
            let name = name.unwrap_or(NAMELESS).to_owned();
            (name, socket(&mut passed, number))
        });
        Self(sockets.collect())
    }

    /// Passed sockets that a predecessor hands over.
    pub fn handed(sockets: Vec<(String, OwnedFd)>) -> Self {
        let sockets = sockets.into_iter().map(|(name, socket)| {
            let socket = Socket::from(socket);
            let passed = match SockRef::from(&socket).domain() {
                Ok(Domain::UNIX) => Ok(PassedSocket::Unix(OwnedFd::from(socket).into())),
                Ok(_) => Ok(PassedSocket::Tcp(socket.into())),
                Err(error) => Err(error),
            };
            (name, passed)
        });
        Self(sockets.collect())
    }

    /// Copies of the sockets, for a successor.
    pub fn hand_over(&self) -> Vec<(String, OwnedFd)> {
        let sockets = self.0.iter().filter_map(|(name, socket)| {
            let socket: OwnedFd = match socket.as_ref().ok()? {
                PassedSocket::Tcp(socket) => socket.try_clone().ok()?.into(),
                PassedSocket::Unix(socket) => socket.try_clone().ok()?.into(),
            };
            Some((name.clone(), socket))
        });
        sockets.collect()
    }

    /// Takes the sockets that a previous process of this service has stored with the manager, with their
    /// addresses.
    pub fn take_kept(&mut self) -> Vec<(String, OwnedFd)> {
        let (kept, passed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(name, _)| fd_store::address(name).is_some());
        self.0 = passed;
        let kept = kept.into_iter().filter_map(|(name, socket)| {
            let socket: OwnedFd = match socket.ok()? {
                PassedSocket::Tcp(socket) => socket.into(),
                PassedSocket::Unix(socket) => socket.into(),
            };
            Some((fd_store::address(&name)?, socket))
        });
        kept.collect()
    }

    /// The sockets of this name, at least one.
    ///
    /// # Errors
    /// [`PassedSocketError`].
    pub fn named(&self, name: &str) -> Result<Vec<&PassedSocket>, PassedSocketError> {
        let named = self.0.iter().filter(|(its, _)| its == name);
        let sockets: Result<Vec<_>, _> = named.map(|(_, socket)| socket.as_ref()).collect();
        let sockets = sockets.map_err(|error| PassedSocketError::Unusable(error.to_string()))?;
        if sockets.is_empty() {
            return Err(self.missing());
        }
        Ok(sockets)
    }

    /// The names of all sockets.
    pub fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn missing(&self) -> PassedSocketError {
        let names: Vec<_> = self
            .names()
            .into_iter()
            .map(|name| format!("`{name}`"))
            .collect();
        if names.is_empty() {
            PassedSocketError::Nothing
        } else {
            PassedSocketError::Unknown(names.join(", "))
        }
    }
}

fn socket(passed: &mut ListenFd, number: usize) -> io::Result<PassedSocket> {
    let gone = || io::Error::other("already taken");
    let (socket, listens) = match passed.take_tcp_listener(number) {
        Ok(socket) => {
            let socket = socket.ok_or_else(gone)?;
            let listens = SockRef::from(&socket).is_listener()?;
            (PassedSocket::Tcp(socket), listens)
        }
        Err(_) => {
            let socket = passed
                .take_unix_listener(number)
                .map_err(|_| io::Error::other("neither a TCP socket nor a unix stream socket"))?
                .ok_or_else(gone)?;
            let listens = SockRef::from(&socket).is_listener()?;
            (PassedSocket::Unix(socket), listens)
        }
    };
    if listens {
        Ok(socket)
    } else {
        Err(io::Error::other(
            "it is a connection, not a listening socket; remove `Accept=yes` from the socket unit",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_all_its_sockets_and_errors_list_the_others() {
        let socket = || TcpListener::bind("127.0.0.1:0").map(PassedSocket::Tcp);
        let broken = || Err(io::Error::other("a connection"));
        let passed = PassedSockets(vec![
            ("web".to_owned(), socket()),
            ("inner".to_owned(), socket()),
            ("web".to_owned(), socket()),
            ("odd".to_owned(), broken()),
        ]);
        assert_eq!(passed.named("web").unwrap().len(), 2);
        assert_eq!(passed.named("inner").unwrap().len(), 1);
        let told = |name| passed.named(name).unwrap_err().to_string();
        assert_eq!(
            told("api"),
            "no socket with that name was passed; available: `inner`, `odd`, `web`"
        );
        assert_eq!(
            told("odd"),
            "the socket that was passed cannot be used: a connection"
        );
        let nothing = PassedSockets::default().named("web").unwrap_err();
        assert!(nothing.to_string().contains("no sockets"));
    }
}
