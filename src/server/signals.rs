//! The signals that control the process.

use std::io;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// The meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The installed signal handlers, or none.
#[derive(Debug)]
pub(super) struct Signals(Option<SignalHandlers>);

#[derive(Debug)]
struct SignalHandlers {
    hangup: Source,
    upgrade: Source,
    terminate: Source,
    interrupt: Source,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self(Some(SignalHandlers {
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })))
    }

    /// No handlers: [`next`](Self::next) never returns. For a process whose signals are awaited elsewhere.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        let Some(installed) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = installed.hangup.recv() => Signal::Reload,
            _ = installed.upgrade.recv() => Signal::Upgrade,
            _ = installed.terminate.recv() => Signal::Stop,
            _ = installed.interrupt.recv() => Signal::Stop,
        }
    }

    /// Waits for a signal to stop; others are ignored.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}
