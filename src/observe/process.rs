//! The process as a whole, as metrics and the status show it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::counter::Counter;

/// What metrics tell of the process as a whole; written by the control runtime.
#[derive(Debug)]
pub struct ProcessStatus {
    began: StartTime,
    reloads: Counter,
    failed_reloads: Counter,
    /// What was wrong with the last reload, if anything.
    fault: ArcSwap<Vec<String>>,
    /// Milliseconds of the Unix epoch.
    applied: Counter,
    draining: AtomicBool,
    /// The certificates of the listeners.
    pub certificates: ArcSwap<Vec<Expiry>>,
}

/// When a certificate expires.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// Whose it is.
    pub listener: Arc<str>,
    /// The file it is in.
    pub file: String,
    /// When.
    pub not_after: SystemTime,
}

impl Default for ProcessStatus {
    fn default() -> Self {
        let process = Self {
            began: StartTime::now(),
            reloads: Counter::default(),
            failed_reloads: Counter::default(),
            fault: ArcSwap::default(),
            applied: Counter::default(),
            draining: AtomicBool::new(false),
            certificates: ArcSwap::default(),
        };
        process
            .applied
            .set((timestamp(SystemTime::now()) * 1e3) as u64);
        process
    }
}

impl ProcessStatus {
    /// It is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// When it began.
    pub fn began(&self) -> StartTime {
        self.began
    }

    /// Reloads that were taken, and those that failed.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.get(), self.failed_reloads.get())
    }

    /// When the configuration was last taken, in seconds of the Unix epoch.
    pub fn last_applied(&self) -> f64 {
        self.applied.get() as f64 / 1e3
    }

    /// What was wrong with the last reload, line by line; nothing if it was taken.
    pub fn fault(&self) -> Arc<Vec<String>> {
        self.fault.load_full()
    }

    /// Counts a reload, and what was wrong with it.
    pub fn reloaded(&self, fault: Vec<String>) {
        let taken = fault.is_empty();
        self.fault.store(Arc::new(fault));
        if taken {
            self.reloads.add(1);
            self.applied
                .set((timestamp(SystemTime::now()) * 1e3) as u64);
        } else {
            self.failed_reloads.add(1);
        }
    }
}

/// When the process began, for who reads metrics.
#[derive(Debug, Clone, Copy)]
pub struct StartTime(SystemTime);

impl StartTime {
    /// Now.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// When that was.
    pub fn time(self) -> SystemTime {
        self.0
    }

    /// In seconds of the Unix epoch.
    pub fn timestamp(self) -> f64 {
        timestamp(self.0)
    }

    /// How long ago that was.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed().unwrap_or_default()
    }
}

/// Seconds of the Unix epoch.
pub fn timestamp(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1000.0
}
