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
pub(super) struct Signals {
    installed: Option<SignalHandlers>,
    /// A signal to stop has been received, and not reported yet.
    stop_pending: bool,
    /// A signal to stop may still come that asks for what has begun already.
    stop_expected: bool,
}

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
        Ok(Self {
            installed: Some(SignalHandlers {
                hangup: signal(SignalKind::hangup())?,
                upgrade: signal(SignalKind::user_defined2())?,
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            }),
            stop_pending: false,
            stop_expected: false,
        })
    }

    /// No handlers: [`next`](Self::next) never returns. For a process whose signals are awaited elsewhere.
    pub(super) fn none() -> Self {
        Self {
            installed: None,
            stop_pending: false,
            stop_expected: false,
        }
    }

    /// The next signal to stop is not a reason to [`stop`](Self::stop) waiting.
    pub(super) fn expect_stop(&mut self) {
        self.stop_expected = true;
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        if std::mem::take(&mut self.stop_pending) {
            return Signal::Stop;
        }
        let Some(installed) = &mut self.installed else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = installed.hangup.recv() => Signal::Reload,
            _ = installed.upgrade.recv() => Signal::Upgrade,
            _ = installed.terminate.recv() => Signal::Stop,
            _ = installed.interrupt.recv() => Signal::Stop,
        }
    }

    /// Waits for a signal to stop, and keeps it for [`next`](Self::next). Cancel safe.
    pub(super) async fn stop_comes(&mut self) {
        let Some(installed) = &mut self.installed else {
            return std::future::pending().await;
        };
        if !self.stop_pending {
            tokio::select! {
                _ = installed.terminate.recv() => {}
                _ = installed.interrupt.recv() => {}
            }
            self.stop_pending = true;
        }
    }

    /// Waits for a signal to stop; others are ignored.
    pub(super) async fn stop(&mut self) {
        loop {
            let is_stop = self.next().await == Signal::Stop;
            if is_stop && !std::mem::take(&mut self.stop_expected) {
                return;
            }
        }
    }
}
