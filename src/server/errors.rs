//! Why the process does not start, or a configuration does not run.

use std::io;
use std::sync::Arc;

use crate::config::Report;
use crate::config::model::Bind;
use crate::net::tls::TlsError;
use crate::observe::recorder::AccessLogError;
use crate::snapshot::SnapshotError;

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has mistakes.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// A listener cannot run.
    #[error("{0}")]
    Listen(String),
    /// An upstream cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is nowhere to log to.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// Operators cannot connect.
    #[error("admin: cannot listen on `{0}`: {1}")]
    Admin(Bind, #[source] io::Error),
    /// It was to succeed another process, and that does not hand over.
    #[error("the process before does not hand over: {0}")]
    Succession(#[source] io::Error),
    /// The system has no thread, event queue or signal handler for us.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// All that is wrong, a line each.
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

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// It has mistakes.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// Its upstreams cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is nowhere to log to.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// Its listeners cannot be set up.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl ReloadError {
    /// All that is wrong, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(report) => report.error_lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

/// Why listeners cannot run as configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// An address cannot be bound.
    #[error("listener `{listener}`: cannot listen on `{bind}`: {source}")]
    Bind {
        /// Its name.
        listener: Arc<str>,
        /// The address.
        bind: Bind,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// Its name.
        listener: Arc<str>,
        /// What went wrong.
        source: TlsError,
    },
}
