//! Planning a change of listeners: everything that can fail.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::Listeners;
use super::socket_key::SocketKey;
use crate::config;
use crate::config::model::{self, Bind, SharedKeys};
use crate::handover::state::ListenerTickets;
use crate::net::bind::ListeningSocket;
use crate::net::listen_error::ListenFailure;
use crate::net::listener::ListenerSettings;
use crate::net::tls::{self, TlsError};
use crate::net::tls_tickets::TicketKeys;
use crate::protocol::revoked::RevokedCertificates;
use crate::server::errors::ListenError;

/// A listener as it will run.
#[derive(Debug)]
pub(super) struct PlannedListener {
    pub(super) name: Arc<str>,
    pub(super) settings: ListenerSettings,
    pub(super) tickets: Option<Arc<TicketKeys>>,
    /// An operator has drained the listener, and its sockets can stay closed.
    pub(super) is_drained: bool,
}

/// A change that is ready to be applied: sockets are bound, keys are loaded.
#[derive(Debug)]
pub(in crate::server) struct ListenerPlan {
    pub(super) running: Vec<PlannedListener>,
    pub(super) bound: Vec<(SocketKey, Arc<str>, Vec<ListeningSocket>)>,
    /// To be bound while the change is applied: sockets that are still to be closed are in the way.
    pub(super) bind_late: Vec<(SocketKey, Arc<str>)>,
    pub(super) wanted: HashMap<SocketKey, Arc<str>>,
    pub(super) configured: Vec<model::ListenerConfig>,
}

impl Listeners {
    /// Plans to run `listeners` instead of the present ones.
    ///
    /// # Errors
    /// [`ListenError`]: nothing has changed.
    pub(in crate::server) fn plan(
        &mut self,
        listeners: &[model::ListenerConfig],
    ) -> Result<ListenerPlan, ListenError> {
        let mut plan = ListenerPlan {
            running: Vec::new(),
            bound: Vec::new(),
            bind_late: Vec::new(),
            wanted: HashMap::new(),
            configured: listeners.to_vec(),
        };
        for listener in listeners {
            let planned = self.planned(listener)?;
            let is_drained = planned.is_drained;
            plan.running.push(planned);
            if is_drained {
                continue;
            }
            for bind in &listener.binds {
                plan.wanted.insert(
                    SocketKey::new(bind, &listener.name),
                    Arc::clone(&listener.name),
                );
            }
        }
        for (key, name) in &plan.wanted {
            if self.sockets.contains_key(key) {
                continue;
            }
            match self.bind(key) {
                Ok(bound) => plan.bound.push((key.clone(), Arc::clone(name), bound)),
                Err(_) if self.in_the_way(key, &plan.wanted) => {
                    plan.bind_late.push((key.clone(), Arc::clone(name)));
                }
                Err(source) => {
                    return Err(ListenError::Bind {
                        listener: Arc::clone(name),
                        bind: key.bind.clone(),
                        source: ListenFailure::new(&key.bind, source),
                        place: None,
                    });
                }
            }
        }
        Ok(plan)
    }

    /// The session ticket keys that a listener has used so far, here or in the predecessor.
    fn present_tickets(&mut self, name: &Arc<str>) -> Result<Option<Arc<TicketKeys>>, TlsError> {
        if let Some(running) = self.running.get(name) {
            return Ok(running.tickets.clone());
        }
        if let Some(tickets) = self
            .drained
            .get(name)
            .and_then(|drained| drained.tickets.as_ref())
        {
            return Ok(Some(Arc::clone(tickets)));
        }
        let handed = &mut self.inherited.tickets;
        let Some(position) = handed
            .iter()
            .position(|tickets| *tickets.listener == **name)
        else {
            return Ok(None);
        };
        let ListenerTickets { keys, .. } = handed.swap_remove(position);
        tls::inherited_ticket_keys(name, keys).map(Some)
    }

    /// From now on, listeners without keys from a file use these ticket keys, which nodes have agreed on.
    pub(in crate::server) fn share_tickets(&mut self, agreed: SharedKeys) {
        self.shared_tickets = agreed;
        let running = self.running.values().map(|listener| &listener.tickets);
        let drained = self.drained.values().map(|listener| &listener.tickets);
        for tickets in running.chain(drained).flatten() {
            if let Err(error) = tickets.share(&self.shared_tickets) {
                tracing::error!(%error, "shared session ticket keys not applied; the present ones stay in use");
            }
        }
    }

