//! Why the process does not start, or a configuration is rejected.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::file_thread::FileThreadError;
use crate::config::model::Bind;
use crate::config::sources::LostFiles;
use crate::config::{BindPlaces, Report};
use crate::fleet::membership::NameInUse;
use crate::net::listen_error::ListenFailure;
use crate::net::tls::TlsError;
use crate::observe::recorder::AccessLogError;
use crate::snapshot::SnapshotError;
use crate::store::StoreError;

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
    #[error("{}admin: cannot listen on `{bind}`: {source}", Place(.place.as_deref()))]
    Admin {
        /// The address.
        bind: Bind,
        /// Where it is written.
        place: Option<String>,
        /// The reason.
        source: ListenFailure,
    },
    /// The TLS of the admin interface cannot be set up.
    #[error("`admin.tls`: {0}")]
    AdminTls(#[from] TlsError),
    /// An upgrade started this process, and the previous process does not hand over.
    #[error("the previous process did not hand over: {0}")]
    Succession(#[source] io::Error),
    /// An upgrade started this process, and it cannot read what the previous process serves.
    #[error("the certificates that the previous process serves cannot be read: {0}")]
    Certificates(#[source] StoreError),
    /// Another node has the name of this one.
    #[error(transparent)]
    NameInUse(#[from] NameInUse),
    /// The system refuses a thread, an event queue or a signal handler.
    #[error("operating system error: {0}")]
    System(#[from] io::Error),
}

/// A place in the configuration file, in front of a message.
struct Place<'a>(Option<&'a str>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |place| write!(f, "{place}: "))
    }
}

impl StartError {
    /// The same, with the place of the address that it concerns.
    pub(super) fn located(self, places: &BindPlaces) -> Self {
        match self {
            Self::Admin { bind, source, .. } => Self::Admin {
                place: places.of(&bind).map(str::to_owned),
                bind,
                source,
            },
            other => other,
        }
    }

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
    /// A folder of included files does not exist any more, and no operator has asked for a reload: it may be a file
    /// system that is not mounted, or a folder that is being replaced.
    #[error(
        "there is no folder `{}` any more, which has {} of the included files in effect; if they are no longer needed, reload",
        .0.folder.display(),
        .0.count
    )]
    LostFiles(LostFiles),
    /// A signal has come first.
    #[error("this process is asked to stop")]
    Stopping,
    /// A listener cannot run.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The TLS of the admin interface cannot be set up.
    #[error("`admin.tls`: {0}")]
    AdminTls(#[from] TlsError),
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
    #[error("{}listener `{listener}`: cannot listen on `{bind}`: {source}", Place(.place.as_deref()))]
    Bind {
        /// Where the address is written.
        place: Option<String>,
        /// The name of the listener.
        listener: Arc<str>,
        /// The address.
        bind: Bind,
        /// The reason.
        source: ListenFailure,
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

impl ListenError {
    /// The same, with the place of the address that it concerns.
    pub(super) fn located(self, places: &BindPlaces) -> Self {
        match self {
            Self::Bind {
                listener,
                bind,
                source,
                ..
            } => Self::Bind {
                place: places.of(&bind).map(str::to_owned),
                listener,
                bind,
                source,
            },
            other => other,
        }
    }
}
