//! The signals that control the process.
//!
//! No signal that an operator may send out of habit ends the process at once: the default of the operating
//! system would be that, for most of them.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal as Source, SignalKind, signal};

use crate::observe::recorder::AccessLog;

/// The meaning of a signal that the process reacts to as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
    /// SIGTERM, SIGINT or SIGQUIT.
    Stop,
}

/// What a signal causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalEffect {
    /// The process reacts as a whole.
    Control(Signal),
    /// Log files are opened again. Nothing else has to be decided about it.
    ReopenLogs,
    /// Nothing. It is logged under this name, because its sender expected something.
    Ignored(&'static str),
    /// Nothing. The kernel sends it, and a log line could be what it is sent for.
    IgnoredSilently,
}

/// Every signal that is handled, those first that win if several are pending. SIGPIPE is ignored by the
/// standard library, and SIGWINCH by the operating system. Those that report a fault of the program keep
/// their default, as do those that suspend a process: with a handler for SIGTTOU, a background process that
/// writes to its terminal would be sent another one for ever.
const HANDLED: &[(Number, SignalEffect)] = &[
    (Number::TERM, SignalEffect::Control(Signal::Stop)),
    (Number::INT, SignalEffect::Control(Signal::Stop)),
    (Number::QUIT, SignalEffect::Control(Signal::Stop)),
    (Number::HUP, SignalEffect::Control(Signal::Reload)),
    (Number::USR2, SignalEffect::Control(Signal::Upgrade)),
    (Number::USR1, SignalEffect::ReopenLogs),
    (Number::ALARM, SignalEffect::Ignored("SIGALRM")),
    (Number::VTALARM, SignalEffect::Ignored("SIGVTALRM")),
    (Number::PROF, SignalEffect::Ignored("SIGPROF")),
    (Number::IO, SignalEffect::Ignored("SIGIO")),
    #[cfg(target_os = "linux")]
    (Number::POWER, SignalEffect::Ignored("SIGPWR")),
    #[cfg(all(
        target_os = "linux",
        not(any(
            target_arch = "mips",
            target_arch = "mips32r6",
            target_arch = "mips64",
            target_arch = "mips64r6",
            target_arch = "sparc",
            target_arch = "sparc64"
        ))
    ))]
    (Number::STKFLT, SignalEffect::Ignored("SIGSTKFLT")),
    (Number::XCPU, SignalEffect::Ignored("SIGXCPU")),
    // A log has reached the limit on the size of files: the write fails, and that is reported.
    (Number::XFSZ, SignalEffect::IgnoredSilently),
];

/// The installed signal handlers, or none.
#[derive(Debug)]
pub(super) struct Signals {
    handlers: Vec<SignalHandler>,
    /// The log that SIGUSR1 reopens, once there is one.
    access_log: Option<Arc<AccessLog>>,
    /// A signal to stop has been received, and not reported yet.
    stop_pending: bool,
    /// A signal to stop may still come that asks for what has begun already.
    stop_expected: bool,
}

#[derive(Debug)]
struct SignalHandler {
    source: Source,
    effect: SignalEffect,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn install() -> io::Result<Self> {
        let install = |&(number, effect): &(Number, SignalEffect)| {
            let source = signal(SignalKind::from_raw(number.as_raw()))?;
            Ok(SignalHandler { source, effect })
        };
        let handlers: io::Result<_> = HANDLED.iter().map(install).collect();
        Ok(Self {
            handlers: handlers?,
            ..Self::none()
        })
    }

    /// No handlers: [`next`](Self::next) never returns. For a process whose signals are awaited elsewhere.
    pub(super) fn none() -> Self {
        Self {
            handlers: Vec::new(),
            access_log: None,
            stop_pending: false,
            stop_expected: false,
        }
    }

    /// From now on, SIGUSR1 reopens this log, whatever the signals are awaited for.
    pub(super) fn set_access_log(&mut self, access_log: &Arc<AccessLog>) {
        self.access_log = Some(Arc::clone(access_log));
    }

    /// The next signal to stop is not a reason to [`stop`](Self::stop) waiting.
    pub(super) fn expect_stop(&mut self) {
        self.stop_expected = true;
    }

    /// The next signal. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        if std::mem::take(&mut self.stop_pending) {
            return Signal::Stop;
        }
        loop {
            match self.received(|_| true).await {
                SignalEffect::Control(signal) => return signal,
                SignalEffect::ReopenLogs => {
                    match self.access_log.as_ref().is_some_and(|log| log.reopen()) {
                        true => tracing::info!("log files are opened again"),
                        false => tracing::info!(
                            signal = "SIGUSR1",
                            "signal ignored: no log is written to a file"
                        ),
                    }
                }
                SignalEffect::Ignored(signal) => {
                    tracing::info!(signal, "signal ignored: it has no meaning here");
                }
                SignalEffect::IgnoredSilently => {}
            }
        }
    }

    /// Waits for a signal to stop, and keeps it for [`next`](Self::next). Cancel safe.
    pub(super) async fn stop_comes(&mut self) {
        if !self.stop_pending {
            self.received(|effect| effect == SignalEffect::Control(Signal::Stop))
                .await;
            self.stop_pending = true;
        }
    }

    /// Waits for a signal to stop; others that ask the process for something are ignored.
    pub(super) async fn stop(&mut self) {
        loop {
            let is_stop = self.next().await == Signal::Stop;
            if is_stop && !std::mem::take(&mut self.stop_expected) {
                return;
            }
        }
    }

    /// Waits for a signal with a `wanted` effect; others stay pending.
    async fn received(&mut self, wanted: impl Fn(SignalEffect) -> bool) -> SignalEffect {
        std::future::poll_fn(|cx| self.poll_received(&wanted, cx)).await
    }

    fn poll_received(
        &mut self,
        wanted: impl Fn(SignalEffect) -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<SignalEffect> {
        let wanted = self.handlers.iter_mut().filter(|it| wanted(it.effect));
        for handler in wanted {
            if handler.source.poll_recv(cx).is_ready() {
                return Poll::Ready(handler.effect);
            }
        }
        Poll::Pending
    }
}
