//! What files hold, to notice that they changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use crate::config::model::Config;

/// What files held: a hash of each.
pub(super) type Fingerprint = HashMap<PathBuf, u64>;

/// What files hold now. One that cannot be read holds nothing.
pub(super) fn fingerprint<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Fingerprint {
    let hash = |path: &PathBuf| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(path).ok().hash(&mut hasher);
        hasher.finish()
    };
    files
        .into_iter()
        .map(|path| (path.clone(), hash(path)))
        .collect()
}

/// Whether the files that changed are listeners' certificates, authorities and ticket keys and
/// nothing else.
pub(super) fn only_certificates_changed(
    config: &Config,
    before: &Fingerprint,
    now: &Fingerprint,
) -> bool {
    let certificates: Vec<&PathBuf> = config
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .flat_map(|tls| {
            let pairs = tls.certificates.iter();
            let pairs = pairs.flat_map(|certificate| [&certificate.cert, &certificate.key]);
            pairs
                .chain(tls.ticket_keys.as_ref().map(|file| &file.path))
                .chain(tls.client_auth.as_ref().map(|auth| &auth.ca))
        })
        .collect();
    let changed: Vec<&PathBuf> = now
        .iter()
        .filter(|(path, hash)| before.get(*path) != Some(hash))
        .map(|each| each.0)
        .collect();
    before.len() == now.len()
        && !changed.is_empty()
        && changed.iter().all(|path| certificates.contains(path))
}
