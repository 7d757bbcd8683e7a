//! The predecessor's side of a handover: it starts a new process and hands over to it.

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
use crate::net::bind::ListeningSocket;

/// Why an upgrade failed.
#[derive(Debug)]
pub enum UpgradeError {
    /// An upgrade is not possible now.
    NotAllowed(String),
    /// The program cannot be run.
    Run(PathBuf, io::Error),
    /// The new process reported what is wrong, one line each.
    Failed(Vec<String>),
    /// The new process exited, or did not answer in time.
    NoResponse(io::Error),
    /// The new process is too old or too new.
    ProtocolMismatch,
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(why) => f.write_str(why),
            Self::Run(binary, error) => write!(f, "cannot run `{}`: {error}", binary.display()),
            Self::Failed(_) => f.write_str("the new process failed to start"),
            Self::NoResponse(error) => write!(f, "no response from the new process: {error}"),
            Self::ProtocolMismatch => {
                f.write_str("the new process uses another handover protocol; restart instead")
            }
        }
    }
}

impl UpgradeError {
    /// The errors that the new process reported, one line each.
    pub fn details(&self) -> Vec<String> {
        match self {
            Self::Failed(lines) => lines.clone(),
            _ => Vec::new(),
        }
    }
}

/// The result of an upgrade.
#[derive(Debug)]
pub struct HandedOver {
    /// The process that accepts connections now.
    pub by: Identity,
    /// The link on which it forwards operators' requests; `None` if it is gone already.
    pub link: Option<Link>,
}

/// A new process, started by this one.
#[derive(Debug)]
pub struct SuccessorProcess {
    channel: Channel,
    child: Child,
    /// The version of tidegate that it reported.
    version: String,
}

impl SuccessorProcess {
    /// Runs `binary` and waits until it has read the configuration.
    ///
    /// # Errors
    /// [`UpgradeError`]; the new process is gone then.
    pub fn start(binary: &Path, config: &Path) -> Result<Self, UpgradeError> {
        let cannot = |error| UpgradeError::Run(binary.to_owned(), error);
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(config);
        // It names this process: with it, the new one would take the watchdog for another's.
        command.env_remove("WATCHDOG_PID");
        let channel = Channel::to(&mut command).map_err(cannot)?;
        channel.set_timeout(STEP_TIMEOUT).map_err(cannot)?;
        let child = command.spawn().map_err(cannot)?;
        // The command holds our copy of the other end: with it open, an exit would not be noticed.
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

    /// Hands over the state, and waits until the new process accepts connections.
    ///
    /// # Errors
    /// [`UpgradeError`]; the new process is gone then.
    pub fn hand_over(
        self,
        state: &HandoverState,
        descriptors: &PassedDescriptors,
    ) -> Result<Self, UpgradeError> {
        let exchanged = || {
            self.send(state, &descriptors.borrowed())?;
            match self.receive()? {
                // Everything that can fail has succeeded there. Nothing has changed here yet.
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

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The version of tidegate that the new process reported.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The exit status, if the new process has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Confirms that this process has stopped accepting. The channel becomes the link on which the new
    /// process forwards operators' requests. Must be called within a runtime.
    ///
    /// # Errors
    /// The new process is gone.
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
        // The process may have reported a reason before it exited.
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

    /// Kills the new process, so that it cannot start to accept connections later.
    fn give_up(mut self, error: UpgradeError) -> UpgradeError {
        let _ = self.child.kill();
        let _ = self.child.wait();
        error
    }
}

/// The descriptors that are sent with a [`HandoverState`], in its order.
#[derive(Debug)]
pub struct PassedDescriptors {
    /// Listening sockets.
    pub sockets: Vec<Arc<ListeningSocket>>,
    /// Sockets that the service manager passed.
    pub passed: Vec<OwnedFd>,
    /// The links to older generations that still drain.
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
