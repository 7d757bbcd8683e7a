//! What operators see of the keys that nodes share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::ItemKind;
use crate::store::key_keeper::SharedKeyState;
use crate::store::key_set::SharedKeySet;

/// What is known of the shared keys, by purpose.
#[derive(Debug, Default)]
pub struct SharedKeyStatus(OnceLock<[KeyWatch; 2]>);

/// The keys for one purpose, as they change.
pub type KeyWatch = (ItemKind, watch::Receiver<SharedKeyState>);

/// The key for one purpose that a node uses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInUse {
    /// The purpose: the kind of the item in the store.
    pub kind: ItemKind,
    /// The fingerprint of the shared key, and how long that has been in use, as last read; `None` while this node uses
    /// a key of its own.
    pub shared: Option<(String, Duration)>,
    /// Why the store cannot be read or written; `None` if it can.
    pub trouble: Option<Arc<str>>,
}

impl SharedKeyStatus {
    /// Shows these keys. There is one process that keeps them, and it does so once.
    pub fn show(&self, keys: [KeyWatch; 2]) {
        let _ = self.0.set(keys);
    }

    /// The keys in use now, of a node that shares keys.
    pub fn in_use(&self) -> Vec<KeyInUse> {
        let keys = self.0.get().into_iter().flatten();
        keys.map(|(kind, state)| KeyInUse::of(*kind, &state.borrow()))
            .collect()
    }
}

impl KeyInUse {
    fn of(kind: ItemKind, state: &SharedKeyState) -> Self {
        let shared = |set: &SharedKeySet| Some((set.fingerprint()?, set.age));
        Self {
            kind,
            shared: state.set.as_ref().and_then(shared),
            trouble: state.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Secret;

    fn set(current: Option<u8>, next: u8) -> SharedKeySet {
        let secret = |fill| Secret::new(vec![fill; 32].into());
        SharedKeySet {
            version: 1,
            maker: "a".into(),
            previous: Vec::new(),
            current: current.map(secret),
            age: Duration::from_secs(7),
            keep_for: 0,
            next: Some(secret(next)),
            next_keep_for: 0,
        }
    }

    #[test]
    fn nodes_with_the_same_key_show_the_same_and_others_do_not() {
        let status = SharedKeyStatus::default();
        assert!(status.in_use().is_empty());
        let (state, seen) = watch::channel(SharedKeyState::default());
        let kinds = [ItemKind::TicketKeys, ItemKind::StickyKeys];
        status.show(kinds.map(|kind| (kind, seen.clone())));
        let shown = |set| {
            state.send_modify(|state| state.set = Some(set));
            status.in_use()[0].shared.clone()
        };
        assert_eq!(shown(set(None, 1)), None, "it is not used yet");
        let (one, age) = shown(set(Some(1), 2)).unwrap();
        assert_eq!((one.len(), age.as_secs()), (8, 7));
        assert_eq!(shown(set(Some(1), 3)).unwrap().0, one);
        assert_ne!(shown(set(Some(3), 2)).unwrap().0, one);
    }
}
