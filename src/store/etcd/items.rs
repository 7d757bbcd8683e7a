//! Items that nodes share, in etcd: `PREFIX SCOPE/KIND/NAME`.
//!
//! Lists, and keys that are read again and again, come from the copy that the process has of everything. The rest is
//! read from etcd: it is rarely needed, and then as it is now.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::contents::StorePosition;
use super::error::EtcdError;
use super::link::EtcdLink;
use super::wire::{Condition, Transaction, WriteStep};
use crate::causes::with_causes;
use crate::store::{
    ItemKind, ItemRevision, ItemStore, MAX_ITEM_BYTES, StoreError, StoredItem, VersionedStore,
};

/// How long the copy may take to show what this process has written itself.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long etcd may take, however many members are asked.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);

/// What etcd will respond. Without the box, the types of what waits for it are too deep for the compiler.
type EtcdResponse<'a, T> = Pin<Box<dyn Future<Output = Result<T, EtcdError>> + Send + 'a>>;

/// One part of the items in etcd.
#[derive(Debug)]
pub struct EtcdItems {
    link: EtcdLink,
    /// What all keys of this part begin with.
    prefix: Box<str>,
    /// Where the store was after the latest change that this process has made here.
    written: Mutex<StorePosition>,
}

impl EtcdItems {
    /// The items in the part `scope`, such as `keys`.
    pub fn new(link: EtcdLink, scope: &str) -> Self {
        Self {
            prefix: format!("{}{scope}/", link.client.prefix()).into(),
            link,
            written: Mutex::default(),
        }
    }

    fn folder(&self, kind: ItemKind) -> String {
        format!("{}{}/", self.prefix, kind.folder())
    }

    fn key(&self, kind: ItemKind, name: &str) -> String {
        format!("{}{}/{name}", self.prefix, kind.folder())
    }

    /// Whether the copy is complete, and has what this process has written.
    async fn copy_is_current(&self) -> Result<(), StoreError> {
        if let Some(trouble) = self.link.health().condition().reading {
            return Err(StoreError::Unavailable(trouble.error.into()));
        }
        let mut changes = self.link.mirror.changes();
        let written = *self.written();
        let is_current = || {
            let position = self.link.mirror.contents().position();
            position.revision > 0 && position >= written
        };
        let waiting = async { while !is_current() && changes.changed().await.is_ok() {} };
        match timeout(CATCH_UP, waiting).await {
            Ok(()) if is_current() => Ok(()),
            _ => Err(StoreError::Unavailable(
                "the store was not read completely yet".to_owned(),
            )),
        }
    }

    fn written(&self) -> MutexGuard<'_, StorePosition> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history that revisions belong to, as far as the copy shows it.
    fn history(&self) -> u64 {
        self.link.mirror.contents().position().history
    }

    /// The item as etcd has it now.
    async fn get(&self, key: &str) -> Result<Option<StoredItem>, StoreError> {
        let history = self.history();
        let page = in_time(Box::pin(self.link.client.get(key))).await;
        let page = page.map_err(|error| unavailable(&error))?;
        self.link.health().reached();
        let item = page.items.into_iter().next();
        let item = item.map(|item| stored(item.value.to_vec(), (history, item.modified)));
        item.transpose()
    }

