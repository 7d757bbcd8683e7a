//! All metrics: gathered from the workers, summed, written. docs/metrics.md explains each.

mod endpoints;
mod gathered;
mod kernel;
mod listeners;
mod process;
mod routes;
mod tunnels;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::gathered::Gathered;
use super::counters::Counters;
use super::exposition::{Exposition, Format};
use super::process::ProcessStatus;
use crate::net::admission::Admission;
use crate::snapshot::Snapshot;
use crate::upstream::source;

/// Where metrics are gathered from.
#[derive(Debug, Clone, Copy)]
pub struct MetricSources<'a> {
    /// Each worker's.
    pub workers: &'a [Arc<Counters>],
    /// The configuration as running.
    pub snapshot: &'a Snapshot,
    /// Where connections to endpoints come from.
    pub ports: &'a source::SourcePorts,
    /// Connections of the process.
    pub admission: &'a Admission,
    /// The process.
    pub process: &'a ProcessStatus,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
    /// Records of the access log, where that is one of its own.
    pub access_log_dropped: u64,
    /// Tunnels that are being closed one by one, those that are left, by reason.
    pub closing: &'a BTreeMap<&'static str, usize>,
    /// Live tunnels of each older generation.
    pub older: &'a [u64],
    /// What the endpoints of upstreams have above their share, where `rebalance` is to move it.
    pub excess: &'a [(Arc<str>, usize)],
    /// Listeners, and whether an operator has taken them out.
    pub drained: &'a [(Arc<str>, bool)],
}

/// Writes all of them.
pub fn write(sources: MetricSources<'_>, format: Format) -> String {
    let mut metrics = Exposition::new(format);
    let gathered = Gathered::from(sources.workers);
    process::write_process(&mut metrics, sources);
    listeners::write_listeners(&mut metrics, &gathered);
    listeners::write_drained(&mut metrics, sources.drained);
    routes::write_requests(&mut metrics, &gathered);
    tunnels::write_tunnels(&mut metrics, &gathered);
    tunnels::write_traffic(&mut metrics, &gathered);
    endpoints::write_endpoints(&mut metrics, &gathered, sources);
    process::write_closing(&mut metrics, sources);
    process::write_older(&mut metrics, sources);
    endpoints::write_ports(&mut metrics, sources);
    kernel::write_kernel(&mut metrics, sources.process.began());
    metrics.finish()
}
