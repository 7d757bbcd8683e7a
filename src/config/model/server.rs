//! Process-wide settings.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;

use super::{AccessLogConfig, Log, Traceparent};

/// Process-wide settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Data-plane threads.
    pub workers: NonZeroUsize,
    /// What is logged, and how.
    pub log: Log,
    /// Where the events of sessions are logged.
    pub access_log: AccessLogConfig,
    /// How the process stops.
    pub shutdown: Shutdown,
    /// Which changed files apply by themselves.
    pub watch: WatchedFiles,
    /// Whether our own answers carry `tidegate-reason`.
    pub reason_header: bool,
    /// The header that carries a request's id.
    pub request_id: Option<HeaderName>,
    /// What becomes of `traceparent`.
    pub traceparent: Traceparent,
    /// Whether a crash may leave an image of the memory behind.
    pub core_dumps: bool,
    /// Tunnels at once; `None` for what the limit on open files carries.
    pub max_tunnels: Option<usize>,
    /// How the process hands over to another one.
    pub upgrade: UpgradeConfig,
}

/// How the process hands over to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// Processes that may run at once, old and new.
    pub max_generations: usize,
    /// How long the tunnels of the old one may stay; `None` for as long as they last.
    pub drain: Option<Duration>,
}

/// How the process stops on SIGTERM or SIGINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long live tunnels may stay.
    pub grace: Duration,
    /// How long connections are still accepted after readiness went down.
    pub delay: Duration,
    /// The code of the Close frames that end tunnels.
    pub close_code: u16,
}

/// Which changed files apply by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchedFiles {
    /// None.
    Off,
    /// Certificates and their keys.
    Certificates,
    /// These, and the configuration file.
    All,
}
