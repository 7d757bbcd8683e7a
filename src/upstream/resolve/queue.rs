//! The threads that look up names, and the names that wait for one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that look up names, at most. A call of the operating system's resolver blocks its thread for as
/// long as a name server does not answer. Other work does not use these threads.
const MAX_LOOKUP_THREADS: usize = 8;

/// Names that wait for a thread, at most.
const MAX_WAITING_NAMES: usize = 16 * 1024;

/// Names that wait to be looked up. Threads end when there are none.
#[derive(Debug)]
pub(super) struct LookupQueue<N>(Mutex<WaitingNames<N>>);

#[derive(Debug)]
struct WaitingNames<N> {
    /// Names without addresses: sessions wait for these.
    urgent: VecDeque<N>,
    /// Names whose addresses are looked up again.
    others: VecDeque<N>,
    threads: usize,
}

/// What happens with a name that is to be looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Enqueued<N> {
    /// The caller starts a thread for it.
    NeedsThread(N),
    /// A thread will take it.
    Waits,
    /// Too many names wait already.
    Full(N),
}

impl<N> Default for LookupQueue<N> {
    fn default() -> Self {
        Self(Mutex::new(WaitingNames {
            urgent: VecDeque::new(),
            others: VecDeque::new(),
            threads: 0,
        }))
    }
}

impl<N> LookupQueue<N> {
    /// Enqueues a name. A thread that the caller starts for it counts from now on.
    pub(super) fn push(&self, name: N, is_urgent: bool) -> Enqueued<N> {
        let mut waiting = self.lock();
        if waiting.threads < MAX_LOOKUP_THREADS {
            waiting.threads += 1;
            return Enqueued::NeedsThread(name);
        }
        if waiting.urgent.len() + waiting.others.len() >= MAX_WAITING_NAMES {
            return Enqueued::Full(name);
        }
        match is_urgent {
            true => waiting.urgent.push_back(name),
            false => waiting.others.push_back(name),
        }
        Enqueued::Waits
    }

    /// The next name for a thread; if there is none, the thread has to end, and counts no more.
    pub(super) fn next(&self) -> Option<N> {
        let mut waiting = self.lock();
        let next = waiting.urgent.pop_front();
        let next = next.or_else(|| waiting.others.pop_front());
        if next.is_none() {
            waiting.threads = waiting.threads.saturating_sub(1);
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, WaitingNames<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_names_are_bounded_and_urgent_names_come_first() {
        let queue = LookupQueue::default();
        for name in 0..MAX_LOOKUP_THREADS {
            assert_eq!(queue.push(name, false), Enqueued::NeedsThread(name));
        }
        for name in 0..MAX_WAITING_NAMES {
            assert_eq!(queue.push(name, name % 2 == 1), Enqueued::Waits);
        }
        assert_eq!(queue.push(0, true), Enqueued::Full(0));
        let order: Vec<usize> = (0..MAX_WAITING_NAMES)
            .filter_map(|_| queue.next())
            .collect();
        let (odd, even) = order.split_at(MAX_WAITING_NAMES / 2);
        assert!(odd.is_sorted() && odd.iter().all(|name| name % 2 == 1));
        assert!(even.is_sorted() && even.iter().all(|name| name % 2 == 0));
        for _ in 0..MAX_LOOKUP_THREADS {
            assert_eq!(queue.next(), None);
        }
        assert_eq!(queue.push(1, true), Enqueued::NeedsThread(1));
    }
}
