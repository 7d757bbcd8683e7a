//! Log lines on their way to standard error: written by a thread of their own, many at once, so that
//! no worker ever waits for whoever reads them.

use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::counters::Counter;

/// Bytes that may wait; what comes when there are more is dropped and counted.
const WAITING_MOST: usize = 4 << 20;

/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(5);

/// How long the end of the program may wait for a reader of standard error that has stalled.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Takes lines.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Ever.
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    dropped: u64,
    /// The thread has taken lines and not written them yet.
    writing: bool,
    /// Somebody waits for all to be written.
    hurry: bool,
}

impl Lines {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn to_standard_error() -> io::Result<Self> {
        let lines = Self(Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            dropped: Counter::default(),
        }));
        let shared = Arc::clone(&lines.0);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all())?;
        Ok(lines)
    }

    /// Waits until everything that came before has been written; not for ever.
    pub fn flush(&self) {
        let mut queue = self.0.lock();
        queue.hurry = true;
        self.0.changed.notify_all();
        let unwritten = |queue: &mut Queue| queue.writing || !queue.waiting.is_empty();
        let (mut queue, _) = self
            .0
            .changed
            .wait_timeout_while(queue, LAST_WORDS, unwritten)
            .unwrap_or_else(PoisonError::into_inner);
        queue.hurry = false;
    }

    /// How many lines were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if queue.waiting.len() + line.len() > WAITING_MOST {
            queue.dropped += 1;
            self.0.dropped.add(1);
            return;
        }
        let was_empty = queue.waiting.is_empty();
        queue.waiting.extend_from_slice(line);
        drop(queue);
        if was_empty {
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self) {
        let mut batch = Vec::new();
        loop {
            let mut queue = self.lock();
            while queue.waiting.is_empty() {
                queue = self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if !queue.hurry {
                drop(queue);
                thread::sleep(GATHER);
                queue = self.lock();
            }
            std::mem::swap(&mut batch, &mut queue.waiting);
            queue.writing = true;
            let dropped = std::mem::take(&mut queue.dropped);
            drop(queue);
            // Nobody is left to be told if standard error is gone.
            let _ = io::stderr().write_all(&batch);
            batch.clear();
            self.lock().writing = false;
            self.changed.notify_all();
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines were dropped: nobody reads them fast enough"
                );
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Where one line goes.
#[derive(Debug)]
pub struct Line<'a>(&'a Lines);

impl io::Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_to_keep_is_dropped_and_counted() {
        // No thread writes them.
        let lines = Lines(Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            dropped: Counter::default(),
        }));
        let line = vec![b'x'; WAITING_MOST / 4];
        for _ in 0..6 {
            lines.make_writer().write_all(&line).unwrap();
        }
        let queue = lines.0.lock();
        assert_eq!((queue.waiting.len(), queue.dropped), (WAITING_MOST, 2));
    }
}
