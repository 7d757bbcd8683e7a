//! What listeners hand over: sockets to the service manager's store; sockets, ticket keys and drained
//! listeners to a successor.

use std::sync::Arc;

use super::{Listeners, set_keepalive};
use crate::drain::Urgency;
use crate::handover::state::ListenerTickets;
use crate::net::bind::ListeningSocket;
use crate::net::inherited::SocketId;
use crate::server::worker_mailbox::StopMode;
use crate::systemd::{self, passed_sockets::PassedSockets};

impl Listeners {
    /// Whether there are inherited sockets that no listener uses.
    pub(in crate::server) fn leaves_sockets(&self) -> bool {
        !self.inherited.sockets.is_empty()
    }

    /// All sockets belong to this process alone from now on: stores them with the service manager, and closes
    /// the inherited ones that no listener uses, because connections to them would hang.
    pub(in crate::server) fn own(&mut self) {
        for id in std::mem::take(&mut self.inherited).sockets.close() {
            tracing::info!(address = id.bind, "no longer listening");
            systemd::release(&id.bind);
        }
        self.is_owner = true;
        for (key, accepting) in &self.sockets {
            accepting.sockets().for_each(|socket| socket.claim());
            key.keep(accepting);
        }
    }

    /// Stops accepting, until [`resume`](Self::resume). The sockets stay open, and connections wait in their
    /// backlogs for the process that accepts from them.
    pub(in crate::server) async fn pause(&mut self) {
        for socket in self.sockets.values_mut() {
            socket.pause().await;
        }
    }

    /// Accepts again, if accepting is paused.
    pub(in crate::server) async fn resume(&mut self) {
        for socket in self.sockets.values_mut() {
            // The successor may have set its own on the sockets, which are the same.
            let owner = socket.owner.load_full();
            for socket in socket.sockets() {
                set_keepalive(socket, &owner);
            }
            socket.resume(&self.workers).await;
        }
    }

    /// Stops accepting everywhere, and leaves the backlogs to the successor, which has the same sockets. Begins a drain
    /// of this urgency.
    pub(in crate::server) async fn stop_for_successor(&mut self, urgency: Urgency) {
        for (_, socket) in self.sockets.drain() {
            socket.stop(StopMode::LeaveBacklog).await;
        }
        self.drain(urgency);
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
