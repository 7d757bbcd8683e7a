//! Work with files, on a thread of its own: a file system that does not answer holds up neither the control
//! runtime nor, however often it is tried, more than one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// How long reading all files may take.
const FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs one piece of work at a time.
#[derive(Debug, Default)]
pub(super) struct FileThread {
    /// Whether a piece of work runs, possibly without end.
    is_busy: Arc<AtomicBool>,
}

/// Why work with files has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileThreadError {
    /// It takes longer than [`FILES_TIMEOUT`].
    #[error("the files cannot be read in time: a file system does not respond")]
    TimedOut,
    /// Earlier work has timed out, and still has no result.
    #[error("the files cannot be read: a file system still does not respond")]
    Busy,
    /// No thread can be started.
    #[error("the files cannot be read: there is no thread for it")]
    NoThread,
}

/// Ends with the work, even with a panic.
struct FileThreadGuard(Arc<AtomicBool>);

impl Drop for FileThreadGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl FileThread {
    /// Runs `work`, and waits for its result. A panic in it goes on here. If this is cancelled, or times out,
    /// the work goes on, and other work fails until it has ended.
    ///
    /// # Errors
    /// [`FileThreadError`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileThreadError> {
        if self.is_busy.swap(true, Ordering::Acquire) {
            return Err(FileThreadError::Busy);
        }
        let busy = FileThreadGuard(Arc::clone(&self.is_busy));
        let (sender, result) = oneshot::channel();
        // Not one of the runtime's threads: their number is limited, and all of them must have ended before it
        // does.
        let started = thread::Builder::new().name("files".into()).spawn(move || {
            let done = work();
            drop(busy);
            // The caller may have stopped waiting.
            let _ = sender.send(done);
        });
        let thread = started.map_err(|_| FileThreadError::NoThread)?;
        match tokio::time::timeout(FILES_TIMEOUT, result).await {
            Ok(Ok(done)) => Ok(done),
            // The thread is at its end: it has dropped the sender.
            Ok(Err(_)) => match thread.join() {
                Ok(()) => Err(FileThreadError::NoThread),
                Err(panic) => std::panic::resume_unwind(panic),
            },
            Err(_) => {
                tracing::error!(timeout = %humantime::format_duration(FILES_TIMEOUT), "a file system does not respond; files are not read until it does");
                Err(FileThreadError::TimedOut)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_is_left_alone_and_not_repeated() {
        let files = FileThread::default();
        assert_eq!(files.run(|| 7).await, Ok(7));
        let started = Arc::new(AtomicUsize::new(0));
        let (release, released) = mpsc::sync_channel::<()>(0);
        let count = Arc::clone(&started);
        let hangs = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = released.recv();
        };
        tokio::time::pause();
        assert_eq!(files.run(hangs).await, Err(FileThreadError::TimedOut));
        for _ in 0..10 {
            let count = Arc::clone(&started);
            let again = move || count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(files.run(again).await, Err(FileThreadError::Busy));
        }
        tokio::time::resume();
        drop(release);
        // As soon as the file system has answered, there is a result again.
        while files.run(|| 8).await != Ok(8) {
            thread::yield_now();
        }
        assert_eq!(started.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "on purpose")]
    async fn a_panic_goes_on() {
        let _ = FileThread::default().run(|| panic!("on purpose")).await;
    }
}
