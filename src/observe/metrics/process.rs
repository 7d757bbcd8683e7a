//! Metrics of the process as a whole: reloads, logs, close jobs, older generations.

use super::{MetricSources, workers};
use crate::net::memory::MemoryFigures;
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::process::ProcessStatus;

pub(super) fn write_process(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let MetricSources {
        workers,
        admission,
        memory,
        process,
        ..
    } = sources;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    metrics.family(
        "tidegate_build_info",
        MetricKind::Gauge,
        "Version of tidegate; always 1.",
    );
    metrics.sample(&version, 1);
    workers::write_workers(metrics, workers);
    metrics.family(
        "tidegate_draining",
        MetricKind::Gauge,
        "1 once a stop has begun.",
    );
    metrics.sample(&[], u8::from(process.is_draining()));
    let help = "Client connections that the limit on open files allows.";
    metrics.family("tidegate_connections_limit", MetricKind::Gauge, help);
    metrics.sample(&[], admission.limit());
    write_memory(metrics, memory);
    write_configuration(metrics, process);
    write_dropped_lines(metrics, sources);
}

fn write_memory(metrics: &mut Exposition, memory: Option<MemoryFigures>) {
    let help = "Memory that counts towards `server.memory`; missing if there is no limit.";
    metrics.family("tidegate_memory_used_bytes", MetricKind::Gauge, help);
    if let Some(memory) = memory {
        metrics.sample(&[], memory.used);
    }
    let help =
        "The limit on memory, from `server.memory` or the control group; missing if there is none.";
    metrics.family("tidegate_memory_limit_bytes", MetricKind::Gauge, help);
    if let Some(memory) = memory {
        metrics.sample(&[], memory.limit);
    }
}

fn write_configuration(metrics: &mut Exposition, process: &ProcessStatus) {
    let (reloads, failed_reloads) = process.reloads();
    let help = "Reloads of the configuration, by result.";
    metrics.family("tidegate_reloads_total", MetricKind::Counter, help);
    metrics.sample(&[("result", "applied")], reloads);
    metrics.sample(&[("result", "failed")], failed_reloads);
    let help = "1 if the last reload was applied, 0 if it failed and the files still differ from the configuration in effect.";
    metrics.family("tidegate_last_reload_successful", MetricKind::Gauge, help);
    let successful = process.reload_problems().is_empty();
    metrics.sample(&[], u8::from(successful));
    let help = "Time when a configuration was last applied, in seconds since the Unix epoch.";
    let name = "tidegate_last_reload_success_timestamp_seconds";
    metrics.family(name, MetricKind::Gauge, help);
    metrics.sample(&[], process.last_applied());
}

fn write_dropped_lines(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let help = "Log lines dropped because the reader was too slow.";
    metrics.family("tidegate_log_dropped_total", MetricKind::Counter, help);
    metrics.sample(&[], sources.log_dropped);
    let help =
        "Records of a separate access log dropped because the disk or the reader was too slow.";
    metrics.family(
        "tidegate_access_log_dropped_total",
        MetricKind::Counter,
        help,
    );
    metrics.sample(&[], sources.access_log_dropped);
}

pub(super) fn write_closing(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let help = "Tunnels and streams still to be closed by close jobs, by reason.";
    metrics.family("tidegate_closing_tunnels", MetricKind::Gauge, help);
    for (reason, left) in sources.closing {
        metrics.sample(&[("reason", reason)], *left);
    }
}

pub(super) fn write_older(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let help = "Older generations: processes that an upgrade replaced and that still drain.";
    metrics.family("tidegate_older_generations", MetricKind::Gauge, help);
    metrics.sample(&[], sources.older.len());
    let help = "Live tunnels of older generations, which no other metric includes.";
    metrics.family("tidegate_older_tunnels", MetricKind::Gauge, help);
    let tunnels = sources.older.iter().map(|(tunnels, _)| tunnels);
    metrics.sample(&[], tunnels.sum::<u64>());
    let help = "Open streams of older generations, which no other metric includes.";
    metrics.family("tidegate_older_streams", MetricKind::Gauge, help);
    let streams = sources.older.iter().map(|(_, streams)| streams);
    metrics.sample(&[], streams.sum::<u64>());
}
