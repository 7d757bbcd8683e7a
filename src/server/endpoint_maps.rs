//! Files that map keys of requests to names of endpoints, and change while a configuration is in effect.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::endpoint_map::{self, MapError};
use crate::config::input_file::Contents;
use crate::config::model::{EndpointMap, RequestKey};
use crate::snapshot::Snapshot;

/// The files of maps that a snapshot uses.
pub(super) fn files(snapshot: &Snapshot) -> Vec<PathBuf> {
    let routes = snapshot.routes().iter();
    let maps = routes.filter_map(|route| route.naming.as_ref()?.map());
    let files: BTreeSet<&Path> = maps.map(|map| map.file()).collect();
    files.into_iter().map(Path::to_owned).collect()
}

/// Applies the contents of the file at `path` to the routes that use it. If it has errors, their present maps stay.
pub(super) fn apply_file(snapshot: &Snapshot, path: &Path, contents: &Contents) {
    let mut parsed = ParsedMaps::default();
    for route in snapshot.routes() {
        let map = route.naming.as_ref().and_then(|naming| naming.map());
        let Some(reader) = map.filter(|map| map.file() == path) else {
            continue;
        };
        let (route, file) = (&*route.settings.name, path.display());
        match parsed.map(reader.key(), contents) {
            Ok(map) => {
                let keys = map.len();
                reader.replace(map);
                tracing::info!(route, %file, keys, "endpoint map loaded");
            }
            Err(error) => {
                let kept = reader.current().len();
                tracing::error!(route, %file, %error, kept, "endpoint map rejected; the last map stays in use");
            }
        }
    }
}

/// The maps in one file: one for each kind of key, however many routes use it.
#[derive(Debug, Default)]
struct ParsedMaps<'a>(Vec<(&'a RequestKey, Result<Arc<EndpointMap>, MapError>)>);

impl<'a> ParsedMaps<'a> {
    fn map(
        &mut self,
        key: &'a RequestKey,
        contents: &Contents,
    ) -> Result<Arc<EndpointMap>, MapError> {
        if let Some((_, known)) = self.0.iter().find(|(known, _)| *known == key) {
            return known.clone();
        }
        let map = endpoint_map::from_contents(contents, key).map(Arc::new);
        self.0.push((key, map.clone()));
        map
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn routes_with_one_kind_of_key_share_a_map() {
        let contents: Contents = Ok(Zeroizing::new(b"blue game-1\nred game-2\n".to_vec()));
        let keys = ["room", "room", "team"].map(|name| RequestKey::Query(name.into()));
        let mut parsed = ParsedMaps::default();
        let [one, same, other] = keys
            .each_ref()
            .map(|key| parsed.map(key, &contents).unwrap());
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &other));
        assert_eq!(one.len(), 2);
    }
}
