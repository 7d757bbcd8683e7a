//! The queue of log lines. A thread of its own writes them, many at once, so that a worker never
//! waits for a reader or a disk.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::loss::{LossReport, LossReporter};
use super::sink::Sink;
use crate::observe::counter::Counter;

/// The most that may be queued. Further lines are dropped and counted: the log must not take the
/// memory, and waiting would stop the tunnels of a worker.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// For how long lines are gathered to be written together.
const FLUSH_INTERVAL: Duration = Duration::from_millis(5);

/// How long a flush, as at the end of the program, waits for a reader that has stalled.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A handle to the queue. The thread ends when the last handle is dropped and everything is
/// written.
#[derive(Debug, Clone)]
pub struct Lines(Arc<QueueCloser>);

/// Closes the queue when the last handle is dropped.
#[derive(Debug)]
struct QueueCloser(Arc<LineQueue>);

impl Drop for QueueCloser {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
struct LineQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// The name of the log, for messages about it.
    name: &'static str,
    /// Whether the lines go to a file.
    has_file: bool,
    /// Lines dropped since the start.
    dropped: Arc<Counter>,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: Vec<u8>,
    dropped: u64,
    /// The thread is writing lines that are no longer in `waiting`.
    writing: bool,
    /// A caller waits for everything to be written.
    flush_requested: bool,
    /// The file is to be reopened.
    reopen: bool,
    closed: bool,
}

impl Lines {
    /// Starts the thread. Dropped lines are added to `dropped`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(name: &'static str, sink: Sink, dropped: &Arc<Counter>) -> io::Result<Self> {
        let lines = Self::unwritten(name, sink.is_file(), dropped);
        let shared = Arc::clone(&lines.0.0);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(sink))?;
        Ok(lines)
    }

    fn unwritten(name: &'static str, has_file: bool, dropped: &Arc<Counter>) -> Self {
        Self(Arc::new(QueueCloser(Arc::new(LineQueue {
            state: Mutex::default(),
            changed: Condvar::new(),
            name,
            has_file,
            dropped: Arc::clone(dropped),
        }))))
    }

    /// Waits until everything that is queued has been written, but no longer than `FLUSH_TIMEOUT`.
    pub fn flush(&self) {
        let shared = &self.0.0;
        let mut queue = shared.lock();
        queue.flush_requested = true;
        shared.changed.notify_all();
        let unwritten = |queue: &mut QueueState| queue.writing || !queue.waiting.is_empty();
        let (mut queue, _) = shared
            .changed
            .wait_timeout_while(queue, FLUSH_TIMEOUT, unwritten)
            .unwrap_or_else(PoisonError::into_inner);
        queue.flush_requested = false;
    }

    /// Has the file reopened, if the lines go to one. Returns whether they do.
    pub fn reopen(&self) -> bool {
        self.0.0.lock().reopen = true;
        self.0.0.changed.notify_all();
        self.0.0.has_file
    }

    /// Queues a whole line.
    pub fn push(&self, line: &[u8]) {
        let shared = &self.0.0;
        let mut queue = shared.lock();
        if queue.waiting.len() + line.len() > MAX_QUEUED_BYTES {
            queue.dropped += 1;
            return;
        }
        let was_empty = queue.waiting.is_empty();
        queue.waiting.extend_from_slice(line);
        drop(queue);
        if was_empty {
            shared.changed.notify_all();
        }
    }
}

impl LineQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut sink: Sink) {
        let mut batch = Vec::new();
        let mut reporter = LossReporter::default();
        loop {
            let idle = |queue: &mut QueueState| {
                queue.waiting.is_empty() && queue.dropped == 0 && !queue.reopen && !queue.closed
            };
            let queue = self.changed.wait_while(self.lock(), idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            if !queue.flush_requested && !queue.closed && !queue.reopen {
                // Unlocked: the workers go on to push while the lines of a burst gather.
                drop(queue);
                thread::sleep(FLUSH_INTERVAL);
                queue = self.lock();
            }
            if queue.closed && queue.waiting.is_empty() {
                return;
            }
            // The buffers change places, so that neither side allocates once both have grown.
            std::mem::swap(&mut batch, &mut queue.waiting);
            queue.writing = true;
            let reopen = std::mem::take(&mut queue.reopen);
            let dropped = std::mem::take(&mut queue.dropped);
            drop(queue);
            let mut written = sink.write(&batch);
            batch.clear();
            if reopen {
                written.error = sink.reopen().error.or(written.error);
            }
            self.dropped.add(dropped + written.lost);
            self.lock().writing = false;
            self.changed.notify_all();
            self.report(reporter.note(Instant::now(), dropped, &written));
        }
    }
}

impl LineQueue {
    /// Reports losses through the log itself: if it is this one, the message waits with the others.
    fn report(&self, due: Option<LossReport>) {
        let name = self.name;
        match due {
            Some(LossReport { lost: 0, cause }) => tracing::warn!("{name}: {cause}"),
            Some(LossReport { lost, cause }) => {
                tracing::warn!(dropped = lost, cause, "{name} lines dropped");
            }
            None => {}
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(self)
    }
}

/// Queues what is written to it: `tracing-subscriber` writes each line at once.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a Lines);

impl io::Write for LineWriter<'_> {
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
    use std::io::Write as _;

    #[test]
    fn lines_beyond_the_limit_are_dropped_and_counted() {
        // Without a thread, nothing leaves the queue.
        let lines = Lines::unwritten("log", false, &Arc::default());
        let line = vec![b'x'; MAX_QUEUED_BYTES / 4];
        for _ in 0..6 {
            lines.make_writer().write_all(&line).unwrap();
        }
        let queue = lines.0.0.lock();
        assert_eq!((queue.waiting.len(), queue.dropped), (MAX_QUEUED_BYTES, 2));
    }

    #[test]
    fn pushed_lines_are_written_before_the_thread_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let dropped = Arc::default();
        let lines = Lines::start("log", Sink::file(&path).unwrap(), &dropped).unwrap();
        lines.push(b"one\n");
        lines.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
        lines.push(b"two\n");
        let shared = Arc::downgrade(&lines.0.0);
        drop(lines);
        while shared.strong_count() > 0 {
            thread::yield_now();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(dropped.get(), 0);
    }
}
