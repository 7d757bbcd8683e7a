//! The predecessor's side of a handover: it starts a new process and hands over to it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use rustix::process::Signal;

use super::channel::{Channel, Interrupt};
use super::dialogue::Dialogue;
use super::launch::{self, LaunchedProcess};
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
    /// A stage of the upgrade took too long, and the thread that waits for it does not come back.
    Late,
    /// The new process is too old or too new.
    ProtocolMismatch,
    /// The new process is gone before the settling time was over; its exit status, if it is known.
    Unsettled(Option<ExitStatus>),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(why) => f.write_str(why),
            Self::Run(binary, error) => write!(f, "cannot run `{}`: {error}", binary.display()),
            Self::Failed(_) => f.write_str("the new process failed to start"),
            Self::NoResponse(error) => write!(f, "no response from the new process: {error}"),
            Self::Late => f.write_str("the new process is stuck"),
            Self::ProtocolMismatch => {
                f.write_str("the new process uses another handover protocol; restart instead")
            }
            Self::Unsettled(status) => {
                f.write_str("the new process ended within the settling time")?;
                status.map_or(Ok(()), |status| write!(f, ": {status}"))
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

/// A new process accepts connections, and this one has left.
#[derive(Debug)]
pub struct HandedOver {
    /// The link on which the new process forwards operators' requests; `None` if it is gone already.
    pub link: Option<Link>,
}

/// A new process that is to be started.
#[derive(Debug)]
pub struct SuccessorCommand {
    binary: PathBuf,
    command: Command,
    channel: Channel,
}

impl SuccessorCommand {
    /// Prepares to run `binary`.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn new(binary: &Path, config: &Path) -> Result<Self, UpgradeError> {
        launch::is_possible().map_err(|error| {
            UpgradeError::NotAllowed(format!(
                "upgrades need `pidfd_open`, which Linux 5.3 and newer have: {error}"
            ))
        })?;
        let mut command = launch::launcher(binary);
        command.args(["run", "--config"]).arg(config);
        Self::of(binary, command)
    }

    /// As [`new`](Self::new), with this command for the launcher.
    pub(crate) fn of(binary: &Path, mut command: Command) -> Result<Self, UpgradeError> {
        let cannot = |error| UpgradeError::Run(binary.to_owned(), error);
        // It names this process: with it, the new one would take the watchdog for another's.
        command.env_remove("WATCHDOG_PID");
        let channel = Channel::to(&mut command).map_err(cannot)?;
        channel.set_timeout(STEP_TIMEOUT).map_err(cannot)?;
        Ok(Self {
            binary: binary.to_owned(),
            command,
            channel,
        })
    }

    /// What ends [`start`](Self::start) and [`SuccessorProcess::hand_over`] early, and the new process with
    /// them.
    ///
    /// # Errors
    /// [`UpgradeError`].
    pub fn interrupt(&self) -> Result<Interrupt, UpgradeError> {
        let interrupt = self.channel.interrupt();
        interrupt.map_err(|error| UpgradeError::Run(self.binary.clone(), error))
    }

    /// Runs it, and waits until it has read the configuration.
    ///
    /// # Errors
    /// [`UpgradeError`]; the new process is gone then.
    pub fn start(self) -> Result<SuccessorProcess, UpgradeError> {
        let Self {
            binary,
            mut command,
            channel,
        } = self;
        let launcher = command.spawn();
        let launcher = launcher.map_err(|error| UpgradeError::Run(binary.clone(), error))?;
        // The command holds our copy of the other end: with it open, an exit would not be noticed.
        drop(command);
        let mut successor = SuccessorProcess {
            channel,
            process: LaunchedProcess::by(launcher),
            version: String::new(),
            settles: false,
        };
        match successor.run() {
            Ok(SuccessorMessage::Hello {
                protocol,
                version,
                settles,
            }) if SuccessorMessage::is_understood(protocol) => {
                successor.version = version;
                successor.settles = settles;
                Ok(successor)
            }
            Ok(SuccessorMessage::NotRun { code }) => {
                let error = io::Error::from_raw_os_error(code);
                Err(successor.give_up(UpgradeError::Run(binary, error)))
            }
            Ok(_) => Err(successor.give_up(UpgradeError::ProtocolMismatch)),
            Err(error) => Err(successor.give_up(error)),
        }
    }
}

