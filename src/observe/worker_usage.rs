//! How busy a worker is: the CPU time of its thread, and how late its timers fire.
//!
//! A worker is one thread with one loop. Whatever keeps the loop from its timers keeps it from sockets, too: so
//! what timers are late is what messages wait.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::counter::Counter;
use super::histogram::{Bounds, Histogram};

/// From a millisecond, which is the resolution of timers, to a second.
pub const DELAY_SECONDS: Bounds<10> = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// How busy a worker is. Written by its thread alone.
#[derive(Debug)]
pub struct WorkerUsage {
    /// The CPU time of the thread, in microseconds, as of the last [`WorkerUsage::note_cpu`].
    cpu: Counter,
    /// How late the worker's timers fired.
    pub loop_delay: Histogram<{ DELAY_SECONDS.len() }>,
}

impl Default for WorkerUsage {
    fn default() -> Self {
        Self {
            cpu: Counter::default(),
            loop_delay: Histogram::new(&DELAY_SECONDS),
        }
    }
}

impl WorkerUsage {
    /// Notes the CPU time of the calling thread.
    pub fn note_cpu(&self) {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let [seconds, nanos] = [used.tv_sec, used.tv_nsec].map(|it| u64::try_from(it).unwrap_or(0));
        self.cpu.set(seconds * 1_000_000 + nanos / 1_000);
    }

    /// The CPU time of the thread, as last noted.
    pub fn cpu(&self) -> Duration {
        Duration::from_micros(self.cpu.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::time::Instant;

    #[test]
    fn the_time_of_this_thread_counts_and_that_of_others_does_not() {
        let usage = WorkerUsage::default();
        usage.note_cpu();
        let before = usage.cpu();
        let spin = || {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(50) {
                black_box(0);
            }
        };
        std::thread::spawn(spin).join().unwrap();
        usage.note_cpu();
        let idle = usage.cpu() - before;
        assert!(idle < Duration::from_millis(10), "{idle:?}");
        while usage.cpu() - before <= idle + Duration::from_millis(5) {
            spin();
            usage.note_cpu();
        }
    }
}
