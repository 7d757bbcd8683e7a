//! What was read of a prefix, as of one revision. No I/O.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use tokio::time::Instant;

use super::error::EtcdError;
use super::wire::{EtcdItem, ItemChange, WatchNews};

/// The most items that are kept. A fleet of three hundred nodes has a few thousand.
pub const MAX_ITEMS: usize = 20_000;

/// The most bytes of keys and values that are kept.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The items under a prefix.
#[derive(Debug, Default)]
pub struct MirrorContents {
    items: BTreeMap<Box<str>, KnownItem>,
    bytes: usize,
    position: StorePosition,
}

/// How much of the store is known. A later position is the greater one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StorePosition {
    /// How many times the store was found to have begun again: rebuilt, or restored from a copy of an earlier time.
    /// Revisions are compared within one history only.
    pub history: u64,
    /// The revision of the store; 0 if nothing was read yet.
    pub revision: i64,
}

/// An item, as this process knows it.
#[derive(Debug, Clone)]
pub struct KnownItem {
    /// Its value.
    pub value: Bytes,
    /// The revision of its latest change.
    pub modified: i64,
    /// The lease that it ends with; 0 without one.
    pub lease: i64,
    /// When this process first saw it as it is.
    pub seen: Instant,
}

impl MirrorContents {
    /// What all these items come to, read at this revision. Items that are as before keep the time when they were
    /// seen.
    ///
    /// # Errors
    /// [`EtcdError::TooMuch`].
    pub fn read(
        &self,
        items: Vec<EtcdItem>,
        revision: i64,
        now: Instant,
    ) -> Result<Self, EtcdError> {
        let before = self.position;
        let history = before.history + u64::from(revision < before.revision);
        let mut read = Self {
            position: StorePosition { history, revision },
            ..Self::default()
        };
        for item in items {
            let before = self.items.get(&item.key);
            let same = before.filter(|it| it.modified == item.modified && it.value == item.value);
            let seen = same.map_or(now, |it| it.seen);
            read.put(item, seen)?;
        }
        Ok(read)
    }

    /// Applies what a watch says. Changes that are older than what is known are skipped.
    ///
    /// # Errors
    /// [`EtcdError::TooMuch`]: some of the changes are missing now, and everything is to be read again.
    pub fn apply(&mut self, news: WatchNews, now: Instant) -> Result<(), EtcdError> {
        for change in news.changes {
            match change {
                ItemChange::Put(item) => self.put(item, now)?,
                ItemChange::Delete(key) => self.remove(&key),
            }
        }
        let known = &mut self.position.revision;
        *known = news.revision.max(*known);
        Ok(())
    }

