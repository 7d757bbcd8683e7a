//! What a process hands over to the one that succeeds it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::net::inherited::{InheritedSockets, SocketId};
use crate::net::tickets::HandoverTicketKey;
use crate::upstream::handover::UpstreamsHandover;

/// All that is handed over. Descriptors come along: first one for each of `sockets`, then for each of
/// `passed`, then for each of `older`.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandoverState {
    /// Who hands over.
    pub from: Identity,
    /// Listening sockets, those of operators included.
    pub sockets: Vec<SocketId>,
    /// Names of what the service manager has passed.
    pub passed: Vec<String>,
    /// Processes that drain already.
    pub older: Vec<Identity>,
    /// Keys of session tickets.
    pub tickets: Vec<ListenerTickets>,
    /// Listeners that operators have taken out.
    #[serde(default)]
    pub drained: Vec<String>,
    /// What is known of upstreams.
    pub upstreams: UpstreamsHandover,
}

/// Keys of a listener's tickets.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListenerTickets {
    /// Its name.
    pub listener: String,
    /// The keys.
    pub keys: Vec<HandoverTicketKey>,
}

/// What listeners had before this process: taken by those that it begins with.
#[derive(Debug, Default)]
pub struct InheritedListeners {
    /// Sockets that listen already.
    pub sockets: InheritedSockets,
    /// Keys of tickets, by listener.
    pub tickets: Vec<ListenerTickets>,
    /// Listeners that operators have taken out.
    pub drained: Vec<Arc<str>>,
}
