//! Any bytes are read as messages of etcd without a panic: a copy that follows them has what they say and no more, and
//! what is a record of a member is written as it was read.

use tidegate::fleet::record::{MAX_DRAINS, MAX_RECORD_BYTES, MemberRecord};
use tidegate::store::etcd::contents::MirrorContents;
use tidegate::store::etcd::wire::{
    ItemChange, read_failure, read_lease, read_news, read_page, read_renewal, read_transaction,
};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let now = tokio::time::Instant::now();
    let mut contents = MirrorContents::default();
    if let Ok(page) = read_page(bytes) {
        let items = page.items.len();
        if let Ok(read) = contents.read(page.items, page.revision, now) {
            assert!(read.len() <= items);
            contents = read;
        }
    }
    if let Ok(news) = read_news(bytes) {
        let last = news.changes.last().cloned();
        if contents.apply(news, now).is_ok() {
            match last {
                Some(ItemChange::Put(item)) => {
                    assert_eq!(
                        contents.get(&item.key).map(|it| &it.value),
                        Some(&item.value)
                    );
                }
                Some(ItemChange::Delete(key)) => assert!(contents.get(&key).is_none()),
                None => {}
            }
        }
    }
    let all = contents.under("");
    let held: usize = all.map(|(key, item)| key.len() + item.value.len()).sum();
    assert_eq!(contents.bytes(), held);
    let _ = (read_transaction(bytes), read_lease(bytes));
    let _ = (read_renewal(bytes), read_failure(bytes));
    if let Some(record) = MemberRecord::parse("edge-1", bytes) {
        assert!(bytes.len() <= MAX_RECORD_BYTES && record.load.drains.len() <= MAX_DRAINS);
        let written = record.to_json();
        // What is written may be longer: the fields that were left out are there.
        if written.len() <= MAX_RECORD_BYTES {
            assert_eq!(MemberRecord::parse("edge-1", &written), Some(record));
        }
    }
}
