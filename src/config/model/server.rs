//! Process-wide settings.

use std::num::NonZeroUsize;
use std::time::Duration;

use http::HeaderName;

use super::{AccessLogConfig, Log, Traceparent};

/// Process-wide settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// The number of worker threads.
    pub workers: NonZeroUsize,
    /// The log on standard error.
    pub log: Log,
    /// The log of session events.
    pub access_log: AccessLogConfig,
    /// How the process stops.
    pub shutdown: Shutdown,
    /// Which files are reloaded when they change.
    pub watch: WatchedFiles,
    /// Whether tidegate's own responses carry `tidegate-reason`.
    pub reason_header: bool,
    /// The header that carries a request ID.
    pub request_id: Option<HeaderName>,
    /// What happens to `traceparent`.
    pub traceparent: Traceparent,
    /// Whether a crash may write a core dump.
    pub core_dumps: bool,
    /// The maximum number of concurrent tunnels; `None` for as many as the limit on open files allows.
    pub max_tunnels: Option<usize>,
    /// The limit on memory.
    pub memory: MemoryLimit,
    /// How the process hands over to its successor.
    pub upgrade: UpgradeConfig,
}

/// The limit on memory near which the process takes less on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// The limit of the control group, if there is one.
    Cgroup,
    /// Resident memory of this size, in bytes.
    Resident(u64),
    /// None.
    Off,
}

/// How the process hands over to its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// The maximum number of concurrent processes, old and new.
    pub max_generations: usize,
    /// How long the tunnels of the old process may stay; `None` for as long as they last.
    pub drain: Option<Duration>,
    /// How long the old process may accept connections again if the new one ends; `None` if it may not.
    pub settle: Option<Duration>,
}

/// How the process stops on SIGTERM, SIGINT or SIGQUIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long live tunnels may stay.
    pub grace: Duration,
    /// How long connections are still accepted after `/readyz` reports 503.
    pub delay: Duration,
    /// The status code of the Close frames that end tunnels.
    pub close_code: u16,
}

/// Which files are reloaded when they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchedFiles {
    /// No files.
    Off,
    /// Certificates and their keys.
    Certificates,
    /// Certificates, their keys and the configuration file.
    All,
}
