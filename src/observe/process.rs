//! The state of the process as a whole, for metrics and the status output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::StatusCode;

use super::certificates::CertificateState;
use super::counter::Counter;

/// The state of the process as a whole; written by the control runtime, read by any thread.
#[derive(Debug)]
pub struct ProcessStatus {
    began: StartTime,
    reloads: Counter,
    failed_reloads: Counter,
    /// The problems of the last reload; empty if it was applied, or if the files are as in effect again.
    problems: ArcSwap<Vec<String>>,
    /// When a configuration was last applied, in milliseconds since the Unix epoch.
    applied: Counter,
    draining: AtomicBool,
    /// When everything that is left is cut.
    drain_end: ArcSwapOption<SystemTime>,
    /// Whether operators have drained all listeners.
    all_drained: AtomicBool,
    /// The certificates of the listeners.
    pub certificates: ArcSwap<Vec<CertificateState>>,
    /// Whether a listener has no certificate yet.
    lacks_certificate: AtomicBool,
    /// Whether the endpoints of an upstream are not known yet.
    lacks_endpoints: AtomicBool,
    had_endpoints: AtomicBool,
}

/// Whether the process accepts new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It is stopping.
    Draining,
    /// Operators have drained all listeners.
    Drained,
    /// A listener has no certificate yet.
    NoCertificate,
    /// The endpoints of an upstream are not known yet.
    NoEndpoints,
}

impl Readiness {
    /// The status of a response that reports it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Ready => StatusCode::OK,
            Self::Draining | Self::Drained | Self::NoCertificate | Self::NoEndpoints => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The body of that response.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ready => "ready\n",
            Self::Draining => "draining\n",
            Self::Drained => "every listener is drained\n",
            Self::NoCertificate => "no certificate yet\n",
            Self::NoEndpoints => "the endpoints of an upstream are not known yet\n",
        }
    }
}

impl Default for ProcessStatus {
    fn default() -> Self {
        let process = Self {
            began: StartTime::now(),
            reloads: Counter::default(),
            failed_reloads: Counter::default(),
            problems: ArcSwap::default(),
            applied: Counter::default(),
            draining: AtomicBool::new(false),
            drain_end: ArcSwapOption::empty(),
            all_drained: AtomicBool::new(false),
            certificates: ArcSwap::default(),
            lacks_certificate: AtomicBool::new(false),
            lacks_endpoints: AtomicBool::new(false),
            had_endpoints: AtomicBool::new(false),
        };
        process
            .applied
            .set((timestamp(SystemTime::now()) * 1e3) as u64);
        process
    }
}

impl ProcessStatus {
    /// Notes that the process is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Notes when everything that is left will be cut.
    pub fn set_drain_end(&self, end: SystemTime) {
        self.drain_end.store(Some(Arc::new(end)));
    }

    /// When everything that is left is cut; `None` if it is not draining, or has as long as it takes.
    pub fn drain_end(&self) -> Option<SystemTime> {
        self.drain_end.load().as_deref().copied()
    }

    /// Notes whether operators have drained all listeners.
    pub fn set_all_drained(&self, all_drained: bool) {
        self.all_drained.store(all_drained, Ordering::Relaxed);
    }

    /// Notes whether a listener has no certificate yet.
    pub fn set_lacks_certificate(&self, lacks: bool) {
        self.lacks_certificate.store(lacks, Ordering::Relaxed);
    }

    /// Notes whether the endpoints of an upstream are not known yet. That counts only until all were known once: a
    /// reload that adds an upstream must not take its neighbours out of service.
    pub fn set_lacks_endpoints(&self, lacks: bool) {
        let had_all = !lacks || self.had_endpoints.load(Ordering::Relaxed);
        self.had_endpoints.store(had_all, Ordering::Relaxed);
        self.lacks_endpoints.store(!had_all, Ordering::Relaxed);
    }

    /// Whether the process accepts new clients, for load balancers.
    pub fn readiness(&self) -> Readiness {
        if self.is_draining() {
            Readiness::Draining
        } else if self.all_drained.load(Ordering::Relaxed) {
            Readiness::Drained
        } else if self.lacks_certificate.load(Ordering::Relaxed) {
            Readiness::NoCertificate
        } else if self.lacks_endpoints.load(Ordering::Relaxed) {
            Readiness::NoEndpoints
        } else {
            Readiness::Ready
        }
    }

    /// When the process started.
    pub fn began(&self) -> StartTime {
        self.began
    }

    /// The number of reloads that were applied, and of those that failed.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.get(), self.failed_reloads.get())
    }

    /// When a configuration was last applied, in seconds since the Unix epoch.
    pub fn last_applied(&self) -> f64 {
        self.applied.get() as f64 / 1e3
    }

    /// The problems of the last reload, line by line; empty if it was applied.
    pub fn reload_problems(&self) -> Arc<Vec<String>> {
        self.problems.load_full()
    }

    /// The files that a reload has failed with are as in effect again. Returns whether there were problems.
    pub fn forget_reload_problems(&self) -> bool {
        let had = !self.problems.load().is_empty();
        if had {
            self.problems.store(Arc::default());
        }
        had
    }

    /// Counts a reload, with its problems: none if it was applied.
    pub fn count_reload(&self, problems: Vec<String>) {
        let is_applied = problems.is_empty();
        self.problems.store(Arc::new(problems));
        if is_applied {
            self.reloads.add(1);
            self.applied
                .set((timestamp(SystemTime::now()) * 1e3) as u64);
        } else {
            self.failed_reloads.add(1);
        }
    }
}

/// When the process started, by the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct StartTime(SystemTime);

impl StartTime {
    /// The current time.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// The start time.
    pub fn time(self) -> SystemTime {
        self.0
    }

    /// The start time in seconds since the Unix epoch.
    pub fn timestamp(self) -> f64 {
        timestamp(self.0)
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

/// Seconds since the Unix epoch.
pub fn timestamp(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}
