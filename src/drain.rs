//! Draining, and the tasks that a drain waits for.
//!
//! Every connection holds a watch on a [`Drain`]. When the drain begins, the connection accepts nothing new,
//! and ends after the request that it is serving. Tunnels do not watch it: they stay open, and their
//! worker's table ends them. `server` decides which drain begins when.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::sync::{Notify, watch};

/// How soon connections must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// No end is set: tunnels stay open for as long as they last.
    Unbounded,
    /// The process will run for a while, and closes tunnels at a pace. A connection that has not sent a request yet may
    /// still do so.
    Low,
    /// The process is about to exit.
    High,
}

/// The side that starts a drain.
#[derive(Debug)]
pub struct Drain {
    begun: watch::Sender<Option<Urgency>>,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self {
            begun: watch::Sender::new(None),
        }
    }

    /// Begins the drain. It cannot be undone: watching connections may have acted on it already.
    pub fn begin(&self, urgency: Urgency) {
        self.begun.send_replace(Some(urgency));
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.borrow().is_some()
    }

    /// A watch, for a connection that has to end when the drain begins.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch {
            begun: self.begun.subscribe(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// The side that waits for a drain.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    begun: watch::Receiver<Option<Urgency>>,
}

impl DrainWatch {
    /// Completes when the drain begins, or when the [`Drain`] has been dropped.
    pub async fn begun(&mut self) -> Urgency {
        let begun = self.begun.wait_for(Option::is_some).await;
        // An error means that the drain was dropped: what it belonged to is gone as well.
        begun
            .ok()
            .and_then(|urgency| *urgency)
            .unwrap_or(Urgency::High)
    }
}

/// The tasks of one worker, counted, so that a stop can wait for the last one.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    shared: Rc<TaskCounter>,
}

#[derive(Debug, Default)]
struct TaskCounter {
    count: Cell<usize>,
    all_done: Notify,
}

impl Tasks {
    /// Runs `task` on this thread's runtime until it ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared.count.set(self.shared.count.get() + 1);
        let done = TaskGuard(Rc::clone(&self.shared));
        #[expect(clippy::disallowed_methods, reason = "this is the tracker")]
        tokio::task::spawn_local(Tracked { task, _done: done });
    }

    /// The number of running tasks.
    pub fn running(&self) -> usize {
        self.shared.count.get()
    }

    /// Waits until no task is running.
    pub async fn all_done(&self) {
        while self.running() > 0 {
            self.shared.all_done.notified().await;
        }
    }
}

pin_project! {
    /// A task and the guard that counts it. An `async` block would store the task twice: as its captured
    /// variable, and as the future that it awaits.
    struct Tracked<F> {
        #[pin]
        task: F,
        _done: TaskGuard,
    }
}

impl<F: Future<Output = ()>> Future for Tracked<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx)
    }
}

/// Counts its task as ended when dropped, even after a panic.
struct TaskGuard(Rc<TaskCounter>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let remaining = self.0.count.get() - 1;
        self.0.count.set(remaining);
        if remaining == 0 {
            self.0.all_done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watches_end_when_the_drain_begins() {
        let drain = Drain::new();
        let mut early = drain.watch();
        drain.begin(Urgency::Low);
        assert_eq!(early.begun().await, Urgency::Low);
        assert_eq!(drain.watch().begun().await, Urgency::Low);
        assert!(drain.has_begun());
        let mut orphan = Drain::new().watch();
        assert_eq!(orphan.begun().await, Urgency::High);
    }

    #[test]
    fn a_stop_waits_for_the_last_task_even_if_it_panics() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let tasks = Tasks::default();
            let gate = Rc::new(Notify::new());
            let waiting = Rc::clone(&gate);
            tasks.spawn(async move { waiting.notified().await });
            tasks.spawn(async { panic!("on purpose: a task may die") });
            assert_eq!(tasks.running(), 2);
            gate.notify_one();
            tasks.all_done().await;
            assert_eq!(tasks.running(), 0);
        });
    }
}