    pub(super) fn planned(
        &mut self,
        listener: &model::ListenerConfig,
    ) -> Result<PlannedListener, ListenError> {
        let secured = listener.tls.as_ref().map(|settings| {
            let tickets = self.present_tickets(&listener.name)?;
            let tickets = tls::ticket_keys(&listener.name, settings, tickets.as_ref())?;
            if let Some(tickets) = &tickets {
                tickets.share(&self.shared_tickets)?;
            }
            let http2 = listener.http2.is_some();
            let config = tls::listener(settings, tickets.as_ref(), &self.managed, http2)?;
            Ok((config, tickets))
        });
        let secured = secured.transpose().map_err(|source| ListenError::Tls {
            listener: Arc::clone(&listener.name),
            source,
        })?;
        let (tls, tickets) = secured.unzip();
        let tickets = tickets.flatten();
        let auth = listener.tls.as_ref();
        let auth = auth.and_then(|tls| tls.client_auth.as_ref());
        let revoked = auth.map(|auth| RevokedCertificates::of(&auth.revocations.lists));
        Ok(PlannedListener {
            name: Arc::clone(&listener.name),
            is_drained: self.drained.contains_key(&listener.name) && !has_passed(listener),
            settings: ListenerSettings {
                tls,
                http2: listener.http2,
                handshakes_at_once: listener
                    .tls
                    .as_ref()
                    .map_or(usize::MAX, |tls| tls.handshakes_at_once),
                trust: listener.trust.clone(),
                redirect_to_https: listener.redirect_to_https,
                limits: listener.limits,
                certificate_header: auth.and_then(|auth| auth.header.clone()),
                revoked: Arc::new(revoked.unwrap_or_default()),
                keepalive: listener.keepalive,
                timeouts: listener.timeouts,
            },
            tickets,
        })
    }

    /// Sockets for an address: the passed ones, or one for every worker where an address can have several.
    /// Inherited sockets come first.
    pub(super) fn bind(&mut self, key: &SocketKey) -> io::Result<Vec<ListeningSocket>> {
        if let Bind::Systemd(name) = &key.bind {
            let passed = self.passed.named(name).map_err(io::Error::other)?;
            return passed.into_iter().map(ListeningSocket::passed).collect();
        }
        // Before a new bind: the address is in use as long as an inherited socket is open.
        let inherited = self.inherited.sockets.take(&key.id(), &key.bind)?;
        let mut inherited = inherited.into_iter();
        let first = match inherited.next() {
            Some(first) => first,
            None => ListeningSocket::bind(&key.bind)?,
        };
        self.one_for_each(first, inherited.collect())
    }

    /// Sockets for an address that overlaps one of our own open sockets.
    pub(super) fn bind_alongside(&self, bind: &Bind) -> io::Result<Vec<ListeningSocket>> {
        self.one_for_each(ListeningSocket::bind_alongside(bind)?, Vec::new())
    }

    /// Adds sockets until every worker has one, if the address can have several.
    fn one_for_each(
        &self,
        first: ListeningSocket,
        others: Vec<ListeningSocket>,
    ) -> io::Result<Vec<ListeningSocket>> {
        let more: io::Result<Vec<Option<ListeningSocket>>> = (1 + others.len()..self.workers.len())
            .map(|_| first.bind_another())
            .collect();
        let more = more?.into_iter().flatten();
        Ok(std::iter::once(first).chain(others).chain(more).collect())
    }

    /// Whether a socket that is about to be closed prevents `wanted_key` from being bound now.
    fn in_the_way(&self, wanted_key: &SocketKey, wanted: &HashMap<SocketKey, Arc<str>>) -> bool {
        let mut closing = self
            .sockets
            .keys()
            .filter(|open| !wanted.contains_key(open));
        closing.any(|open| config::overlap(&open.bind, &wanted_key.bind))
    }
}

/// Whether the listener uses sockets of the service manager, which stay open whatever this process does.
pub(super) fn has_passed(listener: &model::ListenerConfig) -> bool {
    let mut binds = listener.binds.iter();
    binds.any(|bind| matches!(bind, Bind::Systemd(_)))
}
