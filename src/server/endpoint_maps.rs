//! Files that map keys of requests to names of endpoints, and change while a configuration is in effect.

use std::path::{Path, PathBuf};

use crate::config::input_file::Contents;
use crate::snapshot::Snapshot;

/// The files of maps that a snapshot uses.
pub(super) fn files(snapshot: &Snapshot) -> Vec<PathBuf> {
    let routes = snapshot.routes().iter();
    let files = routes.filter_map(|route| route.naming.as_ref()?.file());
    files.map(Path::to_owned).collect()
}

/// Applies the contents of the file at `path` to the routes that use it. If it has errors, their present maps stay.
pub(super) fn apply_file(snapshot: &Snapshot, path: &Path, contents: &Contents) {
    for route in snapshot.routes() {
        let naming = route.naming.as_ref();
        let Some(naming) = naming.filter(|naming| naming.file() == Some(path)) else {
            continue;
        };
        let (route, file) = (&*route.settings.name, path.display());
        match naming.apply(contents) {
            Ok(keys) => tracing::info!(route, %file, keys, "endpoint map loaded"),
            Err(error) => {
                let kept = naming.keys();
                tracing::error!(route, %file, %error, kept, "endpoint map rejected; the last map stays in use");
            }
        }
    }
}
