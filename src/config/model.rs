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
pub use self::limits::{ByteRate, MaxAge, Ping, RateAction, TunnelLimits};
pub use self::listener::{
    Bind, Certificate, Listener, ListenerLimits, ListenerTimeouts, ListenerTls, Rate,
    TicketKeysFile, TlsVersion,
};
pub use self::log::{AccessLog, Log, LogFormat, LogLevel, LogTo, Traceparent};
pub use self::route::{Conditions, HostPattern, LeadsTo, PathMatch, PlainHttp, Route, Strictness};
pub use self::secret::Secret;
pub use self::server::{Server, Shutdown, Upgrade, Watch};
pub use self::trust::{Access, ClientAuth, Family, Net, Nets, Origin, Trust};
pub use self::upstream::{
    Address, Aftermath, AllDown, Balance, Discovery, Ejection, Endpoint, EndpointTls, HashBy,
    HashKey, Health, HttpProbe, Keepalive, Order, Pace, Picking, Probe, Queue, Reach, Rebalance,
    Retry, RetryOn, Roots, SameSite, SendProxy, Sticky, Upstream, UpstreamTimeouts, WebSocketProbe,
};

use std::path::PathBuf;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: Server,
    /// Where operators connect.
    pub admin: Admin,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file, which breaks ties between equally specific routes.
    pub routes: Vec<Route>,
    /// In the order of the file.
    pub upstreams: Vec<Upstream>,
    /// Every file that was read, the configuration file first: what a watcher watches.
    pub inputs: Vec<PathBuf>,
}
