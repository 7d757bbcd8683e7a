//! Where the items of an authority are: in a folder of their own, or in the store that nodes share.

use std::time::SystemTime;

use super::chain::IssuedCertificate;
use crate::config::model::AcmeConfig;
use crate::store::folder::FolderStore;
use crate::store::shared::{SharedStore, StoreOpener};
use crate::store::{ItemKind, ItemRevision, ItemStore, StoreError};

/// The items of an authority.
#[derive(Debug)]
pub(super) enum AuthorityStore {
    /// In `STATE/AUTHORITY`.
    Own(FolderStore),
    /// In the store that nodes share. What this node has in its own folder, and they have not, is put there.
    Shared {
        shared: Box<SharedStore>,
        own: FolderStore,
    },
    /// The store cannot be opened.
    Unusable(StoreError),
}

impl AuthorityStore {
    /// The store of this authority. Nothing is read yet.
    pub(super) fn of(config: &AcmeConfig, stores: &StoreOpener) -> Self {
        let own = FolderStore::new(&config.state, &config.name);
        let Some(store) = &config.shared else {
            return Self::Own(own);
        };
        // The name of an authority has no `/`, so this is a part of its own.
        match stores.open(store, &format!("acme/{}", config.name)) {
            Ok(shared) => Self::Shared {
                shared: Box::new(shared),
                own,
            },
            Err(error) => Self::Unusable(error),
        }
    }
}

/// Whether a node that begins to share puts its own item of this kind into the store.
fn is_brought(kind: ItemKind) -> bool {
    matches!(kind, ItemKind::Account | ItemKind::Certificate)
}

/// Whether this is a certificate that can be served.
fn is_valid(form: &[u8]) -> bool {
    let now = SystemTime::now();
    IssuedCertificate::parse(form).is_ok_and(|issued| !issued.facts.life.has_ended(now))
}

/// Calls the same function of whichever store it is.
macro_rules! in_place {
    ($self:ident . $function:ident ($($argument:expr),*)) => {
        match $self {
            AuthorityStore::Own(items) => items.$function($($argument),*).await,
            AuthorityStore::Shared { shared, .. } => shared.$function($($argument),*).await,
            AuthorityStore::Unusable(error) => Err(error.clone()),
        }
    };
}

impl ItemStore for AuthorityStore {
    async fn check(&self) -> Result<(), StoreError> {
        in_place!(self.check())
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let item = in_place!(self.read(kind, name))?;
        let (None, Self::Shared { shared, own }) = (&item, self) else {
            return Ok(item);
        };
        if !is_brought(kind) {
            return Ok(None);
        }
        // Sharing has begun with this node, which may have a certificate already.
        let Ok(Some(content)) = own.read(kind, name).await else {
            return Ok(None);
        };
        // It may as well have begun long ago, and the store has lost the item since.
        if kind == ItemKind::Certificate && !is_valid(&content) {
            return Ok(None);
        }
        match shared.create(kind, name, content.clone()).await? {
            true => Ok(Some(content)),
            // Another node was faster.
            false => shared.read(kind, name).await,
        }
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        in_place!(self.write(kind, name, content))
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        in_place!(self.create(kind, name, content))
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        in_place!(self.remove(kind, name))?;
        match self {
            // The next time that it is read, it would come back.
            Self::Shared { own, .. } if is_brought(kind) => own.remove(kind, name).await,
            _ => Ok(()),
        }
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        in_place!(self.list(kind))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::testing::{authority, issued_form};
    use super::*;
    use crate::config::model::{Secret, StoreConfig, StorePlace};
    use crate::upstream::connect::Connector;

    const KIND: ItemKind = ItemKind::Certificate;

    fn node(state: &Path, shared: &Path) -> AuthorityStore {
        let store = StoreConfig {
            place: StorePlace::Files(shared.to_owned()),
            secrets: vec![Secret::new(vec![1; 32].into())],
        };
        let config = AcmeConfig {
            state: state.to_owned(),
            shared: Some(Arc::new(store)),
            ..authority()
        };
        let control = tokio::runtime::Handle::current();
        let stores = StoreOpener::new(control, Connector::default(), &Arc::default());
        AuthorityStore::of(&config, &stores)
    }

    #[tokio::test]
    async fn a_node_that_begins_to_share_brings_what_it_has() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [first, second, shared] = folders.each_ref().map(tempfile::TempDir::path);
        let forms = [(); 2].map(|()| issued_form(&["a.example.com"], -10, 10));
        for (state, form) in [first, second].into_iter().zip(&forms) {
            let own = FolderStore::new(state, "ca");
            own.write(KIND, "a", form.to_vec()).await.unwrap();
            own.write(ItemKind::Order, "a", form.to_vec())
                .await
                .unwrap();
        }
        let (first, second) = (node(first, shared), node(second, shared));
        for node in [&first, &second, &first] {
            assert_eq!(node.read(KIND, "a").await, Ok(Some(forms[0].to_vec())));
            assert_eq!(node.read(ItemKind::Order, "a").await, Ok(None));
        }
        second.write(KIND, "a", b"renewed".to_vec()).await.unwrap();
        assert_eq!(first.read(KIND, "a").await, Ok(Some(b"renewed".to_vec())));
        let file = shared.join("acme/ca/certificates/a.2");
        let sealed = std::fs::read_to_string(file).unwrap();
        assert!(sealed.starts_with("sealed:"), "{sealed}");
    }

    #[tokio::test]
    async fn a_certificate_that_has_ended_or_cannot_be_used_is_not_brought() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [state, shared] = folders.each_ref().map(tempfile::TempDir::path);
        let own = FolderStore::new(state, "ca");
        let ended = issued_form(&["a.example.com"], -90, -1);
        own.write(KIND, "a", ended.to_vec()).await.unwrap();
        own.write(KIND, "b", b"a draft".to_vec()).await.unwrap();
        let node = node(state, shared);
        for name in ["a", "b"] {
            assert_eq!(node.read(KIND, name).await, Ok(None));
        }
        assert_eq!(node.list(KIND).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn an_account_that_is_forgotten_does_not_come_back() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [state, shared] = folders.each_ref().map(tempfile::TempDir::path);
        let (kind, account) = (ItemKind::Account, b"unknown".to_vec());
        let own = FolderStore::new(state, "ca");
        own.write(kind, "x", account.clone()).await.unwrap();
        let node = node(state, shared);
        assert_eq!(node.read(kind, "x").await, Ok(Some(account)));
        node.remove(kind, "x").await.unwrap();
        assert_eq!(node.read(kind, "x").await, Ok(None));
    }
}
