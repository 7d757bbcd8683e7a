//! The store that the configuration names, with all of its items sealed.

use super::seal::Sealer;
use super::sealed_store::SealedStore;
use super::versioned_folder::VersionedFolder;
use super::{ItemKind, ItemRevision, ItemStore, StoreError, StoredItem, VersionedStore};
use crate::config::model::{StoreConfig, StorePlace};

/// Items that nodes share, all of them sealed.
pub type SharedStore = SealedStore<SharedItems>;

/// Items that nodes share, wherever they are.
#[derive(Debug)]
pub enum SharedItems {
    /// In a folder.
    Files(VersionedFolder),
    /// In etcd.
    Etcd,
}

/// Opens the part `scope` of the store, such as `keys`. Nothing is read yet.
///
/// # Errors
/// [`StoreError::Sealed`]: there is no secret, or none can be used.
pub fn open(config: &StoreConfig, scope: &str) -> Result<SharedStore, StoreError> {
    let sealer = Sealer::new(&config.secrets, scope);
    let sealer = sealer.map_err(|error| StoreError::Sealed {
        item: scope.to_owned(),
        error,
    })?;
    let items = match &config.place {
        StorePlace::Files(folder) => SharedItems::Files(VersionedFolder::new(&folder.join(scope))),
        StorePlace::Etcd(_) => SharedItems::Etcd,
    };
    Ok(SealedStore::new(items, sealer))
}

/// Calls the same function of whichever store it is.
macro_rules! in_either {
    ($self:ident . $function:ident ($($argument:expr),*)) => {
        match $self {
            SharedItems::Files(items) => items.$function($($argument),*).await,
            SharedItems::Etcd => Err(StoreError::Unavailable("not built yet".to_owned())),
        }
    };
}

impl ItemStore for SharedItems {
    async fn check(&self) -> Result<(), StoreError> {
        in_either!(self.check())
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        in_either!(self.read(kind, name))
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        in_either!(self.write(kind, name, content))
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        in_either!(self.create(kind, name, content))
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        in_either!(self.remove(kind, name))
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        in_either!(self.list(kind))
    }
}

impl VersionedStore for SharedItems {
    async fn load(&self, kind: ItemKind, name: &str) -> Result<Option<StoredItem>, StoreError> {
        in_either!(self.load(kind, name))
    }

    async fn replace(
        &self,
        kind: ItemKind,
        name: &str,
        revision: u128,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        in_either!(self.replace(kind, name, revision, content))
    }
}
