//! The running listeners, and how a reload changes them.
//!
//! Sockets are identified by what they are bound to, so that a socket stays open, its backlog included,
//! whatever else about its listener changes. Everything that can fail is done before anything is
//! changed.

mod descriptors;
mod drain;
mod handover;
mod plan;
mod socket_key;

pub(super) use self::drain::ListenerDrainError;
pub(super) use self::plan::ListenerPlan;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::descriptors::DescriptorBudget;
use self::plan::PlannedListener;
use self::socket_key::SocketKey;
use super::acceptor::BoundAddress;
use super::worker_mailbox::{StopMode, WorkerHandle};
use crate::admin::view::ListenerState;
use crate::config::model::{self, Bind, SharedKeys};
use crate::drain::{Drain, Urgency};
use crate::handover::state::InheritedListeners;
use crate::net::admission::Admission;
use crate::net::bind::ListeningSocket;
use crate::net::listen_error::ListenFailure;
use crate::net::listener::Listener;
use crate::net::listener_limits::Gate;
use crate::net::managed_certificates::ManagedCertificates;
use crate::net::tls_tickets::TicketKeys;
use crate::protocol::revoked::RevokedCertificates;
use crate::quota::failure_reports::FailureReports;
use crate::systemd::{self, passed_sockets::PassedSockets};

/// The running listeners.
#[derive(Debug)]
pub(super) struct Listeners {
    workers: Arc<[WorkerHandle]>,
    managed: Arc<ManagedCertificates>,
    descriptors: DescriptorBudget,
    /// Sockets that the service manager passed: they stay open as long as the process, so that any reload
    /// may use them.
    passed: PassedSockets,
    inherited: InheritedListeners,
    /// Whether the sockets belong to this process: not before its predecessor has left.
    is_owner: bool,
    sockets: HashMap<SocketKey, BoundAddress>,
    running: HashMap<Arc<str>, RunningListener>,
    /// The listeners as last configured.
    configured: Vec<model::ListenerConfig>,
    /// Listeners that operators have drained.
    drained: HashMap<Arc<str>, DrainedListener>,
    /// The ticket keys that nodes have agreed on.
    shared_tickets: SharedKeys,
    /// The client certificates that have been revoked, by listener.
    revoked: HashMap<Arc<str>, Arc<RevokedCertificates>>,
    /// Those of listeners with more of them than before, until they are taken.
    newly_revoked: Vec<(Arc<str>, Arc<RevokedCertificates>)>,
}

/// The parts of the process that listeners serve with.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenerParts<'a> {
    pub(super) workers: &'a Arc<[WorkerHandle]>,
    pub(super) managed: &'a Arc<ManagedCertificates>,
    pub(super) admission: &'a Arc<Admission>,
}

#[derive(Debug)]
struct RunningListener {
    listener: Arc<Listener>,
    /// Kept across reloads: clients return with tickets that these keys made.
    tickets: Option<Arc<TicketKeys>>,
}

/// The state that a drained listener keeps.
#[derive(Debug, Default)]
struct DrainedListener {
    /// Its open connections still count against its limits.
    gate: Arc<Gate>,
    tickets: Option<Arc<TicketKeys>>,
}

impl Listeners {
    /// No listeners yet. All threads of the process have been started by now: what is left of the
    /// `descriptors` that it may have open is for sockets.
    pub(super) fn new(
        parts: ListenerParts<'_>,
        descriptors: u64,
        passed: PassedSockets,
        mut inherited: InheritedListeners,
    ) -> Self {
        let ListenerParts {
            workers,
            managed,
            admission,
        } = parts;
        // Inherited sockets are open already, but will be counted as listeners' sockets.
        let descriptors = DescriptorBudget::new(admission, descriptors, inherited.sockets.len());
        Self {
            workers: Arc::clone(workers),
            managed: Arc::clone(managed),
            descriptors,
            passed,
            is_owner: false,
            sockets: HashMap::new(),
            running: HashMap::new(),
            configured: Vec::new(),
            drained: inherited
                .drained
                .drain(..)
                .map(|name| (name, DrainedListener::default()))
                .collect(),
            shared_tickets: SharedKeys::default(),
            inherited,
            revoked: HashMap::new(),
            newly_revoked: Vec::new(),
        }
    }

