//! Watching files for changes.
//!
//! An event only says that it is time to compare: what counts is whether the contents differ from those in
//! effect, because reading and touching a file raise events as well. A comparison every ten seconds is the
//! fallback for file systems without events.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long files must have been quiet: writing a file raises several events.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// How often files are compared, whatever the events say.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// Reports when files may have changed.
#[derive(Debug)]
pub(super) struct FileWatch {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    folders: HashSet<PathBuf>,
    /// When files with events will have been quiet long enough.
    quiet_at: Option<Instant>,
    /// The latest time of the next comparison, so that files that are never quiet are compared as well.
    latest: Instant,
}

impl FileWatch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        // One pending event is as good as many.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch files for changes; checking them every 10 s");
            })
            .ok();
        Self::on(watcher, events)
    }

    fn on(watcher: Option<RecommendedWatcher>, events: mpsc::Receiver<()>) -> Self {
        Self {
            watcher,
            events,
            folders: HashSet::new(),
            quiet_at: None,
            latest: Instant::now() + COMPARE_INTERVAL,
        }
    }

    /// Watches the folders of these files, and of the files that they link to, and no others.
    pub(super) fn set<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let folders: HashSet<PathBuf> = files
            .into_iter()
            .flat_map(|file| folders_of(file))
            .collect();
        // Folders, not files: a file that is replaced by a rename has no watch of its own any more.
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "cannot watch a folder for changes; checking its files every 10 s");
            }
        }
        self.folders = folders;
    }

    /// Completes when it is time to compare the files. Cancel safe: all state is in `self`, because the loop
    /// that calls this handles other events in between.
    pub(super) async fn look(&mut self) {
        loop {
            let due = self.quiet_at.map_or(self.latest, |at| at.min(self.latest));
            tokio::select! {
                // Without a watcher no event ever arrives, and only the fallback is left.
                Some(()) = self.events.recv() => self.quiet_at = Some(Instant::now() + QUIET_FOR),
                () = tokio::time::sleep_until(due) => {
                    // Reset only when it is due: a cancelled call must not lose an event.
                    self.quiet_at = None;
                    self.latest = Instant::now() + COMPARE_INTERVAL;
                    return;
                }
            }
        }
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// The folders of a file and of its link targets: certificates are often renewed by replacing a link.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![parent(file)];
    if let Ok(target) = file.canonicalize() {
        folders.push(parent(&target));
    }
    // The links in between may be in other folders, as with Kubernetes' secrets.
    let mut link = file.to_owned();
    while let Ok(next) = std::fs::read_link(&link) {
        link = parent(&link).join(next);
        folders.push(parent(&link));
        if folders.len() > 16 {
            break;
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn watch() -> (mpsc::Sender<()>, FileWatch) {
        let (sender, events) = mpsc::channel(1);
        (sender, FileWatch::on(None, events))
    }

    /// How often it was dropped before it was time, by something that happens at this pace.
    async fn dropped(watch: &mut FileWatch, pace: Duration) -> u32 {
        let mut times = 0;
        while timeout(pace, watch.look()).await.is_err() {
            times += 1;
            assert!(times < 1000, "it never is");
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_came_before_something_else_is_not_forgotten() {
        let (sender, mut watch) = watch();
        sender.send(()).await.unwrap();
        assert_eq!(dropped(&mut watch, STEP * 3 / 4).await, 2);
        assert_eq!(dropped(&mut watch, COMPARE_INTERVAL * 2).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_there_is_a_look_now_and_then_whatever_else_happens() {
        let (nobody, mut watch) = watch();
        drop(nobody);
        for _ in 0..3 {
            assert_eq!(dropped(&mut watch, COMPARE_INTERVAL * 2 / 3).await, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_written_is_looked_at_once_it_is_quiet() {
        let (sender, mut watch) = watch();
        let began = Instant::now();
        for _ in 0..5 {
            sender.send(()).await.unwrap();
            assert!(timeout(STEP, watch.look()).await.is_err());
        }
        watch.look().await;
        assert!(began.elapsed() < COMPARE_INTERVAL, "{:?}", began.elapsed());
    }

    /// A log in the same folder, say.
    #[tokio::test(start_paused = true)]
    async fn files_that_are_never_quiet_are_looked_at_too() {
        let (sender, mut watch) = watch();
        let began = Instant::now();
        loop {
            let _ = sender.try_send(());
            if timeout(STEP, watch.look()).await.is_ok() {
                break;
            }
            assert!(began.elapsed() <= COMPARE_INTERVAL, "no look at all");
        }
        assert_eq!(began.elapsed(), COMPARE_INTERVAL);
    }
}
