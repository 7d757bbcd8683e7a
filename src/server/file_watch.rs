//! Watching files for changes.
//!
//! An event only says that it is time to compare: what counts is whether the contents differ from those in
//! effect, because reading and touching a file raise events as well. Folders are watched, but events of other
//! files in them, such as a log, are ignored. A comparison every ten seconds is the fallback for file systems
//! without events.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fingerprint::WatchedSet;
use crate::config::file_pattern::FilePattern;

/// How long files must have been quiet: writing a file raises several events.
const QUIET_FOR: Duration = Duration::from_millis(200);

/// How often files are compared, whatever the events say.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);

/// The maximum number of links that are followed from a file.
const MAX_LINKS: usize = 16;

/// The names of files whose events count.
#[derive(Debug, Default)]
struct WatchedNames {
    /// Of the watched files, and of every link on the way to them.
    names: HashSet<OsString>,
    patterns: Vec<FilePattern>,
}

/// Reports when files may have changed.
#[derive(Debug)]
pub(super) struct FileWatch {
    events: mpsc::Receiver<()>,
    /// `None` while they are changed, and if that has no end: no event arrives then.
    folders: Option<WatchedFolders>,
    /// When files with events will have been quiet long enough.
    quiet_at: Option<Instant>,
    /// The latest time of the next comparison, so that files that are never quiet are compared as well.
    latest: Instant,
}

/// The folders whose events are reported.
#[derive(Debug)]
pub(super) struct WatchedFolders {
    watcher: Option<RecommendedWatcher>,
    folders: HashSet<PathBuf>,
    names: Arc<Mutex<WatchedNames>>,
}

