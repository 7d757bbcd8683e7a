//! What listeners hand over: sockets to the service manager's store; sockets, ticket keys and drained
//! listeners to a successor.

use std::sync::Arc;

use super::Listeners;
use crate::handover::state::ListenerTickets;
use crate::net::bind::ListeningSocket;
use crate::net::inherited::SocketId;
use crate::systemd::{self, passed_sockets::PassedSockets};

impl Listeners {
    /// Stores the sockets with the service manager, and no others. Until now it may have ignored this
    /// process.
    pub(in crate::server) fn keep(&mut self) {
        for address in self.released.drain(..) {
            systemd::release(&address);
        }
        for (key, accepting) in &self.sockets {
            key.keep(accepting);
        }
    }

    /// The listening sockets, for a successor.
    pub(in crate::server) fn hand_over_sockets(&self) -> Vec<(SocketId, Arc<ListeningSocket>)> {
        let sockets = self.sockets.iter().flat_map(|(key, accepting)| {
            let sockets = accepting.sockets();
            sockets.map(move |socket| (key.id(), Arc::clone(socket)))
        });
        sockets.collect()
    }

    /// The sockets that the service manager passed, for a successor.
    pub(in crate::server) fn passed(&self) -> &PassedSockets {
        &self.passed
    }

    /// The session ticket keys, for a successor.
    pub(in crate::server) fn hand_over_tickets(&self) -> Vec<ListenerTickets> {
        let running = self
            .running
            .iter()
            .map(|(name, listener)| (name, &listener.tickets));
        let drained = self
            .drained
            .iter()
            .map(|(name, listener)| (name, &listener.tickets));
        let handed = running.chain(drained).filter_map(|(name, tickets)| {
            let keys = tickets.as_ref()?.hand_over();
            Some(ListenerTickets {
                listener: name.to_string(),
                keys,
            })
        });
        handed.filter(|tickets| !tickets.keys.is_empty()).collect()
    }

    /// The names of drained listeners, for a successor.
    pub(in crate::server) fn hand_over_drained(&self) -> Vec<String> {
        self.drained.keys().map(ToString::to_string).collect()
    }
}
