//! What nodes keep and share: accounts, certificates with their keys, unfinished orders, open challenges, failed
//! attempts, and who is ordering.
//!
//! A store holds items by kind and name, and knows nothing of what is in them. The one implementation is a folder.

mod file_queue;
pub mod folder;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;

use crate::config::model::ManagedCertificate;

/// Characters of a certificate's names in the name of its items, at most: a file name has 255.
const MAX_READABLE: usize = 80;

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
}

/// The name of an item, and what changes with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRevision {
    /// The name.
    pub name: Box<str>,
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
}

/// Where items are kept. All functions end within a bounded time.
pub trait CertificateStore: Send + Sync + 'static {
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

impl StoreError {
    /// What may help.
    pub(super) fn hint(&self) -> Option<&str> {
        match self {
            Self::Unwritable { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

/// The name of a certificate's items: readable, valid as a file name, and unique.
pub fn item_name(certificate: &ManagedCertificate) -> Box<str> {
    let mut names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.dedup();
    let all = names.join(",");
    let readable = all.chars().map(|c| match c {
        'a'..='z' | '0'..='9' | '.' | '-' => c,
        '*' => '_',
        _ => '+',
    });
    let readable: String = readable.take(MAX_READABLE).collect();
    format!("{readable}+{}", short_hash(all.as_bytes())).into()
}

/// The beginning of the SHA-256 of `bytes`, in hexadecimal.
pub fn short_hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = String::with_capacity(16);
    for byte in digest.as_ref().iter().take(8) {
        // Writing to a string does not fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::testing::certificate;

    #[test]
    fn names_of_items_are_readable_safe_and_unique() {
        let named = |names: &[&str]| item_name(&certificate(names)).into_string();
        let [one, other] = [
            named(&["b.example.com", "*.a.example.com"]),
            named(&["*.a.example.com", "b.example.com"]),
        ];
        assert_eq!(one, other);
        assert!(one.starts_with("_.a.example.com+b.example.com+"), "{one}");
        assert_ne!(one, named(&["b.example.com"]));
        let many: Vec<String> = (0..100)
            .map(|number| format!("n{number}.example.com"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(named(&many).len() < 120);
        assert_ne!(named(&many), named(&many[..99]));
        assert!(!named(&["../../etc/passwd"]).contains('/'));
    }
}
