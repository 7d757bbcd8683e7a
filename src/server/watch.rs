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
        Self {
            watcher,
            events,
            folders: HashSet::new(),
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

    /// Ends when it is time to look at the files.
    pub(super) async fn look(&mut self) {
        tokio::select! {
            // The sender lives as long as the watcher; without one, only the net is left.
            event = self.events.recv(), if self.watcher.is_some() => {
                if event.is_some() {
                    while tokio::time::timeout(QUIET_FOR, self.events.recv()).await.is_ok() {}
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
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
