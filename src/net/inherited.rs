//! Listening sockets that are open already when the process starts: a predecessor has handed them over,
//! or the service manager has stored them through a crash. Connections in their backlogs are not lost.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::bind::ListeningSocket;
use crate::config::model::Bind;

/// The purpose of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Connections of clients.
    Listener,
    /// The admin interface.
    Admin,
    /// Public metrics and health.
    Metrics,
}

/// The identity of a listening socket among processes: its purpose and its address as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SocketId {
    /// The purpose.
    pub purpose: Purpose,
    /// The address as configured.
    pub bind: String,
    /// The listener, for port 0 only: each listener gets a port of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

impl SocketId {
    /// A socket for this purpose at this address.
    pub fn new(purpose: Purpose, bind: &Bind) -> Self {
        Self {
            purpose,
            bind: bind.to_string(),
            of: None,
        }
    }
}

/// Inherited sockets that no listener has claimed yet. Dropping this closes them.
#[derive(Debug, Default)]
pub struct InheritedSockets(HashMap<SocketId, Vec<OwnedFd>>);

impl InheritedSockets {
    /// Adds a socket.
    pub fn add(&mut self, id: SocketId, socket: OwnedFd) {
        self.0.entry(id).or_default().push(socket);
    }

    /// Takes the sockets with this identity; none if it has to be bound.
    ///
    /// # Errors
    /// The error of the system.
    pub fn take(&mut self, id: &SocketId, bind: &Bind) -> io::Result<Vec<ListeningSocket>> {
        let sockets = self.0.remove(id).unwrap_or_default().into_iter();
        sockets
            .map(|socket| ListeningSocket::adopted(socket, bind))
            .collect()
    }

    /// The number of sockets.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether no socket is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Closes the sockets that are left and removes their files, which no other process uses; returns their
    /// identities.
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
