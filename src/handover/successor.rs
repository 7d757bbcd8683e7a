//! The successor's side of a handover: it takes over the state, prepares everything that can fail, and
//! accepts its first connection only when the predecessor allows it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::dialogue::Dialogue;
use super::identity::Identity;
use super::link::Link;
use super::message::{PredecessorMessage, STEP_TIMEOUT, SuccessorMessage};
use super::state::{HandoverState, InheritedListeners, KeysHandover};
use crate::auth::revocations::RevocationsHandover;
use crate::net::inherited::{Purpose, SocketId};
use crate::quota::shared::LimitsHandover;
use crate::systemd::{self, passed_sockets::PassedSockets};
use crate::upstream::handover::UpstreamsHandover;

/// The process that this one replaces.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    identity: Option<Identity>,
    settle: Option<Duration>,
}

/// The process that this one replaces, while both have the listening sockets and only this one accepts.
#[derive(Debug)]
pub struct LeavingPredecessor {
    dialogue: Dialogue,
    identity: Option<Identity>,
    settle: Option<Duration>,
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
    /// The counts of limits that routes share.
    pub limits: LimitsHandover,
    /// Revoked subjects, if the predecessor knows of any.
    pub revocations: Option<RevocationsHandover>,
    /// What distinguishes this node from others in its fleet.
    pub fleet_instance: Option<Box<str>>,
    /// The keys that nodes share, as far as the predecessor knows them.
    pub shared_keys: KeysHandover,
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
            settle: None,
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
            limits: state.limits,
            revocations: state.revocations,
            fleet_instance: state.fleet_instance,
            shared_keys: state.shared_keys,
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
        self.settle = state.settle;
        Ok(inheritance)
    }

    /// Reports that everything that can fail is done, and waits for permission to accept.
    ///
    /// # Errors
    /// The permission does not come.
    pub fn prepared(&self) -> io::Result<()> {
        self.channel.send(&SuccessorMessage::Prepared, &[])?;
        let (said, _) = self.channel.receive()?;
        match said {
            PredecessorMessage::Go => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Reports that this process accepts connections. From then on the predecessor's message is awaited. Must
    /// be called within a runtime.
    ///
    /// # Errors
    /// The predecessor is gone.
    pub fn serving(self) -> io::Result<LeavingPredecessor> {
        self.channel.send(&SuccessorMessage::Serving, &[])?;
        Ok(LeavingPredecessor {
            dialogue: Dialogue::new(self.channel)?,
            identity: self.identity,
            settle: self.settle,
        })
    }

    /// Reports why this process does not start.
    pub fn failed(&self, lines: Vec<String>) {
        // If the message does not arrive, the end of the channel does.
        let _ = self.channel.send(&SuccessorMessage::Failed { lines }, &[]);
    }
}

impl LeavingPredecessor {
    /// How long the predecessor may take to leave.
    pub fn timeout(&self) -> Duration {
        STEP_TIMEOUT + self.settle.unwrap_or_default()
    }

    /// Waits until the predecessor has stopped accepting for good; returns whether this process is to stop,
    /// too. Cancel safe.
    ///
    /// # Errors
    /// It is gone, or does not follow the protocol.
    pub async fn left(&mut self) -> io::Result<bool> {
        match self.dialogue.receive().await? {
            PredecessorMessage::Left => Ok(false),
            PredecessorMessage::Stop => Ok(true),
            PredecessorMessage::Run | PredecessorMessage::Go => Err(unexpected()),
        }
    }

    /// Asks the predecessor to leave before the settling time is over.
    ///
    /// # Errors
    /// It is gone.
    pub async fn ask_to_leave(&self) -> io::Result<()> {
        match self.settle {
            // It would not understand the message, and leaves anyway.
            None => Ok(()),
            Some(_) => self.dialogue.send(&SuccessorMessage::Leave).await,
        }
    }

    /// The predecessor as the older generation that it is from now on.
    pub fn into_older(self) -> Option<(Identity, Link)> {
        Some((self.identity?, self.dialogue.into_link()))
    }
}

fn unexpected() -> io::Error {
    io::Error::other("it sent an unexpected message")
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