    fn put(&mut self, item: EtcdItem, seen: Instant) -> Result<(), EtcdError> {
        self.remove(&item.key);
        let bytes = item.key.len() + item.value.len();
        let too_much = |limit, what| Err(EtcdError::TooMuch { limit, what });
        if self.items.len() >= MAX_ITEMS {
            return too_much(MAX_ITEMS, "keys");
        }
        if bytes > MAX_BYTES - self.bytes {
            return too_much(MAX_BYTES, "bytes");
        }
        self.bytes += bytes;
        let known = KnownItem {
            value: item.value,
            modified: item.modified,
            lease: item.lease,
            seen,
        };
        self.items.insert(item.key, known);
        Ok(())
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, item)) = self.items.remove_entry(key) {
            self.bytes -= key.len() + item.value.len();
        }
    }

    /// The item with this key.
    pub fn get(&self, key: &str) -> Option<&KnownItem> {
        self.items.get(key)
    }

    /// All items under a prefix, by key.
    pub fn under<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a KnownItem)> + 'a {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let items = self.items.range::<str, _>(from);
        items
            .map(|(key, item)| (&**key, item))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The revision up to which everything is known; 0 if nothing was read yet.
    pub fn revision(&self) -> i64 {
        self.position.revision
    }

    /// The same, with the history that the revision belongs to.
    pub fn position(&self) -> StorePosition {
        self.position
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(key: &str, value: &str, modified: i64) -> EtcdItem {
        EtcdItem {
            key: key.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: 1,
            modified,
            lease: 0,
        }
    }

    fn news(changes: Vec<ItemChange>, revision: i64) -> WatchNews {
        WatchNews {
            revision,
            changes,
            end: None,
        }
    }

    #[test]
    fn bounds_hold_and_replaced_items_do_not_count_twice() {
        let now = Instant::now();
        let large = "x".repeat(MAX_BYTES / 2);
        let mut contents = MirrorContents::default();
        for revision in 1..5 {
            let put = ItemChange::Put(item("/a", &large, revision));
            contents.apply(news(vec![put], revision), now).unwrap();
        }
        assert_eq!(contents.bytes(), large.len() + 2);
        let put = ItemChange::Put(item("/b", &large, 5));
        let error = contents.apply(news(vec![put], 5), now).unwrap_err();
        assert!(
            matches!(error, EtcdError::TooMuch { what: "bytes", .. }),
            "{error}"
        );
        let many = (0..=MAX_ITEMS).map(|number| item(&format!("/{number}"), "", 1));
        let error = contents.read(many.collect(), 6, now).unwrap_err();
        assert!(
            matches!(error, EtcdError::TooMuch { what: "keys", .. }),
            "{error}"
        );
        assert_eq!(contents.revision(), 4);
    }

    #[test]
    fn an_item_that_is_read_again_was_seen_before() {
        let early = Instant::now();
        let late = early + std::time::Duration::from_secs(9);
        let first = MirrorContents::default();
        let first = first
            .read(vec![item("/a", "1", 3), item("/b", "1", 3)], 5, early)
            .unwrap();
        let again = first
            .read(vec![item("/a", "1", 3), item("/b", "2", 7)], 8, late)
            .unwrap();
        assert_eq!(again.get("/a").unwrap().seen, early);
        assert_eq!(again.get("/b").unwrap().seen, late);
    }

    #[test]
    fn a_store_that_begins_again_is_at_a_later_position() {
        let now = Instant::now();
        let first = MirrorContents::default();
        let read = |before: &MirrorContents, revision| before.read(Vec::new(), revision, now);
        let mut before = read(&first, 900).unwrap();
        before.apply(news(Vec::new(), 902), now).unwrap();
        let again = read(&before, 902).unwrap();
        assert_eq!(again.position(), before.position());
        let restored = read(&again, 5).unwrap();
        assert!(restored.position() > again.position());
        assert_eq!(restored.revision(), 5);
        let later = read(&restored, 6).unwrap();
        assert_eq!(later.position().history, restored.position().history);
    }

    proptest! {
        #[test]
        fn it_is_what_a_map_would_be(
            steps in prop::collection::vec(("/[ab]{1,2}/[ab]{0,2}", prop::option::of("[a-c]{0,3}")), 0..40)
        ) {
            let mut contents = MirrorContents::default();
            let mut model = BTreeMap::new();
            let now = Instant::now();
            for (revision, (key, value)) in (1_i64..).zip(&steps) {
                let change = match value {
                    Some(value) => {
                        model.insert(key.clone(), value.clone());
                        ItemChange::Put(item(key, value, revision))
                    }
                    None => {
                        model.remove(key);
                        ItemChange::Delete(key.as_str().into())
                    }
                };
                contents.apply(news(vec![change], revision), now).unwrap();
                prop_assert_eq!(contents.revision(), revision);
            }
            for prefix in ["/", "/a/", "/ab", "/b/a", "/c", ""] {
                let found: Vec<_> = contents.under(prefix).map(|(key, _)| key.to_owned()).collect();
                let expected: Vec<_> = model.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
                prop_assert_eq!(found, expected);
            }
            let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
            prop_assert_eq!((contents.len(), contents.bytes()), (model.len(), bytes));
        }
    }
}
