//! Where listening sockets are, what tells them apart, and what they leave of the descriptors that the
//! process may have.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::model::Bind;
use crate::net::admission::Admission;
use crate::net::inherited::{Place, Purpose};
use crate::server::acceptor::Accepting;
use crate::server::limits;
use crate::systemd;

/// What the descriptors of the process are for, besides connections.
#[derive(Debug)]
pub(super) struct Descriptors {
    admission: Arc<Admission>,
    /// The limit of the process.
    limit: u64,
    /// In use before there was any socket.
    taken: u64,
}

impl Descriptors {
    /// All threads of the process have been started: what is left of the `limit` is for sockets, of
    /// which so many are there already.
    pub(super) fn new(admission: &Arc<Admission>, limit: u64, there: usize) -> Self {
        let descriptors = Self {
            admission: Arc::clone(admission),
            limit,
            taken: limits::open_descriptors().saturating_sub(there as u64),
        };
        descriptors.leave(0);
        descriptors
    }

    /// What is left beside so many listening sockets is for connections.
    pub(super) fn leave(&self, sockets: usize) {
        let most = Admission::most_for(self.limit, self.taken + sockets as u64);
        self.admission.set_most(most);
    }
}

/// What tells sockets apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Seat {
    pub(super) bind: Bind,
    /// For port 0, whose it is: that is another port for each listener.
    of: Option<Arc<str>>,
}

impl Seat {
    pub(super) fn new(bind: &Bind, listener: &Arc<str>) -> Self {
        let any_port = matches!(bind, Bind::Tcp(address) if address.port() == 0);
        Self {
            bind: bind.clone(),
            of: any_port.then(|| Arc::clone(listener)),
        }
    }

    /// Whether the service manager keeps its sockets through a crash. After a stop in order it does not:
    /// who came meanwhile would wait for nobody.
    pub(super) fn is_kept(&self) -> bool {
        self.of.is_none() && !matches!(self.bind, Bind::Systemd(_))
    }

    pub(super) fn keep(&self, accepting: &Accepting) {
        if self.is_kept() {
            let sockets: Vec<_> = accepting.sockets().map(|socket| socket.as_fd()).collect();
            systemd::keep(&self.bind.to_string(), &sockets);
        }
    }

    /// The same, for other processes.
    pub(super) fn place(&self) -> Place {
        Place {
            of: self.of.as_ref().map(ToString::to_string),
            ..Place::new(Purpose::Listener, &self.bind)
        }
    }
}
