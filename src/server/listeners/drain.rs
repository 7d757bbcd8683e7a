//! Listeners that operators drain and put back into service.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::has_passed;
use super::socket_key::SocketKey;
use super::{DrainedListener, Listeners};
use crate::config::model;
use crate::drain::Urgency;
use crate::net::listen_error::ListenFailure;
use crate::server::errors::ListenError;

/// Why a listener was not drained or put back.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum ListenerDrainError {
    /// No listener has this name.
    #[error("there is no listener `{name}`; known: {known}")]
    Unknown {
        /// The requested name.
        name: String,
        /// The names of all listeners.
        known: String,
    },
    /// The listener uses sockets that stay open whatever this process does.
    #[error(
        "listener `{0}` uses sockets of the service manager, which stay open: connections would hang; \
         stop its socket unit instead"
    )]
    Passed(Arc<str>),
    /// The listener cannot listen again.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Listeners {
    /// Drains a listener: accepts what is in the backlogs, closes the sockets, and begins the drain of its
    /// connections. Tunnels stay open.
    ///
    /// # Errors
    /// [`ListenerDrainError`]: nothing has changed.
    pub(in crate::server) async fn drain_listener(
        &mut self,
        name: &str,
    ) -> Result<(), ListenerDrainError> {
        let configured = self.configured(name)?;
        if has_passed(&configured) {
            return Err(ListenerDrainError::Passed(configured.name));
        }
        let Some(running) = self.running.remove(name) else {
            return Ok(());
        };
        let drained = DrainedListener {
            gate: Arc::clone(&running.listener.gate),
            tickets: running.tickets,
        };
        self.drained.insert(configured.name, drained);
        let others: HashMap<SocketKey, Arc<str>> = self
            .sockets
            .iter()
            .map(|(key, socket)| (key.clone(), Arc::clone(&socket.owner.load().name)))
            .filter(|(_, owner)| **owner != *name)
            .collect();
        self.close_all_but(&others).await;
        // After the backlogs: connections accepted until now are part of the drain.
        running.listener.drain.begin(Urgency::Unbounded);
        self.update_connection_limit();
        Ok(())
    }

    /// Puts a listener back into service.
    ///
    /// # Errors
    /// [`ListenerDrainError`]: nothing has changed.
    pub(in crate::server) async fn undrain_listener(
        &mut self,
        name: &str,
    ) -> Result<(), ListenerDrainError> {
        let configured = self.configured(name)?;
        if !self.drained.contains_key(name) {
            return Ok(());
        }
        let planned = self.planned(&configured)?;
        let name = configured.name;
        // All addresses are bound before the first one accepts: a failure leaves the listener drained.
        let mut bound = Vec::new();
        for bind in configured.binds {
            let key = SocketKey::new(&bind, &name);
            match self.bind(&key) {
                Ok(sockets) => bound.push((key, sockets)),
                Err(source) => {
                    return Err(ListenError::Bind {
                        source: ListenFailure::new(&bind, source),
                        place: None,
                        listener: name,
                        bind,
                    }
                    .into());
                }
            }
        }
        let DrainedListener { gate, .. } = self.drained.remove(&name).unwrap_or_default();
        let running = self.running(planned, gate);
        self.running.insert(Arc::clone(&name), running);
        for (key, sockets) in bound {
            self.open(key, &name, sockets).await;
        }
        self.update_connection_limit();
        Ok(())
    }

    fn configured(&self, name: &str) -> Result<model::ListenerConfig, ListenerDrainError> {
        let mut listeners = self.configured.iter();
        let configured = listeners.find(|listener| *listener.name == *name);
        configured.cloned().ok_or_else(|| {
            let known: Vec<&str> = self
                .configured
                .iter()
                .map(|listener| &*listener.name)
                .collect();
            ListenerDrainError::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }
}