    /// Writes under this condition; whether it held.
    async fn change(
        &self,
        conditions: &[Condition<'_>],
        step: WriteStep<'_>,
    ) -> Result<bool, StoreError> {
        let wanted = Transaction {
            conditions,
            steps: std::slice::from_ref(&step),
        };
        let result = in_time(Box::pin(self.link.client.transact(&wanted))).await;
        let health = self.link.health();
        let result = result.map_err(|error| {
            health.not_written(&error);
            unavailable(&error)
        })?;
        if !result.is_applied {
            health.decided();
            return Ok(false);
        }
        match step {
            WriteStep::Put { .. } => health.written(),
            // A store that is full lets go of items all the same.
            WriteStep::Delete(_) => health.decided(),
        }
        let position = StorePosition {
            history: self.history(),
            revision: result.revision,
        };
        let mut written = self.written();
        *written = position.max(*written);
        Ok(true)
    }

    async fn put(
        &self,
        key: &str,
        conditions: &[Condition<'_>],
        content: &[u8],
    ) -> Result<bool, StoreError> {
        let put = WriteStep::Put {
            key,
            value: content,
            lease: 0,
        };
        self.change(conditions, put).await
    }
}

impl ItemStore for EtcdItems {
    async fn check(&self) -> Result<(), StoreError> {
        self.copy_is_current().await
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let item = self.load(kind, name).await?;
        Ok(item.map(|item| item.content))
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        let key = self.key(kind, name);
        self.put(&key, &[], &content).await.map(drop)
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let key = self.key(kind, name);
        self.put(&key, &[Condition::Absent(&key)], &content).await
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        let key = self.key(kind, name);
        self.change(&[], WriteStep::Delete(&key)).await.map(drop)
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        self.copy_is_current().await?;
        let folder = self.folder(kind);
        let contents = self.link.mirror.contents();
        let history = contents.position().history;
        let items = contents.under(&folder).map(|(key, item)| ItemRevision {
            name: key.strip_prefix(&*folder).unwrap_or(key).into(),
            revision: revision(history, item.modified),
        });
        Ok(items.collect())
    }
}

impl VersionedStore for EtcdItems {
    async fn load(&self, kind: ItemKind, name: &str) -> Result<Option<StoredItem>, StoreError> {
        let key = self.key(kind, name);
        if !matches!(kind, ItemKind::TicketKeys | ItemKind::StickyKeys) {
            return self.get(&key).await;
        }
        self.copy_is_current().await?;
        let (history, known) = {
            let contents = self.link.mirror.contents();
            (contents.position().history, contents.get(&key).cloned())
        };
        let known = known.map(|item| stored(item.value.to_vec(), (history, item.modified)));
        known.transpose()
    }

    async fn replace(
        &self,
        kind: ItemKind,
        name: &str,
        revision: u128,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let key = self.key(kind, name);
        let Some(modified) = modified_in(self.history(), revision) else {
            return Ok(false);
        };
        let unchanged = [Condition::Unchanged(&key, modified)];
        self.put(&key, &unchanged, &content).await
    }
}

fn stored(content: Vec<u8>, (history, modified): (u64, i64)) -> Result<StoredItem, StoreError> {
    if content.len() as u64 > MAX_ITEM_BYTES {
        return Err(StoreError::Unavailable(format!(
            "an item is larger than {MAX_ITEM_BYTES} bytes"
        )));
    }
    Ok(StoredItem {
        content,
        revision: revision(history, modified),
    })
}

/// With the history of the store: in another one, the same number may stand for another content.
fn revision(history: u64, modified: i64) -> u128 {
    u128::from(history) << 64 | u128::from(modified.unsigned_abs())
}

/// The number that etcd knows a revision by; `None` if it is of another history. 0 would stand for an item that does
/// not exist.
fn modified_in(history: u64, revision: u128) -> Option<i64> {
    let modified = i64::try_from(revision & u128::from(u64::MAX)).ok()?;
    (revision >> 64 == u128::from(history) && modified > 0).then_some(modified)
}

fn unavailable(error: &EtcdError) -> StoreError {
    StoreError::Unavailable(with_causes(error))
}

async fn in_time<T>(response: EtcdResponse<'_, T>) -> Result<T, EtcdError> {
    let response = timeout(RESPONSE_TIMEOUT, response).await;
    response.unwrap_or_else(|_| Err(EtcdError::Unavailable("no response in time".into())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::super::testing;
    use super::*;
    use crate::upstream::connect::Connector;

    #[tokio::test]
    async fn whatever_a_store_responds_that_was_away_shows_that_it_is_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = testing::settings(&[&listener]);
        let control = tokio::runtime::Handle::current();
        let services = Arc::default();
        let link = EtcdLink::start(&control, &settings, Connector::default(), &services);
        let health = Arc::clone(link.health());
        let items = EtcdItems::new(link, "acme/ca");
        // What the copy asks for fails.
        let responding = async {
            loop {
                testing::respond(&listener, |text| !testing::is_of_copy(text)).await;
            }
        };
        let asking = async {
            let kind = ItemKind::Attempt;
            health.not_written(&EtcdError::Ended);
            assert_eq!(items.create(kind, "a", Vec::new()).await, Ok(false));
            assert_eq!(health.condition().writing, None);
            health.not_written(&EtcdError::Ended);
            assert_eq!(items.read(kind, "a").await, Ok(None));
            assert_eq!(health.condition().writing, None);
        };
        tokio::select! {
            () = responding => unreachable!(),
            () = asking => {}
        }
    }

    proptest! {
        #[test]
        fn a_revision_of_another_history_is_not_replaced(history: u64, other: u64, modified in 0..=i64::MAX) {
            let of = |history| revision(history, modified);
            prop_assert_eq!(modified_in(history, of(history)), (modified > 0).then_some(modified));
            if other != history {
                prop_assert_ne!(of(history), of(other));
                prop_assert_eq!(modified_in(other, of(history)), None);
            }
        }
    }
}
