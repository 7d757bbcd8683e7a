//! Work with files, one piece after the other, on a thread of its own: a file system that does not respond holds
//! up neither the control runtime nor more than one thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::StoreError;

/// How long a piece of work may take, with its wait for those before it.
const FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// Pieces of work that wait, at most.
const MAX_WAITING: usize = 256;

type FileWork = Box<dyn FnOnce() + Send>;

/// A queue of work with the files below one folder. Its thread ends with it.
#[derive(Debug)]
pub(super) struct FileQueue {
    folder: PathBuf,
    timeout: Duration,
    /// `None` until the first work, and if no thread could be started.
    sender: Mutex<Option<SyncSender<FileWork>>>,
}

impl FileQueue {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            timeout: FILES_TIMEOUT,
            sender: Mutex::default(),
        }
    }

    /// Waits this long for each piece of work.
    #[cfg(test)]
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs `work` and waits for its result. Work whose caller has given up before it began is not done: it must
    /// not happen at any later time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, result) = oneshot::channel();
        let work: FileWork = Box::new(move || {
            if !sender.is_closed() {
                // The caller may have stopped waiting meanwhile.
                let _ = sender.send(work());
            }
        });
        let busy = || StoreError::Busy {
            path: self.folder.clone(),
        };
        self.push(work).map_err(|()| busy())?;
        match tokio::time::timeout(self.timeout, result).await {
            Ok(Ok(result)) => result,
            // The work has panicked, and its thread with it.
            Ok(Err(_)) => {
                *self.sender() = None;
                Err(busy())
            }
            Err(_) => Err(StoreError::TimedOut {
                path: self.folder.clone(),
                limit: self.timeout,
            }),
        }
    }

    fn push(&self, work: FileWork) -> Result<(), ()> {
        let mut sender = self.sender();
        let running = match &*sender {
            Some(running) => running.clone(),
            None => sender.insert(started()?).clone(),
        };
        running.try_send(work).map_err(|error| {
            if let TrySendError::Disconnected(_) = error {
                *sender = None;
            }
        })
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<SyncSender<FileWork>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn started() -> Result<SyncSender<FileWork>, ()> {
    let (sender, receiver) = sync_channel::<FileWork>(MAX_WAITING);
    // Not one of the runtime's threads: their number is limited, and all of them must have ended before it does.
    let thread = thread::Builder::new().name("store files".to_owned());
    let started = thread.spawn(move || {
        while let Ok(work) = receiver.recv() {
            work();
        }
    });
    started.map(|_| sender).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn work_that_hangs_holds_up_one_thread_and_is_not_repeated() {
        let queue = FileQueue::new(Path::new("/state"));
        assert_eq!(queue.run(|| Ok(7)).await, Ok(7));
        let (release, released) = sync_channel::<()>(0);
        let (begun, has_begun) = oneshot::channel();
        let hangs = queue.run(move || {
            let _ = begun.send(());
            let _ = released.recv();
            Ok(())
        });
        let late = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&late);
        let waits = queue.run(move || Ok(count.fetch_add(1, Ordering::Relaxed)));
        let both = async { tokio::join!(hangs, waits) };
        let mut both = std::pin::pin!(both);
        tokio::select! {
            _ = &mut both => panic!("it hangs"),
            begun = has_begun => begun.unwrap(),
        }
        tokio::time::pause();
        let (hung, waited) = both.await;
        assert!(matches!(hung, Err(StoreError::TimedOut { .. })));
        assert!(matches!(waited, Err(StoreError::TimedOut { .. })));
        tokio::time::resume();
        drop(release);
        // As soon as the file system has answered, there is a result again.
        assert_eq!(queue.run(|| Ok(8)).await, Ok(8));
        assert_eq!(
            late.load(Ordering::Relaxed),
            0,
            "done after its caller had given up"
        );
    }

    #[tokio::test]
    async fn a_panic_does_not_end_the_queue() {
        let queue = FileQueue::new(Path::new("/state"));
        let panics = queue
            .run(|| -> Result<(), StoreError> { panic!("on purpose") })
            .await;
        assert!(matches!(panics, Err(StoreError::Busy { .. })));
        assert_eq!(queue.run(|| Ok(8)).await, Ok(8));
    }
}