impl FileWatch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        // One pending event is as good as many.
        let (sender, events) = mpsc::channel(1);
        let names: Arc<Mutex<WatchedNames>> = Arc::default();
        let known = Arc::clone(&names);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let names = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.is_ok_and(|event| concerns(&event, &names)) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch files for changes; checking them every 10 s");
            })
            .ok();
        Self::on(watcher, events, names)
    }

    fn on(
        watcher: Option<RecommendedWatcher>,
        events: mpsc::Receiver<()>,
        names: Arc<Mutex<WatchedNames>>,
    ) -> Self {
        let folders = WatchedFolders {
            watcher,
            folders: HashSet::new(),
            names,
        };
        Self {
            events,
            folders: Some(folders),
            quiet_at: None,
            latest: Instant::now() + COMPARE_INTERVAL,
        }
    }

    /// Takes the watched folders, to [set](WatchedFolders::set) them.
    pub(super) fn take_folders(&mut self) -> Option<WatchedFolders> {
        if self.folders.is_none() {
            // The last change of them has not ended, or was not possible.
            *self = Self::new();
        }
        self.folders.take()
    }

    /// Puts them back.
    pub(super) fn put_folders(&mut self, folders: Option<WatchedFolders>) {
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

impl WatchedFolders {
    /// Watches the folders of these files and patterns, and of the files that they link to, and no others.
    /// Blocks.
    pub(super) fn set(&mut self, watched: &WatchedSet) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        let (mut folders, mut names) = (HashSet::new(), WatchedNames::default());
        for file in &watched.files {
            add_file(file, &mut folders, &mut names);
        }
        for pattern in watched.patterns.iter().filter(|each| each.is_glob()) {
            names.add_pattern(pattern, &mut folders);
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        // Folders, not files: a file that is replaced by a rename has no watch of its own any more.
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        for folder in &folders {
            // A known one, too: another folder may have taken its place, and events come from folders, not names.
            let watched = watcher.watch(folder, RecursiveMode::NonRecursive);
            if let (Err(error), false) = (watched, self.folders.contains(folder)) {
                tracing::warn!(folder = %folder.display(), %error, "cannot watch a folder for changes; checking its files every 10 s");
            }
        }
        self.folders = folders;
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether an event may mean that a file with one of these names has changed.
fn concerns(event: &notify::Event, names: &WatchedNames) -> bool {
    let is_named = |path: &PathBuf| path.file_name().is_some_and(|name| names.contain(name));
    match event.kind {
        EventKind::Access(_) => false,
        // Without a path the event means that others were lost.
        _ => event.paths.is_empty() || event.paths.iter().any(is_named),
    }
}

impl WatchedNames {
    fn contain(&self, name: &OsStr) -> bool {
        self.names.contains(name) || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// Adds what matches a pattern: a file that is not there yet has no event of its own.
    fn add_pattern(&mut self, pattern: &FilePattern, folders: &mut HashSet<PathBuf>) {
        let folder = pattern.folder();
        // The folder may be a link, or may be created later.
        add_file(folder, folders, self);
        if folder.is_dir() {
            folders.insert(folder.to_owned());
        }
        self.patterns.push(pattern.clone());
    }
}

/// Adds the folders and names of a file and of its link targets: certificates are often renewed by replacing
/// a link.
fn add_file(file: &Path, folders: &mut HashSet<PathBuf>, names: &mut WatchedNames) {
    let names = &mut names.names;
    let parent = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    folders.insert(parent(file));
    names.extend(file.file_name().map(OsStr::to_owned));
    if let Ok(target) = file.canonicalize() {
        folders.insert(parent(&target));
        names.extend(target.file_name().map(OsStr::to_owned));
    }
    // The links in between may be in other folders, as with Kubernetes' secrets, where the link that is
    // replaced is the folder `..data`.
    let mut link = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = std::fs::read_link(&link) else {
            break;
        };
        names.extend(next.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        }));
        link = parent(&link).join(next);
        folders.insert(parent(&link));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn watch() -> (mpsc::Sender<()>, FileWatch) {
        let (sender, events) = mpsc::channel(1);
        (sender, FileWatch::on(None, events, Arc::default()))
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

    #[test]
    fn events_of_other_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        // As Kubernetes mounts a secret.
        std::fs::create_dir(file("..1")).unwrap();
        std::fs::write(file("..1/tls.crt"), "").unwrap();
        std::os::unix::fs::symlink("..1", file("..data")).unwrap();
        std::os::unix::fs::symlink("..data/tls.crt", file("tls.crt")).unwrap();
        let (mut folders, mut names) = (HashSet::new(), WatchedNames::default());
        add_file(&file("tls.crt"), &mut folders, &mut names);
        assert!(folders.contains(folder.path()) && folders.contains(&file("..data")));
        let modify = EventKind::Modify(notify::event::ModifyKind::Any);
        let event = |kind| notify::Event::new(kind);
        for (event, expected) in [
            (event(modify).add_path(file("tls.crt")), true),
            (event(modify).add_path(file("..data")), true),
            (event(modify).add_path(file("access.log")), false),
            (
                event(modify)
                    .add_path(file("access.log"))
                    .add_path(file("tls.crt")),
                true,
            ),
            (event(modify), true),
            (
                event(EventKind::Access(notify::event::AccessKind::Any)).add_path(file("tls.crt")),
                false,
            ),
        ] {
            assert_eq!(concerns(&event, &names), expected, "{event:?}");
        }
    }

    #[test]
    fn a_new_file_that_matches_a_pattern_counts() {
        let folder = tempfile::tempdir().unwrap();
        let pattern = FilePattern::parse(folder.path(), "conf.d/*.toml").unwrap();
        let (mut folders, mut names) = (HashSet::new(), WatchedNames::default());
        names.add_pattern(&pattern, &mut folders);
        // The folder may come later.
        assert!(folders.contains(folder.path()) && !folders.contains(pattern.folder()));
        std::fs::create_dir(pattern.folder()).unwrap();
        names.add_pattern(&pattern, &mut folders);
        assert!(folders.contains(pattern.folder()));
        for (name, expected) in [
            ("conf.d/new.toml", true),
            ("conf.d", true),
            ("conf.d/.new.toml.swp", false),
            ("conf.d/.new.toml", false),
            ("conf.d/new.toml~", false),
            ("access.log", false),
        ] {
            let create = EventKind::Create(notify::event::CreateKind::Any);
            let event = notify::Event::new(create).add_path(folder.path().join(name));
            assert_eq!(concerns(&event, &names), expected, "{name}");
        }
    }

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
