//! Noticing that files changed.
//!
//! Events only say "look": what counts is whether the contents differ from what was taken, because
//! reading and touching raise events too. A look every ten seconds is the net for file systems
//! that raise none.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long files must have been quiet: what is being written comes in several events.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// How often files are looked at whatever the events say.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Tells when files may have changed.
#[derive(Debug)]
pub(super) struct FileWatch {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    folders: HashSet<PathBuf>,
    /// When files that something happened to will have been quiet long enough.
    quiet_at: Option<Instant>,
    /// When to look at the latest, so that files that are never quiet are looked at, too.
    latest: Instant,
}

impl FileWatch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        // One pending "look" is as good as many.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch files: looking at them every 10 s");
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
            latest: Instant::now() + LOOK_EVERY,
        }
    }

    /// Watches the folders of these files, and of what they link to, and no others.
    pub(super) fn set<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let folders: HashSet<PathBuf> = files
            .into_iter()
            .flat_map(|file| folders_of(file))
            .collect();
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "cannot watch");
            }
        }
        self.folders = folders;
    }

    /// Ends when it is time to look at the files. Whoever drops this and asks again has missed
    /// nothing: the loop that asks has other things to do in between.
    pub(super) async fn look(&mut self) {
        loop {
            let due = self.quiet_at.map_or(self.latest, |it| it.min(self.latest));
            tokio::select! {
                // Without a watcher nobody sends, and only the net is left.
                Some(()) = self.events.recv() => self.quiet_at = Some(Instant::now() + QUIET_FOR),
                () = tokio::time::sleep_until(due) => {
                    self.quiet_at = None;
                    self.latest = Instant::now() + LOOK_EVERY;
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

/// The folder of a file, and that of what it links to: certificates are often renewed by moving a
/// link.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![parent(file)];
    if let Ok(target) = file.canonicalize() {
        folders.push(parent(&target));
    }
    // The links on the way may lie in folders of their own: as with Kubernetes' secrets.
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
        assert_eq!(dropped(&mut watch, LOOK_EVERY * 2).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_there_is_a_look_now_and_then_whatever_else_happens() {
        let (nobody, mut watch) = watch();
        drop(nobody);
        for _ in 0..3 {
            assert_eq!(dropped(&mut watch, LOOK_EVERY * 2 / 3).await, 1);
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
        assert!(began.elapsed() < LOOK_EVERY, "{:?}", began.elapsed());
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
            assert!(began.elapsed() <= LOOK_EVERY, "no look at all");
        }
        assert_eq!(began.elapsed(), LOOK_EVERY);
    }
}
