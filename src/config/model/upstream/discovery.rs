//! Sources of endpoints.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The source of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// The configuration lists them.
    Listed,
    /// The addresses of a name (A and AAAA records).
    Dns {
        /// The name.
        name: Box<str>,
        /// The port of every endpoint, not 0.
        port: u16,
        /// The name server; `None` for those of the operating system.
        server: Option<SocketAddr>,
    },
    /// The targets of a service (SRV records, RFC 2782).
    Srv {
        /// The name.
        name: Box<str>,
        /// The name server; `None` for those of the operating system.
        server: Option<SocketAddr>,
    },
    /// A file of their own lists them.
    File(PathBuf),
    /// The EndpointSlices of a Kubernetes Service.
    Kubernetes(KubernetesService),
}

impl Discovery {
    /// Whether the endpoints are not known before something was asked for them.
    pub fn is_asked(&self) -> bool {
        match self {
            Self::Dns { .. } | Self::Srv { .. } | Self::Kubernetes(_) => true,
            Self::Listed | Self::File(_) => false,
        }
    }

    /// Whether both find the same endpoints, perhaps in different ways: what one has found holds for the other.
    pub fn finds_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Kubernetes(one), Self::Kubernetes(other)) => one.is_the_same(other),
            _ => self == other,
        }
    }
}

impl KubernetesService {
    /// Whether both are one port of one Service, whatever is needed to ask for it.
    fn is_the_same(&self, other: &Self) -> bool {
        let identity = |it: &Self| {
            (
                it.name.clone(),
                it.port.clone(),
                it.namespace.clone(),
                it.api.clone(),
            )
        };
        identity(self) == identity(other)
    }
}

/// A Kubernetes Service, and the way to the API server that knows its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesService {
    /// The name of the Service.
    pub name: Box<str>,
    /// The port of the endpoints.
    pub port: ServicePort,
    /// The namespace; `None` for that of the pod that tidegate runs in.
    pub namespace: Option<Box<str>>,
    /// The URL of the API server, without a slash at its end; `None` for that of the cluster that tidegate runs in.
    pub api: Option<Box<str>>,
    /// The file with the token; `None` for that of the service account, or for no token with `api`.
    pub token_file: Option<PathBuf>,
    /// The CA certificates; `None` for those of the service account, or for those of the system with `api`.
    pub ca: Option<PathBuf>,
    /// The folder in which the endpoints are kept for the next start; `None` for the one that systemd provides.
    pub state: Option<PathBuf>,
}

/// The port of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServicePort {
    /// The port of this name in the Service.
    Name(Box<str>),
    /// The port on which the pods listen, not 0.
    Number(u16),
}
