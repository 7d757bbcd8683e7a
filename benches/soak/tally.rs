//! Counts of events, and faults.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

/// The number of faults that the report shows.
const SHOWN: usize = 40;

/// Counts of events by name, and the faults.
pub(crate) struct Tally {
    began: Instant,
    counts: RefCell<BTreeMap<&'static str, u64>>,
    faults: Cell<u64>,
    shown: RefCell<Vec<String>>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            counts: RefCell::default(),
            faults: Cell::new(0),
            shown: RefCell::default(),
        }
    }

    /// The time since the start.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.borrow_mut().entry(what).or_default() += 1;
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        self.counts.borrow().get(what).copied().unwrap_or_default()
    }

    /// Records something that must not happen, and prints it at once.
    pub(crate) fn fault(&self, what: &str) {
        self.faults.set(self.faults.get() + 1);
        let mut shown = self.shown.borrow_mut();
        if shown.len() < SHOWN {
            let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
            let line = format!("{:.1} s: {what}", self.age().as_secs_f64());
            eprintln!("FAULT {line}");
            shown.push(line);
        }
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.get()
    }

    /// All counts, and the first faults, as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| what | times |\n|---|---|\n".to_owned();
        for (what, count) in self.counts.borrow().iter() {
            let _ = writeln!(text, "| {what} | {count} |");
        }
        let _ = writeln!(text, "| **faults** | **{}** |", self.faults());
        if self.faults() > 0 {
            text.push_str("\nThe first faults:\n\n");
            for line in self.shown.borrow().iter() {
                let _ = writeln!(text, "- {line}");
            }
        }
        text
    }
}
