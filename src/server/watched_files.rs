//! The files whose changes are applied automatically.

use std::collections::HashSet;
use std::path::Path;

use super::fingerprint::{Fingerprint, WatchedSet};
use super::process::Process;
use crate::config::model::WatchedFiles;
use crate::config::sources::SourceText;

impl Process {
    /// The files whose changes are applied automatically.
    pub(super) fn watched(&self) -> WatchedSet {
        let files = self.reloader.fingerprint().keys();
        let loaded = self.reloader.loaded();
        let sources = &loaded.sources;
        match self.reloader.server().watch {
            WatchedFiles::Off => WatchedSet::default(),
            WatchedFiles::Certificates => {
                let texts: HashSet<&Path> = sources.all().map(SourceText::path).collect();
                let files = files.filter(|file| !texts.contains(file.as_path()));
                WatchedSet {
                    files: files.cloned().collect(),
                    patterns: Vec::new(),
                }
            }
            WatchedFiles::All => WatchedSet {
                files: files.cloned().collect(),
                patterns: sources.patterns().to_vec(),
            },
        }
    }

    pub(super) fn watched_fingerprint(&self) -> Fingerprint {
        let watched = self.watched();
        let fingerprint = self.reloader.fingerprint();
        watched
            .files
            .into_iter()
            .filter_map(|file| {
                fingerprint
                    .get_key_value(&file)
                    .map(|(file, hash)| (file.clone(), *hash))
            })
            .collect()
    }

    pub(super) async fn watch_files(&mut self) {
        let watched = self.watched();
        let Some(mut folders) = self.file_watch.take_folders() else {
            return;
        };
        let set = self.reloader.files().run(move || {
            folders.set(&watched);
            folders
        });
        // Without a result, files are only compared from time to time.
        let folders = tokio::select! {
            folders = set => folders.ok(),
            () = self.signals.stop_comes() => None,
        };
        self.file_watch.put_folders(folders);
    }
}
