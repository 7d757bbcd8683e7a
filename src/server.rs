//! The process: start, reload, upgrade, stop.
//!
//! The control runtime runs on the thread that calls [`run`]: signals, reloads, file watching, health
//! checks and name resolution. Workers accept connections and carry the data.

mod acceptor;
mod shared_parts;
mod blocking;
mod certificate_upkeep;
mod certificates;
mod cgroup;
mod discovery;
mod endpoint_maps;
mod errors;
mod file_thread;
mod fingerprint;
mod fleet_load;
mod health;
mod limits;
mod memory;
mod listeners;
mod key_sharing;
mod worker_mailbox;
mod watchdog;
mod admin_servers;
mod commands;
mod process;
mod executable;
mod reload;
mod restart;
mod route_probes;
mod signals;
mod start;
mod stop;
mod takeover;
mod upgrade;
mod upgrade_stage;
mod file_watch;
mod worker;
mod watched_files;

pub use self::errors::StartError;

use std::path::Path;

use self::start::Startup;
use crate::handover::successor::Predecessor;
use crate::systemd::passed_sockets::PassedSockets;

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// In order: listeners first, then requests, then tunnels.
    Graceful,
    /// At once, because a second signal asked for it.
    Forced,
}

/// Runs tidegate with the configuration file at `path` until a signal stops it.
///
/// # Errors
/// [`StartError`]: the process did not start.
pub fn run(path: &Path) -> Result<Exit, StartError> {
    // It changes the environment, which is only safe before there is any other thread.
    let passed = PassedSockets::take();
    let program = executable::program()?;
    let mut predecessor = Predecessor::find()?;
    let started = Startup {
        path,
        program,
        passed,
    };
    let result = started.run(&mut predecessor);
    if let (Err(error), Some(predecessor)) = (&result, &predecessor) {
        // The operator asked the predecessor for this upgrade, and reads the reason there.
        predecessor.failed(error.lines());
    }
    result
}
