//! The signals that steer the process.

use std::io;

use tokio::signal::unix::{Signal as Source, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The installed handlers; none once they have been given away.
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
    /// Installs them.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self(Some(SignalHandlers {
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })))
    }

    /// None: waits for ever.
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

    /// Waits for one that asks to stop.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}
