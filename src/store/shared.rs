//! The store that the configuration names, with all of its items sealed.

use std::path::Path;

use super::sealed_store::SealedStore;
use super::seal::Sealer;
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
}
