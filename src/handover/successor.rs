//! The successor's side: it takes what there is, prepares all that can fail, and accepts its first
//! connection only when told to.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::channel::Channel;
use super::identity::Identity;
use super::link::Link;
use super::message::{PredecessorMessage, STEP_TIMEOUT, SuccessorMessage};
use super::state::{HandoverState, InheritedListeners};
use crate::net::inherited::{Purpose, SocketId};
use crate::systemd::{self, passed::PassedSockets};
use crate::upstream::handover::UpstreamsHandover;

/// Whom this process succeeds.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    identity: Option<Identity>,
}

/// What it has left to this process.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Which generation this one is.
    pub generation: u64,
    /// What listeners begin with.
    pub listeners: InheritedListeners,
    /// What the service manager has passed to it.
    pub passed: PassedSockets,
    /// What is known of upstreams; `None` if nobody knows anything.
    pub upstreams: Option<UpstreamsHandover>,
    /// The ways to processes that drain already.
    older: Vec<(Identity, OwnedFd)>,
}

impl Predecessor {
    /// There may be none.
    ///
    /// # Errors
    /// What the system said.
    pub fn find() -> io::Result<Option<Self>> {
        let Some(channel) = Channel::inherited()? else {
            return Ok(None);
        };
        channel.set_timeout(STEP_TIMEOUT)?;
        systemd::mute();
        Ok(Some(Self {
            channel,
            identity: None,
        }))
    }

    /// Takes what it leaves: the configuration is good.
    ///
    /// # Errors
    /// Why it does not hand over.
    pub fn inherit(&mut self) -> io::Result<Inheritance> {
        self.channel.send(&SuccessorMessage::hello(), &[])?;
        let (state, descriptors) = self.channel.receive::<HandoverState>()?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            descriptors
                .next()
                .ok_or_else(|| io::Error::other("it has left less than it says"))
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

    /// All that can fail is done: waits for the word to begin.
    ///
    /// # Errors
    /// Why that does not come.
    pub fn prepared(&self) -> io::Result<()> {
        self.exchange(SuccessorMessage::Prepared, PredecessorMessage::Go)
    }

    /// This process serves: waits for the other one to step back.
    ///
    /// # Errors
    /// Why it does not say so.
    pub fn serving(&self) -> io::Result<()> {
        self.exchange(SuccessorMessage::Serving, PredecessorMessage::Left)
    }

    /// What it is from then on: an older generation, within a runtime. `None` if it is gone already.
    pub fn into_older(self) -> Option<(Identity, Link)> {
        let socket = self.channel.into_socket().ok()?;
        Some((self.identity?, Link::new(socket).ok()?))
    }

    /// This process does not start.
    pub fn failed(&self, lines: Vec<String>) {
        // If that does not arrive, its end does.
        let _ = self.channel.send(&SuccessorMessage::Failed { lines }, &[]);
    }

    fn exchange(&self, says: SuccessorMessage, expected: PredecessorMessage) -> io::Result<()> {
        self.channel.send(&says, &[])?;
        let (said, _) = self.channel.receive::<PredecessorMessage>()?;
        match said == expected {
            true => Ok(()),
            false => Err(io::Error::other("it speaks otherwise")),
        }
    }
}

impl Inheritance {
    /// Of a process that was started by itself: what the service manager has kept and passes.
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

    /// Older generations, within a runtime.
    pub fn older(&mut self) -> Vec<(Identity, Link)> {
        let older = std::mem::take(&mut self.older).into_iter();
        // One that cannot be reached drains by itself.
        older
            .filter_map(|(identity, socket)| Some((identity, Link::new(socket).ok()?)))
            .collect()
    }
}
