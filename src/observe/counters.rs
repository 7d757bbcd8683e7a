//! One worker's counters: written by that worker, read by anybody, summed when read.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::rejection::Rejection;
use crate::tunnel::ended::Ended;

/// One worker's counters since the start of the process.
#[derive(Debug)]
pub struct Counters {
    /// Connections taken over from the acceptor.
    pub connections: Counter,
    /// TLS handshakes that succeeded.
    pub tls_handshakes: Counter,
    /// TLS handshakes that failed or took too long.
    pub tls_failures: Counter,
    /// Connections closed because of a listener's limits.
    pub connections_refused: Counter,
    /// Connections closed because the client did not go on, to send or to read, in time.
    pub expired: Counter,
    /// Connections refused because of their PROXY header, or for want of one.
    pub proxy_failures: Counter,
    /// Plain requests that got an endpoint's reply, or a redirect.
    pub requests: Counter,
    /// Handshakes that an endpoint answered with something other than a 101.
    pub declined: Counter,
    /// Handshakes excused by `handshake = "lenient"`.
    pub excused: Counter,
    /// Tunnels opened.
    pub tunnels: Counter,
    /// Bytes that ended tunnels carried from clients.
    pub bytes_from_clients: Counter,
    /// Bytes that ended tunnels carried from endpoints.
    pub bytes_from_endpoints: Counter,
    rejections: [Counter; Rejection::ALL.len()],
    ended: [Counter; Ended::ALL.len()],
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What it shows.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            tls_handshakes: Counter::default(),
            tls_failures: Counter::default(),
            connections_refused: Counter::default(),
            expired: Counter::default(),
            proxy_failures: Counter::default(),
            requests: Counter::default(),
            declined: Counter::default(),
            excused: Counter::default(),
            tunnels: Counter::default(),
            bytes_from_clients: Counter::default(),
            bytes_from_endpoints: Counter::default(),
            rejections: std::array::from_fn(|_| Counter::default()),
            ended: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl Counters {
    /// Refusals of this kind.
    pub fn rejected(&self, rejection: Rejection) -> &Counter {
        &self.rejections[rejection as usize]
    }

    /// Tunnels that ended like this.
    pub fn ended(&self, ended: Ended) -> &Counter {
        &self.ended[ended as usize]
    }
}

/// The sums over all workers that a stop or a status line tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections taken.
    pub connections: u64,
    /// Plain requests answered by an endpoint.
    pub requests: u64,
    /// Refusals of every kind.
    pub rejections: u64,
    /// Tunnels opened.
    pub tunnels: u64,
    /// Tunnels alive.
    pub tunnels_open: u64,
}

impl Totals {
    /// Sums.
    pub fn of<'a>(workers: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = Self::default();
        for worker in workers {
            let ended: u64 = worker.ended.iter().map(Counter::get).sum();
            let opened = worker.tunnels.get();
            totals.connections += worker.connections.get();
            totals.requests += worker.requests.get();
            totals.rejections += worker.rejections.iter().map(Counter::get).sum::<u64>();
            totals.tunnels += opened;
            totals.tunnels_open += opened.saturating_sub(ended);
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_workers() {
        let (one, two) = (Counters::default(), Counters::default());
        one.tunnels.add(3);
        two.tunnels.add(2);
        one.ended(Ended::Idle).add(1);
        two.rejected(Rejection::NoRoute).add(4);
        let totals = Totals::of([&one, &two]);
        assert_eq!(
            (totals.tunnels, totals.tunnels_open, totals.rejections),
            (5, 4, 4)
        );
    }
}
