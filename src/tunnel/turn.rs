//! Turns: how many bytes the tunnels of a worker move together between two looks at its sockets.
//!
//! A tunnel at full speed must not hold up thousands of others, and neither must fifty of them. Each
//! moves a limited number of bytes and then waits in line, first come, first served; a few are let
//! on whenever the runtime has looked at the sockets. A tunnel that a socket has woken is not in
//! that line: it is served at once, and only a large amount of bytes makes it wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use super::entry::{Flags, TunnelEntry};

/// Bytes that tunnels woken by their sockets may move in a turn before they, too, wait in line.
pub(super) const TURN_BYTES: usize = 1024 * 1024;

/// Bytes that a tunnel moves in each direction at once even while others are in line: more than most
/// messages have. Much less would cost bulk transfers a third more CPU time.
pub(super) const SMALL_QUANTUM: usize = 64 * 1024;

/// Tunnels that are let on in a turn.
const ADMITTED: usize = 4;

/// Tunnels in line for which memory is kept.
const KEPT_LINE: usize = 4096;

/// The turns of a worker.
#[derive(Debug)]
pub(super) struct TurnBudget {
    left: Cell<usize>,
    line: RefCell<VecDeque<Rc<TunnelEntry>>>,
    /// Whether the end of the turn was requested.
    requested: Cell<bool>,
    /// Whether the worker sees to the line: not so in tests of a single tunnel.
    attended: Cell<bool>,
    signal: Arc<TurnSignal>,
}

/// Woken when the runtime has looked at the sockets.
#[derive(Debug, Default)]
struct TurnSignal {
    passed: AtomicBool,
    worker: AtomicWaker,
}

impl Wake for TurnSignal {
    fn wake(self: Arc<Self>) {
        self.passed.store(true, Ordering::Relaxed);
        self.worker.wake();
    }
}

impl Default for TurnBudget {
    fn default() -> Self {
        Self {
            left: Cell::new(TURN_BYTES),
            line: RefCell::default(),
            requested: Cell::new(false),
            attended: Cell::new(false),
            signal: Arc::default(),
        }
    }
}

impl TurnBudget {
    /// Whether a tunnel may move more than a little without having been in line. Not while others
    /// have to wait longer than until the next turn: a tunnel whose socket wakes it again and again
    /// would have many turns for each of theirs.
    pub(super) fn has_left(&self) -> bool {
        self.left.get() > 0 && self.line.borrow().len() < ADMITTED
    }

    /// Charges bytes that were read.
    pub(super) fn charge(&self, bytes: usize) {
        let left = self.left.get().saturating_sub(bytes);
        self.left.set(left);
        if left == 0 {
            self.request();
        }
    }

    /// Puts a tunnel in line, which will be woken when it is let on.
    pub(super) fn wait(&self, entry: &Rc<TunnelEntry>) {
        if !self.attended.get() {
            entry.wake();
            return;
        }
        if !entry.flags.has(Flags::IN_LINE) {
            entry.flags.set(Flags::IN_LINE, true);
            self.line.borrow_mut().push_back(Rc::clone(entry));
            self.request();
        }
    }

    /// Begins a turn whenever the runtime has looked at the sockets; never completes.
    pub(super) async fn attend(&self) {
        self.attended.set(true);
        poll_fn(|cx| {
            self.signal.worker.register(cx.waker());
            if self.signal.passed.swap(false, Ordering::Relaxed) {
                self.begin();
            }
            Poll::Pending
        })
        .await
    }

    fn begin(&self) {
        self.requested.set(false);
        self.left.set(TURN_BYTES);
        for _ in 0..ADMITTED {
            let first = self.line.borrow_mut().pop_front();
            let Some(entry) = first else {
                break;
            };
            entry.flags.set(Flags::IN_LINE, false);
            entry.flags.set(Flags::ADMITTED, true);
            entry.wake();
        }
        let mut line = self.line.borrow_mut();
        if line.is_empty() {
            // After a peak, its memory goes back. Much less than this would have to grow again each time
            // that the line is empty for a moment.
            line.shrink_to(KEPT_LINE);
        } else {
            drop(line);
            self.request();
        }
    }

    /// Has the turn end after the next look at the sockets.
    fn request(&self) {
        if self.attended.get() && !self.requested.replace(true) {
            // The one way to be woken then: a task that yields is not run before.
            let waker = Waker::from(Arc::clone(&self.signal));
            let yielding = pin!(tokio::task::yield_now());
            let _ = yielding.poll(&mut Context::from_waker(&waker));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::TunnelLimits;

    fn entries(count: usize) -> Vec<Rc<TunnelEntry>> {
        let new = || TunnelEntry::new(Arc::new(TunnelLimits::default()), 0);
        (0..count).map(|_| Rc::new(new())).collect()
    }

    #[tokio::test]
    async fn the_line_keeps_its_memory_but_for_that_of_a_peak() {
        let turn = TurnBudget::default();
        turn.attended.set(true);
        let capacity_after = |count| {
            for entry in &entries(count) {
                turn.wait(entry);
            }
            let in_line = turn.line.borrow().capacity();
            while !turn.line.borrow().is_empty() {
                turn.begin();
            }
            (in_line, turn.line.borrow().capacity())
        };
        let (in_line, empty) = capacity_after(1000);
        assert_eq!(in_line, empty);
        let (in_line, empty) = capacity_after(3 * KEPT_LINE);
        assert!(in_line > KEPT_LINE && empty <= KEPT_LINE);
    }

    #[tokio::test]
    async fn a_line_that_the_next_turn_empties_makes_no_turn_small() {
        let turn = TurnBudget::default();
        turn.attended.set(true);
        for entry in &entries(ADMITTED) {
            assert!(turn.has_left());
            turn.wait(entry);
        }
        assert!(!turn.has_left());
    }

    #[tokio::test]
    async fn the_line_is_let_on_in_order_some_in_each_turn() {
        let turn = TurnBudget::default();
        let waiting = entries(10);
        // Until the line is attended, nothing waits in it.
        turn.wait(&waiting[0]);
        assert!(turn.line.borrow().is_empty());
        let story = async {
            for entry in waiting.iter().chain(&waiting) {
                turn.wait(entry);
            }
            turn.charge(2 * TURN_BYTES);
            assert!(!turn.has_left());
            let mut turns = Vec::new();
            while turns.last() != Some(&10) && turns.len() < 100 {
                tokio::task::yield_now().await;
                let is_on = |entry: &&Rc<TunnelEntry>| entry.flags.has(Flags::ADMITTED);
                turns.push(waiting.iter().take_while(is_on).count());
                assert_eq!(turns.last(), Some(&waiting.iter().filter(is_on).count()));
            }
            turns.dedup();
            turns.retain(|on| *on > 0);
            assert_eq!(turns, [4, 8, 10]);
            assert!(turn.has_left());
            assert!(turn.line.borrow().is_empty());
        };
        tokio::select! {
            biased;
            () = turn.attend() => unreachable!("it never completes"),
            () = story => {}
        }
    }
}
