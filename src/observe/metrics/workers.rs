//! Metrics of the worker threads: what each carries, and how busy it is.

use std::sync::Arc;

use super::gathered::open;
use crate::observe::counters::Counters;
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::HistogramSum;
use crate::observe::series::ListenerSeries;
use crate::observe::worker_usage::DELAY_SECONDS;

pub(super) fn write_workers(metrics: &mut Exposition, workers: &[Arc<Counters>]) {
    metrics.family("tidegate_workers", MetricKind::Gauge, "Worker threads.");
    metrics.sample(&[], workers.len());
    let help = "Tasks on the worker threads, counted once a second.";
    metrics.family("tidegate_tasks", MetricKind::Gauge, help);
    metrics.sample(&[], workers.iter().map(|it| it.tasks.get()).sum::<u64>());
    let numbers: Vec<String> = (0..workers.len()).map(|it| it.to_string()).collect();
    let labelled = || {
        let labels = numbers.iter().map(|number| [("worker", &**number)]);
        labels.zip(workers)
    };
    let help = "Open client connections of each worker thread, tunnels included.";
    metrics.family("tidegate_worker_connections", MetricKind::Gauge, help);
    for (label, counters) in labelled() {
        metrics.sample(&label, connections(counters));
    }
    let help = "Live tunnels of each worker thread.";
    metrics.family("tidegate_worker_tunnels", MetricKind::Gauge, help);
    for (label, counters) in labelled() {
        metrics.sample(&label, counters.tunnels_open());
    }
    let help = "CPU time of each worker thread, noted once a second.";
    let name = "tidegate_worker_cpu_seconds_total";
    metrics.family(name, MetricKind::Counter, help);
    for (label, counters) in labelled() {
        metrics.sample(&label, counters.usage.cpu().as_secs_f64());
    }
    let help = "How late the timers of each worker thread fire: messages wait as long.";
    let name = "tidegate_worker_loop_delay_seconds";
    metrics.family(name, MetricKind::Histogram, help);
    for (label, counters) in labelled() {
        let histogram = [&counters.usage.loop_delay].into_iter();
        metrics.histogram(&label, &HistogramSum::of(&DELAY_SECONDS, histogram));
    }
}

/// The open client connections of a worker.
fn connections(counters: &Counters) -> u64 {
    let listeners = counters.listeners.all();
    let listeners: Vec<&ListenerSeries> = listeners.iter().map(|series| &**series).collect();
    open(&listeners, |it| it.connections.get(), |it| it.closed.get())
}
