//! The identity of a listening socket across reloads.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::model::Bind;
use crate::net::inherited::{Purpose, SocketId};
use crate::server::acceptor::BoundAddress;
use crate::systemd;

/// The identity of a listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SocketKey {
    pub(super) bind: Bind,
    /// The listener, for port 0 only: each listener gets a port of its own.
    of: Option<Arc<str>>,
}

impl SocketKey {
    pub(super) fn new(bind: &Bind, listener: &Arc<str>) -> Self {
        let any_port = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        Self {
            bind: bind.clone(),
            of: any_port.then(|| Arc::clone(listener)),
        }
    }

    /// Whether the service manager stores the sockets, so that they survive a crash. A graceful stop removes
    /// them from the store: connections that arrive after it would hang.
    pub(super) fn is_kept(&self) -> bool {
        self.of.is_none() && !matches!(self.bind, Bind::Systemd(_))
    }

    pub(super) fn keep(&self, accepting: &BoundAddress) {
        if self.is_kept() {
            let sockets: Vec<_> = accepting.sockets().map(|socket| socket.as_fd()).collect();
            systemd::keep_open(&self.bind.to_string(), &sockets);
        }
    }

    /// The same identity, as other processes know it.
    pub(super) fn id(&self) -> SocketId {
        SocketId {
            of: self.of.as_ref().map(ToString::to_string),
            ..SocketId::new(Purpose::Listener, &self.bind)
        }
    }
}
