//! tidegate from outside: the real program with real sockets and signals. There is one file for each
//! capability; `harness` has the shared parts.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails has nothing to clean up, and no drain to miss"
)]

mod harness;

mod access;
mod acme_keepers;
mod admin;
mod admin_access;
mod admin_socket;
mod admin_tls;
mod auth_outages;
mod auth_service;
mod backpressure;
mod balance;
mod bound_tunnels;
mod bulk;
mod certificates;
mod claims;
mod client_certificates;
mod config;
mod daemon;
mod dashboard;
mod dashboard_generations;
mod demo;
mod departures;
mod discovery;
mod displacement;
mod drains;
mod endpoint_tls;
mod fleet;
mod floods;
mod framing;
mod handshake;
mod hashing;
mod headers;
mod health;
mod hostile;
mod http;
mod http2;
mod http2_abuse;
mod http2_drains;
mod http2_goaway;
mod http2_neighbours;
mod http2_requests;
mod http2_rules;
mod includes;
mod init;
mod issued;
mod kubernetes;
mod limits;
mod listeners;
mod liveness;
mod logs;
mod memory;
mod metrics;
mod named_endpoints;
mod names;
mod operate;
mod ownership;
mod probe;
mod proxy_protocol;
mod reasons;
mod rebalance;
mod redirects;
mod reload;
mod reports;
mod responses;
mod retries;
mod reuse;
mod route_probes;
mod routing;
mod settling;
mod shared_limits;
mod shared_certificates;
mod shared_keys;
mod shell;
mod signals;
mod slow;
mod smuggling;
mod source;
mod splits;
mod steering;
mod sticky;
mod stop;
mod stream_stops;
mod streams;
mod systemd;
mod targets;
mod tls;
mod tls_failures;
mod tokens;
#[cfg(feature = "top")]
mod top;
mod trace_delivery;
mod traces;
mod tunnel;
mod tunnel_limits;
mod upgrade;
mod upgrade_bugs;
mod upheaval;
mod verdicts;
mod watching;
