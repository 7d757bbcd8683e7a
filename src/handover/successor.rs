//! The successor's side of a handover: it takes over the state, prepares everything that can fail, and
//! accepts its first connection only when the predecessor allows it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::channel::Channel;
use super::identity::Identity;
use super::link::Link;
use super::message::{PredecessorMessage, STEP_TIMEOUT, SuccessorMessage};
use super::state::{HandoverState, InheritedListeners};
use crate::net::inherited::{Purpose, SocketId};
use crate::systemd::{self, passed_sockets::PassedSockets};
use crate::upstream::handover::UpstreamsHandover;

/// The process that this one replaces.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    identity: Option<Identity>,
}

/// The state that this process starts with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The generation of this process.
    pub generation: u64,
    /// Sockets and ticket keys for listeners.
    pub listeners: InheritedListeners,
    /// Sockets that the service manager passed.
    pub passed: PassedSockets,
    /// The state of upstreams; `None` without a predecessor.
    pub upstreams: Option<UpstreamsHandover>,
    /// The links to older generations that still drain.
    older: Vec<(Identity, OwnedFd)>,
}

impl Predecessor {
    /// Finds the predecessor, if an upgrade started this process.
    ///
    /// # Errors
    /// The error of the system.
    pub fn find() -> io::Result<Option<Self>> {
        let Some(channel) = Channel::inherited()? else {
            return Ok(None);
        };
        channel.set_timeout(STEP_TIMEOUT)?;
        // The predecessor is still the service: systemd must not hear two processes.
        systemd::mute();
        Ok(Some(Self {
            channel,
            identity: None,
        }))
    }

    /// Reports that the configuration is valid, and receives the state.
    ///
    /// # Errors
    /// The predecessor does not hand over.
    pub fn inherit(&mut self) -> io::Result<Inheritance> {
        self.channel.send(&SuccessorMessage::hello(), &[])?;
        let (state, descriptors) = self.channel.receive::<HandoverState>()?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            descriptors
                .next()
                .ok_or_else(|| io::Error::other("it passed fewer descriptors than it announced"))
        };
        let mut inheritance = Inheritance {
            generation: state.from.generation + 1,
            upstreams: Some(state.upstreams),
            ..Inheritance::default()
        };
        inheritance.listeners.tickets = state.tickets;
        inheritance.listeners.drained = state.drained.into_iter().map(Arc::from).collect();
        for id in state.sockets {
            inheritance.listeners.sockets.add(id, next()?);
        }
        let mut passed = Vec::new();
        for name in state.passed {
            passed.push((name, next()?));
        }
        inheritance.passed = PassedSockets::handed(passed);
        for identity in state.older {
            inheritance.older.push((identity, next()?));
        }
        self.identity = Some(state.from);
        Ok(inheritance)
    }

    /// Reports that everything that can fail is done, and waits for permission to accept.
    ///
    /// # Errors
    /// The permission does not come.
    pub fn prepared(&self) -> io::Result<()> {
        self.exchange(&SuccessorMessage::Prepared, &PredecessorMessage::Go)
    }

    /// Reports that this process accepts connections, and waits until the predecessor has stopped.
    ///
    /// # Errors
    /// The predecessor does not confirm.
    pub fn serving(&self) -> io::Result<()> {
        self.exchange(&SuccessorMessage::Serving, &PredecessorMessage::Left)
    }

    /// The predecessor as the older generation that it is from now on; `None` if it is gone already. Must
    /// be called within a runtime.
    pub fn into_older(self) -> Option<(Identity, Link)> {
        let socket = self.channel.into_socket().ok()?;
        Some((self.identity?, Link::new(socket).ok()?))
    }

    /// Reports why this process does not start.
    pub fn failed(&self, lines: Vec<String>) {
        // If the message does not arrive, the end of the channel does.
        let _ = self.channel.send(&SuccessorMessage::Failed { lines }, &[]);
    }

    fn exchange(&self, says: &SuccessorMessage, expected: &PredecessorMessage) -> io::Result<()> {
        self.channel.send(says, &[])?;
        let (said, _) = self.channel.receive::<PredecessorMessage>()?;
        match said == *expected {
            true => Ok(()),
            false => Err(io::Error::other("it sent an unexpected message")),
        }
    }
}

impl Inheritance {
    /// The state without a predecessor: sockets that the service manager has stored through a crash, or passes
    /// from socket units.
    pub fn without_predecessor(mut passed: PassedSockets) -> Self {
        let mut inheritance = Self {
            generation: 1,
            ..Self::default()
        };
        for (bind, socket) in passed.take_kept() {
            let id = SocketId {
                purpose: Purpose::Listener,
                bind,
                of: None,
            };
            inheritance.listeners.sockets.add(id, socket);
        }
        inheritance.passed = passed;
        inheritance
    }

    /// The older generations. Must be called within a runtime.
    pub fn older(&mut self) -> Vec<(Identity, Link)> {
        let older = std::mem::take(&mut self.older).into_iter();
        // A generation that cannot be reached still drains by itself.
        older
            .filter_map(|(identity, socket)| Some((identity, Link::new(socket).ok()?)))
            .collect()
    }
}
