//! Numbers that one thread counts and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering};

// With one writer, no counter is contended, and relaxed ordering is enough. A reader may see two
// counters as of different moments: for a difference, the one that grows later has to be read
// first.
/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds `count` like [`Counter::add`], but without locking the bus, for what is counted with every read. Only
    /// its one writer may do that.
    pub fn count(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds one to a gauge. Only its one writer may do that.
    pub fn raise(&self) {
        self.set(self.get() + 1);
    }

    /// Takes one from a gauge. Only its one writer may do that.
    pub fn lower(&self) {
        self.set(self.get().saturating_sub(1));
    }

    /// Adds what another counter has, into which nothing counts any more.
    pub(super) fn absorb(&self, other: &Self) {
        self.add(other.get());
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each value of a label with a fixed set of values.
#[derive(Debug)]
pub struct CounterArray<const N: usize>([Counter; N]);

impl<const N: usize> Default for CounterArray<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> CounterArray<N> {
    /// The counter at this position; the last one for positions out of range.
    pub fn at(&self, position: usize) -> &Counter {
        &self.0[position.min(N - 1)]
    }

    /// Adds what other counters have, into which nothing counts any more.
    pub(super) fn absorb(&self, other: &Self) {
        for (counter, other) in self.0.iter().zip(&other.0) {
            counter.absorb(other);
        }
    }
}
