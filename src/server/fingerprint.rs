//! Fingerprints of files, to notice that their contents changed.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::config::file_pattern::FilePattern;
use crate::config::input_file::{self, ContentHash, Input};
use crate::config::model::Config;

/// A hash of the contents of each file.
pub(super) type Fingerprint = HashMap<PathBuf, ContentHash>;

/// Files that are compared with those in effect: these, and all that match the patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct WatchedSet {
    pub(super) files: Vec<PathBuf>,
    pub(super) patterns: Vec<FilePattern>,
}

impl WatchedSet {
    /// The fingerprint of the files as they are now. Blocks.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        // While a folder cannot be read, no file in it is new.
        let matching = self.patterns.iter().map(FilePattern::list);
        let matching = matching.flat_map(Result::unwrap_or_default);
        let all: HashSet<PathBuf> = self.files.iter().cloned().chain(matching).collect();
        let hash = |path: &PathBuf| ContentHash::of(&input_file::read(path));
        all.into_iter()
            .map(|path| (path.clone(), hash(&path)))
            .collect()
    }
}

/// The fingerprint of files as they were when a configuration was read from them.
pub(super) fn of_inputs(inputs: &[Input]) -> Fingerprint {
    let inputs = inputs.iter();
    inputs
        .map(|input| (input.path.clone(), input.hash))
        .collect()
}

/// Whether only certificates, client CAs and ticket keys of listeners and of the admin interface have changed.
pub(super) fn only_certificates_changed(
    config: &Config,
    before: &Fingerprint,
    now: &Fingerprint,
) -> bool {
    let certificates: Vec<&PathBuf> = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .chain(&config.admin.tls)
        .flat_map(|tls| {
            let pairs = tls.from_files();
            let pairs = pairs.flat_map(|certificate| [&certificate.cert, &certificate.key]);
            pairs
                .chain(tls.ticket_keys.as_ref().map(|file| &file.path))
                .chain(tls.client_auth.as_ref().map(|auth| &auth.ca))
                .chain(
                    tls.client_auth
                        .iter()
                        .flat_map(|auth| &auth.revocations.files),
                )
        })
        .collect();
    let changed: Vec<&PathBuf> = now
        .iter()
        .filter(|(path, hash)| before.get(*path) != Some(hash))
        .map(|(path, _)| path)
        .collect();
    // A file more or less means that the configuration file has changed as well.
    before.len() == now.len()
        && !changed.is_empty()
        && changed.iter().all(|path| certificates.contains(path))
}