/// A new process, started by this one.
#[derive(Debug)]
pub struct SuccessorProcess {
    channel: Channel,
    process: LaunchedProcess,
    /// The version of tidegate that it reported.
    version: String,
    settles: bool,
}

impl SuccessorProcess {
    /// Allows the new process to run its program, and returns what that says first.
    fn run(&mut self) -> Result<SuccessorMessage, UpgradeError> {
        let said = self.receive()?;
        let SuccessorMessage::Launched { pid } = said else {
            return Ok(said);
        };
        self.process.is(pid).map_err(UpgradeError::NoResponse)?;
        self.send(&PredecessorMessage::Run, &[])?;
        self.receive()
    }

    /// Whether the new process waits until this one leaves: version 0.1.0 does not.
    pub fn settles(&self) -> bool {
        self.settles
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

    /// Whether the new process is gone.
    pub fn is_gone(&self) -> bool {
        self.process.is_gone()
    }

    /// From now on messages are awaited. Must be called within a runtime.
    ///
    /// # Errors
    /// [`UpgradeError`]; the new process is gone then.
    pub fn settling(self) -> Result<SettlingSuccessor, UpgradeError> {
        match Dialogue::new(self.channel) {
            Ok(dialogue) => Ok(SettlingSuccessor {
                dialogue,
                process: self.process,
                version: self.version,
                settles: self.settles,
            }),
            Err(error) => {
                self.process.signal(Signal::KILL);
                Err(UpgradeError::NoResponse(error))
            }
        }
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

    /// Kills the new process, so that it cannot start to accept connections later, and returns its exit
    /// status. Blocks until it is gone.
    pub fn end(self) -> Option<ExitStatus> {
        // First: a process that has no permission yet ends by itself then.
        drop(self.channel);
        self.process.end()
    }

    fn give_up(self, error: UpgradeError) -> UpgradeError {
        let _ = self.end();
        error
    }
}

/// A new process that accepts connections, while this one has not left yet.
#[derive(Debug)]
pub struct SettlingSuccessor {
    dialogue: Dialogue,
    process: LaunchedProcess,
    version: String,
    settles: bool,
}

impl SettlingSuccessor {
    /// Waits until the new process asks this one to leave. Cancel safe.
    ///
    /// # Errors
    /// The new process is gone.
    pub async fn asks_to_leave(&mut self) -> io::Result<()> {
        match self.dialogue.receive().await? {
            SuccessorMessage::Leave => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether the new process is gone, or about to be: an exit closes the channel before it has a status.
    pub fn is_gone(&self) -> bool {
        self.dialogue.is_over() || self.process.is_gone()
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid().unwrap_or_default()
    }

    /// The version of tidegate that the new process reported.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Has the new process reload its configuration.
    pub fn reload(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Makes the new process a child of the service manager, which follows only its own. Blocks for a moment.
    pub fn release(mut self) -> Self {
        self.process.release();
        self
    }

    /// Confirms that this process has stopped accepting for good; with `stops`, the new process is to stop as
    /// well. The channel becomes the link on which the new process forwards operators' requests.
    ///
    /// # Errors
    /// The new process is gone.
    pub async fn leave(self, stops: bool) -> io::Result<Link> {
        let message = match stops && self.settles {
            // Not a signal: the service manager may send one, too, and a second one would cut the tunnels.
            true => PredecessorMessage::Stop,
            false => PredecessorMessage::Left,
        };
        let sent = self.dialogue.send(&message).await;
        // The message does not arrive after an interrupt, for example: without either, it would serve on.
        if stops && (!self.settles || sent.is_err()) {
            self.process.signal(Signal::TERM);
        }
        sent.map(|()| self.dialogue.into_link())
    }

    /// Makes sure that the new process is gone, and returns its exit status. Blocks.
    pub fn give_up(self) -> Option<ExitStatus> {
        self.process.end()
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
