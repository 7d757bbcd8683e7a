//! What nodes keep and share: keys, certificates, and what belongs to ordering them.
//!
//! A store holds items by kind and name, and knows nothing of what is in them. A [`folder`] is for one node, or for
//! several that share the folder of an authority; a [`versioned_folder`] is for nodes that share everything.

pub mod etcd;
mod file_queue;
mod files;
pub mod folder;
pub mod key_agreement;
pub mod key_keeper;
pub mod key_set;
pub mod seal;
pub mod sealed_store;
pub mod shared;
pub mod versioned_folder;

use std::path::PathBuf;
use std::time::Duration;

use self::seal::SealError;

/// The largest item, in bytes. A chain of certificates has a few thousand.
const MAX_ITEM_BYTES: u64 = 256 * 1024;

/// What kind of item it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// An account with the authority.
    Account,
    /// A certificate chain and its key.
    Certificate,
    /// An order that is not finished.
    Order,
    /// A challenge that is open.
    Challenge,
    /// How the latest attempt for a certificate has ended.
    Attempt,
    /// Who is ordering a certificate.
    Lock,
    /// The keys of session tickets.
    TicketKeys,
    /// The keys of sticky cookies.
    StickyKeys,
    /// What a node must be able to open before it writes.
    Seal,
}

impl ItemKind {
    /// The folder of such items.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Account => "accounts",
            Self::Certificate => "certificates",
            Self::Order => "orders",
            Self::Challenge => "challenges",
            Self::Attempt => "attempts",
            Self::Lock => "locks",
            Self::TicketKeys => "ticket-keys",
            Self::StickyKeys => "sticky-keys",
            Self::Seal => "seal",
        }
    }
}

/// The name of an item, and what changes with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRevision {
    /// The name.
    pub name: Box<str>,
    /// Two revisions with different contents differ.
    pub revision: u128,
}

/// An item, and what changes with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    /// The content.
    pub content: Vec<u8>,
    /// Two revisions with different contents differ.
    pub revision: u128,
}

/// Why a store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The operating system reports an error.
    #[error("cannot {action} `{}`: {error}", path.display())]
    File {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        error: String,
    },
    /// An item is larger than anything that was written.
    #[error("`{}` is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size.
        limit: u64,
    },
    /// This process may not write to the folder, or it is not a folder.
    #[error("cannot write to `{}`: {why}", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// Why it cannot.
        why: String,
        /// What may help.
        hint: Option<String>,
    },
    /// The file system does not respond.
    #[error("the file system of `{}` does not respond within {}", path.display(), humantime::format_duration(*limit))]
    TimedOut {
        /// The folder.
        path: PathBuf,
        /// The time that it had.
        limit: Duration,
    },
    /// Too much work waits for the file system, or there is no thread for it.
    #[error("the file system of `{}` does not keep up", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The store does not do what it was asked.
    #[error("{0}")]
    Unavailable(String),
    /// The item is there, and cannot be opened.
    #[error("cannot open `{item}`: {error}")]
    Sealed {
        /// The kind and the name of the item.
        item: String,
        /// Why it cannot.
        error: SealError,
    },
}

/// Where items are kept. All functions end within a bounded time.
pub trait ItemStore: Send + Sync + 'static {
    /// Whether items can be written, as far as that can be said without writing one.
    fn check(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The content of an item; `None` if it does not exist.
    fn read(
        &self,
        kind: ItemKind,
        name: &str,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;

    /// Writes an item as a whole: no node reads half of it, even if this process is killed.
    fn write(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes an item only if it does not exist; whether that was so.
    fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Removes an item, if it exists.
    fn remove(
        &self,
        kind: ItemKind,
        name: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All items of a kind.
    fn list(
        &self,
        kind: ItemKind,
    ) -> impl Future<Output = Result<Vec<ItemRevision>, StoreError>> + Send;
}

/// A store whose items several nodes change at the same time.
pub trait VersionedStore: ItemStore {
    /// An item with its revision; `None` if it does not exist.
    fn load(
        &self,
        kind: ItemKind,
        name: &str,
    ) -> impl Future<Output = Result<Option<StoredItem>, StoreError>> + Send;

    /// Writes an item only if it has this revision; whether that was so. Of several nodes that replace the same
    /// revision, one does. If this fails, the item may have been written.
    fn replace(
        &self,
        kind: ItemKind,
        name: &str,
        revision: u128,
        content: Vec<u8>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl StoreError {
    /// What may help.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unwritable { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}
