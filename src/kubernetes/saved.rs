//! The last known endpoints of an upstream in a file, for a start at which the API server does not respond.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::model::{EndpointConfig, KubernetesService, ServicePort};

/// The largest file that is read, in bytes: about 200 for each of [`MAX_ENDPOINTS`](super::slices::MAX_ENDPOINTS).
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The file of one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedEndpoints {
    path: PathBuf,
    of: SavedService,
}

/// What decides whether saved endpoints are those of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedService {
    service: Box<str>,
    port: ServicePort,
    namespace: Option<Box<str>>,
    api: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
struct SavedFile {
    of: SavedService,
    endpoints: Vec<EndpointConfig>,
}

impl SavedEndpoints {
    /// The file of `upstream` in the configured folder, or in the one that the service manager provides; `None`
    /// without both.
    pub fn of(upstream: &str, service: &KubernetesService) -> Option<Self> {
        let provided = || {
            let folders = std::env::var_os("STATE_DIRECTORY")?;
            // With several, they are separated by colons.
            std::env::split_paths(&folders).next()
        };
        let folder = service.state.clone().or_else(provided)?;
        Some(Self {
            path: folder.join(format!("endpoints-{upstream}.json")),
            of: SavedService {
                service: service.name.clone(),
                port: service.port.clone(),
                namespace: service.namespace.clone(),
                api: service.api.clone(),
            },
        })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The saved endpoints; `None` if there are none of this configuration.
    ///
    /// # Errors
    /// If the file cannot be read, or is not one of these files.
    pub fn read(&self) -> io::Result<Option<Vec<EndpointConfig>>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let saved: SavedFile = serde_json::from_slice(&bytes)?;
        Ok((saved.of == self.of).then_some(saved.endpoints))
    }

    /// Saves these endpoints as a whole: a process that is killed leaves the old file or the new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, endpoints: Vec<EndpointConfig>) -> io::Result<()> {
        let saved = SavedFile {
            of: self.of.clone(),
            endpoints,
        };
        let content = serde_json::to_vec(&saved)?;
        if let Some(folder) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        // Another generation of this process may write at the same time: the last one wins.
        let new = self
            .path
            .with_extension(format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&content)?;
        // The new name must not lead to a file that a power cut has emptied.
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Address, EndpointPhase};

    fn service(folder: &Path) -> KubernetesService {
        KubernetesService {
            name: "chat".into(),
            port: ServicePort::Name("ws".into()),
            namespace: None,
            api: None,
            token_file: None,
            ca: None,
            state: Some(folder.to_owned()),
        }
    }

    #[test]
    fn endpoints_are_saved_and_are_those_of_one_service() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("deep");
        let saved = SavedEndpoints::of("chat", &service(&deep)).unwrap();
        assert_eq!(saved.read().unwrap(), None);
        let mut endpoint = EndpointConfig::at(Address::Ip("10.0.0.1:9000".parse().unwrap()));
        endpoint.phase = EndpointPhase::Terminating;
        saved.write(vec![endpoint.clone()]).unwrap();
        assert_eq!(saved.read().unwrap(), Some(vec![endpoint]));
        saved.write(Vec::new()).unwrap();
        assert_eq!(saved.read().unwrap(), Some(Vec::new()));
        let mut other = service(&deep);
        other.port = ServicePort::Number(9000);
        let other = SavedEndpoints::of("chat", &other).unwrap();
        assert_eq!(other.read().unwrap(), None);
        fs::write(saved.path(), "{").unwrap();
        assert!(saved.read().is_err());
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1, "unfinished files");
    }
}
