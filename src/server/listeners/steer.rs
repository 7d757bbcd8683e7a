//! Listeners that operators take out and put back.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::has_passed;
use super::seat::Seat;
use super::{ListenError, Listeners, Rested};
use crate::config::model;
use crate::drain::Haste;

/// Why that was not done.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum SteerError {
    /// There is none of this name.
    #[error("there is no listener `{name}`; known: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// It has sockets that stay open whatever this process does.
    #[error(
        "listener `{0}` has sockets of the service manager's: they stay open, and who connects would \
         wait for nobody; stop its socket unit instead"
    )]
    Passed(Arc<str>),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Listeners {
    /// Takes a listener out: what the kernel has queued is taken, its sockets are closed, and
    /// connections are told. Its tunnels stay.
    ///
    /// # Errors
    /// [`SteerError`]; nothing has changed then.
    pub(in crate::server) async fn drain_one(&mut self, name: &str) -> Result<(), SteerError> {
        let configured = self.configured(name)?;
        if has_passed(&configured) {
            return Err(SteerError::Passed(configured.name));
        }
        let Some(running) = self.running.remove(name) else {
            return Ok(());
        };
        let rested = Rested {
            gate: Arc::clone(&running.listener.gate),
            tickets: running.tickets,
        };
        self.drained.insert(configured.name, rested);
        let others: HashMap<Seat, Arc<str>> = self
            .sockets
            .iter()
            .map(|(seat, socket)| (seat.clone(), Arc::clone(&socket.owner.load().name)))
            .filter(|(_, owner)| **owner != *name)
            .collect();
        self.close_all_but(&others).await;
        running.listener.drain.begin(Haste::None);
        self.leave_descriptors();
        Ok(())
    }

    /// Puts it back.
    ///
    /// # Errors
    /// [`SteerError`]; nothing has changed then.
    pub(in crate::server) async fn undrain_one(&mut self, name: &str) -> Result<(), SteerError> {
        let configured = self.configured(name)?;
        if !self.drained.contains_key(name) {
            return Ok(());
        }
        let planned = self.planned(&configured)?;
        let name = configured.name;
        let mut bound = Vec::new();
        for bind in configured.binds {
            let seat = Seat::new(&bind, &name);
            match self.bind(&seat) {
                Ok(sockets) => bound.push((seat, sockets)),
                Err(source) => {
                    let listener = name;
                    return Err(ListenError::Bind {
                        listener,
                        bind,
                        source,
                    }
                    .into());
                }
            }
        }
        let Rested { gate, .. } = self.drained.remove(&name).unwrap_or_default();
        let running = self.running(planned, gate);
        self.running.insert(Arc::clone(&name), running);
        for (seat, sockets) in bound {
            self.open(seat, &name, sockets).await;
        }
        self.leave_descriptors();
        Ok(())
    }

    /// Whom operators have taken out, for another process.
    pub(in crate::server) fn hand_over_drained(&self) -> Vec<String> {
        self.drained.keys().map(ToString::to_string).collect()
    }

    fn configured(&self, name: &str) -> Result<model::Listener, SteerError> {
        let found = self.configured.iter().find(|it| *it.name == *name);
        found.cloned().ok_or_else(|| {
            let known: Vec<&str> = self.configured.iter().map(|it| &*it.name).collect();
            SteerError::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            }
        })
    }
}
