//! The model of a configuration: typed, checked and complete. Nothing here knows the syntax of the file.
//!
//! A value of these types that [`crate::config`] returns is valid: names refer to something, files were
//! read, keys fit their certificates, durations and weights are in range.

mod acme;
mod admin;
mod auth;
mod certificate_life;
mod certificate_names;
mod client_certificate;
mod fingerprint;
mod headers;
mod host;
mod http2;
mod limits;
mod listener;
mod log;
mod naming;
mod origin;
mod path;
mod request_key;
mod route;
mod secret;
mod server;
mod shared_limit;
mod store;
mod traces;
mod trust;
mod upstream;

pub use self::acme::{
    AcmeConfig, ChallengeKind, DnsMeans, DnsPublisher, ExternalAccount, KeyType,
    ManagedCertificate, UntilIssued,
};
pub use self::admin::{Admin, AdminAccess, AdminRole, AdminToken};
pub use self::auth::{
    AuthConfig, AuthMethod, AuthService, ClaimRule, TokenConfig, TokenKeys, TokenSource,
};
pub use self::certificate_life::CertificateLife;
pub use self::certificate_names::{host_names, issuer_name};
pub use self::client_certificate::{CertificateRule, ClientAuth, NamePattern, Revocations};
pub use self::fingerprint::CertificateFingerprint;
pub use self::headers::{
    HeaderChanges, Piece, Redirect, Rewrite, Template, Variable, claims_origin, same_variable,
};
pub use self::host::HostPattern;
pub use self::http2::Http2;
pub use self::limits::{ByteRate, MaxAge, PingConfig, RateAction, StreamLimits, TunnelLimits};
pub use self::listener::{
    Bind, CertificateConfig, ListenerCertificate, ListenerConfig, ListenerLimits, ListenerTimeouts,
    ListenerTls, Rate, TicketKeysFile, TlsPolicy, TlsVersion,
};
pub use self::log::{AccessLogConfig, Log, LogFormat, LogLevel, LogTo, Traceparent};
pub use self::naming::{EndpointMap, NameSource, NamingConfig};
pub use self::origin::{Origin, OriginPattern};
pub use self::path::{has_dot_segment, loose_path, normal_path};
pub use self::request_key::RequestKey;
pub use self::route::{
    Conditions, EndpointHost, FixedResponse, LeadsTo, PathMatch, PlainHttp, RequestKind, Respond,
    RouteConfig, RouteProbe, Split, SplitBranch, Strictness,
};
pub use self::secret::{Secret, SharedKeys};
pub use self::server::{MemoryLimit, ServerConfig, Shutdown, UpgradeConfig, WatchedFiles};
pub use self::shared_limit::{MissingKey, SharedLimitConfig, WhenFull};
pub use self::store::{
    EtcdConfig, EtcdLogin, FleetConfig, SharedThings, StoreConfig, StorePlace, TrustedMembers,
};
pub use self::traces::{DecidingCallers, TracesConfig};
pub use self::trust::{Access, Family, Net, Nets, Trust};
pub use self::upstream::{
    Address, AllDown, Balance, CloseOrder, ClosePace, ConnectConfig, Discovery, DisplacementPolicy,
    Ejection, EndpointConfig, EndpointPhase, EndpointTls, HashBy, Health, HttpProbe, Keepalive,
    KubernetesService, MAX_ENDPOINT_NAME, Picking, Probe, QueueConfig, RebalanceConfig,
    ReportsConfig, Retry, RetryOn, Roots, SameSite, SendProxy, ServicePort, Sticky, UpstreamConfig,
    UpstreamTimeouts, WebSocketProbe, is_endpoint_name,
};

use std::collections::HashSet;
use std::sync::Arc;

use super::input_file::Input;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: ServerConfig,
    /// The admin interface.
    pub admin: Admin,
    /// Where spans go, if they go anywhere.
    pub traces: Option<Arc<TracesConfig>>,
    /// The store that nodes share, if there is one.
    pub store: Option<Arc<StoreConfig>>,
    /// What this node shares with others, if it is one of a fleet.
    pub fleet: Option<Arc<FleetConfig>>,
    /// The authorities that issue certificates by ACME, in the order of the file.
    pub acme: Vec<Arc<AcmeConfig>>,
    /// The ways to establish the identity of clients, in the order of the file.
    pub auth: Vec<Arc<AuthConfig>>,
    /// The listeners, in the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// The routes, in the order of the file, which breaks ties between equally specific routes.
    pub routes: Vec<RouteConfig>,
    /// The upstreams, in the order of the file.
    pub upstreams: Vec<UpstreamConfig>,
    /// The limits that routes share, in the order of the file.
    pub limits: Vec<Arc<SharedLimitConfig>>,
    /// Every file that was read, the configuration file first; these are the files to watch.
    pub inputs: Vec<Input>,
}

impl Config {
    /// The upstream with this name.
    pub fn upstream(&self, name: &str) -> Option<&UpstreamConfig> {
        self.upstreams
            .iter()
            .find(|upstream| *upstream.name == *name)
    }

    /// The routes that lead to `upstream`, alone or among others.
    pub fn routes_to<'a>(&'a self, upstream: &str) -> impl Iterator<Item = &'a RouteConfig> {
        self.routes.iter().filter(move |route| {
            let mut names = route.leads_to.upstreams();
            names.any(|name| **name == *upstream)
        })
    }

    /// The certificates that tidegate obtains by itself, each once: listeners may share one.
    pub fn managed_certificates(&self) -> Vec<ManagedCertificate> {
        let mut seen = HashSet::new();
        let tls = self.listeners.iter().filter_map(|it| it.tls.as_ref());
        let all = tls.flat_map(ListenerTls::managed);
        all.filter(|certificate| seen.insert(certificate.id()))
            .cloned()
            .collect()
    }
}
