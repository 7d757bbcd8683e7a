//! The process: start, reload, stop.
//!
//! The control runtime lives on the thread that calls [`run`]: signals, reloads, file watching and
//! name resolution. Workers accept connections and carry the data.

mod acceptor;
mod base;
mod blocking;
mod discovery;
mod errors;
mod fingerprint;
mod health;
mod limits;
mod listeners;
mod mailbox;
mod watchdog;
mod admin_servers;
mod orders;
mod process;
mod program;
mod reload;
mod restart;
mod signals;
mod start;
mod stop;
mod upgrade;
mod watch;
mod worker;

pub use self::errors::StartError;

use std::path::Path;
use std::sync::Arc;

use self::start::Startup;
use crate::handover::successor::Predecessor;
use crate::systemd::passed::PassedSockets;

/// How the process stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// In order: listeners first, then requests, then tunnels.
    Graceful,
    /// At once, because a second signal asked for it.
    Forced,
}

/// A process that serves.
#[derive(Debug)]
pub struct ServingProcess {
    addresses: Vec<(Arc<str>, String)>,
}

impl ServingProcess {
    /// Listener and address of every open socket; a port of 0 has become a real one.
    pub fn addresses(&self) -> &[(Arc<str>, String)] {
        &self.addresses
    }
}

/// Serves what the file at `path` says until a signal stops it; calls `ready` when it serves.
///
/// # Errors
/// [`StartError`]; nothing was served then.
pub fn run(path: &Path, ready: impl FnOnce(&ServingProcess)) -> Result<Exit, StartError> {
    // Before there is any other thread.
    let passed = PassedSockets::take();
    let program = program::program()?;
    let mut predecessor = Predecessor::find()?;
    let started = Startup {
        path,
        program,
        passed,
    };
    let result = started.run(&mut predecessor, ready);
    if let (Err(error), Some(predecessor)) = (&result, &predecessor) {
        predecessor.failed(error.lines());
    }
    result
}
