//! The configuration as meant: typed, checked, complete. Nothing here knows how it was written.
//!
//! A value of these types that came out of [`crate::config`] is valid: names resolve, files were
//! read, keys fit their certificates, durations and weights are in range.

mod admin;
mod headers;
mod limits;
mod listener;
mod log;
mod route;
mod secret;
mod server;
mod trust;
mod upstream;

pub use self::admin::Admin;
pub use self::headers::{
    HeaderChanges, Piece, Redirect, Rewrite, Template, Variable, claims_origin, same_variable,
};
pub use self::limits::{ByteRate, MaxAge, PingConfig, RateAction, TunnelLimits};
pub use self::listener::{
    Bind, CertificateConfig, ListenerConfig, ListenerLimits, ListenerTimeouts, ListenerTls, Rate,
    TicketKeysFile, TlsVersion,
};
pub use self::log::{AccessLogConfig, Log, LogFormat, LogLevel, LogTo, Traceparent};
pub use self::route::{
    Conditions, HostPattern, LeadsTo, PathMatch, PlainHttp, RouteConfig, Strictness,
};
pub use self::secret::Secret;
pub use self::server::{ServerConfig, Shutdown, UpgradeConfig, WatchedFiles};
pub use self::trust::{Access, ClientAuth, Family, Net, Nets, Origin, Trust};
pub use self::upstream::{
    Address, AllDown, Balance, CloseOrder, ClosePace, ConnectConfig, Discovery, DisplacementPolicy,
    Ejection, EndpointConfig, EndpointTls, HashBy, HashKey, Health, HttpProbe, Keepalive, Picking,
    Probe, QueueConfig, RebalanceConfig, Retry, RetryOn, Roots, SameSite, SendProxy, Sticky,
    UpstreamConfig, UpstreamTimeouts, WebSocketProbe,
};

use std::path::PathBuf;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: ServerConfig,
    /// Where operators connect.
    pub admin: Admin,
    /// In the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// In the order of the file, which breaks ties between equally specific routes.
    pub routes: Vec<RouteConfig>,
    /// In the order of the file.
    pub upstreams: Vec<UpstreamConfig>,
    /// Every file that was read, the configuration file first: what a watcher watches.
    pub inputs: Vec<PathBuf>,
}
