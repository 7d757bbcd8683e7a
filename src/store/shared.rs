//! The store that the configuration names, with all of its items sealed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::etcd::items::EtcdItems;
use super::etcd::link::EtcdLink;
use super::seal::Sealer;
use super::sealed_store::SealedStore;
use super::versioned_folder::VersionedFolder;
use super::{ItemKind, ItemRevision, ItemStore, StoreError, StoredItem, VersionedStore};
use crate::config::model::{EtcdConfig, StoreConfig, StorePlace};
use crate::https_client::service_traffic::ServiceTraffic;
use crate::upstream::connect::Connector;

/// Items that nodes share, all of them sealed.
pub type SharedStore = SealedStore<SharedItems>;

/// Items that nodes share, wherever they are.
#[derive(Debug)]
pub enum SharedItems {
    /// In a folder.
    Files(VersionedFolder),
    /// In etcd.
    Etcd(EtcdItems),
}

/// Opens stores. The parts of the process that use etcd share one client, and one copy of what is there.
#[derive(Debug)]
pub struct StoreOpener {
    control: Handle,
    connector: Connector,
    services: Arc<ServiceTraffic>,
    /// The etcd that was opened last.
    etcd: Mutex<Option<EtcdLink>>,
}

impl StoreOpener {
    /// The work for stores runs on `control`. Requests are counted in `services`.
    pub fn new(control: Handle, connector: Connector, services: &Arc<ServiceTraffic>) -> Self {
        Self {
            control,
            connector,
            services: Arc::clone(services),
            etcd: Mutex::default(),
        }
    }

    /// Opens the part `scope` of the store, such as `keys`. Nothing is waited for.
    ///
    /// # Errors
    /// [`StoreError::Sealed`]: there is no secret, or none can be used.
    pub fn open(&self, config: &StoreConfig, scope: &str) -> Result<SharedStore, StoreError> {
        let sealer = Sealer::new(&config.secrets, scope);
        let sealer = sealer.map_err(|error| StoreError::Sealed {
            item: scope.to_owned(),
            error,
        })?;
        let items = match &config.place {
            StorePlace::Files(folder) => {
                SharedItems::Files(VersionedFolder::new(&folder.join(scope)))
            }
            StorePlace::Etcd(etcd) => SharedItems::Etcd(EtcdItems::new(self.link(etcd), scope)),
        };
        Ok(SealedStore::new(items, sealer))
    }

    /// The connection to this etcd.
    pub fn link(&self, etcd: &Arc<EtcdConfig>) -> EtcdLink {
        let mut known = self.etcd.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = known.as_ref().filter(|link| link.client.settings() == etcd) {
            return link.clone();
        }
        let connector = self.connector.clone();
        let link = EtcdLink::start(&self.control, etcd, connector, &self.services);
        known.insert(link).clone()
    }

    /// Keeps no connection to etcd for those who open one later.
    pub fn close(&self) {
        *self.etcd.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Calls the same function of whichever store it is.
macro_rules! in_either {
    ($self:ident . $function:ident ($($argument:expr),*)) => {
        match $self {
            SharedItems::Files(items) => items.$function($($argument),*).await,
            SharedItems::Etcd(items) => items.$function($($argument),*).await,
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
