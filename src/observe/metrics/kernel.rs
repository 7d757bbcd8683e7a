//! Resource usage as the kernel reports it, under the names that Prometheus client libraries use.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::process::StartTime;

/// Writes the `process_*` metrics. Values that the system does not provide are left out.
pub(super) fn write_kernel(metrics: &mut Exposition, began: StartTime) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let stat = Stat::of(&stat);
    let mut family = |name, kind, help, value: Option<f64>| {
        metrics.family(name, kind, help);
        if let Some(value) = value {
            metrics.sample(&[], value);
        }
    };
    family(
        "process_cpu_seconds_total",
        MetricKind::Counter,
        "CPU time in seconds, user and system.",
        stat.map(|stat| stat.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
    );
    family(
        "process_resident_memory_bytes",
        MetricKind::Gauge,
        "Resident memory in bytes.",
        stat.map(|stat| (stat.resident_pages * rustix::param::page_size() as u64) as f64),
    );
    family(
        "process_virtual_memory_bytes",
        MetricKind::Gauge,
        "Virtual memory in bytes.",
        stat.map(|stat| stat.virtual_bytes as f64),
    );
    family(
        "process_threads",
        MetricKind::Gauge,
        "Threads of the process.",
        stat.map(|stat| stat.threads as f64),
    );
    family(
        "process_open_fds",
        MetricKind::Gauge,
        "Open file descriptors.",
        open_descriptors().map(|open| open as f64),
    );
    let most = getrlimit(Resource::Nofile).current;
    family(
        "process_max_fds",
        MetricKind::Gauge,
        "Limit on open file descriptors.",
        most.map(|most| most as f64),
    );
    family(
        "process_start_time_seconds",
        MetricKind::Gauge,
        "Start time of the process, in seconds since the Unix epoch.",
        Some(began.timestamp()),
    );
}

/// The number of open descriptors. Since Linux 6.2 it is the size of the folder; counting a hundred
/// thousand entries takes milliseconds.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        open => Some(open),
    }
}

/// The fields of `/proc/self/stat` that metrics use (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn of(text: &str) -> Option<Self> {
        // The name, in parentheses, may contain anything, even parentheses. The third field follows
        // it.
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let line = "7 (a) b)) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 5 0 999 4096 17 18";
        let stat = Stat {
            cpu_ticks: 46,
            threads: 5,
            virtual_bytes: 4096,
            resident_pages: 17,
        };
        assert_eq!(Stat::of(line), Some(stat));
        assert_eq!(Stat::of("7 (a) S 1"), None);
        assert_eq!(Stat::of(""), None);
    }
}
