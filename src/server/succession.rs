//! What is said when one process succeeds another, and the successor's part of it: it takes what there
//! is, prepares all that can fail, and accepts its first connection only when told to.
//!
//! ```text
//! successor                         predecessor
//!    │ hello: the configuration is good  │
//!    │──────────────────────────────────►│
//!    │   estate: sockets, keys, counts   │
//!    │◄──────────────────────────────────│
//!    │ prepared (or failed, and why)     │
//!    │──────────────────────────────────►│
//!    │                                go │
//!    │◄──────────────────────────────────│
//!    │ serving                           │
//!    │──────────────────────────────────►│ stops accepting, tells the service manager
//!    │                              left │
//!    │◄──────────────────────────────────│
//! ```
//!
//! Until `serving`, whatever goes wrong leaves the predecessor as it was.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listeners::{Before, HandedTickets};
use super::{StartError, blocking};
use crate::admin::generations::Older;
use crate::admin::identity::Identity;
use crate::handover::Channel;
use crate::handover::link::Link;
use crate::net::inherited::{Place, Purpose};
use crate::systemd::{self, passed::PassedSockets};
use crate::upstream::handover::Handed;

/// The version of what is said.
const PROTOCOL: u32 = 1;

/// How long the other side may take for a step. A start looks up names and reads files.
pub(super) const STEP_WITHIN: Duration = Duration::from_secs(30);

/// What a successor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "lowercase")]
pub(super) enum Successor {
    /// It has read its configuration.
    Hello {
        /// See [`PROTOCOL`].
        protocol: u32,
        /// Of tidegate.
        version: String,
    },
    /// It cannot take over.
    Failed {
        /// Why.
        lines: Vec<String>,
    },
    /// It has all that it needs.
    Prepared,
    /// It accepts connections.
    Serving,
}

impl Successor {
    pub(super) fn hello() -> Self {
        Self::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether a successor of this protocol is understood.
    pub(super) fn is_understood(protocol: u32) -> bool {
        protocol == PROTOCOL
    }
}

/// What a predecessor says besides the estate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    /// Accept connections.
    Go,
    /// They are all yours.
    Left,
}

/// All that is handed over. Descriptors come along: first one for each of `sockets`, then for each of
/// `passed`, then for each of `older`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Estate {
    /// Who hands over.
    pub(super) from: Identity,
    /// Listening sockets, those of operators included.
    pub(super) sockets: Vec<Place>,
    /// Names of what the service manager has passed.
    pub(super) passed: Vec<String>,
    /// Processes that drain already.
    pub(super) older: Vec<Identity>,
    /// Keys of session tickets.
    pub(super) tickets: Vec<HandedTickets>,
    /// Listeners that operators have taken out.
    #[serde(default)]
    pub(super) drained: Vec<String>,
    /// What is known of upstreams.
    pub(super) upstreams: Handed,
}

/// Whom this process succeeds.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: Option<Channel>,
    identity: Option<Identity>,
}

/// What it has left to this process.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// Which generation this one is.
    pub(super) generation: u64,
    /// What listeners begin with.
    pub(super) before: Before,
    /// What the service manager has passed to it.
    pub(super) passed: PassedSockets,
    /// What is known of upstreams; `None` if nobody knows anything.
    pub(super) upstreams: Option<Handed>,
    /// The ways to processes that drain already.
    older: Vec<(Identity, OwnedFd)>,
}

