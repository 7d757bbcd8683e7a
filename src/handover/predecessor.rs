//! The predecessor's side: it runs a new process, and hands over to it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use super::channel::Channel;
use super::identity::Identity;
use super::link::Link;
use super::message::{PredecessorMessage, STEP_TIMEOUT, SuccessorMessage};
use super::state::HandoverState;
use crate::net::listen::ListeningSocket;

/// Why there is no successor.
#[derive(Debug)]
pub enum UpgradeError {
    /// It may not be.
    NotAllowed(String),
    /// Its program cannot be run.
    Run(PathBuf, io::Error),
    /// It has told what is wrong.
    Failed(Vec<String>),
    /// It has ended, or has not said anything in time.
    NoResponse(io::Error),
    /// It is too old or too new.
    ProtocolMismatch,
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(why) => f.write_str(why),
            Self::Run(binary, error) => write!(f, "cannot run `{}`: {error}", binary.display()),
            Self::Failed(_) => f.write_str("the new process does not start"),
            Self::NoResponse(error) => write!(f, "the new process does not answer: {error}"),
            Self::ProtocolMismatch => {
                f.write_str("the new process speaks otherwise: restart instead")
            }
        }
    }
}

impl UpgradeError {
    /// What the new process says of it, a line each.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Failed(lines) => lines.clone(),
            _ => Vec::new(),
        }
    }
}

/// What came of an upgrade.
#[derive(Debug)]
pub struct HandedOver {
    /// Who serves now.
    pub by: Identity,
    /// The way on which it asks; none if it is gone already.
    pub link: Option<Link>,
}

/// A new process, which this one started.
#[derive(Debug)]
pub struct SuccessorProcess {
    channel: Channel,
    child: Child,
    /// Of tidegate, as it says.
    version: String,
}

impl SuccessorProcess {
    /// Runs `binary`, and waits until it has read the configuration.
    ///
    /// # Errors
    /// [`UpgradeError`]; then there is no such process any more.
    pub fn start(binary: &Path, config: &Path) -> Result<Self, UpgradeError> {
        let cannot = |error| UpgradeError::Run(binary.to_owned(), error);
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(config);
        // It is for this process: the new one is told by systemd itself.
        command.env_remove("WATCHDOG_PID");
        let channel = Channel::to(&mut command).map_err(cannot)?;
        channel.set_timeout(STEP_TIMEOUT).map_err(cannot)?;
        let child = command.spawn().map_err(cannot)?;
        drop(command);
        let successor = Self {
            channel,
            child,
            version: String::new(),
        };
        match successor.receive() {
            Ok(SuccessorMessage::Hello { protocol, version })
                if SuccessorMessage::is_understood(protocol) =>
            {
                Ok(Self {
                    version,
                    ..successor
                })
            }
            Ok(_) => Err(successor.give_up(UpgradeError::ProtocolMismatch)),
            Err(error) => Err(successor.give_up(error)),
        }
    }

    /// Hands over, and waits until it serves.
    ///
    /// # Errors
    /// [`UpgradeError`]; then there is no such process any more.
    pub fn hand_over(
        self,
        state: &HandoverState,
        descriptors: &PassedDescriptors,
    ) -> Result<Self, UpgradeError> {
        let exchanged = || {
            self.send(state, &descriptors.borrowed())?;
            match self.receive()? {
                SuccessorMessage::Prepared => {}
                _ => return Err(UpgradeError::ProtocolMismatch),
            }
            self.send(&PredecessorMessage::Go, &[])?;
            match self.receive()? {
                SuccessorMessage::Serving => Ok(()),
                _ => Err(UpgradeError::ProtocolMismatch),
            }
        };
        match exchanged() {
            Ok(()) => Ok(self),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Of tidegate, as it says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Tells it that this process accepts nothing any more; the way on which it asks from then on,
    /// within a runtime.
    ///
    /// # Errors
    /// What the system said, when it is gone.
    pub fn leave(self) -> io::Result<Link> {
        self.channel.send(&PredecessorMessage::Left, &[])?;
        Link::new(self.channel.into_socket()?)
    }

    fn send(
        &self,
        message: &impl serde::Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), UpgradeError> {
        let sent = self.channel.send(message, descriptors);
        // It may have said why before it went.
        sent.map_err(|error| match self.receive() {
            Err(UpgradeError::Failed(lines)) => UpgradeError::Failed(lines),
            _ => UpgradeError::NoResponse(error),
        })
    }

    fn receive(&self) -> Result<SuccessorMessage, UpgradeError> {
        match self.channel.receive() {
            Ok((SuccessorMessage::Failed { lines }, _)) => Err(UpgradeError::Failed(lines)),
            Ok((says, _)) => Ok(says),
            Err(error) => Err(UpgradeError::NoResponse(error)),
        }
    }

    /// It has not taken over, and must not do so later.
    fn give_up(mut self, error: UpgradeError) -> UpgradeError {
        let _ = self.child.kill();
        let _ = self.child.wait();
        error
    }
}

/// The descriptors that go along with a [`HandoverState`].
#[derive(Debug)]
pub struct PassedDescriptors {
    /// Listening sockets.
    pub sockets: Vec<Arc<ListeningSocket>>,
    /// What the service manager has passed.
    pub passed: Vec<OwnedFd>,
    /// The ways to processes that drain already.
    pub older: Vec<Arc<Link>>,
}

impl PassedDescriptors {
    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        let sockets = self.sockets.iter().map(|socket| socket.as_fd());
        let passed = self.passed.iter().map(AsFd::as_fd);
        let older = self.older.iter().map(|link| link.socket());
        sockets.chain(passed).chain(older).collect()
    }
}