    /// Applies a planned change: settings first, then new sockets, and old ones are closed last.
    pub(super) async fn apply(&mut self, plan: ListenerPlan) {
        self.note_revoked(&plan.running);
        let removed = self.apply_settings(plan.running);
        self.configured = plan.configured;
        self.forget_removed_drains();
        // A socket that stays may belong to another listener from now on.
        for (key, name) in &plan.wanted {
            if let (Some(socket), Some(running)) = (self.sockets.get(key), self.running.get(name)) {
                socket.owner.store(Arc::clone(&running.listener));
                for socket in socket.sockets() {
                    set_keepalive(socket, &running.listener);
                }
            }
        }
        for (key, name, bound) in plan.bound {
            self.open(key, &name, bound).await;
        }
        // If possible, a new address is bound before one that overlaps it is closed, so that no connection
        // is refused in between.
        let mut late = Vec::new();
        for (key, name) in plan.bind_late {
            match self.bind_alongside(&key.bind) {
                Ok(bound) => self.open(key, &name, bound).await,
                Err(_) => late.push((key, name)),
            }
        }
        self.close_all_but(&plan.wanted).await;
        // Only after its sockets are closed: what was in their backlogs is drained like the rest.
        for (name, removed) in removed {
            tracing::info!(listener = %name, "listener removed; its tunnels stay open");
            removed.listener.drain.begin(Urgency::Unbounded);
        }
        for (key, name) in late {
            match self.bind(&key) {
                Ok(bound) => self.open(key, &name, bound).await,
                // Too late to fail: the rest of the configuration is in effect already.
                Err(error) => {
                    let error = ListenFailure::new(&key.bind, error);
                    tracing::error!(listener = %name, address = %key.bind, %error, "cannot listen");
                }
            }
        }
        self.update_connection_limit();
        for name in self.unused() {
            tracing::warn!(
                name,
                "inherited socket is not used by any listener; connections to it will hang"
            );
        }
    }

    /// Applies the settings of listeners that run from now on; returns those that are no longer configured.
    fn apply_settings(
        &mut self,
        planned: Vec<PlannedListener>,
    ) -> HashMap<Arc<str>, RunningListener> {
        let mut running = HashMap::new();
        for planned in planned {
            if planned.is_drained
                && let Some(drained) = self.drained.get_mut(&planned.name)
            {
                // It does not run, but a client that returns later should still resume its session.
                drained.tickets = planned.tickets;
                continue;
            }
            let name = Arc::clone(&planned.name);
            let drained = self.drained.remove(&name);
            if drained.is_some() {
                tracing::warn!(listener = %name, "listener put back into service: its systemd sockets cannot be closed");
            }
            let DrainedListener { gate, .. } = drained.unwrap_or_default();
            running.insert(name, self.running(planned, gate));
        }
        // `running` has taken the others out of the old map.
        std::mem::replace(&mut self.running, running)
    }

    fn note_revoked(&mut self, planned: &[PlannedListener]) {
        let revoked = planned.iter().map(|planned| {
            let listed = Arc::clone(&planned.settings.revoked);
            (Arc::clone(&planned.name), listed)
        });
        let before = std::mem::replace(&mut self.revoked, revoked.collect());
        let none = Arc::default();
        let more = self.revoked.iter().filter(|(name, listed)| {
            let before = before.get(*name).unwrap_or(&none);
            listed.exceed(before)
        });
        let more = more.map(|(name, listed)| (Arc::clone(name), Arc::clone(listed)));
        self.newly_revoked.extend(more);
    }

    /// The listeners whose revocation lists have certificates that they had not before the last changes, and all
    /// certificates in their lists.
    pub(super) fn take_revoked(&mut self) -> Vec<(Arc<str>, Arc<RevokedCertificates>)> {
        std::mem::take(&mut self.newly_revoked)
    }

    /// Forgets that listeners were drained that are no longer configured.
    fn forget_removed_drains(&mut self) {
        self.drained.retain(|name, _| {
            let mut configured = self.configured.iter();
            configured.any(|listener| listener.name == *name)
        });
        for name in self.drained.keys() {
            tracing::info!(listener = %name, "not listening: drained by an operator");
        }
    }

    /// A listener with its new settings. A running one keeps its state; a new one starts with `gate`.
    fn running(&mut self, planned: PlannedListener, gate: Arc<Gate>) -> RunningListener {
        let PlannedListener {
            name,
            settings,
            tickets,
            ..
        } = planned;
        let listener = match self.running.remove(&name) {
            Some(known) => {
                known.listener.settings.store(Arc::new(settings));
                known.listener
            }
            None => Arc::new(Listener {
                drain: Drain::new(),
                gate,
                failures: FailureReports::default(),
                settings: ArcSwap::from_pointee(settings),
                name,
            }),
        };
        RunningListener { listener, tickets }
    }

    /// Descriptors of listening sockets are not available for connections.
    fn update_connection_limit(&self) {
        let sockets = self
            .sockets
            .values()
            .map(|socket| socket.sockets().len())
            .sum();
        self.descriptors.reserve_for_sockets(sockets);
    }

