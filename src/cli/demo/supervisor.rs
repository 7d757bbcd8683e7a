//! The supervisor of the demo: runs tidegate, and ends every process of it together with the demo.
//!
//! An upgrade replaces the process that the demo has started, and the new one outlives it. All of them are in
//! one process group, and all have inherited a pipe: its end shows that none is left. The demo may be killed;
//! the supervisor's standard input ends then, whatever the reason.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::stage::{CONFIG, FILES};
use crate::cli::{ExitStatus, err};

/// How long the processes may take to stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the supervisor waits for.
enum SupervisorEvent {
    /// The demo has ended, or wants the end.
    DemoEnded,
    /// Every process of tidegate has ended.
    ProxyEnded,
}

/// Runs tidegate with the configuration in this folder until standard input ends; then removes the folder.
pub(super) fn supervise(folder: &Path) -> ExitCode {
    let code = match start(folder) {
        Ok((mut child, events)) => {
            let was_asked = end_with_demo(&child, &events);
            // The first process: those of upgrades are not children of this one.
            let status = child.wait();
            match was_asked || status.is_ok_and(|status| status.success()) {
                true => ExitCode::SUCCESS,
                false => ExitStatus::Start.into(),
            }
        }
        Err(error) => {
            err(&format!("error: cannot run tidegate: {error}\n"));
            ExitStatus::Start.into()
        }
    };
    remove(folder);
    code
}

fn start(folder: &Path) -> io::Result<(Child, Receiver<SupervisorEvent>)> {
    let (mut pipe, inherited) = io::pipe()?;
    let child = Command::new(std::env::current_exe()?)
        .args(["run", "--config"])
        .arg(folder.join(CONFIG))
        // The service manager of the demo, if there is one, knows nothing of it.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        .stdout(inherited)
        // Ctrl-C reaches the demo alone, which stops everything in order.
        .process_group(0)
        .spawn()?;
    let (send, events) = sync_channel(2);
    let sender = send.clone();
    thread::Builder::new().spawn(move || {
        wait_for_end(&mut pipe);
        let _ = sender.send(SupervisorEvent::ProxyEnded);
    })?;
    thread::Builder::new().spawn(move || {
        wait_for_end(&mut io::stdin());
        let _ = send.send(SupervisorEvent::DemoEnded);
    })?;
    Ok((child, events))
}

/// Reads until the end, or an error, which is the same here.
fn wait_for_end(stream: &mut impl Read) {
    let _ = io::copy(stream, &mut io::sink());
}

/// Waits until no process is left. Returns whether the demo has asked for that.
fn end_with_demo(child: &Child, events: &Receiver<SupervisorEvent>) -> bool {
    if matches!(events.recv(), Ok(SupervisorEvent::ProxyEnded)) {
        return false;
    }
    // The first process is not waited for until the end, so its number stays that of the group.
    let group = Pid::from_child(child);
    // Fails only if all have ended by themselves.
    let _ = kill_process_group(group, Signal::TERM);
    if let Err(RecvTimeoutError::Timeout) = events.recv_timeout(STOP_TIMEOUT) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    true
}

/// Removes the files of the demo, and the folder if it has no others.
fn remove(folder: &Path) {
    for file in FILES {
        // Some do not exist, depending on when the demo ended.
        let _ = fs::remove_file(folder.join(file));
    }
    let _ = fs::remove_dir(folder);
}