impl Predecessor {
    /// There may be none.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn find() -> io::Result<Option<Self>> {
        let Some(channel) = Channel::inherited()? else {
            return Ok(None);
        };
        channel.set_patience(STEP_WITHIN)?;
        systemd::be_silent();
        Ok(Some(Self {
            channel: Some(channel),
            identity: None,
        }))
    }

    /// Takes what it leaves: the configuration is good.
    ///
    /// # Errors
    /// [`StartError::Succession`].
    pub(super) fn inherit(&mut self) -> Result<Inheritance, StartError> {
        let channel = self.channel()?;
        channel.send(&Successor::hello(), &[])?;
        let (estate, along) = channel.receive::<Estate>()?;
        let mut along = along.into_iter();
        let mut next = || {
            along
                .next()
                .ok_or_else(|| lost("it has left less than it says"))
        };
        let mut inheritance = Inheritance {
            generation: estate.from.generation + 1,
            upstreams: Some(estate.upstreams),
            ..Inheritance::default()
        };
        inheritance.before.tickets = estate.tickets;
        inheritance.before.drained = estate.drained.into_iter().map(Arc::from).collect();
        for place in estate.sockets {
            inheritance.before.sockets.add(place, next()?);
        }
        let mut passed = Vec::new();
        for name in estate.passed {
            passed.push((name, next()?));
        }
        inheritance.passed = PassedSockets::handed(passed);
        for identity in estate.older {
            inheritance.older.push((identity, next()?));
        }
        self.identity = Some(estate.from);
        Ok(inheritance)
    }

    /// All that can fail is done: waits for the word to begin.
    ///
    /// # Errors
    /// [`StartError::Succession`].
    pub(super) async fn prepared(&mut self) -> Result<(), StartError> {
        self.say(Successor::Prepared, Word::Go).await
    }

    /// This process serves: waits for the other one to step back. From then on that is an older
    /// generation; `None` if it is gone already.
    pub(super) async fn serving(mut self) -> Option<Older> {
        if let Err(error) = self.say(Successor::Serving, Word::Left).await {
            // It will not come back, and this one serves.
            tracing::warn!(%error, "the process before has not said that it steps back");
        }
        systemd::speak();
        let socket = self.channel?.into_socket().ok()?;
        Some(Older::new(self.identity?, Link::new(socket).ok()?))
    }

    /// This process does not start.
    pub(super) fn failed(&self, error: &StartError) {
        let lines = match error {
            StartError::Config(report) => report.error_lines().collect(),
            other => vec![other.to_string()],
        };
        if let Some(channel) = &self.channel {
            // If that does not arrive, its end does.
            let _ = channel.send(&Successor::Failed { lines }, &[]);
        }
    }

    async fn say(&mut self, says: Successor, expected: Word) -> Result<(), StartError> {
        let Some(channel) = self.channel.take() else {
            return Err(lost("it is gone"));
        };
        let (channel, answered) = blocking(move || {
            let sent = channel.send(&says, &[]);
            let answered = sent.and_then(|()| channel.receive::<Word>());
            (channel, answered)
        })
        .await;
        self.channel = Some(channel);
        let (word, _) = answered?;
        match word == expected {
            true => Ok(()),
            false => Err(lost("it speaks otherwise")),
        }
    }

    fn channel(&self) -> Result<&Channel, StartError> {
        self.channel.as_ref().ok_or_else(|| lost("it is gone"))
    }
}

fn lost(why: &str) -> StartError {
    StartError::Succession(io::Error::other(why.to_owned()))
}

impl Inheritance {
    /// Of a process that was started by itself: what the service manager has kept and passes.
    pub(super) fn of_nobody(mut passed: PassedSockets) -> Self {
        let mut inheritance = Self {
            generation: 1,
            ..Self::default()
        };
        for (bind, socket) in passed.kept() {
            let place = Place {
                purpose: Purpose::Listener,
                bind,
                of: None,
            };
            inheritance.before.sockets.add(place, socket);
        }
        inheritance.passed = passed;
        inheritance
    }

    /// Older generations, within a runtime.
    pub(super) fn older(&mut self) -> Vec<Older> {
        let older = std::mem::take(&mut self.older).into_iter();
        // One that cannot be reached drains by itself.
        older
            .filter_map(|(identity, socket)| Some(Older::new(identity, Link::new(socket).ok()?)))
            .collect()
    }
}