    /// Stops accepting everywhere once the backlogs are empty, and begins the drain of every connection.
    pub(super) async fn stop(&mut self) {
        self.close_all_but(&HashMap::new()).await;
        self.drain(Urgency::High);
    }

    fn drain(&self, urgency: Urgency) {
        for running in self.running.values() {
            running.listener.drain.begin(urgency);
        }
    }

    /// Drops state about client addresses that no longer matters.
    pub(super) fn sweep(&self) {
        let running = self.running.values().map(|running| &running.listener.gate);
        for gate in running.chain(self.drained.values().map(|drained| &drained.gate)) {
            gate.sweep();
        }
    }

    /// Listener and address of every listening socket, sorted by listener.
    pub(super) fn addresses(&self) -> Vec<(Arc<str>, String)> {
        let mut addresses: Vec<_> = self
            .sockets
            .values()
            .flat_map(|socket| {
                let owner = socket.owner.load();
                let addresses = socket.addresses.iter();
                addresses.map(move |address| (Arc::clone(&owner.name), address.clone()))
            })
            .collect();
        addresses.sort();
        addresses
    }

    /// The configured listeners, as shown to operators.
    pub(super) fn listening(&self) -> Vec<ListenerState> {
        let addresses = self.addresses();
        let of = |name: &Arc<str>| {
            let own = addresses.iter().filter(|(owner, _)| owner == name);
            own.map(|(_, address)| address.clone()).collect()
        };
        let mut listening: Vec<ListenerState> = self
            .configured
            .iter()
            .map(|listener| {
                let is_drained = self.drained.contains_key(&listener.name);
                ListenerState {
                    name: Arc::clone(&listener.name),
                    addresses: match is_drained {
                        true => listener.binds.iter().map(ToString::to_string).collect(),
                        false => of(&listener.name),
                    },
                    tls: listener.tls.is_some(),
                    redirect_to_https: listener.redirect_to_https,
                    limits_handshakes: listener.limits.handshakes.is_some()
                        || listener.limits.handshakes_per_ip.is_some(),
                    limits_requests: listener.limits.requests_per_ip.is_some(),
                    is_drained,
                }
            })
            .collect();
        listening.sort_by(|one, other| one.name.cmp(&other.name));
        listening
    }

    /// Names of passed sockets that no listener uses.
    fn unused(&self) -> Vec<String> {
        let used = |name: &&str| {
            let bind = Bind::Systemd((*name).into());
            self.sockets.keys().any(|key| key.bind == bind)
        };
        let names = self.passed.names().into_iter();
        names
            .filter(|name| !used(name))
            .map(str::to_owned)
            .collect()
    }

    async fn open(&mut self, key: SocketKey, name: &Arc<str>, bound: Vec<ListeningSocket>) {
        let Some(running) = self.running.get(name) else {
            return;
        };
        let listener = Arc::clone(&running.listener);
        // Before the first connection is accepted, also for sockets that another process has bound.
        for socket in &bound {
            set_keepalive(socket, &listener);
        }
        let accepting = BoundAddress::start(bound, listener, &self.workers).await;
        for address in &accepting.addresses {
            tracing::info!(listener = %name, address, "listening");
        }
        if self.is_owner {
            key.keep(&accepting);
        }
        self.sockets.insert(key, accepting);
    }

    async fn close_all_but(&mut self, wanted: &HashMap<SocketKey, Arc<str>>) {
        let gone: Vec<SocketKey> = self
            .sockets
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .cloned()
            .collect();
        let mut closing = Vec::new();
        for key in gone {
            if key.is_kept() {
                systemd::release(&key.bind.to_string());
            }
            if let Some(socket) = self.sockets.remove(&key) {
                let addresses = socket.addresses.clone();
                // Connections in the backlog would be reset, unless the service manager has the socket, too.
                let how = match key.bind {
                    Bind::Systemd(_) => StopMode::EmptyBacklog,
                    Bind::Tcp(_) | Bind::Unix { .. } => StopMode::CloseSocket,
                };
                closing.push((addresses, socket.stop(how)));
            }
        }
        // All of them have been signalled by now.
        for (addresses, closed) in closing {
            closed.await;
            for address in addresses {
                tracing::info!(address, "no longer listening");
            }
        }
    }
}

fn set_keepalive(socket: &ListeningSocket, listener: &Listener) {
    if let Err(error) = socket.set_keepalive(listener.settings.load().keepalive) {
        let address = socket.address();
        tracing::warn!(listener = %listener.name, address, %error, "cannot set TCP keepalive");
    }
}
