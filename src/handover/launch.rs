//! How a successor is started: not as a child of its predecessor, because a service manager follows only its
//! own children. systemd would not wait for another's child when it stops the service, and kill it at once.
//!
//! ```text
//! predecessor ── launcher ── successor
//!     │  launched: its pid  │    before the program of the successor runs
//!     │◄────────────────────│
//!     │                 run │    with a pidfd, the predecessor can end it in any state
//!     │────────────────────►│
//! ```
//!
//! The launcher is the same program as the predecessor. It ends as the successor does, so that its exit status
//! is the successor's, and does not wait for it: the successor's pid stays its own. Just before the
//! predecessor leaves, it ends the launcher; the successor becomes a child of the service manager then.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, getppid,
    kill_process, pidfd_open, pidfd_send_signal, set_dumpable_behavior, waitid,
};

use super::channel::Channel;
use super::message::{PredecessorMessage, SuccessorMessage};

/// The first argument of a launcher; a program and its arguments follow.
const LAUNCHER: &str = "--upgrade-launcher";

/// The first argument of the process that becomes the successor; a program and its arguments follow.
const LAUNCHED: &str = "--upgrade-successor";

/// How long a killed process may take to end: one that waits for a file system may take for ever.
const END_TIMEOUT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// A command that starts a launcher, which starts this program with the arguments that are added.
pub(super) fn launcher(binary: &Path) -> Command {
    again(LAUNCHER, binary.as_os_str())
}

/// Whether this process can start a successor, and follow it.
///
/// # Errors
/// The error of the system.
pub(super) fn is_possible() -> io::Result<()> {
    pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// Does what the arguments of this process say if they are a launcher's or a successor's before its program
/// runs; `None` if they are not. No other thread may run yet.
pub fn launch() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let role = arguments.next()?;
    let done = match role.to_str() {
        Some(LAUNCHER) => start_and_follow(arguments),
        Some(LAUNCHED) => become_successor(arguments),
        _ => return None,
    };
    Some(done.unwrap_or(ExitCode::FAILURE))
}

/// The program of this process, with these arguments.
fn again(role: &str, binary: &OsStr) -> Command {
    let mut command = Command::new(own_program(Path::new("/proc/self/exe"), binary.as_ref()));
    command.arg0("tidegate").arg(role).arg(binary);
    command
}

/// This program: `running`, because its file may have been replaced by another version. Where `/proc` is missing, it
/// is `binary`, a launcher as well. The name that this process was started with is not used: a name without a folder
/// would be looked up in `PATH`, which may lead to any program.
fn own_program<'a>(running: &'a Path, binary: &'a Path) -> &'a Path {
    match running.exists() {
        true => running,
        false => binary,
    }
}

/// The launcher. If the predecessor dies before this process has looked for its parent, it follows another process,
/// the one that adopts orphans. That does no harm: the successor asks the predecessor for permission before it runs
/// anything, so it ends, and this process ends with it.
fn start_and_follow(mut arguments: impl Iterator<Item = OsString>) -> io::Result<ExitCode> {
    let predecessor = pidfd_open(
        getppid().ok_or(io::ErrorKind::NotFound)?,
        PidfdFlags::empty(),
    )?;
    let binary = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
    let child = again(LAUNCHED, &binary).args(arguments).spawn();
    let child = child.or_else(|error| not_run(&Channel::on_stdin()?, error))?;
    // With the channel open here, the predecessor would not notice the successor's end.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let pid = Pid::from_child(&child);
    let successor = pidfd_open(pid, PidfdFlags::empty())?;
    let either = [&predecessor, &successor];
    poll(&mut either.map(|it| PollFd::new(it, PollFlags::IN)), None)?;
    // Not reaped: until this process has ended, nothing else gets the pid.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(status) = waitid(WaitId::Pid(pid), options)? else {
        // The predecessor is gone.
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(signal) = status.terminating_signal().and_then(Signal::from_named_raw) {
        // One core dump is enough.
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        kill_process(getpid(), signal)?;
    }
    let code = status
        .exit_status()
        .and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The process of the successor, until its program runs.
fn become_successor(mut arguments: impl Iterator<Item = OsString>) -> io::Result<ExitCode> {
    let channel = Channel::on_stdin()?;
    let pid = std::process::id();
    channel.send(&SuccessorMessage::Launched { pid }, &[])?;
    let (PredecessorMessage::Run, _) = channel.receive()? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let binary = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(binary);
    command.args(arguments);
    Channel::comes_from_parent(&mut command);
    not_run(&channel, command.exec())
}

/// Reports that the program cannot be run.
fn not_run<T>(channel: &Channel, error: io::Error) -> io::Result<T> {
    let code = error.raw_os_error().unwrap_or_default();
    channel.send(&SuccessorMessage::NotRun { code }, &[])?;
    Err(error)
}

/// A launcher and, as soon as that is known, the process of the successor.
#[derive(Debug)]
pub(super) struct LaunchedProcess {
    launcher: Child,
    process: Option<(Pid, OwnedFd)>,
}

impl LaunchedProcess {
    /// A launcher that was started just now.
    pub(super) fn by(launcher: Child) -> Self {
        Self {
            launcher,
            process: None,
        }
    }

    /// The successor has reported its process ID.
    ///
    /// # Errors
    /// The error of the system; the successor is gone already.
    pub(super) fn is(&mut self, pid: u32) -> io::Result<()> {
        let gone = io::ErrorKind::NotFound;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(gone)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // While its parent runs, which does not wait for it, no other process has its number.
        if self.launcher.try_wait()?.is_some() {
            return Err(gone.into());
        }
        self.process = Some((pid, process));
        Ok(())
    }

    /// The process ID of the successor.
    pub(super) fn pid(&self) -> Option<u32> {
        let (pid, _) = self.process.as_ref()?;
        pid.as_raw_pid().try_into().ok()
    }

    /// Whether the successor is gone.
    pub(super) fn is_gone(&self) -> bool {
        let Some((_, process)) = &self.process else {
            return false;
        };
        let mut ends = [PollFd::new(process, PollFlags::IN)];
        poll(&mut ends, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Sends the successor this signal.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some((_, process)) = &self.process {
            // An error means that it is gone already.
            let _ = pidfd_send_signal(process.as_fd(), signal);
        }
    }

    /// Makes sure that the successor is gone, and returns its exit status, if it is known. Blocks.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        match &self.process {
            Some((_, process)) => {
                // It may have exited by itself; then the status says why.
                self.signal(Signal::KILL);
                // A launcher that is gone already does not wait for it.
                let _ = poll(
                    &mut [PollFd::new(process, PollFlags::IN)],
                    Some(&END_TIMEOUT),
                );
            }
            // It asks for permission before it runs anything, and the channel is at its end.
            None => drop(self.launcher.kill()),
        }
        self.launcher.wait().ok()
    }

    /// Ends the launcher, so that the successor becomes a child of the service manager. Blocks until it is.
    pub(super) fn release(&mut self) {
        // An error means that it is gone already.
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_not_looked_up_by_its_name() {
        let binary = Path::new("/usr/bin/tidegate");
        let own = env::current_exe().unwrap();
        assert_eq!(own_program(&own, binary), own);
        assert_eq!(own_program(Path::new("/no/proc/self/exe"), binary), binary);
    }
}
