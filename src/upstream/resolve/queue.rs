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
    /// Whether the next name is one of `others`, if there is one.
    is_others_turn: bool,
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
            is_others_turn: false,
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

    /// The next name for a thread; if there is none, the thread has to end, and counts no more. Both kinds
    /// take turns: urgent names may be names that no server answers for, and more come with each session.
    pub(super) fn next(&self) -> Option<N> {
        let mut waiting = self.lock();
        let is_others_turn = waiting.is_others_turn;
        waiting.is_others_turn = !is_others_turn;
        let WaitingNames { urgent, others, .. } = &mut *waiting;
        let next = match is_others_turn {
            true => others.pop_front().or_else(|| urgent.pop_front()),
            false => urgent.pop_front().or_else(|| others.pop_front()),
        };
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
    fn threads_and_names_are_bounded_and_both_kinds_take_turns() {
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
        // The first one was enqueued after another one, and comes before it.
        for (turn, pair) in order.chunks(2).enumerate() {
            assert_eq!(pair, [2 * turn + 1, 2 * turn]);
        }
        for _ in 0..MAX_LOOKUP_THREADS {
            assert_eq!(queue.next(), None);
        }
        assert_eq!(queue.push(1, true), Enqueued::NeedsThread(1));
    }
}
