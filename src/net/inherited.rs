//! Listening sockets that are there already when the process starts: the one before it has handed
//! them over, or the service manager has kept them through a crash. What waits in their queues is
//! not lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::listen::ListeningSocket;
use crate::config::model::Bind;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Clients.
    Listener,
    /// Operators.
    Admin,
    /// Whoever looks at metrics and health.
    Metrics,
}

/// Which socket it is: what it is for, and where, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SocketId {
    /// What it is for.
    pub purpose: Purpose,
    /// The address as configured.
    pub bind: String,
    /// For port 0, whose it is: that is another port for each listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

impl SocketId {
    /// For this, there.
    pub fn new(purpose: Purpose, bind: &Bind) -> Self {
        Self {
            purpose,
            bind: bind.to_string(),
            of: None,
        }
    }
}

/// Sockets that nobody has asked for yet. Dropping it closes them.
#[derive(Debug, Default)]
pub struct InheritedSockets(HashMap<SocketId, Vec<OwnedFd>>);

impl InheritedSockets {
    /// One more.
    pub fn add(&mut self, id: SocketId, socket: OwnedFd) {
        self.0.entry(id).or_default().push(socket);
    }

    /// All that there are for an ID; none if it has to be bound.
    ///
    /// # Errors
    /// What the system said.
    pub fn take(&mut self, id: &SocketId, bind: &Bind) -> io::Result<Vec<ListeningSocket>> {
        let sockets = self.0.remove(id).unwrap_or_default().into_iter();
        sockets
            .map(|socket| ListeningSocket::adopted(socket, bind))
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Closes those that nobody has asked for, and removes their files, which are nobody else's; where
    /// they were.
    pub fn close(self) -> Vec<SocketId> {
        let ids = self.0.into_keys();
        ids.inspect(|id| {
            if let Some(path) = id.bind.strip_prefix("unix:") {
                let _ = std::fs::remove_file(path);
            }
        })
        .collect()
    }
}
