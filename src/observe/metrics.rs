//! The metrics page: series gathered from the workers, summed and written. docs/metrics.md explains
//! each metric.

mod auth;
mod certificates;
mod endpoints;
mod fleet;
mod gathered;
mod kernel;
mod limits;
mod listeners;
mod probes;
mod process;
mod routes;
mod services;
#[cfg(test)]
mod tests;
mod tunnels;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::gathered::Gathered;
use super::counters::Counters;
use super::exposition::{Exposition, Format};
use super::process::ProcessStatus;
use crate::acme::counters::OrderCounters;
use crate::fleet::membership::FleetStatus;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::net::admission::Admission;
use crate::net::memory::MemoryFigures;
use crate::probe::RouteProbes;
use crate::snapshot::Snapshot;
use crate::traces::queue::SpanQueue;
use crate::upstream::connect::Connector;
use crate::upstream::lookups::LookupCounters;

/// The sources of the metrics.
#[derive(Debug, Clone, Copy)]
pub struct MetricSources<'a> {
    /// The counters of each worker.
    pub workers: &'a [Arc<Counters>],
    /// The running configuration.
    pub snapshot: &'a Snapshot,
    /// Names, local addresses and ports of connections to endpoints.
    pub connector: &'a Connector,
    /// The lookups of endpoint discovery.
    pub discovery: &'a LookupCounters,
    /// The connection limit of the process.
    pub admission: &'a Admission,
    /// The memory of the process and its limit; `None` without a limit.
    pub memory: Option<MemoryFigures>,
    /// The state of the process.
    pub process: &'a ProcessStatus,
    /// Dropped lines of the log.
    pub log_dropped: u64,
    /// Dropped records of a separate access log.
    pub access_log_dropped: u64,
    /// Tunnels still to be closed by close jobs, by reason.
    pub closing: &'a BTreeMap<&'static str, usize>,
    /// Open tunnels and open streams of each older generation.
    pub older: &'a [(u64, u64)],
    /// Tunnels above the endpoints' share, by upstream with `rebalance`.
    pub excess: &'a [(Arc<str>, usize)],
    /// Listeners, and whether each is drained by an operator.
    pub drained: &'a [(Arc<str>, bool)],
    /// The requests to services that the process depends on.
    pub services: &'a ServiceTraffic,
    /// The fleet that this node is one of, and its store.
    pub fleet: &'a FleetStatus,
    /// Finished spans on their way to the collector.
    pub spans: &'a SpanQueue,
    /// The orders for certificates so far.
    pub orders: &'a OrderCounters,
    /// The results of the probes of routes.
    pub probes: &'a RouteProbes,
}

/// Writes the metrics page.
pub fn write(sources: MetricSources<'_>, format: Format) -> String {
    let mut metrics = Exposition::new(format);
    let gathered = Gathered::from(sources.workers);
    process::write_process(&mut metrics, sources);
    certificates::write_certificates(&mut metrics, sources);
    services::write_services(&mut metrics, sources.services);
    services::write_spans(&mut metrics, sources.spans);
    fleet::write_fleet(&mut metrics, sources.fleet);
    auth::write_keys(&mut metrics, sources.snapshot);
    listeners::write_listeners(&mut metrics, &gathered);
    listeners::write_drained(&mut metrics, sources.drained);
    routes::write_requests(&mut metrics, &gathered);
    limits::write_limits(&mut metrics, sources.snapshot);
    auth::write_auth(&mut metrics, &gathered);
    probes::write_probes(&mut metrics, sources.probes);
    tunnels::write_tunnels(&mut metrics, &gathered);
    tunnels::write_traffic(&mut metrics, &gathered);
    endpoints::write_endpoints(&mut metrics, &gathered, sources);
    process::write_closing(&mut metrics, sources);
    process::write_older(&mut metrics, sources);
    endpoints::write_ports(&mut metrics, sources);
    endpoints::write_lookups(&mut metrics, sources);
    kernel::write_kernel(&mut metrics, sources.process.began());
    metrics.finish()
}
