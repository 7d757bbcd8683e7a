//! Why the process does not start, or a configuration is rejected.

use std::io;
use std::sync::Arc;

use super::file_thread::FileThreadError;
use crate::config::Report;
use crate::config::model::Bind;
use crate::net::tls::TlsError;
use crate::observe::recorder::AccessLogError;
use crate::snapshot::SnapshotError;

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has errors.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// A listener cannot run.
    #[error("{0}")]
    Listen(String),
    /// An upstream cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The admin interface cannot listen.
    #[error("admin: cannot listen on `{0}`: {1}")]
    Admin(Bind, #[source] io::Error),
    /// An upgrade started this process, and the previous process does not hand over.
    #[error("the previous process did not hand over: {0}")]
    Succession(#[source] io::Error),
    /// The system refuses a thread, an event queue or a signal handler.
    #[error("operating system error: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Every error, one line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(report) => report.error_lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self::Listen(error.to_string())
    }
}

/// Why a configuration was rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// The configuration has errors.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// An upstream cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The files cannot be read.
    #[error(transparent)]
    Files(#[from] FileThreadError),
    /// A signal has come first.
    #[error("this process is asked to stop")]
    Stopping,
    /// A listener cannot run.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl ReloadError {
    /// Every error, one line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(report) => report.error_lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

/// Why a listener cannot run as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// An address cannot be bound.
    #[error("listener `{listener}`: cannot listen on `{bind}`: {source}")]
    Bind {
        /// The name of the listener.
        listener: Arc<str>,
        /// The address.
        bind: Bind,
        /// The error of the system.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// The name of the listener.
        listener: Arc<str>,
        /// The error.
        source: TlsError,
    },
}
