//! The endpoints of a Kubernetes Service, from its EndpointSlices.
//!
//! `objects` and `slices` turn what the API server sends into endpoints, without I/O and without a clock. [`watch`]
//! lists the slices once and follows what changes; `access` knows the API server, and the token that it expects.
//! [`unlisted`] has the endpoints that no slice has for a moment, [`outage`] what failures of a watch come to.
//! [`saved`] keeps the last endpoints for the next start. `server` decides when to ask, and applies the result.

mod access;
pub mod objects;
pub mod outage;
pub mod saved;
pub mod slices;
pub mod unlisted;
pub mod watch;

use std::path::PathBuf;

use http::StatusCode;

use crate::https_client::HttpsClientError;

/// Why the API server did not say what the endpoints are.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// tidegate does not run in a cluster, and the configuration names no API server.
    #[error(
        "KUBERNETES_SERVICE_HOST is not set: outside of a cluster, `api` must name the API server"
    )]
    OutsideOfCluster,
    /// No namespace is known.
    #[error("the namespace is not known: set `namespace`, or mount the service account")]
    Namespace,
    /// A file cannot be used.
    #[error("cannot use `{}`: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The token and the certificates cannot be read: a file system does not respond.
    #[error(
        "the token and the CA certificates cannot be read in time: a file system does not respond"
    )]
    FilesTimeout,
    /// The URL of the API server is not valid.
    #[error("the URL of the API server is not valid")]
    Url,
    /// There is no response, or it has ended early.
    #[error(transparent)]
    Request(#[from] HttpsClientError),
    /// The API server does not accept the token.
    #[error("the API server does not accept the token (401): {0}")]
    Unauthorized(String),
    /// The service account lacks a permission.
    #[error("the service account may not list and watch endpointslices (403): {0}")]
    Forbidden(String),
    /// The API server responds with another status code.
    #[error("the API server responds with {}: {message}", status.as_u16())]
    Status {
        /// The status code.
        status: StatusCode,
        /// What the response says.
        message: String,
    },
    /// A watch ended with an error.
    #[error("the watch ended with an error ({code}): {message}")]
    WatchError {
        /// The code, like one of HTTP; 0 if there is none.
        code: u16,
        /// What the event says.
        message: String,
    },
    /// The response is not the JSON that was expected.
    #[error("the API server sent something else than EndpointSlices: {0}")]
    Json(#[from] serde_json::Error),
    /// The list does not end.
    #[error("the list of EndpointSlices has more than {0} pages")]
    TooManyPages(usize),
}

impl KubernetesError {
    /// Whether nothing has come for too long on a connection that is open.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Request(HttpsClientError::Silence { .. }))
    }

    /// Whether there was a connection: then another request may fare better.
    pub fn was_connected(&self) -> bool {
        use HttpsClientError::{Connect, NoTls, Resolve, Settings, Tls, Url};
        match self {
            Self::OutsideOfCluster
            | Self::Namespace
            | Self::File { .. }
            | Self::FilesTimeout
            | Self::Url => false,
            Self::Request(error) => !matches!(
                error,
                Url(_) | Settings(_) | Resolve { .. } | NoTls { .. } | Connect { .. } | Tls { .. }
            ),
            Self::Unauthorized(_)
            | Self::Forbidden(_)
            | Self::Status { .. }
            | Self::WatchError { .. }
            | Self::Json(_)
            | Self::TooManyPages(_) => true,
        }
    }
}
