//! The state that a process hands over to its successor.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::auth::revocations::RevocationsHandover;
use crate::net::inherited::{InheritedSockets, SocketId};
use crate::net::tls_tickets::HandoverTicketKey;
use crate::quota::shared::LimitsHandover;
use crate::store::key_set::SharedKeySet;
use crate::upstream::handover::UpstreamsHandover;

/// Everything that is handed over. The descriptors follow the message, in this order: one for each of
/// `sockets`, then for each of `passed`, then for each of `older`.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandoverState {
    /// The process that hands over.
    pub from: Identity,
    /// Listening sockets, including those of the admin interface.
    pub sockets: Vec<SocketId>,
    /// Names of the sockets that the service manager passed.
    pub passed: Vec<String>,
    /// Older generations that still drain.
    pub older: Vec<Identity>,
    /// Session ticket keys.
    pub tickets: Vec<ListenerTickets>,
    /// Listeners that operators have drained.
    #[serde(default)]
    pub drained: Vec<String>,
    /// For how long the predecessor may accept connections again if the successor dies. `None`, as with
    /// version 0.1.0, if it leaves as soon as the successor serves.
    #[serde(default)]
    pub settle: Option<Duration>,
    /// Revoked subjects. Older versions have none.
    #[serde(default)]
    pub revocations: Option<RevocationsHandover>,
    /// The state of upstreams and endpoints.
    pub upstreams: UpstreamsHandover,
    /// The counts of limits that routes share. Version 0.1.0 has none.
    #[serde(default)]
    pub limits: LimitsHandover,
    /// What distinguishes this node from others in its fleet. Version 0.1.0 has none.
    #[serde(default)]
    pub fleet_instance: Option<Box<str>>,
    /// The keys that nodes share. Older versions have none.
    #[serde(default)]
    pub shared_keys: KeysHandover,
}

/// The keys that nodes share, as far as the process knows them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeysHandover {
    /// Those of session tickets.
    pub tickets: Option<SharedKeySet>,
    /// Those of sticky cookies.
    pub sticky: Option<SharedKeySet>,
}

/// The session ticket keys of one listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListenerTickets {
    /// The name of the listener.
    pub listener: String,
    /// The keys, oldest first.
    pub keys: Vec<HandoverTicketKey>,
}

/// The state that listeners take over from the predecessor, or from the service manager after a crash.
#[derive(Debug, Default)]
pub struct InheritedListeners {
    /// Sockets that are already listening.
    pub sockets: InheritedSockets,
    /// Session ticket keys, by listener.
    pub tickets: Vec<ListenerTickets>,
    /// Listeners that operators have drained.
    pub drained: Vec<Arc<str>>,
}
